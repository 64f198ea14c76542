"""What a run knows, asked one moment at a time: to look, to imagine, to judge and to act."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..dream_env import as_vectors
from ..envs.actions import Action
from ..learning.imagination import Dream, imagine
from ..models.actor_critic import Actor
from ..models.checkpoints import LoadedWorld
from ..models.dynamics import Latent

AHEAD, FUTURES = 15, 4
"""Decisions over which a moment's value is imagined, and how many times."""


class Judgement(NamedTuple):
    """What the world model says of a moment.

    Attributes:
        reward: that arrives with it.
        goes_on: probability that the drive goes on after it, 0 .. 1.
        value: reward of the next `AHEAD` decisions if the policy drove, a mean over imagined futures; None without one.
    """

    reward: float
    goes_on: float
    value: float | None


class Mind:
    """World model and policy; they keep no state, but for random numbers of their own.

    Args:
        world: the world model.
        actor: the policy, if there is one.
        discount: that the continue head holds; 1 where it holds none.
        seed: of all that is random.
    """

    def __init__(self, world: LoadedWorld, actor: Actor | None, discount: float = 1.0, seed: int = 0) -> None:
        self.world, self.actor, self.discount = world, actor, discount
        device = world.model.device
        self._random = torch.Generator(device).manual_seed(seed)
        self._dream = Dream(world.model, generator=self._random)
        self._ahead = Dream(world.model, generator=torch.Generator(device).manual_seed(seed))

    @torch.no_grad()
    def look(self, before: Latent | None, action: Action | None, picture: NDArray[np.uint8]) -> Latent:
        """The state after a picture (3, S, S), and after what came before, unless that is None: the drive's first."""
        model = self.world.model
        first = before is None or action is None
        led = torch.zeros(1, len(self.world.interface.low), device=model.device)
        if not first:
            led = as_vectors(self.world, np.asarray(action)[None])
        projected = model.dynamics.project(model.encode(torch.from_numpy(picture)[None].to(model.device)))
        latent, _ = model.dynamics.observe_step(
            before or model.dynamics.initial(1, device=model.device),
            model.scale.to_model(led),
            projected,
            torch.tensor([first], device=model.device),
            generator=self._random,
        )
        return latent

    @torch.no_grad()
    def imagine(self, before: Latent, action: Action) -> Latent:
        """A state that may follow, without looking."""
        self._dream.reset(before)
        return self._dream.step(self.world.model.scale.to_model(as_vectors(self.world, np.asarray(action)[None])))

    @torch.no_grad()
    def picture(self, latent: Latent) -> NDArray[np.uint8]:
        """What a state looks like, (3, S, S) uint8."""
        pictures: NDArray[np.uint8] = self.world.model.pictures(latent.feature)[0].cpu().numpy()
        return pictures

    @torch.no_grad()
    def judge(self, latent: Latent) -> Judgement:
        """What the world model says of a state."""
        said = self._ahead.outcomes(latent)
        return Judgement(float(said.reward), min(float(said.goes_on) / self.discount, 1.0), self._value(latent))

    def _value(self, latent: Latent) -> float | None:
        if self.actor is None:
            return None
        trajectory = imagine(self._ahead, self.actor, latent[[0] * FUTURES], AHEAD, sample=False)
        said = self._ahead.outcomes(trajectory.latents[1:])  # (H, N)
        alive = torch.cat([torch.ones_like(said.goes_on[:1]), (said.goes_on / self.discount)[:-1]]).clamp_max(1)
        return float((alive.cumprod(0) * said.reward).sum(0).mean())

    @torch.no_grad()
    def act(self, latent: Latent) -> Action:
        """What the policy would do, drawing nothing."""
        assert self.actor is not None, "there is no policy"
        action = self.world.model.scale.to_environment(self.actor(latent.feature).executed_mean)[0]
        if self.world.interface.discrete:
            return int(action.argmax())
        numbers: NDArray[np.float32] = action.cpu().numpy().copy()
        return numbers
