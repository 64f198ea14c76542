"""Fits the world model: one update, and the look at held-out episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import distributed
from ..config import WorldSettings
from ..episodes.windows import Batch
from ..models.dynamics import Latent, stack
from ..models.pictures import to_picture
from ..models.world_model import WorldModel
from ..randomness import Stream, numpy_stream, seed_torch
from .compilation import compiled
from .imagination import Dream
from .optimizers import clip_gradients, make_optimizer, restore_optimizer
from .precision import autocast
from .schedule import set_step_size, step_size
from .world_loss import world_loss

CONTEXT = 5
"""Frames that the model sees before it has to imagine, in every open-loop measurement."""
HORIZONS = (1, 5, 15)
"""Imagined steps after which the open-loop error is measured."""
HELD_OUT_WINDOWS = 64


class WindowSource(Protocol):
    """What the learner asks of its data: `Windows`, or `BlankWindows` where there are none."""

    def sample(self, rng: np.random.Generator, batch: int) -> Batch:
        """Draw `batch` windows."""

    def batches(self, seed: int, start: int, stop: int, batch: int) -> Iterator[Batch]:
        """Draw `batch` windows for each of the updates start .. stop - 1; of several processes, each its share."""


class WorldLearner:
    """A world model, its optimizer, and the data it learns from.

    Attributes:
        best: lowest held-out loss so far, and `best_model` the weights that had it. (Not the open-loop picture error:
            the blurred pictures of a model that has learned little are hard to beat in it.)
        gradients: see `Learner`.

    Args:
        model: on its device.
        settings: of the fitting; `precision` resolved.
        train: windows of `length` steps.
        held_out: windows of CONTEXT + max(HORIZONS) steps, of other episodes.
        seed: of the batches.
    """

    def __init__(
        self, model: WorldModel, settings: WorldSettings, train: WindowSource, held_out: WindowSource, seed: int
    ) -> None:
        self.model, self.settings, self.train, self.seed = model, settings, train, seed
        self.optimizer = make_optimizer(model.parameters(), settings, settings.learning_rate)
        self.held_out = whole_windows(held_out, seed).to(model.device)
        self._loss = compiled(world_loss, settings.compile)
        self.best = float("inf")
        self.best_model = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self._batches: Iterator[Batch] = iter(())
        self._last = settings.updates
        self.gradients = torch.zeros(0)

    def begin(self, first: int, last: int) -> None:
        """Start reading batches ahead."""
        self._last = last
        self._batches = self.train.batches(self.seed, first, last, self.settings.batch)

    def update(self, index: int) -> Mapping[str, Tensor]:
        """One gradient step."""
        batch = next(self._batches).to(self.model.device)
        distributed.own_random_numbers()
        settings = self.settings
        rate = step_size(settings.learning_rate, index, self._last, warmup=settings.warmup, anneal=settings.anneal)
        set_step_size(self.optimizer, rate)
        with autocast(self.model.device, self.settings.precision):
            loss = self._loss(self.model, batch, self.settings)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        distributed.average_gradients(self.model.parameters())
        norms = clip_gradients(self.model.parameters(), settings)
        self.gradients = norms.each
        self.optimizer.step()
        return {"loss": loss.total, **loss.parts, "gradient": norms.total}

    def parameters(self) -> list[str]:
        """See `Learner.parameters`."""
        return [name for name, parameter in self.model.named_parameters() if parameter.grad is not None]

    def check(self, done: int, final: bool) -> Mapping[str, float]:
        """Errors on held-out episodes, every `validate_every` updates and at the end; keeps the best weights."""
        if not final and done % self.settings.validate_every:
            return {}
        seed_torch(self.seed, Stream.HELD_OUT)  # the same draws at every look
        with autocast(self.model.device, self.settings.precision):
            errors = held_out_errors(self.model, self.held_out, self.settings)
        if errors["loss"] < self.best:
            self.best = errors["loss"]
            self.best_model = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return {f"held_out/{name}": value for name, value in errors.items()}

    def state(self) -> dict[str, Any]:
        """Weights, optimizer, best."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_model": self.best_model,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        for name in ("best_model", "model"):  # the best one only to see that it fits
            self.model.load_state_dict(state[name])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.best, self.best_model = state["best"], state["best_model"]


def whole_windows(windows: WindowSource, seed: int) -> Batch:
    """Up to `HELD_OUT_WINDOWS` windows of held-out episodes, always the same, each from within one episode.

    Where every held-out episode is shorter than a window, windows that run on into the next one are taken as they are.
    """
    batch = windows.sample(numpy_stream(seed, Stream.HELD_OUT), 4 * HELD_OUT_WINDOWS)
    inside = ~batch.is_first[:, 1:].any(1)
    chosen = torch.nonzero(inside)[:HELD_OUT_WINDOWS, 0] if inside.any() else torch.arange(HELD_OUT_WINDOWS)
    return batch.select(chosen)


@torch.no_grad()
def held_out_errors(model: WorldModel, batch: Batch, settings: WorldSettings) -> dict[str, float]:
    """Losses with observations, and errors of imagination without.

    Args:
        model: the world model.
        batch: windows (B, T, ...) of CONTEXT + max(HORIZONS) steps.
        settings: of the loss.

    Returns:
        Total loss of the model itself, and all parts (the ensemble learns beside it and says nothing about it: of all
        losses its own alone rises while the model learns); `reward_error`, the mean absolute error at posterior states;
        and for each horizon k `open_loop_k`, the mean squared pixel error (0 .. 1) k steps after the last observation,
        and `open_loop_reward_k`, the mean absolute error of the reward summed over those k steps.
    """
    loss = world_loss(model, batch, settings)
    states = model.observe(batch.observation, batch.action, batch.is_first)
    errors = {"loss": loss.total - loss.parts.get("ensemble", 0.0), **loss.parts}
    errors["reward_error"] = (model.reward(states.feature).mean - batch.reward).abs().mean()
    imagined = imagine_recorded(model, states[:, CONTEXT - 1], batch.action[:, CONTEXT:])
    rewards = model.reward(imagined.feature).mean.cumsum(1)  # (B, max(HORIZONS))
    recorded = batch.reward[:, CONTEXT:].cumsum(1)
    for k in HORIZONS:
        predicted = model.decode(imagined[:, k - 1].feature).mode
        target = to_picture(batch.observation[:, CONTEXT + k - 1])
        errors[f"open_loop_{k}"] = (predicted - target).float().square().mean()
        errors[f"open_loop_reward_{k}"] = (rewards[:, k - 1] - recorded[:, k - 1]).abs().mean()
    return {name: float(value) for name, value in errors.items()}


def imagine_recorded(model: WorldModel, start: Latent, actions: Tensor) -> Latent:
    """Open-loop states after recorded actions.

    Args:
        model: the world model.
        start: (B, ...), the last state with an observation.
        actions: (B, K, A), the environment's own.

    Returns:
        (B, K, ...).
    """
    dream = Dream(model)
    dream.reset(start)
    return stack([dream.step(action) for action in model.scale.to_model(actions).unbind(1)], 1)
