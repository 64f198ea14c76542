"""CarRacing's actions, three numbers or one of five, and what both do to the car: facts that need no simulator."""

from __future__ import annotations

import numpy as np

from ..actions import Action, Actions

ACTION_LOW = np.array([-1.0, 0.0, 0.0], dtype=np.float32)
ACTION_HIGH = np.array([1.0, 1.0, 1.0], dtype=np.float32)
"""Bounds of a continuous action, `[steer, gas, brake]`; steering 1 is to the right."""

ACTION_NAMES = ("do nothing", "steer right", "steer left", "gas", "brake")
"""The discrete actions of `gym.make("CarRacing-v3", continuous=False)`, by their numbers."""

NOTHING, RIGHT, LEFT, GAS, BRAKE = range(len(ACTION_NAMES))

_CONTROLS = ((0.0, 0.0, 0.0), (0.6, 0.0, 0.0), (-0.6, 0.0, 0.0), (0.0, 0.2, 0.0), (0.0, 0.0, 0.8))
"""Steering, gas and brake of each discrete action, as in gymnasium's `CarRacing.step`."""


def controls(action: Action) -> tuple[float, float, float]:
    """Steering (-1 .. 1, to the right), gas and brake (0 .. 1) that an action gives the car."""
    steer, gas, brake = _CONTROLS[action] if isinstance(action, int) else action.tolist()
    return steer, gas, brake


def car_actions(continuous: bool) -> Actions:
    """The actions there are, of either kind."""
    if continuous:
        return Actions(tuple(ACTION_LOW.tolist()), tuple(ACTION_HIGH.tolist()))
    return Actions.one_of(len(ACTION_NAMES), ACTION_NAMES)


def action_bounds(continuous: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Smallest and largest values of an action as the models read it: a discrete one as its one-hot vector."""
    actions = car_actions(continuous)
    return actions.low, actions.high
