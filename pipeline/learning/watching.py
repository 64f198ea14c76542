"""Looking at the numbers of fitting: what is not finite stops it, what goes wrong slowly is said once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from .. import distributed

_IN_A_ROW = 5  # looks: one batch may be odd
_FIRST = 100  # updates before which everything may look odd


class NotFiniteError(ArithmeticError):
    """A number has become infinite or NaN. The message names it, and the update."""


class Recent:
    """Metrics and norms of gradients of the updates since the last look, left on the device until then.

    So no update waits for the device, and yet the first one that goes wrong can be told.

    Attributes:
        done: updates finished.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self.done = 0
        self._rows: list[Tensor] = []

    def add(self, done: int, metrics: Mapping[str, Tensor], norms: Tensor) -> None:
        """Take the numbers of an update.

        Args:
            done: updates finished with it.
            metrics: M of them, each ().
            norms: (P,), of the gradients of P parameters, before clipping.
        """
        self._names, self.done = tuple(metrics), done
        self._rows.append(torch.cat([torch.stack([m.detach().float() for m in metrics.values()]), norms.float()]))

    def look(self, parameters: Sequence[str]) -> dict[str, float]:
        """Bring all numbers from the device, in one transfer, as means over all processes.

        Args:
            parameters: the names of the P parameters.

        Returns:
            The metrics of the last update.

        Raises:
            NotFiniteError: a number of any of the updates is not finite.
        """
        rows = distributed.mean(torch.stack(self._rows)).tolist()
        first, count = self.done - len(rows) + 1, len(self._names)
        self._rows = self._rows[-1:]  # for who looks again
        for update, row in enumerate(rows, first):
            metrics = dict(zip(self._names, row[:count], strict=True))
            check_finite(update, metrics, dict(zip(parameters, row[count:], strict=True)))
        return metrics


def check_finite(update: int, metrics: Mapping[str, float], gradients: Mapping[str, float] | None = None) -> None:
    """Raise NotFiniteError where one of them is not finite.

    Of a loss the parts are named rather than the sum, and of a gradient the parameters rather than all together.

    Args:
        update: in which they came about.
        metrics: by name; sums are called `loss`, and norms of all parameters' gradients `..._gradient`.
        gradients: norms by parameter.
    """
    parts = {name: value for name, value in metrics.items() if name != "loss" and not name.endswith("gradient")}
    single = {f"gradient of {name}": value for name, value in (gradients or {}).items()}
    for numbers in (parts, single, metrics):
        bad = [f"'{name}' became {value}" for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            more = f" (and {len(bad) - 3} more)" if len(bad) > 3 else ""
            raise NotFiniteError(f"{', '.join(bad[:3])}{more} at update {update}")


@dataclass
class Watch:
    """Bounds of a metric, and what to do when it has left them for a while.

    Attributes:
        metric: its name.
        below, above: what to say of it then; nothing where empty.
        low, high: the bounds.
        growth: upper bound as a multiple of the median so far, instead of `high`.
    """

    metric: str
    below: str = ""
    above: str = ""
    low: float = -math.inf
    high: float = math.inf
    growth: float = math.inf
    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    _outside: int = 0

    def look(self, done: int, metrics: Mapping[str, float]) -> str:
        """What to say after `done` updates: once, and mostly nothing."""
        value, high = metrics[self.metric], self.high
        if len(self._seen) >= _IN_A_ROW and self.growth < math.inf:
            high = self.growth * median(self._seen)
        if done < _FIRST or self.low <= value <= high:
            self._seen.append(value)
            self._outside = min(self._outside, 0)
            return ""
        self._outside += 1
        if self._outside != _IN_A_ROW:
            return ""
        self._outside = -(10**9)  # said
        advice = self.below if value < self.low else self.above
        return advice and f"'{self.metric}' is {value:.3g} at update {done}, and has been so for a while: {advice}"
