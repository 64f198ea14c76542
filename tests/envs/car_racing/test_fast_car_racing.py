from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pygame
import pytest
from gymnasium.envs.box2d import car_dynamics, car_racing
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import PLAYFIELD, CarRacing

from pipeline.envs.car_racing import fast_car_racing
from pipeline.envs.car_racing.fast_car import FastCar
from pipeline.envs.car_racing.fast_car_racing import FastCarRacing

STRAIGHT = np.array([0.0, 0.5, 0.0], dtype=np.float32)


class Pair:
    """gymnasium's environment and ours, driven alike; every step must come out alike."""

    def __init__(self, **options: Any) -> None:
        self.stock = gymnasium.make("CarRacing-v3", **options)
        self.ours = FastCarRacing(**options)
        self.both = (self.stock.unwrapped, self.ours)

    def reset(self, seed: int) -> None:
        theirs, _ = self.stock.reset(seed=seed)
        ours, info = self.ours.reset(seed=seed)
        assert info == {}
        np.testing.assert_array_equal(ours, theirs)

    def step(self, action: np.ndarray, *, draw: bool = True) -> bool:
        """Step both and compare all; the pictures where ours was drawn. Returns whether the episode ended."""
        theirs, reward, terminated, _, info = self.stock.step(action)
        result = self.ours.step(action, draw=draw)
        assert result[1:] == (reward, terminated, False, info)
        if draw or terminated:
            np.testing.assert_array_equal(result[0], theirs)
        return bool(terminated)


@pytest.fixture
def pair() -> Iterator[Pair]:
    both = Pair()
    yield both
    both.stock.close()
    both.ours.close()


@pytest.fixture(autouse=True)
def warn_anew() -> None:
    fast_car_racing._warn_once.cache_clear()


@pytest.mark.parametrize("seed", [0, 7, 123456])
def test_every_picture_of_a_wild_drive_is_gymnasiums(pair: Pair, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pair.reset(seed)
    steer, reached = 0.0, 0.0
    for step in range(150):
        steer = 0.9 * steer + rng.normal(0.0, 0.05)
        brake = 1.0 if step % 70 > 64 else 0.0
        pair.step(np.array([steer, 0.7, brake], dtype=np.float32))
        reached = max(reached, pair.ours.car.hull.linearVelocity.length)
    assert pair.ours._fast
    assert reached > 30


def test_every_picture_of_a_drive_by_discrete_actions_is_gymnasiums() -> None:
    both = Pair(continuous=False)
    rng = np.random.default_rng(0)
    both.reset(7)
    for step in range(150):
        # Speeds up, and turns now and then; the brakes at the end.
        action = 4 if step > 140 else int(rng.choice([0, 1, 2, 3], p=[0.1, 0.05, 0.05, 0.8]))
        both.step(action, draw=step % 4 == 3)  # type: ignore[arg-type]
    assert both.ours._fast
    assert both.ours.tile_visited_count > 5


def test_the_edge_of_the_playfield_and_leaving_it(pair: Pair) -> None:
    pair.reset(0)
    for step in range(400):
        near_edge = max(abs(x) for x in pair.ours.car.hull.position) > PLAYFIELD - 25
        if pair.step(STRAIGHT, draw=near_edge and step % 3 == 0):
            break
    assert step < 399
    beyond = (pair.ours.state[:84] == 0).all(axis=2)  # black
    assert beyond.mean() > 0.1


@pytest.mark.parametrize("spin", [1000.0, -1000.0])
def test_an_indicator_that_leaves_the_bar(pair: Pair, spin: float) -> None:
    pair.reset(3)
    for env in pair.both:
        env.car.wheels[1].omega = spin
    pair.step(STRAIGHT)
    assert pair.ours._bar_holds_indicators() == (spin < 0)
    for env in pair.both:
        env.car.wheels[1].omega = spin
        env.car.hull.angularVelocity = 30.0
        env.car.hull.linearVelocity = (0.0, 150.0)
    pair.step(STRAIGHT)


def test_every_direction_of_view(pair: Pair) -> None:
    pair.reset(5)
    for step in range(30):
        for env in pair.both:
            env.car.hull.linearVelocity = (3.0, -20.0)
            env.car.hull.angle += 0.22  # once around
            env.t = 2.0  # past the zoom
        pair.step(STRAIGHT, draw=step % 3 == 0)


@pytest.mark.parametrize("score", [-123.4, -0.6, 0.0, 7.49999, 99.5, 1234.5])
def test_scores_are_written_alike(pair: Pair, score: float) -> None:
    pair.reset(2)
    for env in pair.both:
        env.reward = score
    pair.step(STRAIGHT)


def test_a_step_that_is_not_drawn_returns_the_last_picture_drawn() -> None:
    env = FastCarRacing()
    first, _ = env.reset(seed=1)
    for _ in range(20):
        state, *_ = env.step(STRAIGHT, draw=False)
    assert state is first
    drawn, *_ = env.step(STRAIGHT)
    assert (drawn != first).any()


def test_what_follows_a_step_that_is_not_drawn_is_drawn(pair: Pair) -> None:
    pair.reset(1)
    pair.step(STRAIGHT, draw=False)
    np.testing.assert_array_equal(pair.ours._render("state_pixels"), pair.stock.unwrapped.state)
    pair.reset(2)


@pytest.mark.parametrize("ending", ["tiles", "new_lap"])
def test_the_last_picture_of_a_lap_is_drawn_unasked(pair: Pair, ending: str) -> None:
    pair.reset(4)
    for env in pair.both:
        if ending == "tiles":
            for tile in env.road[8:]:
                tile.road_visited = True
            env.tile_visited_count = len(env.road) - sum(not tile.road_visited for tile in env.road)
    for step in range(100):
        if ending == "new_lap" and step == 20:
            for env in pair.both:
                env.new_lap = True
        if pair.step(STRAIGHT, draw=False):
            break
    assert 10 < step < 99


def test_without_pictures_there_is_a_black_one(pair: Pair) -> None:
    blind = pickle.loads(pickle.dumps(FastCarRacing(pictures=False)))
    pair.reset(3)
    first, _ = blind.reset(seed=3)
    assert first.shape == (96, 96, 3) and not first.any()
    for _ in range(20):
        expected = pair.stock.step(STRAIGHT)
        state, *found = blind.step(STRAIGHT)
        assert tuple(found) == expected[1:]
        assert state is first


def test_pictures_for_people_are_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Pair(render_mode="rgb_array")
    both.reset(1)
    polygons: list[object] = []
    draw = both.ours._draw_colored_polygon
    monkeypatch.setattr(both.ours, "_draw_colored_polygon", lambda *a, **k: polygons.append(draw(*a, **k)))
    for step in range(60):
        both.step(np.array([0.3 * np.sin(step / 9), 0.6, 0.0], dtype=np.float32))
        if step % 6 == 0:
            picture = both.ours.render()
            assert picture.shape == (400, 600, 3)
            np.testing.assert_array_equal(picture, both.stock.render())
    assert len(polygons) <= 70  # the playfield, once a picture at most: all else is drawn the fast way


def test_every_picture_of_drives_in_random_colours_is_gymnasiums() -> None:
    both = Pair(domain_randomize=True)
    backgrounds = set()
    for seed in range(4):
        both.reset(seed)
        backgrounds.add(tuple(both.ours.bg_color))
        for step in range(60):
            both.step(np.array([0.3 * np.sin(step / 9), 0.6, 0.0], dtype=np.float32))
        assert both.ours.tile_visited_count > 5  # which have got the road's colour
    assert both.ours._fast and len(backgrounds) == 4


def test_survives_a_pygame_quit_elsewhere(pair: Pair) -> None:
    pair.reset(1)
    pygame.quit()
    pair.step(STRAIGHT)


def test_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(FastCarRacing(render_mode="rgb_array")))
    assert again.render_mode == "rgb_array"
    assert again.reset(seed=0)[0].shape == (96, 96, 3)


