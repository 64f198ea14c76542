"""Linear probes: what can be read off the states of a world model by a weighted sum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RIDGE = 1e-4
"""Penalty on the squared weights, against the mean squared error of a target of variance 1."""

Numbers = NDArray[np.float64]


class Linear(NamedTuple):
    """A probe that is fitted: y = x w + b, of features x (N, F)."""

    weights: Numbers
    bias: float

    def __call__(self, features: Numbers) -> Numbers:
        """(N, F) to (N,)."""
        predicted: Numbers = features @ self.weights + self.bias
        return predicted


class RidgeRegression:
    """Least squares with a penalty on the weights, from sums over the rows: the rows themselves are not kept.

    min_w,b  mean (y - x w - b)^2 + RIDGE |w|^2, all in float64.

    Args:
        features: width F of x.
    """

    def __init__(self, features: int) -> None:
        self.rows = 0
        self._x, self._y = np.zeros(features), 0.0
        self._xx, self._xy = np.zeros((features, features)), np.zeros(features)

    def add(self, features: Numbers, target: Numbers) -> None:
        """Take in rows x (N, F) with their y (N,)."""
        self.rows += len(target)
        self._x += features.sum(0)
        self._y += float(target.sum())
        self._xx += features.T @ features
        self._xy += features.T @ target

    def width(self, columns: slice) -> int:
        """How many columns of x these are."""
        return len(self._x[columns])

    def solve(self, columns: slice = slice(None)) -> Linear:
        """The best probe that reads these columns of x alone; at least one row is needed."""
        mean_x, mean_y = self._x[columns] / self.rows, self._y / self.rows
        covariance = self._xx[columns, columns] / self.rows - np.outer(mean_x, mean_x)
        with_target = self._xy[columns] / self.rows - mean_x * mean_y
        penalised = covariance + RIDGE * np.eye(len(mean_x))
        weights = np.asarray(np.linalg.solve(penalised, with_target), np.float64)
        return Linear(weights, mean_y - float(mean_x @ weights))


def r_squared(predicted: Numbers, target: Numbers) -> float:
    """Share of the target's variance that is explained: 1 is all, 0 is no better than the mean; NaN without any."""
    variance = float(np.var(target)) if len(target) else 0.0
    return 1 - float(np.mean(np.square(predicted - target))) / variance if variance else float("nan")
