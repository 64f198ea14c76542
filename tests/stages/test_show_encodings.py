from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.artifacts import Run, file_hash
from pipeline.config import resolve
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.episodes.episode import Episode
from pipeline.episodes.metadata import Origin, View
from pipeline.episodes.store import EpisodeStore
from pipeline.episodes.windows import Windows, split
from pipeline.errors import StageError
from pipeline.learning.world_learner import CONTEXT
from pipeline.models.checkpoints import Interface, build_world, load_world, save_world
from pipeline.models.dynamics import Latent
from pipeline.models.world_model import WorldModel
from pipeline.stages import show_encodings as stage
from pipeline.stages.show_encodings import Window, choose_windows, foresee, show_encodings
from pipeline.viewing.encodings import Foresight, draw_encodings

SETTINGS = resolve("tiny")
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def make_episode(rewards: list[float] | NDArray[np.float32], seed: int = 0) -> Episode:
    rng, steps = np.random.default_rng(seed), len(rewards)
    last = np.arange(steps) == steps - 1
    return Episode(
        observations=rng.integers(0, 256, (steps + 1, 3, 64, 64), np.uint8),
        actions=rng.uniform(0, 1, (steps, 3)).astype(np.float32),
        rewards=np.asarray(rewards, np.float32),
        terminations=np.zeros(steps, np.bool_),
        truncations=last,
        infos={name: np.zeros(steps, dtype) for name, dtype in CarRacing.info_types.items()},
        seed=seed,
        policy="smooth",
        track_tiles=300,
    )


