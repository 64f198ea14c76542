from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import VectorEnv

from pipeline import dream_env
from pipeline.artifacts import Run
from pipeline.dream_env import recorded_states, state_after
from pipeline.envs.car_racing.actions import ACTION_HIGH, ACTION_LOW
from pipeline.envs.view import shrink
from pipeline.errors import StageError, UsageError
from pipeline.models.checkpoints import LoadedWorld, load_world
from pipeline.models.world_model import WorldModel

ROOT = Path(__file__).parents[1]


def make(run: Run, data: Path, **options: Any) -> gym.Env[Any, Any]:
    return gym.make(dream_env.ID, run=run.root, data=data, **options)


def make_many(run: Run, data: Path, count: int = 3, **options: Any) -> VectorEnv[Any, Any, Any]:
    return gym.make_vec(dream_env.ID, num_envs=count, run=str(run.root), data=data, **options)


@pytest.fixture
def world(tiny_run: Run) -> LoadedWorld:
    return load_world(tiny_run.world.weights)


def ends_after(monkeypatch: pytest.MonkeyPatch, chance: float) -> None:
    """Have the continue head say that a drive goes on with this probability."""

    class Certain:
        def __init__(self, feature: torch.Tensor) -> None:
            self.mean = torch.full(feature.shape[:-1], chance)

    monkeypatch.setattr(WorldModel, "goes_on", lambda self, feature: Certain(feature))


@pytest.mark.parametrize("observation", ["picture", "latent"])
def test_gymnasium_finds_nothing_wrong(tiny_run: Run, tiny_data: Path, observation: str) -> None:
    env = make(tiny_run, tiny_data, observation=observation, render_mode="rgb_array")
    check_env(env.unwrapped)
    width = load_world(tiny_run.world.weights).model.features
    assert env.observation_space.shape == ((64, 64, 3) if observation == "picture" else (width,))
    assert env.metadata["render_fps"] == 12.5
    assert (env.action_space.low == ACTION_LOW).all() and (env.action_space.high == ACTION_HIGH).all()  # type: ignore[attr-defined]


def test_gymnasium_finds_nothing_wrong_with_discrete_actions(discrete_run: Run, discrete_data: Path) -> None:
    env = make(discrete_run, discrete_data)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.action_space == gym.spaces.Discrete(5)


def test_it_is_made_by_name_where_nothing_was_imported(tiny_run: Run, tiny_data: Path) -> None:
    code = (
        "import gymnasium\n"
        f"where = dict(run={str(tiny_run.root)!r}, data={str(tiny_data)!r})\n"
        f"env = gymnasium.make('pipeline.dream_env:{dream_env.ID}', **where)\n"
        "print(env.reset(seed=0)[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(64, 64, 3)\n"), done.stderr


def drive(env: Any, seed: int, steps: int = 6) -> list[Any]:
    env.action_space.seed(0)
    seen = [env.reset(seed=seed)[0]]
    return seen + [part for _ in range(steps) for part in env.step(env.action_space.sample())[:2]]


@pytest.mark.parametrize("maker", [make, make_many])
def test_a_seed_gives_the_same_drive_whatever_else_is_drawn(maker: Any, tiny_run: Run, tiny_data: Path) -> None:
    env, other = maker(tiny_run, tiny_data), maker(tiny_run, tiny_data)
    first = drive(env, 3)
    torch.manual_seed(99)
    np.testing.assert_equal(drive(other, 3), first)
    np.testing.assert_equal(drive(env, 3), first)
    assert any((a != b).any() for a, b in zip(drive(env, 4), first, strict=True) if isinstance(a, np.ndarray))


