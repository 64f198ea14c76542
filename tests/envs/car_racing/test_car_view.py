from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ViewSettings
from pipeline.envs.car_racing.actions import BRAKE, GAS
from pipeline.envs.car_racing.drivers import make_policy
from pipeline.envs.car_racing.view import TIME_LIMIT, CarRacingView
from pipeline.envs.view import Step, shrink

NOTHING_SEEN = np.empty((3, 0, 0), np.uint8)
STRAIGHT = np.array([0.0, 0.5, 0.0], dtype=np.float32)


def view_of(*, fast: bool = True, pictures: bool = True, film: bool = False, **settings: Any) -> CarRacingView:
    return CarRacingView(ViewSettings(**settings), fast=fast, pictures=pictures, film=film)


def stock_step(env: gymnasium.Env, action: np.ndarray, repeat: int = 4) -> tuple[Step, int]:
    """What an agent's step is to be, by the plainest way; and the environment steps it took."""
    total = 0.0
    for taken in range(1, repeat + 1):  # noqa: B007
        frame, reward, terminated, truncated, info = env.step(action)
        total += reward
        if terminated or truncated:
            break
    base = env.unwrapped
    speed = float(np.hypot(*base.car.hull.linearVelocity))
    on_road = sum(len(wheel.tiles) > 0 for wheel in base.car.wheels)
    lap = info.get("lap_finished", False)
    infos = {"on_road": on_road, "speed": speed, "tiles": base.tile_visited_count, "lap_finished": lap}
    step = Step(shrink(frame), total, terminated, truncated, infos, lost=on_road == 0)
    return step, taken


def assert_same(ours: Step, theirs: Step) -> None:
    np.testing.assert_array_equal(ours.observation, theirs.observation)
    assert ours.reward == theirs.reward
    assert (ours.terminated, ours.truncated) == (theirs.terminated, theirs.truncated)
    assert ours.infos == {**theirs.infos, "speed": pytest.approx(theirs.infos["speed"], rel=1e-6)}
    assert ours.lost == theirs.lost


@pytest.mark.parametrize("seed", [11, 2**30 + 5])
def test_steps_are_those_of_gymnasium_four_at_a_time(seed: int) -> None:
    stock = gymnasium.make("CarRacing-v3")
    policy = make_policy("smooth", np.random.default_rng(seed))
    with view_of() as view:
        np.testing.assert_array_equal(view.reset(seed), shrink(stock.reset(seed=seed)[0]))
        assert view.track_tiles == len(stock.unwrapped.track)
        for _ in range(40):
            action = policy(NOTHING_SEEN)
            assert_same(view.step(action), stock_step(stock, action)[0])


def test_visited_tiles_can_be_told_by_their_shade() -> None:
    """Which fine inputs are for: ahead of the car are three shades of grey, behind it the darkest alone."""
    with view_of() as view:
        view.reset(1000)
        for _ in range(30):
            seen = view.step(STRAIGHT / 2).observation
    ahead, behind = seen[:, 20:36, 31:33], seen[:, 53:56, 31:33]
    assert set(np.unique(behind)) == {100}
    assert ahead.min() == 100 and ahead.max() == 105 and ahead.mean() > 102


def test_discrete_steps_are_those_of_gymnasium_four_at_a_time() -> None:
    """Some hundred decisions: much gas, then the brakes, then all of the five at random."""
    stock = gymnasium.make("CarRacing-v3", continuous=False)
    rng = np.random.default_rng(0)
    actions = [GAS] * 40 + [BRAKE] * 5 + rng.choice(5, 105, p=[0.1, 0.15, 0.15, 0.55, 0.05]).tolist()
    assert set(actions) == set(range(5))
    with view_of(continuous=False) as view:
        np.testing.assert_array_equal(view.reset(11), shrink(stock.reset(seed=11)[0]))
        for count, action in enumerate(actions):
            ours = view.step(action)
            assert_same(ours, stock_step(stock, np.int64(action))[0])
            if ours.terminated:
                np.testing.assert_array_equal(view.reset(count), shrink(stock.reset(seed=count)[0]))
    stock.close()