def write_data(path: Path, episodes: list[Episode]) -> Path:
    view = View(action_repeat=4, size=64, action_low=(-1.0, 0.0, 0.0), action_high=(1.0, 1.0, 1.0))
    origin = Origin(gymnasium="1.4.0", view=view, policy="smooth", patience=30, limit=250, seed=0)
    with EpisodeStore.create(path, origin) as writer:
        for episode in episodes:
            writer.append(episode)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return write_data(tmp_path / "data" / "some", [make_episode(rng.normal(size=12), seed) for seed in range(4)])


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Run:
    """A run with a complete but untrained world model of the data."""
    run = Run(tmp_path / "artifacts" / "some")
    interface = Interface(SETTINGS.view, (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    torch.manual_seed(0)
    with EpisodeStore.open(data) as store:
        manifest, _ = run.world.start(SETTINGS, ("world",), {"data": store.fingerprint})
    save_world(run.world.weights, build_world(SETTINGS.model, interface), interface)
    outputs = {run.world.weights.name: file_hash(run.world.weights)}
    run.world.write_manifest(replace(manifest, outputs=outputs, done=1, complete=True))
    return run


def test_figure_film_and_lineage_are_written(run: Run, data: Path) -> None:
    manifest = show_encodings(SETTINGS, run=run, data=data, device=CPU)
    assert run.encodings.read_manifest() == manifest
    assert manifest.complete
    with EpisodeStore.open(data) as store:
        assert manifest.inputs == {"data": store.fingerprint, "world": file_hash(run.world.weights)}
    assert {Path(name).stem for name in manifest.outputs} == {"encodings", "dream"}
    for name, digest in manifest.outputs.items():
        assert file_hash(run.encodings.path / name) == digest


def test_the_same_command_draws_the_same_figure(run: Run, data: Path) -> None:
    figures = []
    for _ in range(2):
        show_encodings(SETTINGS, run=run, data=data, device=CPU)
        figures.append((run.encodings.path / "encodings.png").read_bytes())
    assert figures[0] == figures[1]


def test_only_held_out_episodes_are_shown(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Foresight] = []

    def keep(foresights: list[Foresight], path: Path, note: str) -> None:
        shown.extend(foresights)
        draw_encodings(foresights, path, note)

    monkeypatch.setattr(stage, "draw_encodings", keep)
    manifest = show_encodings(SETTINGS, run=run, data=data, device=CPU)
    _, held_out = split(4, SETTINGS.world.validation_share, SETTINGS.seed)
    assert sorted(item.title.split(",")[0] for item in shown) == [f"Episode {episode}" for episode in held_out]
    assert manifest.done == len(held_out)


def test_a_missing_world_names_the_command_that_makes_it(tmp_path: Path, data: Path) -> None:
    with pytest.raises(StageError, match="run `dreamer fit-world --run none`"):
        show_encodings(SETTINGS, run=Run(tmp_path / "none"), data=data, device=CPU)


def test_a_world_of_other_data_is_refused(run: Run, data: Path) -> None:
    with EpisodeStore.extend(data) as writer:
        writer.append(make_episode([1.0], seed=9))
    with pytest.raises(StageError, match="made from another data"):
        show_encodings(SETTINGS, run=run, data=data, device=CPU)


def test_it_runs_where_gymnasium_cannot_be_imported(run: Run, data: Path, tmp_path: Path) -> None:
    command = (
        "import sys; sys.modules['gymnasium'] = None; sys.argv = ['dreamer', 'show-encodings', '--data', 'some',"
        " '--run', 'some', '--device', 'cpu']; from pipeline.cli import main; main()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (run.encodings.path / "encodings.png").exists()
    assert str(run.encodings.path.relative_to(tmp_path) / "encodings.png") in done.stdout


@given(st.lists(st.floats(-10, 10, width=32), min_size=CONTEXT, max_size=30), st.integers(CONTEXT + 1, 12))
def test_a_window_has_the_largest_reward_of_its_episode(rewards: list[float], rows: int) -> None:
    class Store:
        lengths = np.array([len(rewards) + 1])

        def read_decisions(self, index: int) -> Episode:
            return make_episode(rewards)

    (window,) = choose_windows(Store(), [0], 4, rows)  # type: ignore[arg-type]
    arrived = [0.0, *rewards]  # reward of each row
    rows = min(rows, len(arrived))
    sums = [sum(arrived[start + CONTEXT : start + rows]) for start in range(len(arrived) - rows + 1)]
    assert window.stop - window.start == rows
    assert window.start >= 0 and window.stop <= len(arrived)
    assert sums[window.start] == pytest.approx(max(sums), abs=1e-4)
    assert window.reward == pytest.approx(max(sums), abs=1e-4)


def test_the_best_episodes_come_first(tmp_path: Path) -> None:
    rewards = [[0.0] * 10, [3.0] * 10, [1.0] * 10, [9.0] * 3]
    with EpisodeStore.open(write_data(tmp_path / "some", [make_episode(r) for r in rewards])) as store:
        assert [window.episode for window in choose_windows(store, range(4), 2, 8)] == [1, 2]
        assert [window.episode for window in choose_windows(store, range(4), 9, 8)] == [1, 2, 0]  # 3 is too short
        with pytest.raises(StageError, match="run `dreamer collect --data some`"):
            choose_windows(store, [3], 2, 8)


def _foresee(run: Run, path: Path, episode: Episode, window: Window) -> Foresight:
    model = load_world(run.world.weights).model
    with EpisodeStore.open(write_data(path, [episode])) as store:
        torch.manual_seed(0)
        return foresee(model, Windows(store, [0], CONTEXT, 1.0), window)


def test_recorded_rows_are_those_of_the_window(run: Run, tmp_path: Path) -> None:
    episode = make_episode(np.arange(20, dtype=np.float32))
    foresight = _foresee(run, tmp_path / "one", episode, Window(0, 3, 15, 0.0))
    np.testing.assert_array_equal(foresight.recorded, episode.observations[3:15])
    np.testing.assert_array_equal(foresight.reward, episode.rewards[2:14])  # each with the picture it came with
    np.testing.assert_array_equal(foresight.imagined[:CONTEXT], foresight.reconstructed[:CONTEXT])
    assert foresight.title == "Episode 0, decisions 3 to 14"


def test_imagination_sees_the_context_alone(run: Run, tmp_path: Path) -> None:
    episode = make_episode(np.zeros(20, np.float32))
    observations = episode.observations.copy()
    observations[2 + CONTEXT :] = 255 - observations[2 + CONTEXT :]
    observations[:2] = 0  # before the window, too
    window = Window(0, 2, 15, 0.0)
    before = _foresee(run, tmp_path / "one", episode, window)
    after = _foresee(run, tmp_path / "two", replace(episode, observations=observations), window)
    np.testing.assert_array_equal(after.imagined, before.imagined)
    np.testing.assert_array_equal(after.reward_imagined, before.reward_imagined)
    assert (after.reconstructed[CONTEXT:] != before.reconstructed[CONTEXT:]).any()


def test_imagination_follows_the_recorded_actions(run: Run, tmp_path: Path) -> None:
    episode = make_episode(np.zeros(20, np.float32))
    actions = episode.actions.copy()
    actions[8] = 1 - actions[8]  # leads to row 9
    window = Window(0, 0, 15, 0.0)
    before = _foresee(run, tmp_path / "one", episode, window)
    after = _foresee(run, tmp_path / "two", replace(episode, actions=actions), window)
    np.testing.assert_array_equal(after.imagined[:9], before.imagined[:9])
    assert (after.imagined[9] != before.imagined[9]).any()


@pytest.mark.parametrize("start", [0, 4])
def test_only_the_beginning_of_an_episode_is_marked_as_one(
    start: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: list[list[bool]] = []
    observe = WorldModel.observe

    def spy(self: WorldModel, observation: torch.Tensor, action: torch.Tensor, is_first: torch.Tensor) -> Latent:
        marks.extend(is_first.tolist())
        return observe(self, observation, action, is_first)

    monkeypatch.setattr(WorldModel, "observe", spy)
    _foresee(run, tmp_path / "one", make_episode(np.zeros(20, np.float32)), Window(0, start, start + 10, 0.0))
    assert marks == [[start == 0] + [False] * 9]
