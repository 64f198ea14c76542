"""Acting at random: no policy here looks at the picture.

What teaches a world model is not one long episode but many different ones: but for `uniform`, the process is drawn anew
for every episode, and an action is held long enough to lead somewhere. CarRacing has drivers of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, did_you_mean
from .actions import Action, Actions
from .view import Picture


class RandomPolicy(ABC):
    """Who acts in one episode. Each call gives the next action: (A,) float32, or a number.

    Args:
        rng: its only source of anything: actions depend on its state, and on the picture where it looks at one.

    Attributes:
        looks: whether the observation matters, (3, S, S) uint8. Where it does not, any will do.
    """

    name: ClassVar[str]
    looks: ClassVar[bool] = False

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    @abstractmethod
    def __call__(self, observation: Picture) -> Action:
        """Return the action of the next decision, within its bounds, or one of the numbers."""


class Uniform(RandomPolicy):
    """An action drawn uniformly at each decision."""

    name = "uniform"

    def __init__(self, rng: np.random.Generator, actions: Actions) -> None:
        super().__init__(rng)
        self._actions = actions

    def __call__(self, _: Picture) -> Action:
        """Draw an action."""
        if self._actions.discrete:
            return int(self._rng.integers(len(self._actions)))
        return self._rng.uniform(self._actions.low, self._actions.high).astype(np.float32)


class Sticky(RandomPolicy):
    """An action drawn and held for some decisions, then another.

    Drawn for an episode: how many decisions lie between two draws, 1 to 8 on average, log-uniform, and geometric around
    that; and of discrete actions how likely each is, uniform over all likelihoods there are (a flat Dirichlet): so that
    in some episodes nearly the same is done all the time, which leads farther than a bit of everything.
    """

    name = "sticky"
    _LONGEST = 8.0

    def __init__(self, rng: np.random.Generator, actions: Actions) -> None:
        super().__init__(rng)
        self._actions = actions
        self._draw_again = math.exp(-rng.uniform(0.0, math.log(self._LONGEST)))
        self._likelihoods = rng.dirichlet(np.ones(len(actions)))
        self._action = self._draw()

    def __call__(self, _: Picture) -> Action:
        """Return the present action and hold it, or draw another."""
        action = self._action
        if self._rng.random() < self._draw_again:
            self._action = self._draw()
        return action

    def _draw(self) -> Action:
        if self._actions.discrete:
            return int(self._rng.choice(len(self._actions), p=self._likelihoods))
        return self._rng.uniform(self._actions.low, self._actions.high).astype(np.float32)


class Smooth(RandomPolicy):
    """Numbers that wander: an Ornstein-Uhlenbeck process for each, clipped to its bounds.

    Drawn for an episode, on a scale on which the bounds are -1 and 1: the mean U(-.5, .5), the rate back to it .02 to
    .5 a decision, log-uniform, and the stationary standard deviation U(.2, 1).
    """

    name = "smooth"

    def __init__(self, rng: np.random.Generator, actions: Actions) -> None:
        super().__init__(rng)
        low, high = np.array(actions.low), np.array(actions.high)
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self._mean = rng.uniform(-0.5, 0.5, len(actions))
        self._rate = np.exp(rng.uniform(math.log(0.02), math.log(0.5), len(actions)))
        deviation = rng.uniform(0.2, 1.0, len(actions))
        self._noise = deviation * np.sqrt(1.0 - (1.0 - self._rate) ** 2)  # which makes it stationary
        self._value = np.clip(rng.normal(self._mean, deviation), -1.0, 1.0)

    def __call__(self, _: Picture) -> NDArray[np.float32]:
        """Return the present action and wander on."""
        action = self._middle + self._half * self._value
        pull = self._rate * (self._mean - self._value)
        self._value = np.clip(self._value + pull + self._noise * self._rng.normal(size=len(self._value)), -1.0, 1.0)
        return np.asarray(action, np.float32)


_Policies = Mapping[str, Callable[[np.random.Generator, Actions], RandomPolicy]]

POLICIES: _Policies = {policy.name: policy for policy in (Smooth, Sticky, Uniform)}
"""By name, where actions are continuous."""

DISCRETE_POLICIES: _Policies = {policy.name: policy for policy in (Sticky, Uniform)}
"""By name, where actions are discrete."""

_SHARES = {Smooth.name: 0.6, Sticky.name: 0.3, Uniform.name: 0.1}
_DISCRETE_SHARES = {Sticky.name: 0.8, Uniform.name: 0.2}
"""Of the episodes of `mixture`."""


def make_policy(name: str, rng: np.random.Generator, actions: Actions) -> RandomPolicy:
    """Who acts at random in one episode.

    Args:
        name: one of `POLICIES`, or of `DISCRETE_POLICIES`; or "mixture", for each episode one of them.
        rng: source of the policy's own parameters and of its actions.
        actions: what there is to do.

    Returns:
        A policy; its `name` is that of the process drawn, for "mixture" too.

    Raises:
        UsageError: there is no policy of that name for such actions.
    """
    policies, shares = (DISCRETE_POLICIES, _DISCRETE_SHARES) if actions.discrete else (POLICIES, _SHARES)
    if name == "mixture":
        name = str(rng.choice(list(shares), p=list(shares.values())))
    if name not in policies:
        kind, names = "discrete" if actions.discrete else "continuous", {*policies, "mixture"}
        raise UsageError(f"There is no random policy '{name}' of {kind} actions{did_you_mean(name, names)}")
    return policies[name](rng, actions)
