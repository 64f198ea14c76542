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
from .imagination import Dream, Outcomes, Trajectory, imagine
from .policy_loss import policy_loss
from .precision import autocast
from .returns import ReturnScale
from .schedule import set_step_size, step_size


class PolicyLearner:
    """Actor, critic and their optimizers; the world model is frozen.

    Trajectories are short, for the model's errors grow along them, and the recorded states are those of random
    driving: an actor that starts from these alone never learns what to do at the speed it will reach. So most
    trajectories go on where the last update's ended, under the actor as it has become, until they end by chance.

    Attributes:
        ends: (N, ...), states that the last update's trajectories ended in, and `carried`, (N,) bool, those to go on.
        acting: averaged copy of the actor, which is what is kept for acting.

    Args:
        model: the world model, without gradients.
        recorded: states of the data (N, ...) to start from, `stoch` as uint8.
        actor: fresh.
        settings: of the fitting; `precision` resolved.
    """

    def __init__(self, model: WorldModel, recorded: Latent, actor: Actor, settings: PolicySettings) -> None:
        self.model, self.recorded, self.settings = model, recorded, settings
        self.ends = model.dynamics.initial(settings.starts, device=model.device)
        self.carried = torch.zeros(settings.starts, dtype=torch.bool, device=model.device)
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
        with autocast(self.model.device, settings.precision), torch.no_grad():
            trajectory = imagine(self.dream, self.actor, self._draw_starts(), settings.horizon)
            outcomes = self.dream.outcomes(trajectory.latents[1:])
        self._carry(trajectory, outcomes)
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

    def _draw_starts(self) -> Latent:
        """Recorded states at random, and those that are carried on."""
        chosen = torch.randint(len(self.recorded.deter), (self.settings.starts,), device=self.model.device)
        recorded = Latent(self.recorded.deter[chosen], self.recorded.stoch[chosen].float())
        return self.ends.where(self.carried, recorded)

    def _carry(self, trajectory: Trajectory, outcomes: Outcomes) -> None:
        """Choose which trajectories the next update carries on; one whose episode may have ended, as likely less."""
        self.ends = trajectory.latents[-1]
        self.carried = torch.rand_like(outcomes.reward[0]) < self.settings.carry * outcomes.goes_on.prod(0)

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
        """Networks, optimizers, normaliser, and where the trajectories go on."""
        networks = {name: part.state_dict() for name, part in self._parts().items()}
        return {**networks, "deter": self.ends.deter, "stoch": self.ends.stoch, "carried": self.carried}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        device = self.model.device
        self.ends = Latent(state["deter"].to(device), state["stoch"].to(device))
        self.carried = state["carried"].to(device)

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
