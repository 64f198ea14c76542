"""What changes with the updates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.learning.schedule import entropy_weight, set_step_size, step_size


def test_rise_plateau_and_fall_by_hand() -> None:
    sizes = [step_size(8.0, index, 10, warmup=4, anneal=0.4) for index in range(10)]
    assert sizes == pytest.approx([2, 4, 6, 8, 8, 8, 8, 6, 4, 2])


@given(st.integers(1, 500), st.integers(0, 100), st.floats(0, 1))
def test_never_beyond_the_rate_and_never_nothing(updates: int, warmup: int, anneal: float) -> None:
    sizes = [step_size(1.0, index, updates, warmup=warmup, anneal=anneal) for index in range(updates)]
    assert all(0 < size <= 1 for size in sizes)


def test_without_warmup_and_annealing_it_is_constant() -> None:
    assert {step_size(0.5, index, 9, warmup=0, anneal=0.0) for index in range(9)} == {0.5}


def test_the_optimizer_takes_it() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 1.0)
    set_step_size(optimizer, 0.25)
    weight.sum().backward()
    optimizer.step()
    assert weight.item() == -0.25


def test_the_entropys_weight_falls_by_the_same_factor_until_the_step_size_falls() -> None:
    weights = [entropy_weight(2.0, index, 5, boost=8.0, anneal=0.4) for index in range(5)]
    assert weights == pytest.approx([16, 8, 4, 2, 2])
    assert entropy_weight(2.0, 4, 5, boost=16.0, anneal=0.0) == pytest.approx(2 * 16**0.2)


@given(st.integers(1, 500), st.floats(1, 100), st.floats(0, 1))
def test_the_entropys_weight_never_rises(updates: int, boost: float, anneal: float) -> None:
    weights = [entropy_weight(0.5, index, updates, boost=boost, anneal=anneal) for index in range(updates)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == pytest.approx(0.5 * boost)
    assert weights[-1] >= 0.5


def test_without_a_boost_the_entropys_weight_is_constant_and_none_stays_none() -> None:
    assert {entropy_weight(0.25, index, 9, boost=1.0, anneal=0.4) for index in range(9)} == {0.25}
    assert entropy_weight(0.0, 0, 9, boost=30.0, anneal=0.4) == 0.0
