"""What changes with the updates: functions of the update's number, so that there is nothing to save."""

from __future__ import annotations

import torch


def step_size(rate: float, index: int, updates: int, *, warmup: int, anneal: float) -> float:
    """A linear rise, a plateau, and a linear fall to (almost) 0 at the last update.

    Args:
        rate: on the plateau.
        index: of the update, 0 .. updates - 1.
        updates: in all.
        warmup: updates that the rise takes.
        anneal: share of the updates that the fall takes.
    """
    rise = (index + 1) / max(1, warmup)
    fall = (updates - index) / max(1.0, anneal * updates)
    return rate * min(1.0, rise, fall)


def entropy_weight(weight: float, index: int, updates: int, *, boost: float, anneal: float) -> float:
    """Falls from `boost` times `weight` to it, by the same factor an update, until the step size begins to fall.

    An actor that stops trying early does not find out what it seldom does: that a brake, which rests near 0, helps.

    Args:
        weight: of the actor's entropy from then on.
        index: of the update, 0 .. updates - 1.
        updates: in all.
        boost: how many times that it is at the first update.
        anneal: share of the updates in which the step size falls.
    """
    passed = min(1.0, index / max(1.0, (1 - anneal) * updates))
    return weight * float(boost ** (1 - passed))


def set_step_size(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Have the optimizer take steps of this size from now on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
