"""The learned world as an environment on latents: the one door through which everything imagined is rolled out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..models.actor_critic import Actor
from ..models.dynamics import Latent, stack
from ..models.world_model import WorldModel


class Outcomes(NamedTuple):
    """What the world model says of states, each (...) float32.

    Attributes:
        reward: the reward that arrives with the state.
        goes_on: probability that the episode goes on after it.
        disagreement: variance of the ensemble of priors; 0 without an ensemble.
        cost: how much of what is to be avoided there is, 0 .. 1; 0 without a cost head.
    """

    reward: Tensor
    goes_on: Tensor
    disagreement: Tensor
    cost: Tensor


class Trajectory(NamedTuple):
    """Imagined states and the actions between them.

    Attributes:
        latents: (H + 1, N, ...); index 0 is the start.
        actions: (H, N, A), as drawn, in the model's scale; action t was chosen in state t.
    """

    latents: Latent
    actions: Tensor


class Dream:
    """A frozen world model, stepped like an environment.

    Args:
        model: the world model.
        temperature: of the states drawn. Above 1 the dream is less sure of what comes than the model is, so that a
            policy cannot live on the model's mistakes (World Models, arXiv 1803.10122, "Cheating the World Model").
        generator: of the states drawn; torch's own where not given.
    """

    def __init__(self, model: WorldModel, temperature: float = 1.0, generator: torch.Generator | None = None) -> None:
        self.model, self.temperature, self.generator = model, temperature, generator
        self.latent: Latent | None = None

    def reset(self, start: Latent) -> Latent:
        """Begin in the states `start`, (N, ...)."""
        self.latent = start.detach()
        return self.latent

    def step(self, action: Tensor) -> Latent:
        """Imagine the states after actions (N, A) in the model's scale, clipped to its bounds as the real ones are."""
        assert self.latent is not None, "reset comes before step"
        dynamics, action = self.model.dynamics, action.clamp(-1, 1)
        self.latent = dynamics.imagine_step(self.latent, action, self.temperature, self.generator)
        return self.latent

    def outcomes(self, latents: Latent) -> Outcomes:
        """What the model says of states (..., ...): once for a whole trajectory, not at each step."""
        feature = latents.feature
        reward = self.model.reward(feature).mean
        model, nothing = self.model, torch.zeros_like(reward)
        disagreement = model.ensemble.disagreement(latents.deter) if model.settings.ensemble else nothing
        cost = model.cost(feature).mean if model.settings.cost else nothing
        return Outcomes(reward, model.goes_on(feature).mean, disagreement, cost)


def imagine(dream: Dream, actor: Actor, start: Latent, horizon: int, *, sample: bool = True) -> Trajectory:
    """Roll the policy out in the dream.

    The policy sees states as constants, as in the papers: what is left of the gradient goes from states back to the
    actions that led to them.

    Args:
        dream: the world.
        actor: the policy.
        start: states (N, ...).
        horizon: number of decisions H.
        sample: draw actions; else take their mean.
    """
    latent = dream.reset(start)
    latents, actions = [latent], []
    for _ in range(horizon):
        policy = actor(latent.feature.detach())
        action = policy.sample() if sample else policy.executed_mean
        latent = dream.step(action)
        latents.append(latent)
        actions.append(action)
    return Trajectory(stack(latents, 0), torch.stack(actions))
