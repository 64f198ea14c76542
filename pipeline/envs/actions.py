"""What there is to do in an environment: numbers within bounds, or one of several actions. Needs no simulator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Action = NDArray[np.float32] | int
"""A continuous action, (A,) within its bounds; or the number of a discrete one, from 0."""


@dataclass(frozen=True)
class Actions:
    """The actions of an environment.

    Attributes:
        low, high: smallest and largest values as the models read them, (A,): of a discrete action's one-hot vector,
            zeros and ones.
        discrete: whether an action is a number in 0 .. A - 1.
        names: of each discrete action, where they are known.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    discrete: bool = False
    names: tuple[str, ...] = ()

    @classmethod
    def one_of(cls, count: int, names: tuple[str, ...] = ()) -> Actions:
        """So many discrete actions."""
        return cls((0.0,) * count, (1.0,) * count, discrete=True, names=names)

    def __len__(self) -> int:
        return len(self.low)

    def valid(self, action: Action) -> Action:
        """The action as an environment may be given it: clipped to the bounds, or an int.

        Raises:
            ValueError: it is not as many finite numbers; or not one of the numbers.
        """
        if not self.discrete:
            if np.shape(action) != (len(self),) or not np.isfinite(action).all():
                raise ValueError(f"an action is {len(self)} finite numbers, not {action}")
            clipped: NDArray[np.float32] = np.clip(
                action, np.array(self.low, np.float32), np.array(self.high, np.float32), dtype=np.float32
            )
            return clipped
        if not isinstance(action, int | np.integer) or not 0 <= action < len(self):
            names = f" ({', '.join(f'{number} {name}' for number, name in enumerate(self.names))})" * bool(self.names)
            raise ValueError(f"an action is a whole number from 0 to {len(self) - 1}{names}, not {action}")
        return int(action)
