from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.envs.car_racing.actions import ACTION_HIGH, ACTION_LOW, BRAKE, GAS, LEFT, RIGHT
from pipeline.envs.car_racing.drivers import DISCRETE_POLICIES, POLICIES, Glance, make_policy
from pipeline.errors import UsageError

seeds = st.integers(0, 2**63 - 1)
NOTHING_SEEN = np.empty((3, 0, 0), np.uint8)


def drive(name: str, seed: int, decisions: int, *, continuous: bool = True) -> np.ndarray:
    policy = make_policy(name, np.random.default_rng(seed), continuous=continuous)
    pictures = np.random.default_rng(1).integers(0, 256, (decisions, 3, 64, 64), np.uint8)
    return np.array([policy(picture) for picture in pictures])


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
    for name in ("uniform", "brownian", "smooth", "glance", "launch"):
        assert make_policy(name, np.random.default_rng(0)).name == name
    drawn = Counter(make_policy("mixture", np.random.default_rng(seed)).name for seed in range(1000))
    assert set(drawn) == {"uniform", "brownian", "smooth", "glance", "launch"}
    assert 580 < drawn["glance"] < 660 and 210 < drawn["launch"] < 290 and 60 < drawn["smooth"] < 120


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
    assert gas.mean(axis=1).min() < 0.2 and gas.mean(axis=1).max() > 0.85
    assert 0.05 < (brake > 0).mean() < 0.25
    assert brake[brake > 0].min() >= 0.05 and (brake > 0.9).any()
    assert 0.3 < (gas[brake > 0] == 0).mean() < 0.7  # now one foot, now both
    brakes = [len(run) for drive in brake > 0 for run in "".join("01"[int(on)] for on in drive).split("0") if run]
    assert np.median(brakes) <= 3 and np.mean(np.array(brakes) > 20) > 0.03  # taps, and some hold until it stands


def test_a_launch_runs_up_straight_then_brakes_and_turns_hard_to_either_side() -> None:
    sides, braked, early = [], [], []
    for seed in range(400):
        steer, gas, brake = drive("launch", seed, 60).T
        turned = np.abs(steer) > 0.2
        begin = int(np.argmax(turned | (brake > 0)))  # the end of the run-up
        assert 12 <= begin <= 20
        assert np.abs(steer[:begin]).max() < 0.1 and (gas[:begin] == gas[0]).all() and gas[0] >= 0.8
        turn = int(np.argmax(turned))
        assert 0.3 <= abs(steer[turn]) <= 1 and (brake[begin:turn] > 0).all()  # nothing but the brake comes between
        sides.append(np.sign(steer[turn]))
        braked.append(brake[begin] > 0)
        early.append(brake[turn] > 0)
    assert 0.4 < np.mean(np.array(sides) > 0) < 0.6
    assert 0.68 < np.mean(braked) < 0.82  # three in four
    assert 0.42 < np.mean(np.array(early)[braked]) < 0.58  # half turn while they brake


def test_only_who_glances_looks_at_the_picture() -> None:
    for name in sorted(POLICIES.keys() - {"glance", "mixture"}):
        policy, blind = (make_policy(name, np.random.default_rng(0)) for _ in range(2))
        assert not policy.looks
        picture = np.random.default_rng(1).integers(0, 256, (3, 64, 64), np.uint8)
        np.testing.assert_array_equal(policy(picture), blind(NOTHING_SEEN))


def glance_at(picture: np.ndarray, seed: int) -> np.ndarray:
    return np.asarray(make_policy("glance", np.random.default_rng(seed))(picture))


@given(seeds)
@example(409)
@settings(max_examples=30, deadline=None)
def test_a_mirrored_picture_turns_the_wheel_of_who_glances_the_other_way(seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (3, 64, 64), np.uint8)
    with patch.object(Glance, "_AWAY", 0.0):  # or a few look away at once
        seen, mirrored = glance_at(picture, seed), glance_at(picture[:, :, ::-1].copy(), seed)
        alike = glance_at(np.zeros_like(picture), seed)
    assert seen[2] == mirrored[2] == alike[2]  # the brake is blind
    if max(abs(seen[0]), abs(mirrored[0])) < 1:  # not clipped
        assert seen[0] != alike[0]
        assert seen[0] - alike[0] == pytest.approx(alike[0] - mirrored[0], abs=1e-5)


