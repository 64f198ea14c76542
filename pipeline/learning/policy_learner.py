"""Fits the actor and the critic in the dream, from the states of the recorded data."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from .. import distributed
from ..config import PolicySettings
from ..models.actor_critic import Actor, Critic, move_towards
from ..models.dynamics import Latent
from ..models.world_model import WorldModel
from .compilation import compiled
from .encoding import Rows
from .imagination import Dream, Outcomes, Trajectory, imagine
from .optimizers import clip_gradients, make_optimizer, restore_optimizer
from .policy_loss import Critics, PolicyLoss, policy_loss, survival
from .precision import autocast
from .returns import ReturnScale
from .schedule import entropy_weight, set_step_size, step_size


class PolicyLearner:
    """Actor, critic and their optimizers; the world model is frozen.

    Trajectories are short, for the model's errors grow along them, and each starts in a recorded state. Where the actor
    gets to what random data hardly show, as to speed, `policy.carry` lets some go on where the last update's ended,
    under the actor as it has become, until they end by chance. (Not where the critic learns from recorded rewards
    too: then all start in windows of recorded rows.)

    One of several processes imagines its share of the N trajectories of an update.

    Attributes:
        ends: (N, ...), states that the last update's trajectories ended in, and `carried`, (N,) bool, those to go on.
        gradients: see `Learner`.
        acting: averaged copy of the actor, which is what is kept for acting.

    Args:
        model: the world model, without gradients.
        recorded: states of the data (N, ...) to start from, `stoch` as float32 or uint8.
        actor: fresh.
        settings: of the fitting; `precision` resolved, `discount` that of the continue head, where that one is soft.
        rows: (N,), what was recorded with those states; needed where `replay_scale` is not 0.
    """

    def __init__(
        self, model: WorldModel, recorded: Latent, actor: Actor, settings: PolicySettings, rows: Rows | None = None
    ) -> None:
        assert rows is not None or not settings.replay_scale, "a critic that learns from recorded rewards needs them"
        self.model, self.recorded, self.settings = model, recorded, settings
        self.rows = rows if settings.replay_scale else None
        self.soft = model.settings.goes_on == "soft"
        self.windows = max(1, settings.starts // settings.replay_length)  # of recorded rows, where these count
        if self.rows is None:
            self.share = distributed.rows(settings.starts, "policy.starts")
        else:
            self.share = distributed.rows(self.windows, "policy.starts / policy.replay_length")
        own = self.share.stop - self.share.start
        self.ends = model.dynamics.initial(own, device=model.device)
        self.carried = torch.zeros(own, dtype=torch.bool, device=model.device)
        self.dream = Dream(model, settings.temperature)
        self._imagine = compiled(self._trajectories, settings.compile)
        self._loss = compiled(policy_loss, settings.compile, begins=False)
        self._last = settings.updates
        self.gradients = torch.zeros(0)
        self.actor = actor
        self.acting = deepcopy(actor).requires_grad_(False)
        self.critic = Critic(model.features, model.settings, settings).to(model.device)
        self.slow_critic = deepcopy(self.critic).requires_grad_(False)
        self.scale = ReturnScale(settings.return_rate).to(model.device)
        self.actor_optimizer = make_optimizer(actor.parameters(), settings, settings.actor_rate)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), settings, settings.critic_rate)

    def begin(self, first: int, last: int) -> None:
        """Note where the updates end, for the step sizes."""
        self._last = last

    def update(self, index: int) -> Mapping[str, Tensor]:
        """Imagine from recorded states and from where others ended, and take one gradient step of each network."""
        settings = self.settings
        for optimizer, rate in (
            (self.actor_optimizer, settings.actor_rate),
            (self.critic_optimizer, settings.critic_rate),
        ):
            size = step_size(rate, index, self._last, warmup=settings.warmup, anneal=settings.anneal)
            set_step_size(optimizer, size)
        start, rows = self._draw_starts()
        distributed.own_random_numbers()
        through = settings.gradient != "reinforce"  # the gradient goes through the trajectory
        with autocast(self.model.device, settings.precision), torch.set_grad_enabled(through):
            trajectory, outcomes = self._imagine(start)
        self._carry(trajectory, outcomes)
        # A context of its own: the weights cast without gradients above must not be used again.
        with autocast(self.model.device, settings.precision):
            critics = Critics(self.critic, self.slow_critic, self.scale)
            entropy = self._entropy_weight(index)
            loss = self._loss(self.actor, critics, trajectory, outcomes, settings, entropy, soft=self.soft, rows=rows)
        norms = self._step(loss)
        if settings.slow != "none" and index % settings.slow_every == 0:
            move_towards(self.slow_critic, self.critic, settings.slow_rate)
        move_towards(self.acting, self.actor, max(settings.average_rate, 1 / (index + 1)))
        return {**loss.parts, **norms}

    def _entropy_weight(self, index: int) -> Tensor:
        s = self.settings
        weight = entropy_weight(s.entropy, index, self._last, boost=s.entropy_boost, anneal=s.anneal)
        return torch.full((), weight, device=self.model.device)

    def _draw_starts(self) -> tuple[Latent, Rows | None]:
        """Where to start: (N, ...); and where the critic learns from recorded rows too, those, (L, W) with L W = N.

        All processes draw the same, and each takes its share.
        """
        settings, device = self.settings, self.model.device
        count = len(self.recorded.deter)
        if self.rows is None:
            chosen = torch.randint(count, (settings.starts,), device=device)[self.share]
            return self.ends.where(self.carried, self._recorded(chosen)), None
        length = settings.replay_length
        begin = torch.randint(count - length + 1, (self.windows,), device=device)[self.share]
        window = begin + torch.arange(length, device=device)[:, None]  # (L, W)
        return self._recorded(window.flatten()), Rows(*(part[window] for part in self.rows))

    def _recorded(self, chosen: Tensor) -> Latent:
        return Latent(self.recorded.deter[chosen], self.recorded.stoch[chosen].float())

    def _trajectories(self, start: Latent) -> tuple[Trajectory, Outcomes]:
        """Where the actor gets from the start, and what the world model says of the states that count."""
        trajectory = imagine(self.dream, self.actor, start, self.settings.horizon)
        first = 1 if self.settings.value == "next" else 0
        return trajectory, self.dream.outcomes(trajectory.latents[first:])

    def _carry(self, trajectory: Trajectory, outcomes: Outcomes) -> None:
        """Choose which trajectories the next update carries on; one whose episode may have ended, as likely less."""
        ends = trajectory.latents[-1].detach()
        self.ends = Latent(ends.deter.clone(), ends.stoch.clone())  # the next update may overwrite these
        goes_on = survival(outcomes, self.settings, self.soft)[-self.settings.horizon :].detach()
        self.carried = torch.rand_like(goes_on[0]) < self.settings.carry * goes_on.prod(0)

    def _step(self, loss: PolicyLoss) -> dict[str, Tensor]:
        """Move each network along its own loss, and give the norms of their gradients."""
        networks = {"actor": self.actor, "critic": self.critic}
        optimizers = {"actor": self.actor_optimizer, "critic": self.critic_optimizer}
        parameters = {name: list(network.parameters()) for name, network in networks.items()}
        both = [*parameters["actor"], *parameters["critic"]]
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        (loss.actor + loss.critic).backward(inputs=both)  # neither loss reaches the other's network
        distributed.average_gradients(both)
        norms = {name: clip_gradients(parameters[name], self.settings) for name in networks}
        self.gradients = torch.cat([norm.each for norm in norms.values()])
        for optimizer in optimizers.values():
            optimizer.step()
        return {f"{name}_gradient": norm.total for name, norm in norms.items()}

    def parameters(self) -> list[str]:
        """See `Learner.parameters`."""
        networks = {"actor": self.actor, "critic": self.critic}
        every = [(f"{key}.{name}", p) for key, network in networks.items() for name, p in network.named_parameters()]
        return [name for name, parameter in every if parameter.grad is not None]

    def check(self, done: int, final: bool) -> Mapping[str, float]:
        """There is nothing held out: the real environment is the test, and it is not for this stage to see."""
        return {}

    def state(self) -> dict[str, Any]:
        """Networks, optimizers, normaliser, and where the trajectories go on."""
        networks = {name: part.state_dict() for name, part in self._parts().items()}
        if self.rows is not None:  # none is carried on
            return networks
        trajectories = {"deter": self.ends.deter, "stoch": self.ends.stoch, "carried": self.carried}
        return networks | {name: distributed.gathered(part) for name, part in trajectories.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave, by as many processes or another number of them."""
        for name, part in self._parts().items():
            if isinstance(part, torch.optim.Optimizer):
                restore_optimizer(part, state[name])
            else:
                part.load_state_dict(state[name])
        if self.rows is None:
            own = {name: state[name][self.share].to(self.model.device) for name in ("deter", "stoch", "carried")}
            present = {"deter": self.ends.deter, "stoch": self.ends.stoch, "carried": self.carried}
            if any(own[name].shape != tensor.shape for name, tensor in present.items()):
                raise ValueError("the trajectories to be carried on do not have this model's shape")
            self.ends, self.carried = Latent(own["deter"], own["stoch"]), own["carried"]

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