def test_discrete_actions_may_be_numpys() -> None:
    with view_of(continuous=False) as one, view_of(continuous=False) as other:
        one.reset(3)
        other.reset(3)
        for action in range(5):
            assert_same(one.step(action), other.step(np.int64(action)))  # type: ignore[arg-type]


def test_leaving_the_playfield_inside_a_repeat() -> None:
    stock = gymnasium.make("CarRacing-v3")
    stock.reset(seed=0)
    with view_of() as view:
        view.reset(0)
        for _ in range(100):
            ours, (theirs, taken) = view.step(STRAIGHT), stock_step(stock, STRAIGHT)
            assert_same(ours, theirs)
            if ours.terminated:
                break
        assert ours.terminated and not ours.infos["lap_finished"] and not ours.truncated
        assert taken < 4
        assert -100.3 <= ours.reward <= -100.0
        with pytest.raises(RuntimeError, match="reset"):
            view.step(STRAIGHT)
        view.reset(0)
        assert not view.step(STRAIGHT).terminated


def test_a_finished_lap_inside_a_repeat() -> None:
    stock = gymnasium.make("CarRacing-v3")
    stock.reset(seed=4)
    with view_of() as view:
        view.reset(4)
        for env in (stock.unwrapped, view._env):
            for tile in env.road[9:]:  # all but the first stretch, as if driven before
                tile.road_visited = True
            env.tile_visited_count = sum(tile.road_visited for tile in env.road)
        for _ in range(60):
            ours, (theirs, taken) = view.step(STRAIGHT), stock_step(stock, STRAIGHT)
            assert_same(ours, theirs)
            if ours.terminated:
                break
        assert ours.terminated and ours.infos["lap_finished"]
        assert ours.infos["tiles"] == view.track_tiles
        assert taken < 4


def test_the_time_limit_truncates_inside_a_repeat() -> None:
    spec = gymnasium.spec("CarRacing-v3")
    assert spec.max_episode_steps == TIME_LIMIT
    stock = gymnasium.make("CarRacing-v3")
    assert isinstance(stock, gymnasium.wrappers.TimeLimit)
    stock.reset(seed=1)
    with view_of() as view:
        view.reset(1)
        stock._elapsed_steps = view._steps = TIME_LIMIT - 6  # not to wait for it
        ours, (theirs, taken) = view.step(STRAIGHT), stock_step(stock, STRAIGHT)
        assert_same(ours, theirs)
        assert not ours.truncated and taken == 4
        ours, (theirs, taken) = view.step(STRAIGHT), stock_step(stock, STRAIGHT)
        assert_same(ours, theirs)
        assert ours.truncated and not ours.terminated and taken == 2
        with pytest.raises(RuntimeError):
            view.step(STRAIGHT)


def test_stock_drawing_gives_the_same_steps() -> None:
    with view_of(action_repeat=3, fast=False) as plain, view_of(action_repeat=3) as fast:
        np.testing.assert_array_equal(plain.reset(8), fast.reset(8))
        for _ in range(5):
            assert_same(fast.step(STRAIGHT), plain.step(STRAIGHT))


@pytest.mark.parametrize("continuous", [True, False])
def test_without_pictures_all_else_is_the_same(continuous: bool) -> None:
    """To the end of drives that leave the playfield, and of one that is cut off."""
    policy = make_policy("smooth", np.random.default_rng(1), continuous=continuous)
    with view_of(continuous=continuous) as seeing, view_of(continuous=continuous, pictures=False) as blind:
        for seed in range(3):
            seeing.reset(seed)
            assert blind.reset(seed).shape == (3, 0, 0)
            seeing._steps = blind._steps = 700 * (seed == 2)  # not to wait for it
            over = False
            while not over:
                action = policy(NOTHING_SEEN) if seed == 2 else STRAIGHT if continuous else GAS
                one, other = seeing.step(action), blind.step(action)
                assert replace(one, observation=other.observation) == other
                assert other.observation.shape == (3, 0, 0)
                over = one.terminated or one.truncated
            assert blind.track_tiles == seeing.track_tiles
            assert one.truncated == (seed == 2)


