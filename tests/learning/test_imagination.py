"""The dream: how states and actions follow each other, and where gradients may go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import ModelSettings, PolicySettings, ViewSettings
from pipeline.learning.imagination import Dream, imagine
from pipeline.models.actor_critic import Actor
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.world_model import WorldModel

POLICY = PolicySettings(actor_layers=1, critic_layers=1)
NEUTRAL = torch.zeros(2), torch.full((2,), 0.5)


def test_imagination_starts_in_the_start_and_chains_states_and_actions(model: WorldModel) -> None:
    actor = Actor(model.features, model.settings, POLICY, *NEUTRAL)
    start = model.dynamics.initial(5)
    trajectory = imagine(Dream(model), actor, start, 3)
    assert trajectory.latents.deter.shape == (4, 5, 8)
    assert trajectory.actions.shape == (3, 5, 2)
    assert torch.equal(trajectory.latents.deter[0], start.deter)
    for t in range(3):
        following = model.dynamics.advance(trajectory.latents[t], trajectory.actions[t].clamp(-1, 1))
        assert torch.allclose(following, trajectory.latents.deter[t + 1], atol=1e-6)


def test_actions_out_of_bounds_have_the_effect_of_the_clipped_ones(model: WorldModel) -> None:
    dream, start = Dream(model), model.dynamics.initial(1)
    dream.reset(start)
    beyond = dream.step(torch.tensor([[3.0, -7.0]]))
    dream.reset(start)
    assert torch.equal(beyond.deter, dream.step(torch.tensor([[1.0, -1.0]])).deter)


def test_a_hot_dream_draws_every_class_alike(model: WorldModel) -> None:
    with torch.no_grad():
        model.dynamics.prior_logits.out.bias[:4] = torch.tensor([9.0, 0.0, 0.0, 0.0])
    drawn = []
    for temperature in (1.0, 1e6):
        torch.manual_seed(0)
        dream = Dream(model, temperature)
        dream.reset(model.dynamics.initial(4000))
        drawn.append(dream.step(torch.zeros(4000, 2)).stoch[:, :4].mean(0))
    assert drawn[0][0] > 0.98
    assert drawn[1].tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_without_sampling_the_actions_are_determined(model: WorldModel) -> None:
    actor = Actor(model.features, model.settings, POLICY, *NEUTRAL)
    first = imagine(Dream(model), actor, model.dynamics.initial(2), 1, sample=False).actions
    assert torch.equal(first, imagine(Dream(model), actor, model.dynamics.initial(2), 1, sample=False).actions)


class GivenActions:
    """A policy of given actions, one a step."""

    def __init__(self, actions: list[Tensor]) -> None:
        self.actions, self.features = iter(actions), []

    def __call__(self, feature: Tensor) -> GivenActions:
        self.features.append(feature)
        return self

    def sample(self) -> Tensor:
        return next(self.actions)


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
@pytest.mark.parametrize("part", ["deter", "stoch"])
def test_gradients_go_from_states_back_to_the_actions_before_them_alone(
    sizes: ModelSettings, latent: str, part: str
) -> None:
    """Through h and through the drawn z alike; not into the start, the world model, or what the policy sees."""
    torch.manual_seed(0)
    sizes = sizes.model_copy(update={"latent": latent, "stoch": 6})
    model = build_world(sizes, Interface(ViewSettings(), (-1.0, -1.0), (1.0, 1.0))).requires_grad_(False)
    actions = [torch.zeros(5, 2, requires_grad=True) for _ in range(3)]
    policy: Any = GivenActions(actions)
    start = model.dynamics.initial(5)
    start.deter.requires_grad_()
    states = getattr(imagine(Dream(model), policy, start, 3).latents, part)
    assert not any(feature.requires_grad for feature in policy.features)
    weight = torch.randn_like(states[2])
    first, second, third, origin = torch.autograd.grad(
        (states[2] * weight).sum(), [*actions, start.deter], allow_unused=True
    )
    assert first.any() and second.any() and not third.any() and origin is None
    assert all(parameter.grad is None for parameter in model.parameters())
