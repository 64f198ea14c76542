"""A trained driver for anybody's stock CarRacing, or what else it learned: `load_agent`, then `reset` and `act`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .artifacts import Run
from .config import EvaluateSettings
from .devices import named_device
from .envs import adapter_of
from .envs.actions import Action
from .envs.view import shrink
from .errors import UsageError
from .models.actor_critic import Actor
from .models.checkpoints import LoadedWorld, load_actor, load_world
from .models.dynamics import Latent
from .models.policies import ActionDistribution
from .planning import Planner

PARTICLES = EvaluateSettings().particles
"""States side by side in an agent that acts by the mean."""


class Agent:
    """The world model's encoder and dynamics, which keep the state, and the actor, which reads it.

    An agent for discrete actions drives `gym.make("CarRacing-v3", continuous=False)`, in the same way:

        while not over:
            action = agent.act(observation)  # a number, 0 to 4
            for _ in range(agent.action_repeat):
                observation, reward, terminated, truncated, _ = env.step(action)
                ...

    Where actions are neither drawn nor searched for, several states are drawn from the posterior side by side, each
    with a memory of its own, and the mean of what the actor does in them is executed: one draw is more of a guess.

    Attributes:
        action_repeat: steps of the stock environment for which each action is to be held.
        particles: states side by side.

    Args:
        world: a world model.
        actor: an actor trained in it.
        stochastic: draw actions from the policy instead of taking their mean.
        planner: chooses actions in place of the actor.
        particles: states side by side, where there are several; discrete actions have no mean, and one state.

    Raises:
        UsageError: there is no state.
    """

    def __init__(
        self,
        world: LoadedWorld,
        actor: Actor,
        stochastic: bool = False,
        planner: Planner | None = None,
        particles: int = PARTICLES,
    ) -> None:
        self.world, self.actor, self.stochastic, self.planner = world, actor, stochastic, planner
        if not isinstance(particles, int) or particles < 1:
            raise UsageError(f"particles must be a whole number from 1 on, not {particles!r:.80}")
        single = stochastic or planner is not None or world.interface.discrete
        self.particles = 1 if single else particles
        self.action_repeat = world.interface.view.action_repeat
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Forget everything: the next observation is an episode's first.

        Args:
            seed: of its own random numbers: the state is drawn from the posterior even where the action is not.
        """
        self._states: Latent | None = None
        self._random = torch.Generator(self.world.model.device).manual_seed(seed)
        self._action = torch.zeros(1, len(self.world.interface.low), device=self.world.model.device)
        if self.planner is not None:
            self.planner.reset(seed)

    def act(self, observation: NDArray[np.uint8]) -> Action:
        """Take in an observation and choose an action.

        Args:
            observation: a stock observation, of CarRacing (96, 96, 3) uint8; of an environment whose observations are
                no pictures, what it renders; or a picture already shrunk, (3, S, S) uint8.

        Returns:
            The action, (A,) float32 within the environment's bounds, such as `[steer, gas, brake]`; or the number of a
            discrete action, an int from 0 (where the environment counts from another number, add its
            `action_space.start`). To be held for `action_repeat` steps.

        Raises:
            UsageError: the observation has another shape or type.
        """
        view = self.world.interface.view
        size, shape = view.size, observation.shape
        own = adapter_of(view.env).picture_shape
        stock = shape == own if own else len(shape) == 2 or shape[2:] in ((1,), (3,))
        if observation.dtype == np.uint8 and stock:
            observation = shrink(observation, size, view.grey)
        if observation.dtype != np.uint8 or observation.shape != (3, size, size):
            pictures = own or "(H, W, 3)"
            raise UsageError(
                f"An observation must be uint8 of shape {pictures} or (3, {size}, {size}), "
                f"not {observation.dtype} of shape {shape}"
            )
        return self._act(torch.from_numpy(observation))

    @property
    def latent(self) -> Latent | None:
        """The state after the last observation, or of several the first, (1, ...); None before the first."""
        return self._states and Latent(self._states.deter[:1], self._states.stoch[:1])

    @torch.no_grad()
    def _act(self, observation: torch.Tensor) -> Action:
        model, dynamics, count = self.world.model, self.world.model.dynamics, self.particles
        before = self._states or dynamics.initial(count, device=model.device)
        is_first = torch.full((count,), self._states is None, device=model.device)
        projected = dynamics.project(model.encode(observation.to(model.device)[None])).expand(count, -1)
        action = model.scale.to_model(self._action).expand(count, -1)
        self._states, _ = dynamics.observe_step(before, action, projected, is_first, generator=self._random)
        # What is executed is what the next state must know.
        self._action = model.scale.to_environment(self._choose(self._states))
        if self.world.interface.discrete:
            return int(self._action.argmax())
        numbers: NDArray[np.float32] = self._action[0].cpu().numpy().copy()
        return numbers

    def _choose(self, states: Latent) -> torch.Tensor:
        """An action (1, A) in the model's scale, for states (K, ...)."""
        if self.planner is not None:
            return self.planner.plan(states)[:1]
        policy: ActionDistribution = self.actor(states.feature)
        return policy.sample(self._random) if self.stochastic else policy.executed_mean.mean(0, keepdim=True)


def load_agent(run: str | Path, *, device: str = "cpu", stochastic: bool = False, particles: int = PARTICLES) -> Agent:
    """Load the driver of a run folder such as `artifacts/demo`; `stochastic` and `particles` as in `Agent`.

    Raises:
        StageError: the run has no world model or policy, or they do not belong together.
        UsageError: there is no such device, or no state.
    """
    folder = Run(Path(run))
    manifest = folder.world.require({})
    folder.policy.require({"world": manifest.outputs[folder.world.weights.name]})
    world = load_world(folder.world.weights, named_device(device))
    return Agent(world, load_actor(folder.policy.weights, world), stochastic, particles=particles)
