"""Environments of all kinds as the agent meets them, beside those that have adapters of their own."""

from __future__ import annotations

from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from pipeline.config import ViewSettings, resolve
from pipeline.envs import adapter_of
from pipeline.envs.view import AgentView, shrink
from pipeline.episodes.metadata import Origin
from pipeline.episodes.recording import record_episode
from pipeline.errors import UsageError


class Counter(gymnasium.Env[Any, Any]):
    """Shows how many steps were taken, as a shade or as a number; ends for good at 9. Notes what it was given."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    instances: list[Counter] = []  # noqa: RUF012

    def __init__(
        self, observation: Any = None, action: Any = None, step: float = 1.0, render_mode: str | None = None
    ) -> None:
        self.observation_space = observation or Box(0, 255, (48, 32, 3), np.uint8)
        self.action_space = action or Discrete(3)
        self.size_of_step, self.render_mode = step, render_mode
        self.given: list[Any] = []
        self.rendered = 0
        Counter.instances.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(3))
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.given.append(action)
        self.count += 1
        return self._see(), self.size_of_step, self.count >= 9, False, {}

    def _see(self) -> Any:
        return np.full(self.observation_space.shape, 20 * self.count, self.observation_space.dtype)

    def render(self) -> Any:
        self.rendered += 1
        return np.full((30, 40, 3), 10 * self.count, np.uint8)


@pytest.fixture(autouse=True)
def _registered() -> Any:
    Counter.instances.clear()
    gymnasium.register("Counter-v0", Counter, max_episode_steps=100)
    yield
    del gymnasium.registry["Counter-v0"]


def with_spaces(monkeypatch: pytest.MonkeyPatch, **spaces: Any) -> None:
    """What the next environment observes and does: spaces are no JSON."""
    monkeypatch.setitem(gymnasium.registry["Counter-v0"].kwargs, "action", spaces.get("action"))
    monkeypatch.setitem(gymnasium.registry["Counter-v0"].kwargs, "observation", spaces.get("observation"))


def counter(**settings: Any) -> AgentView:
    return adapter_of("Counter-v0").open(ViewSettings(env="Counter-v0", **({"action_repeat": 1} | settings)))


def test_pictures_are_taken_as_they_are() -> None:
    view = counter()
    first = view.reset(seed=3)
    assert first.shape == (3, 64, 64) and len(np.unique(first)) == 1
    assert view.step(1).observation.max() == first.max() + 20
    assert Counter.instances[0].rendered == 0


@pytest.mark.parametrize(
    "space", [Box(-1, 1, (4,)), Box(0, 255, (3, 48, 48), np.uint8), Box(0, 1, (48, 48, 3)), Discrete(7)]
)
def test_anything_else_is_rendered_but_no_more_often_than_it_is_seen(
    monkeypatch: pytest.MonkeyPatch, space: gymnasium.Space[Any]
) -> None:
    with_spaces(monkeypatch, observation=space)
    view = counter(action_repeat=3)
    first = view.reset(seed=3)
    assert view.step(1).observation.max() == first.max() + 30
    assert Counter.instances[0].rendered == 2


def test_without_pictures_nothing_is_rendered_and_all_else_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with_spaces(monkeypatch, observation=Box(-1, 1, (4,)))
    settings = ViewSettings(env="Counter-v0", action_repeat=2)
    seeing, blind = (adapter_of("Counter-v0").open(settings, pictures=pictures) for pictures in (True, False))
    seeing.reset(1)
    assert blind.reset(1).shape == (3, 0, 0)
    for _ in range(4):
        one, other = seeing.step(0), blind.step(0)
        assert (one.reward, one.terminated, one.truncated) == (other.reward, other.terminated, other.truncated)
    assert Counter.instances[1].rendered == 0


@pytest.mark.parametrize("shape", [(48, 32), (48, 32, 1), (48, 32, 3)])
@pytest.mark.parametrize("size", [64, 96, 128])
def test_pictures_without_colours_have_three_channels_too(shape: tuple[int, ...], size: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    small = shrink(frame, size, grey=True)
    assert small.shape == (3, size, size) and small.dtype == np.uint8
    assert (small[0] == small[1]).all() and (small[1] == small[2]).all()
    if shape[2:] == (3,):
        coloured = shrink(frame, size).transpose(1, 2, 0)
        np.testing.assert_array_equal(small[0], cv2.cvtColor(np.ascontiguousarray(coloured), cv2.COLOR_RGB2GRAY))


def test_actions_are_held_and_rewards_summed_until_the_end() -> None:
    view = counter(action_repeat=4)
    view.reset(seed=3)
    begun = Counter.instances[0].count
    steps = [view.step(2)]
    while not steps[-1].terminated:
        steps.append(view.step(2))
    assert [step.reward for step in steps[:-1]] == [4.0] * (len(steps) - 1)
    assert sum(step.reward for step in steps) == 9 - begun == len(Counter.instances[0].given)
    assert not steps[-1].truncated
    with pytest.raises(RuntimeError, match="reset"):
        view.step(2)


@pytest.mark.parametrize(("limit", "decisions"), [(4, 2), (5, 3)])
def test_the_time_limit_is_a_setting(limit: int, decisions: int) -> None:
    view = counter(action_repeat=2, time_limit=limit)
    view.reset(seed=0)
    steps = [view.step(0) for _ in range(decisions)]
    assert [step.truncated for step in steps] == [False] * (decisions - 1) + [True]
    assert not any(step.terminated for step in steps)
    assert steps[-1].reward == limit - 2 * (decisions - 1)


def test_discrete_actions_begin_where_the_environments_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with_spaces(monkeypatch, action=Discrete(4, start=-1))
    view = counter()
    view.reset(0)
    for action in (0, np.int64(3)):
        view.step(action)  # type: ignore[arg-type]
    assert Counter.instances[0].given == [-1, 2]
    for wrong in (-1, 4, 1.0):
        with pytest.raises(ValueError, match="from 0 to 3"):
            view.step(wrong)  # type: ignore[arg-type]


def test_numbers_keep_their_bounds_shape_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = np.array([[-2.0, 0.0], [5.0, -1.0]]), np.array([[2.0, 10.0], [6.0, 1.0]])
    with_spaces(monkeypatch, action=Box(low, high, dtype=np.float64))
    view = counter()
    assert view.actions.low == (-2, 0, 5, -1) and view.actions.high == (2, 10, 6, 1)
    view.reset(0)
    view.step(np.array([9.0, 5.0, 5.5, -9.0], np.float32))
    (given,) = Counter.instances[0].given
    assert given.dtype == np.float64
    np.testing.assert_array_equal(given, [[2.0, 5.0], [5.5, -1.0]])
    for wrong in ([0.0], [np.nan] * 4):
        with pytest.raises(ValueError, match="4 finite numbers"):
            view.step(np.array(wrong, np.float32))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (MultiDiscrete([2, 3]), "must be a Box of floats or Discrete"),
        (MultiBinary(3), "must be a Box of floats or Discrete"),
        (Box(0, 5, (2,), np.int32), "must be a Box of floats or Discrete"),
        (Discrete(65), "65 in all; there may be 1 to 64"),
        (Box(0, 1, (5, 13)), "65 in all; there may be 1 to 64"),
        (Box(-np.inf, np.inf, (2,)), "not within finite bounds"),
        (Box(0, np.array([1, 0], np.float32)), "not within finite bounds"),
    ],
)
def test_other_actions_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, space: Any, said: str) -> None:
    with_spaces(monkeypatch, action=space)
    with pytest.raises(UsageError, match=rf"The actions of Counter-v0 are .*{said}|{said}") as refusal:
        adapter_of("Counter-v0").describe(ViewSettings(env="Counter-v0"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("env", "kwargs", "said"),
    [
        ("Contour-v0", "{}", "Contour-v0 cannot be made: .*Contour"),
        ("no_such_module:Counter-v0", "{}", "cannot be made: No module named 'no_such_module'"),
        ("Counter-v0", '{"speed": 1}', "cannot be made: .*speed"),
        ("CarRacing-v3", '{"verbose": true}', "has no argument 'verbose'"),
        ("ALE/Freeway-v5", '{"frameskip": 2}', "decided by the setting view.action_repeat"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_sentence(env: str, kwargs: str, said: str) -> None:
    if env.startswith("ALE"):
        pytest.importorskip("ale_py")
    with pytest.raises(UsageError, match=said) as refusal:
        adapter_of(env).describe(ViewSettings(env=env, env_kwargs=kwargs))
    assert "\n" not in str(refusal.value)


def test_what_shows_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_spaces(monkeypatch, observation=Box(-1, 1, (4,)))
    monkeypatch.setattr(Counter, "metadata", {"render_modes": []})
    monkeypatch.setattr(Counter, "__init__", lambda self, **_: Counter_without_frames(self))
    with pytest.raises(UsageError, match="shows nothing"):
        adapter_of("Counter-v0").open(ViewSettings(env="Counter-v0"))


def Counter_without_frames(env: Counter) -> None:  # noqa: N802
    env.observation_space, env.action_space, env.render_mode = Box(-1, 1, (4,)), Discrete(2), None


@pytest.mark.parametrize(("kwargs", "continuous"), [("{}", True), ('{"continuous": false}', False)])
def test_of_carracing_the_kind_of_actions_is_a_setting_and_an_argument(kwargs: str, continuous: bool) -> None:
    described = adapter_of("CarRacing-v3").describe(ViewSettings(env_kwargs=kwargs))
    assert described.view == ViewSettings(continuous=continuous)
    assert described.actions.discrete == (not continuous)


@pytest.mark.parametrize(
    ("env", "seen", "continuous"),
    [
        ("Pendulum-v1", "pictures of 64x64 from the 500x500 rendered frame; 1 numbers, held for 2", True),
        ("LunarLander-v3", "from the 400x600 rendered frame; 4 actions to choose from, held for 4", False),
        ("ALE/Freeway-v5", "from the 210x160 picture; 3 actions to choose from, held for 4", False),
        ("Counter-v0", "from the 48x32 picture; 3 actions to choose from, held for 1", False),
    ],
)
def test_a_data_set_remembers_what_was_seen_and_done(env: str, seen: str, continuous: bool) -> None:
    if env.startswith("ALE"):
        pytest.importorskip("ale_py")
    settings = resolve("tiny", values=[("view.env", env), ("collect.limit", 5), ("view.size", 64)])
    origin = Origin.of(settings)
    assert seen in origin.outlook and origin.view.continuous == continuous
    again = Origin.model_validate(origin.model_dump(mode="json", exclude_none=True))
    assert again == origin
    settings = settings.model_copy(update={"view": again.view_settings})
    episodes = [record_episode(settings, number) for number in (0, 1, 0)]
    assert episodes[0].digest() == episodes[2].digest() != episodes[1].digest()
    assert episodes[0].observations.shape[1:] == (3, 64, 64) and not episodes[0].infos


def test_an_atari_game_is_preprocessed_as_usual() -> None:
    """Against the game itself, frame by frame: the brighter of the last two frames, rewards summed, sticky actions."""
    ale_py = pytest.importorskip("ale_py")
    gymnasium.register_envs(ale_py)
    view = adapter_of("ALE/Freeway-v5").open(ViewSettings(env="ALE/Freeway-v5"), film=True)
    game: Any = gymnasium.make("ALE/Freeway-v5", frameskip=1)
    assert game.spec.kwargs["repeat_action_probability"] == 0.25
    view.reset(5)
    game.reset(seed=5)
    for _ in range(int(game.unwrapped.np_random.integers(1, 31))):
        game.step(0)
    for action in [1] * 60 + [0, 2]:
        ours, frames, reward = view.step(action), [], 0.0
        for _ in range(4):
            frame, earned, *_ = game.step(action)
            frames.append(frame)
            reward += earned
        np.testing.assert_array_equal(ours.observation, shrink(np.maximum(*frames[-2:])))
        np.testing.assert_array_equal(view.film_frames, [frames[-1]])
        assert ours.reward == reward
    assert view.film_fps == 15


def test_films_run_at_the_speed_of_the_environment() -> None:
    view = adapter_of("Counter-v0").open(ViewSettings(env="Counter-v0", action_repeat=2), film=True)
    view.reset(0)
    view.step(1)
    assert len(view.film_frames) == 2 and view.film_frames[0].shape == (30, 40, 3)
    assert view.film_fps == view.steps_a_second == 10
    assert [gauge.value for gauge in view.gauges(1, view.step(1))] == [0, 1, 0]
