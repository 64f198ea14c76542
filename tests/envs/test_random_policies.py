from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.envs.random_policies import POLICIES, make_policy
from pipeline.envs.view import ACTION_HIGH, ACTION_LOW
from pipeline.errors import UsageError

seeds = st.integers(0, 2**63 - 1)


def drive(name: str, seed: int, decisions: int) -> np.ndarray:
    policy = make_policy(name, np.random.default_rng(seed))
    return np.array([policy() for _ in range(decisions)])


@given(st.sampled_from(sorted(POLICIES)), seeds)
@settings(max_examples=60, deadline=None)
def test_actions_are_within_bounds_and_depend_on_the_seed_alone(name: str, seed: int) -> None:
    actions = drive(name, seed, 60)
    assert actions.shape == (60, 3) and actions.dtype == np.float32
    assert (actions >= ACTION_LOW).all() and (actions <= ACTION_HIGH).all()
    assert len(np.unique(actions, axis=0)) > 5
    np.testing.assert_array_equal(actions, drive(name, seed, 60))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_episodes_differ(name: str) -> None:
    assert (drive(name, 0, 20) != drive(name, 1, 20)).any()


def test_the_name_is_that_of_the_process_drawn() -> None:
    for name in ("uniform", "brownian", "smooth"):
        assert make_policy(name, np.random.default_rng(0)).name == name
    drawn = Counter(make_policy("mixture", np.random.default_rng(seed)).name for seed in range(1000))
    assert set(drawn) == {"uniform", "brownian", "smooth"}
    assert drawn["smooth"] > 900


def test_uniform_covers_the_box() -> None:
    actions = drive("uniform", 0, 4000)
    np.testing.assert_allclose(actions.mean(axis=0), [0.0, 0.5, 0.5], atol=0.05)
    np.testing.assert_allclose(actions.std(axis=0), np.array([2.0, 1.0, 1.0]) / np.sqrt(12), atol=0.03)


def test_brownian_steps_have_the_published_size() -> None:
    steps = np.diff(np.concatenate([drive("brownian", seed, 50) for seed in range(20)])[:, 0])
    inner = steps[np.abs(steps) < 0.6]  # not the seams between episodes
    assert np.median(np.abs(inner)) == pytest.approx(0.6745 * np.sqrt(1 / 50), rel=0.15)


def test_smooth_is_smooth_starts_straight_and_brakes_now_and_then() -> None:
    drives = np.array([drive("smooth", seed, 100) for seed in range(200)])  # (episodes, decisions, 3)
    steer, gas, brake = np.moveaxis(drives, 2, 0)
    change = np.abs(np.diff(steer, axis=1)).mean()
    shuffled = np.abs(np.diff(np.random.default_rng(0).permuted(steer, axis=1), axis=1)).mean()
    assert change < 0.75 * shuffled
    assert abs(steer.mean()) < 0.03  # neither left nor right
    spread = steer.std(axis=1)
    assert spread.min() < 0.05 and spread.max() > 0.6  # gentle and wild episodes
    assert gas.mean(axis=1).min() < 0.15 and gas.mean(axis=1).max() > 0.85
    assert 0.02 < (brake > 0).mean() < 0.15
    assert brake[brake > 0].min() >= 0.1 and (brake > 0.9).any()


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'brownian'"):
        make_policy("browian", np.random.default_rng(0))