def test_without_pictures_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("aapolygon", "filled_polygon"):
        monkeypatch.setattr("pygame.gfxdraw." + name, lambda *_: pytest.fail("drawn"))
    with view_of(pictures=False) as view:
        view.reset(0)
        while not view.step(STRAIGHT).terminated:
            pass


def test_a_film_needs_no_pictures_for_the_agent() -> None:
    with view_of(film=True) as seeing, view_of(film=True, pictures=False) as blind:
        seeing.reset(6)
        blind.reset(6)
        seeing.step(STRAIGHT)
        blind.step(STRAIGHT)
        np.testing.assert_array_equal(seeing.film_frames, blind.film_frames)


def test_stock_drawing_without_pictures_shows_none() -> None:
    with view_of(fast=False, pictures=False) as view:
        assert view.reset(0).shape == (3, 0, 0)


def test_actions_are_clipped() -> None:
    with view_of() as wild, view_of() as tame:
        wild.reset(3)
        tame.reset(3)
        for _ in range(6):
            theirs = tame.step(np.array([1.0, 0.0, 1.0], np.float32))
            assert_same(wild.step(np.array([7.0, -3.0, 2.0], np.float32)), theirs)


@pytest.mark.parametrize("action", [[np.nan, 0.0, 0.0], [0.0, np.inf, 0.0], [0.0, 0.0], 3])
def test_an_action_that_is_none_is_refused(action: list[float] | int) -> None:
    with view_of() as view:
        view.reset(0)
        with pytest.raises(ValueError, match="3 finite numbers"):
            view.step(np.array(action, np.float32))


@pytest.mark.parametrize("action", [-1, 5, 3.0, np.array([0.0, 0.5, 0.0], np.float32), np.eye(5)[3]], ids=str)
def test_a_discrete_action_that_is_none_is_refused(action: object) -> None:
    with view_of(continuous=False) as view:
        view.reset(0)
        with pytest.raises(ValueError, match=r"a whole number .*3 gas"):
            view.step(action)  # type: ignore[arg-type]
        assert view._steps == 0


def test_step_before_reset_is_refused() -> None:
    with view_of() as view, pytest.raises(RuntimeError, match="reset"):
        view.step(STRAIGHT)


def test_film_shows_every_second_step_and_changes_nothing() -> None:
    stock = gymnasium.make("CarRacing-v3", render_mode="rgb_array")
    stock.reset(seed=6)
    with view_of(film=True) as filming, view_of() as plain:
        np.testing.assert_array_equal(filming.reset(6), plain.reset(6))
        np.testing.assert_array_equal(filming.film_frames, [stock.render()])
        for _ in range(3):
            expected = []
            for _ in range(2):
                stock.step(STRAIGHT)
                stock.step(STRAIGHT)
                expected.append(stock.render())
            assert_same(filming.step(STRAIGHT), plain.step(STRAIGHT))
            np.testing.assert_array_equal(filming.film_frames, expected)
        assert expected[0].shape == (400, 600, 3)
        assert plain.film_frames == []


def test_needs_no_display() -> None:
    bare = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")}
    code = "from pipeline.envs.car_racing.view import CarRacingView; print(CarRacingView().reset(0).sum())"
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    with view_of() as view:
        assert int(done.stdout.split()[-1]) == view.reset(0).sum()


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64, 96]))
@settings(max_examples=25, deadline=None)
def test_shrink_averages_areas(seed: int, size: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    small = shrink(frame, size)
    assert small.shape == (3, size, size) and small.dtype == np.uint8 and small.flags.c_contiguous
    np.testing.assert_array_equal(
        small.transpose(1, 2, 0), cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
    )
    assert abs(float(small.mean()) - float(frame.mean())) < 1.0
    if size == 96:
        np.testing.assert_array_equal(small.transpose(1, 2, 0), frame)
    # A picture comes from gymnasium as a transposed view: memory order must not matter.
    np.testing.assert_array_equal(small, shrink(np.asfortranarray(frame), size))
