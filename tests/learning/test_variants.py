"""Every variant learns a world small enough to be known, and then what to do in it.

In this world the picture shows the last action by how bright a square is, and the reward depends on that action alone.
Nothing of a row can be told from the row before, so that whoever mixes up rows learns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config import VARIANTS, Settings, resolve
from pipeline.envs.car_racing.actions import action_bounds
from pipeline.episodes.windows import Batch
from pipeline.learning.encoding import Rows
from pipeline.learning.policy_learner import PolicyLearner
from pipeline.learning.world_learner import WorldLearner
from pipeline.models.actor_critic import Actor
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.dynamics import Latent
from pipeline.models.world_model import WorldModel
from pipeline.randomness import Stream, numpy_stream

GAS = 1  # the one control that counts
BEST_GAS, BEST_CHOICE = 0.9, 2
SQUARE = slice(8, 56)

SMALL: dict[str, Any] = {
    "model": {"deter": 32, "stoch": 8, "hidden": 32, "units": 32, "layers": 1, "depth": 2},
    "world": {
        "updates": 250, "batch": 8, "length": 4, "learning_rate": 5e-3, "warmup": 10, "anneal": 0.2,
        "precision": "float32",
    },
    "policy": {
        "updates": 120, "starts": 64, "horizon": 5, "actor_rate": 5e-3, "critic_rate": 5e-3, "warmup": 10,
        "actor_layers": 1, "critic_layers": 1, "precision": "float32",
    },
}  # fmt: skip
"""Small networks, and steps some ten times those of the papers, which are made for days."""


@dataclass(frozen=True)
class Lamp:
    """Windows of a world whose only content is a lamp, which shines as the last action says.

    Continuous: as bright as there is gas, 0 .. 1; the reward is 1 - 8 (gas - 0.9)^2, at best 1. Discrete: as bright
    as the number of the action, and choice 2, in the middle, has the reward 1, all others 0.
    """

    discrete: bool
    length: int

    def sample(self, rng: np.random.Generator, batch: int) -> Batch:
        """`batch` windows, each from the beginning of an episode, where the lamp is dark."""
        low, high = (np.array(bound, np.float32) for bound in action_bounds(not self.discrete))
        rows = (batch, self.length)
        if self.discrete:
            action = np.eye(len(low), dtype=np.float32)[rng.integers(len(low), size=rows)]
            brightness = action.argmax(-1) / (len(low) - 1)
            reward = action[..., BEST_CHOICE]
        else:
            action = rng.uniform(low, high, (*rows, len(low))).astype(np.float32)
            brightness = action[..., GAS]
            reward = 1 - 8 * (brightness - BEST_GAS) ** 2
        for column in (action, brightness, reward):
            column[:, 0] = 0
        frames = np.full((*rows, 64, 64, 3), 100, np.uint8)
        frames[:, :, SQUARE, SQUARE] = (20 + 215 * brightness).astype(np.uint8)[..., None, None, None]
        is_first = torch.zeros(rows, dtype=torch.bool)
        is_first[:, 0] = True
        return Batch(
            observation=torch.from_numpy(frames).permute(0, 1, 4, 2, 3),
            action=torch.from_numpy(action),
            reward=torch.from_numpy(reward.astype(np.float32)),
            is_first=is_first,
            is_terminal=torch.zeros(rows, dtype=torch.bool),
        )

    def batches(self, seed: int, start: int, stop: int, batch: int) -> Iterator[Batch]:
        """A fresh batch for each update."""
        for update in range(start, stop):
            yield self.sample(numpy_stream(seed, Stream.WINDOWS, update), batch)


def fit_world(settings: Settings) -> tuple[WorldModel, Batch]:
    """A world model fitted as in the pipeline, frozen; and windows it has not seen."""
    torch.manual_seed(0)
    discrete = not settings.view.continuous
    interface = Interface(settings.view, *action_bounds(not discrete))
    model = build_world(settings.model, interface)
    learner = WorldLearner(model, settings.world, Lamp(discrete, settings.world.length), Lamp(discrete, 6), seed=1)
    learner.begin(0, settings.world.updates)
    for index in range(settings.world.updates):
        learner.update(index)
    return model.requires_grad_(False), learner.held_out


def foretell(model: WorldModel, states: Latent, batch: Batch) -> tuple[Tensor, Tensor]:
    """Brightness and reward of rows 1 .. T - 1, (B, T - 1) each, without looking at them."""
    action = model.scale.to_model(batch.action)[:, 1:]
    before = Latent(states.deter[:, :-1].flatten(0, 1), states.stoch[:, :-1].flatten(0, 1))
    imagined = model.dynamics.imagine_step(before, action.flatten(0, 1))
    brightness = model.decode(imagined.feature).mode[..., SQUARE, SQUARE].mean((-3, -2, -1))
    return brightness.reshape(action.shape[:2]), model.reward(imagined.feature).mean.reshape(action.shape[:2])


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def check_foresight(name: str, predicted: Tensor, recorded: Tensor) -> None:
    """Predictions go with the rows they are of, and have nothing to do with those to either side."""
    assert predicted.shape == recorded.shape
    assert correlation(predicted, recorded) > 0.8, name
    assert abs(correlation(predicted[:, 1:], recorded[:, :-1])) < 0.3, f"{name}, a row late"
    assert abs(correlation(predicted[:, :-1], recorded[:, 1:])) < 0.3, f"{name}, a row early"


def fit_policy(settings: Settings, model: WorldModel, states: Latent, batch: Batch) -> tuple[Tensor, Tensor]:
    """What is done in the recorded states (N, A), in the environment's scale: by a fresh actor, and by a fitted one."""
    torch.manual_seed(0)
    discrete = not settings.view.continuous
    mean = torch.tensor([0.3, 0.3, 0.1, 0.2, 0.1] if discrete else [0.0, -0.6, 0.0])
    actor = Actor(model.features, settings.model, settings.policy, mean, torch.full_like(mean, 0.4), discrete)
    is_last = torch.zeros_like(batch.is_terminal)
    is_last[:, -1] = True
    rows = Rows(*(part.flatten() for part in (batch.reward, batch.is_terminal, is_last)))
    recorded = Latent(states.deter.flatten(0, 1), states.stoch.flatten(0, 1))
    learner = PolicyLearner(model, recorded, actor, settings.policy, rows)
    with torch.no_grad():
        before = model.scale.to_environment(learner.acting(recorded.feature).executed_mean)
    learner.begin(0, settings.policy.updates)
    for index in range(settings.policy.updates):
        learner.update(index)
    with torch.no_grad():
        return before, model.scale.to_environment(learner.acting(recorded.feature).executed_mean)