def test_torchs_own_random_numbers_are_left_alone(tiny_run: Run, tiny_data: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drive(make(tiny_run, tiny_data), 0)
    torch.testing.assert_close(torch.rand(3), expected)


def test_drives_begin_in_recorded_states_that_go_on(world: LoadedWorld, tiny_data: Path) -> None:
    states = recorded_states(world, tiny_data, seed=0)
    assert len(states.stoch) == 4 * 13 - 1  # four drives of 12 decisions, less the terminal state of one
    assert len(recorded_states(world, tiny_data, seed=0, episodes=2).stoch) in (25, 26)
    torch.testing.assert_close(recorded_states(world, tiny_data, seed=0).stoch, states.stoch)


def test_a_drive_ends_as_the_continue_head_says(
    tiny_run: Run, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make(tiny_run, tiny_data, observation="latent", limit=2000)
    for chance, low, high in ((1.0, 0, 0), (0.0, 300, 300), (0.8, 35, 85)):
        ends_after(monkeypatch, chance)
        env.reset(seed=0)
        ends = [env.unwrapped.step(np.zeros(3, np.float32)) for _ in range(300)]
        assert low <= sum(end[2] for end in ends) <= high
        assert ends[0][4]["goes_on"] == pytest.approx(chance)


def test_a_drive_is_cut_off_at_the_limit(tiny_run: Run, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_after(monkeypatch, 1.0)
    env = make(tiny_run, tiny_data, limit=3)
    for _ in range(2):
        env.reset()
        assert [env.step(env.action_space.sample())[3] for _ in range(3)] == [False, False, True]
    env = make(tiny_run, tiny_data)
    env.reset()
    cut = [env.step(env.action_space.sample())[3] for _ in range(60)]  # `collect.limit` of the tiny preset
    assert cut == [False] * 59 + [True]


def test_of_many_drives_those_that_ended_begin_anew_with_the_next_step(
    tiny_run: Run, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_after(monkeypatch, 1.0)
    envs = make_many(tiny_run, tiny_data, limit=2)
    envs.reset(seed=0)
    reward = torch.ones(3)
    monkeypatch.setattr(WorldModel, "reward", lambda self, feature: type("Mean", (), {"mean": reward})())
    told = [envs.step(envs.action_space.sample()) for _ in range(5)]
    assert [step[3].tolist() for step in told] == [[end] * 3 for end in (False, True, False, False, True)]
    assert [step[1].tolist() for step in told] == [[value] * 3 for value in (1.0, 1.0, 0.0, 1.0, 1.0)]
    assert [step[4]["_goes_on"].tolist() for step in told] == [[real] * 3 for real in (True, True, False, True, True)]


def test_one_drive_is_not_the_other(tiny_run: Run, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_after(monkeypatch, 1.0)
    envs = make_many(tiny_run, tiny_data, count=2, observation="latent", render_mode="rgb_array")
    before, _ = envs.reset(seed=1)
    assert (before[0] != before[1]).any()
    envs.unwrapped._over[:] = [True, False]  # type: ignore[attr-defined]
    envs.unwrapped._drives._steps[:] = 7  # type: ignore[attr-defined]
    envs.step(envs.action_space.sample())
    assert envs.unwrapped._drives._steps.tolist() == [0, 8]  # type: ignore[attr-defined]
    frames = envs.render()
    assert frames is not None and [frame.shape for frame in frames] == [(384, 384, 3)] * 2


def test_what_is_rendered_is_the_observation_enlarged(tiny_run: Run, tiny_data: Path) -> None:
    env = make(tiny_run, tiny_data, render_mode="rgb_array")
    env.reset(seed=0)
    observation = env.step(env.action_space.sample())[0]
    np.testing.assert_array_equal(env.render()[::6, ::6], observation)  # type: ignore[index]


def test_a_drive_can_go_on_from_a_real_one(tiny_run: Run, tiny_data: Path, world: LoadedWorld) -> None:
    rng = np.random.default_rng(0)
    frames, actions = rng.integers(0, 256, (5, 96, 96, 3), np.uint8), rng.random((4, 3)).astype(np.float32)
    env = make(tiny_run, tiny_data, observation="latent")
    seen, _ = env.reset(seed=0, options={"observations": frames, "actions": actions})
    first = torch.from_numpy(shrink(frames[0]))[None, None], torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool)
    begun = state_after(world, frames[:1], actions[:0], torch.Generator())
    torch.testing.assert_close(begun.deter, world.model.observe(*first).deter[:, 0])  # before anything is drawn
    assert seen.shape == (world.model.features,)
    for changed in ({"actions": 1 - actions}, {"observations": 255 - frames}):
        other, _ = env.reset(seed=0, options={"observations": frames, "actions": actions} | changed)
        assert (seen != other).any()
    envs = make_many(tiny_run, tiny_data, observation="latent")
    many, _ = envs.reset(seed=0, options={"observations": frames, "actions": actions})
    assert (many == many[0]).all()


@pytest.mark.parametrize(
    ("frames", "actions"),
    [((5, 96, 96, 3), 5), ((0, 96, 96, 3), 0), ((96, 96, 3), 2), ((5, 3, 64, 64), 4)],
)
def test_a_drive_to_begin_after_has_an_action_between_two_pictures(
    world: LoadedWorld, frames: tuple[int, ...], actions: int
) -> None:
    with pytest.raises(UsageError, match="T observations"):
        state_after(world, np.zeros(frames, np.uint8), np.zeros((actions, 3), np.float32), torch.Generator())


def test_what_cannot_be_is_refused(tiny_run: Run, tiny_data: Path, discrete_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'picture' or 'latent'"):
        make(tiny_run, tiny_data, observation="sound")
    with pytest.raises(UsageError, match="temperature must be above 0, not 0"):
        make(tiny_run, tiny_data, temperature=0)
    with pytest.raises(UsageError, match="no device 'gpu'"):
        make(tiny_run, tiny_data, device="gpu")
    with pytest.raises(StageError, match="give it as data="):
        gym.make(dream_env.ID, run=tiny_run.root)
    manifest = tiny_run.world.read_manifest()
    assert manifest is not None
    stranger = Run(tmp_path / "artifacts" / "stranger")
    stranger.world.write_manifest(replace(manifest, facts={"data": "../../elsewhere"}))
    with pytest.raises(UsageError, match="cannot name a data set"):
        dream_env.recorded_data(stranger)
    stranger.world.write_manifest(replace(manifest, facts={"data": "mine"}))
    assert dream_env.recorded_data(stranger) == (tmp_path / "data" / "mine",)
    with pytest.raises(StageError, match="dreamer fit-world --run none"):
        gym.make(dream_env.ID, run=tmp_path / "none")
    with pytest.raises(StageError, match="another view"):
        make(tiny_run, discrete_data).reset()
    with pytest.raises(StageError, match="dreamer collect --data none"):
        make(tiny_run, tmp_path / "none").reset()


@pytest.mark.slow
def test_others_can_learn_in_it(
    tiny_run: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worked example of the docs, with fewer decisions."""
    pytest.importorskip("stable_baselines3")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "demo").symlink_to(tiny_run.root)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(tiny_data)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "dream-env.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    names: dict[str, Any] = {"DATA": "data/demo"}
    for block in blocks:
        code = block.replace("100_000", "512").replace('run="artifacts/demo"', 'run="artifacts/demo", data="data/demo"')
        code = code.replace('{"run": "artifacts/demo"', '{"run": "artifacts/demo", "data": "data/demo"')
        exec(compile(code, "docs/dream-env.md", "exec"), names)  # our own docs
    assert names["driver"].num_timesteps >= 512
    assert np.isfinite(names["score"])


def test_other_environments_can_be_dreamt_too(other_run: Run, other_data: Path) -> None:
    env = gym.make(dream_env.ANY_ID, run=other_run.root, data=other_data, render_mode="rgb_array")
    check_env(env.unwrapped)
    interface = load_world(other_run.world.weights).interface
    box = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
    assert env.action_space == (gym.spaces.Discrete(4) if interface.discrete else box)
    assert env.metadata["render_fps"] == 30 / interface.view.action_repeat
    many = make_many(other_run, other_data)
    many.reset(seed=0)
    assert many.step(many.action_space.sample())[0].shape == (3, 64, 64, 3)
