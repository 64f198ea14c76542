from __future__ import annotations

import subprocess
import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing

from pipeline.envs.actions import Action
from pipeline.envs.car_racing.actions import (
    ACTION_HIGH,
    ACTION_LOW,
    ACTION_NAMES,
    BRAKE,
    GAS,
    LEFT,
    NOTHING,
    RIGHT,
    action_bounds,
    controls,
)


def test_action_spaces_are_gymnasiums() -> None:
    space = gymnasium.make("CarRacing-v3").action_space
    np.testing.assert_array_equal(space.low, ACTION_LOW)
    np.testing.assert_array_equal(space.high, ACTION_HIGH)
    assert gymnasium.make("CarRacing-v3", continuous=False).action_space == gymnasium.spaces.Discrete(len(ACTION_NAMES))


@pytest.mark.parametrize("action", [*range(5), np.array([0.5, 0.25, 0.125], np.float32)], ids=str)
def test_controls_are_those_that_gymnasium_gives_the_car(monkeypatch: pytest.MonkeyPatch, action: Action) -> None:
    env = CarRacing(continuous=not isinstance(action, int))
    env.reset(seed=0)
    given: dict[str, float] = {}
    for name in ("steer", "gas", "brake"):
        monkeypatch.setattr(env.car, name, partial(given.__setitem__, name))
    env.step(action)
    assert controls(action) == (-given["steer"], given["gas"], given["brake"])  # its car turns left where steer > 0


def test_names_say_what_the_actions_do() -> None:
    assert [ACTION_NAMES[number] for number in (NOTHING, RIGHT, LEFT, GAS, BRAKE)] == list(ACTION_NAMES)
    assert controls(NOTHING) == (0, 0, 0)
    assert controls(RIGHT)[0] > 0 > controls(LEFT)[0]
    assert controls(GAS)[1] > 0 and controls(BRAKE)[2] > 0


def test_a_discrete_action_is_bounded_as_a_one_hot_vector() -> None:
    assert action_bounds(True) == ((-1, 0, 0), (1, 1, 1))
    assert action_bounds(False) == ((0,) * 5, (1,) * 5)


def test_no_simulator_is_needed() -> None:
    code = "import sys, pipeline.envs.actions; print('gymnasium' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
