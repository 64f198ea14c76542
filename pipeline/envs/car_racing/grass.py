"""Grass around the car: what a driver had better keep off.

A tile that is missed costs its 3 or 4 points in a dream. On a track it costs the lap too, which never ends without it:
a tenth of a point for each step that is left. No reward tells that, but a picture shows how near the edge the car is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ROWS, _COLUMNS = (42, 54), (28, 36)
"""Of a picture of 64 x 64: the car is four wide and eight long in the middle, and the road 14 wide."""

_CAR = 32
"""Of these pixels are the car's."""

_GREEN = 40
"""Shades by which the green of grass is above its red and blue; those of the road are alike."""


def grass(observation: Tensor) -> Tensor:
    """How much of what is around the car is grass.

    Args:
        observation: pictures (..., 3, S, S) uint8.

    Returns:
        (...) float32, 0 on the road, 1 off it; in between where the middle of the car is 3 to 9 units from the middle
        of the road, half of which is 6.67 wide.
    """
    scale = observation.shape[-1] / 64
    (top, bottom), (left, right) = ([round(scale * end) for end in ends] for ends in (_ROWS, _COLUMNS))
    around = observation[..., top:bottom, left:right].int()  # (..., 3, 12, 8)
    red, green, blue = around.unbind(-3)
    grassy = (green - red.maximum(blue) > _GREEN).float().sum((-2, -1))
    return (grassy / (scale**2 * ((_ROWS[1] - _ROWS[0]) * (_COLUMNS[1] - _COLUMNS[0]) - _CAR))).clamp_max(1.0)
