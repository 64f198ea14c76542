"""Fits the actor and the critic in the dream, from the states of the recorded data."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ..config import PolicySettings
from ..models.actor_critic import Actor, Critic, move_towards
from ..models.dynamics import Latent
from ..models.world_model import WorldModel
from .imagination import Dream, imagine
from .policy_loss import policy_loss
from .precision import autocast
from .returns import ReturnScale
from .schedule import set_step_size, step_size


class PolicyLearner:
    """Actor, critic and their optimizers; the world model is frozen.

    Attributes:
        acting: averaged copy of the actor, which is what is kept for acting.

    Args:
        model: the world model, without gradients.
        starts: states of the recorded data (N, ...) to start from, `stoch` as uint8.
        actor: fresh.
        settings: of the fitting; `precision` resolved.
    """

    def __init__(self, model: WorldModel, starts: Latent, actor: Actor, settings: PolicySettings) -> None:
        self.model, self.starts, self.settings = model, starts, settings
        self.dream = Dream(model)
        self._last = settings.updates
        self.actor = actor
        self.acting = deepcopy(actor).requires_grad_(False)
        self.critic = Critic(model.features, model.settings, settings.layers).to(model.device)
        self.slow_critic = deepcopy(self.critic).requires_grad_(False)
        self.scale = ReturnScale(settings.return_rate).to(model.device)
        self.actor_optimizer = torch.optim.AdamW(actor.parameters(), settings.actor_rate, weight_decay=0, fused=True)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), settings.critic_rate, weight_decay=0, fused=True
        )

    def begin(self, first: int, last: int) -> None:
        """Note where the updates end, for the step sizes."""
        self._last = last

    def update(self, index: int) -> Mapping[str, Tensor]:
        """Imagine from random recorded states, and take one gradient step of each network."""
        settings = self.settings
        for optimizer, rate in (
            (self.actor_optimizer, settings.actor_rate),
            (self.critic_optimizer, settings.critic_rate),
        ):
            set_step_size(optimizer, step_size(rate, index, self._last, warmup=0, anneal=settings.anneal))
        chosen = torch.randint(len(self.starts.deter), (settings.starts,), device=self.model.device)
        start = Latent(self.starts.deter[chosen], self.starts.stoch[chosen].float())
        with autocast(self.model.device, settings.precision), torch.no_grad():
            trajectory = imagine(self.dream, self.actor, start, settings.horizon)
            outcomes = self.dream.outcomes(trajectory.latents[1:])
        # A context of its own: the weights cast without gradients above must not be used again.
        with autocast(self.model.device, settings.precision):
            loss = policy_loss(self.actor, self.critic, self.slow_critic, self.scale, trajectory, outcomes, settings)
        norms = {
            "actor_gradient": self._step(self.actor, self.actor_optimizer, loss.actor),
            "critic_gradient": self._step(self.critic, self.critic_optimizer, loss.critic),
        }
        move_towards(self.slow_critic, self.critic, settings.slow_rate)
        move_towards(self.acting, self.actor, max(settings.average_rate, 1 / (index + 1)))
        return {**loss.parts, **norms}

    def _step(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), self.settings.clip)
        optimizer.step()
        return norm

    def check(self, done: int, final: bool) -> Mapping[str, float]:
        """There is nothing held out: the real environment is the test, and it is not for this stage to see."""
        return {}

    def state(self) -> dict[str, Any]:
        """Networks, optimizers, normaliser."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "actor": self.actor,
            "acting": self.acting,
            "critic": self.critic,
            "slow_critic": self.slow_critic,
            "scale": self.scale,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
        }