CASES = [*((variant, True) for variant in VARIANTS), ("v3", False)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "continuous"), CASES, ids=[name if continuous else f"{name}-discrete" for name, continuous in CASES]
)
def test_every_variant_learns_a_known_world_and_what_to_do_in_it(variant: str, continuous: bool) -> None:
    values = [("view.continuous", continuous)]
    if VARIANTS[variant].get("policy", {}).get("slow") == "target":
        values.append(("policy.slow_every", 20))
    settings = resolve("tiny", SMALL, values, variant=variant)
    model, batch = fit_world(settings)
    torch.manual_seed(0)
    with torch.no_grad():
        states = model.observe(batch.observation, batch.action, batch.is_first)
        brightness, reward = foretell(model, states, batch)
    recorded = batch.observation[..., SQUARE, SQUARE].float().mean((-3, -2, -1)) / 255
    check_foresight("brightness", brightness, recorded[:, 1:])
    check_foresight("reward", reward, batch.reward[:, 1:])

    before, after = fit_policy(settings, model, states, batch)
    if continuous:
        assert abs(before[:, GAS].mean().item() - BEST_GAS) > 0.6  # it begins at a gas of about 0.2
        assert (after[:, GAS] - BEST_GAS).abs().mean().item() < 0.3
    else:
        assert (before.argmax(-1) == BEST_CHOICE).float().mean().item() < 0.1
        assert (after.argmax(-1) == BEST_CHOICE).float().mean().item() > 0.95
