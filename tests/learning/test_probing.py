from __future__ import annotations

import numpy as np
import pytest

from pipeline.learning.probing import RIDGE, RidgeRegression, r_squared


def _fitted(x: np.ndarray, y: np.ndarray, parts: int = 3) -> RidgeRegression:
    regression = RidgeRegression(x.shape[1])
    for rows in np.array_split(np.arange(len(x)), parts):
        regression.add(x[rows], y[rows])
    return regression


def test_it_is_ridge_regression_with_a_free_bias() -> None:
    """Against least squares on rows that stand for the penalty: sqrt(n RIDGE) w = 0."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (50, 4)), rng.normal(-7, 5, 50)
    rows = np.vstack([np.hstack([x, np.ones((50, 1))]), np.hstack([np.sqrt(50 * RIDGE) * np.eye(4), np.zeros((4, 1))])])
    expected, *_ = np.linalg.lstsq(rows, np.concatenate([y, np.zeros(4)]), rcond=None)
    probe = _fitted(x, y).solve()
    np.testing.assert_allclose([*probe.weights, probe.bias], expected, rtol=1e-9)
    np.testing.assert_allclose(probe(x), x @ expected[:4] + expected[4])


def test_columns_are_probed_as_if_there_were_no_others() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=40)
    alone = _fitted(x[:, 2:], y).solve()
    part = _fitted(x, y, 7).solve(slice(2, None))
    np.testing.assert_allclose(part.weights, alone.weights)
    assert part.bias == pytest.approx(alone.bias)


def test_alike_columns_share_the_weight() -> None:
    x = np.random.default_rng(2).normal(size=(30, 1))
    probe = _fitted(np.hstack([x, x]), 3 * x[:, 0]).solve()
    np.testing.assert_allclose(probe.weights, [1.5, 1.5], rtol=1e-3)


def test_r_squared() -> None:
    y = np.array([1.0, 2.0, 3.0, 6.0])
    assert r_squared(y, y) == 1
    assert r_squared(np.full(4, y.mean()), y) == pytest.approx(0)
    assert r_squared(-y, y) < 0
    assert np.isnan(r_squared(y, np.ones(4))) and np.isnan(r_squared(y[:0], y[:0]))
