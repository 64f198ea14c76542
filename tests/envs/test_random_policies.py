from __future__ import annotations

import numpy as np
import pytest

from pipeline.envs.actions import Actions
from pipeline.envs.random_policies import DISCRETE_POLICIES, POLICIES, make_policy
from pipeline.errors import UsageError

NOTHING_SEEN = np.empty((3, 0, 0), np.uint8)
NUMBERS = Actions((-2.0, 0.0), (2.0, 10.0))
CHOICES = Actions.one_of(5)
ALL = [
    *((name, NUMBERS) for name in (*POLICIES, "mixture")),
    *((name, CHOICES) for name in (*DISCRETE_POLICIES, "mixture")),
]


def act(name: str, actions: Actions, seed: int, decisions: int = 400) -> np.ndarray:
    policy = make_policy(name, np.random.default_rng(seed), actions)
    return np.array([policy(NOTHING_SEEN) for _ in range(decisions)])


@pytest.mark.parametrize(("name", "actions"), ALL)
def test_actions_are_those_of_the_environment_and_depend_on_the_seed_alone(name: str, actions: Actions) -> None:
    for seed in range(20):
        done = act(name, actions, seed)
        np.testing.assert_array_equal(done, act(name, actions, seed))
        if actions.discrete:
            assert done.dtype == np.int64 and set(done.tolist()) <= set(range(5))
        else:
            assert done.dtype == np.float32 and done.shape == (400, 2)
            assert (done >= actions.low).all() and (done <= actions.high).all()
    assert (act(name, actions, 1) != act(name, actions, 2)).any()


@pytest.mark.parametrize("actions", [NUMBERS, CHOICES])
def test_sticky_actions_are_held(actions: Actions) -> None:
    held = [(np.diff(act("sticky", actions, seed), axis=0).reshape(399, -1) == 0).all(1).mean() for seed in range(40)]
    assert max(held) > 0.8 and np.mean(held) > (0.4 if actions is NUMBERS else 0.5)


def test_in_some_episodes_nearly_the_same_is_done_all_the_time() -> None:
    shares = [np.bincount(act("sticky", CHOICES, seed), minlength=5).max() / 400 for seed in range(60)]
    assert max(shares) > 0.75 and min(shares) < 0.45
    uniform = np.bincount(act("uniform", CHOICES, 0, 5000), minlength=5) / 5000
    np.testing.assert_allclose(uniform, 0.2, atol=0.03)


def test_smooth_numbers_wander_and_reach_all_there_is() -> None:
    steps, values = [], []
    for seed in range(60):
        done = act("smooth", NUMBERS, seed)[:, 0] / 2
        steps.append(np.abs(np.diff(done)).mean())
        values.append(done)
    assert np.mean(steps) < 0.35 < np.abs(np.diff(act("uniform", NUMBERS, 0)[:, 0] / 2)).mean()
    shares = np.histogram(np.concatenate(values), bins=5, range=(-1, 1))[0] / (60 * 400)
    assert shares.min() > 0.08


def test_a_mixture_names_what_it_drew() -> None:
    for actions, known in ((NUMBERS, POLICIES), (CHOICES, DISCRETE_POLICIES)):
        assert {make_policy("mixture", np.random.default_rng(seed), actions).name for seed in range(60)} == set(known)


@pytest.mark.parametrize(("name", "actions"), [("smooth", CHOICES), ("brownian", NUMBERS), ("brownian", CHOICES)])
def test_who_does_not_act_here_is_refused(name: str, actions: Actions) -> None:
    with pytest.raises(UsageError, match=f"no random policy '{name}' of"):
        make_policy(name, np.random.default_rng(0), actions)
