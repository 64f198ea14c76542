from __future__ import annotations

import numpy as np
import pytest

from pipeline.envs.car_racing.truth import offset
from pipeline.envs.car_racing.view import CarRacingView

SQUARE = [(0.0, 0.0), (0.0, 10.0), (10.0, 10.0), (10.0, 0.0)]  # clockwise: up, right, down, left


@pytest.mark.parametrize(
    ("position", "expected"),
    [((2, 5), 2), ((-3, 5), -3), ((5, 9), 1), ((5, 12), -2), ((5, 1), 1), ((4, -2), -2), ((-3, -4), -5)],
)
def test_the_right_hand_side_is_positive(position: tuple[float, float], expected: float) -> None:
    assert offset(SQUARE, position) == pytest.approx(expected)
    assert offset(SQUARE[::-1], position) == pytest.approx(-expected)


def test_a_car_that_steers_right_turns_right_and_comes_to_the_right() -> None:
    with CarRacingView() as view:
        view.reset(5)
        assert abs(view.truth["track_offset"]) < 0.1 and view.truth["yaw_rate"] == 0
        for _ in range(15):
            view.step(np.array([0, 0.15, 0], np.float32))
        before = view.truth
        for _ in range(4):
            view.step(np.array([0.4, 0.15, 0], np.float32))
        assert view.truth["yaw_rate"] > before["yaw_rate"] + 0.5
        assert view.truth["track_offset"] > before["track_offset"] + 0.5


def test_asking_changes_nothing() -> None:
    action = np.array([0.2, 0.5, 0], np.float32)
    with CarRacingView() as asked, CarRacingView() as left_alone:
        for view in (asked, left_alone):
            view.reset(6)
        for _ in range(10):
            one, other = asked.step(action), left_alone.step(action)
            _ = asked.truth
            np.testing.assert_array_equal(one.observation, other.observation)
            assert (one.reward, one.infos) == (other.reward, other.infos)