def test_glances_are_weak_and_strong_and_as_many_lead_left_as_right() -> None:
    nothing, right = np.zeros((3, 64, 64), np.uint8), np.zeros((3, 64, 64), np.uint8)
    right[:, 24:48, 48:] = 120
    turned = np.array([glance_at(right, seed)[0] - glance_at(nothing, seed)[0] for seed in range(400)])
    assert 0.4 < (turned > 0).mean() < 0.6
    assert np.quantile(np.abs(turned), 0.1) < 0.1 and np.quantile(np.abs(turned), 0.9) > 0.4


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_who_glances_gives_less_gas_the_more_the_wheel_is_turned(seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (3, 64, 64), np.uint8)
    with patch.object(Glance, "_AWAY", 0.0):
        steer, gas = np.abs(np.array([glance_at(picture, seed), glance_at(np.zeros_like(picture), seed)])[:, :2]).T
    (most, least), (less, more) = steer[np.argsort(-steer)], gas[np.argsort(-steer)]
    assert less <= more and (more == 0 or (less < more) == (min(most, 0.5) > min(least, 0.5)))
    assert gas.min() >= 0


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'brownian'"):
        make_policy("browian", np.random.default_rng(0))


# Discrete actions


@given(st.sampled_from(sorted(DISCRETE_POLICIES)), seeds)
@settings(max_examples=60, deadline=None)
def test_discrete_actions_are_numbers_and_depend_on_the_seed_alone(name: str, seed: int) -> None:
    policy = make_policy(name, np.random.default_rng(seed), continuous=False)
    actions = [policy(NOTHING_SEEN) for _ in range(60)]
    assert all(type(action) is int and 0 <= action < 5 for action in actions)
    assert actions == drive(name, seed, 60, continuous=False).tolist()


@pytest.mark.parametrize("name", sorted(DISCRETE_POLICIES))
def test_discrete_episodes_differ(name: str) -> None:
    assert (drive(name, 0, 20, continuous=False) != drive(name, 1, 20, continuous=False)).any()


def test_the_name_of_a_discrete_process_is_that_of_the_one_drawn() -> None:
    rngs = map(np.random.default_rng, range(1000))
    drawn = Counter(make_policy("mixture", rng, continuous=False).name for rng in rngs)
    assert set(drawn) == {"uniform", "smooth"}
    assert drawn["smooth"] > 940


def test_uniform_chooses_all_alike() -> None:
    counts = np.bincount(drive("uniform", 0, 5000, continuous=False), minlength=5)
    assert counts.min() > 900 and counts.max() < 1100


def test_smooth_holds_its_actions_and_draws_its_likelihoods_anew() -> None:
    drives = np.array([drive("smooth", seed, 100, continuous=False) for seed in range(400)])  # (episodes, decisions)
    same = (drives[:, 1:] == drives[:, :-1]).mean(axis=1)
    shuffled = np.random.default_rng(0).permuted(drives, axis=1)
    assert same.mean() > (shuffled[:, 1:] == shuffled[:, :-1]).mean() + 0.15
    shares = np.stack([(drives == action).mean(axis=1) for action in range(5)], axis=1)  # (episodes, 5)
    assert shares[:, GAS].min() < 0.1 and np.quantile(shares[:, GAS], 0.9) > 0.6  # some crawl, some race
    assert abs(shares[:, LEFT].mean() - shares[:, RIGHT].mean()) < 0.02  # neither left nor right
    steering = shares[:, LEFT] + shares[:, RIGHT]
    assert np.quantile(steering, 0.1) < 0.1 and np.quantile(steering, 0.9) > 0.4  # gentle and wild episodes
    assert 0.01 < shares[:, BRAKE].mean() < 0.1
    assert (shares.mean(axis=0) > 0.01).all()


def test_a_walk_between_discrete_actions_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"no random policy 'brownian' of discrete actions; valid: mixture, smooth, uniform"
    ):
        make_policy("brownian", np.random.default_rng(0), continuous=False)
    with pytest.raises(UsageError, match="did you mean 'smooth'"):
        make_policy("smoth", np.random.default_rng(0), continuous=False)
