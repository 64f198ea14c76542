"""CarRacing seen in a mirror: a drive with left and right exchanged is as good a drive.

Its tracks run counterclockwise: most bends are to the left, and what random driving shows of those to the right is
little. A mirror makes as much of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .actions import ACTION_NAMES, LEFT, RIGHT

if TYPE_CHECKING:
    from torch import Tensor


def mirror(observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """What would have been seen and done, had left been right.

    The bar below is no part of the world: its score, speeds and wheels stay, and only what it shows of steering and
    yaw rate, each drawn to the left or right of a mark, changes sides. (Its wheel speeds, left and right side by side,
    are left as they are: they hardly differ.)

    Args:
        observation: pictures (..., 3, S, S).
        action: continuous ones (..., 3), or discrete ones as one-hot vectors (..., 5).

    Returns:
        Both anew, in the same shapes.
    """
    size = observation.shape[-1]
    bar, width = 7 * size // 8, size // 4
    seen, done = observation.flip(-1), action.clone()
    seen[..., bar:, :] = observation[..., bar:, :]
    for begin in (3 * size // 8, 5 * size // 8):  # each has its mark in the middle
        seen[..., bar:, begin : begin + width] = observation[..., bar:, begin : begin + width].flip(-1)
    if action.shape[-1] == len(ACTION_NAMES):
        done[..., LEFT], done[..., RIGHT] = action[..., RIGHT], action[..., LEFT]
    else:
        done[..., 0] = -action[..., 0]
    return seen, done
