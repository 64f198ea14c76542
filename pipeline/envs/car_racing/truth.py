"""What the simulator knows of the car and no picture shows outright: recorded on request, for probes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Truth:
    """Where the car is on the road, and how it turns.

    Attributes:
        yaw_rate: radians a second, to the right, as steering is.
        track_offset: distance of the car from the middle of the road, units, positive on the right hand side of
            whoever drives the lap as it goes. Half of the road is 6.67 units wide.
    """

    yaw_rate: float
    track_offset: float


def measure(env: Any) -> Truth:
    """The truth about a `CarRacing` that has been reset."""
    hull = env.car.hull
    middle = [(x, y) for _, _, x, y in env.track]
    return Truth(-float(hull.angularVelocity), offset(middle, tuple(hull.position)))


def offset(middle: Sequence[tuple[float, float]], position: tuple[float, float]) -> float:
    """Signed distance of a point from a closed line, positive on its right.

    Args:
        middle: corners of the line in the order of driving; the last is joined to the first.
        position: the point.
    """
    start = np.asarray(middle)  # (N, 2)
    along = np.roll(start, -1, 0) - start
    towards = np.asarray(position) - start
    share = np.clip((towards * along).sum(1) / np.square(along).sum(1), 0, 1)
    distance = np.linalg.norm(towards - share[:, None] * along, axis=1)
    nearest = distance.argmin()
    (dx, dy), (x, y) = along[nearest], towards[nearest]
    return float(np.copysign(distance[nearest], dy * x - dx * y))