def _assert_all_is_gymnasiums(env: FastCarRacing) -> None:
    stock = CarRacing()
    np.testing.assert_array_equal(env.reset(seed=9)[0], stock.reset(seed=9)[0])
    for _ in range(3):  # drawn always, since skipping leans on private names too
        np.testing.assert_array_equal(env.step(STRAIGHT, draw=False)[0], stock.step(STRAIGHT)[0])


def test_an_untested_gymnasium_draws_itself_after_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium, "__version__", "9.9.9")
    with pytest.warns(UserWarning, match=r"gymnasium 9\.9\.9 is untested") as caught:
        env = FastCarRacing()
        FastCarRacing()
    assert len(caught) == 1
    _assert_all_is_gymnasiums(env)


@pytest.mark.parametrize(
    ("owner", "name"), [(CarRacing, "_render_indicators"), (car_racing, "GRASS_DIM"), (car_dynamics, "WHEEL_WHITE")]
)
def test_a_missing_private_name_draws_itself_after_a_warning(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(owner, name)
        with pytest.warns(UserWarning, match=f"this gymnasium has no .*{name}"):
            env = FastCarRacing()
    _assert_all_is_gymnasiums(env)


def test_a_first_picture_that_differs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastCarRacing, "_draw_state", lambda self: np.zeros((96, 96, 3), np.uint8))
    env = FastCarRacing()
    with pytest.warns(UserWarning, match="draws otherwise than expected"):
        _assert_all_is_gymnasiums(env)


def test_a_car_drawn_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastCar, "draw", lambda *_: None)
    env = FastCarRacing()
    with pytest.warns(UserWarning, match="draws otherwise than expected"):
        _assert_all_is_gymnasiums(env)
    assert type(env.car) is Car


def test_no_warning_where_all_is_as_tested() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        FastCarRacing().reset(seed=0)
