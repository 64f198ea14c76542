from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from pipeline.episodes.episode import COLUMNS, Episode
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError

minari = pytest.importorskip("minari")

MakeEpisode = Callable[..., Episode]


def test_minari_reads_every_episode(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_store: Callable[[Path, Sequence[Episode]], Path],
    make_episode: MakeEpisode,
) -> None:
    recorded = [make_episode(number, 3 + number, terminated=number == 1) for number in range(12)]
    path = write_store(tmp_path / "my.drives", recorded)
    dataset = minari.MinariDataset(path)
    assert (dataset.total_episodes, dataset.total_steps) == (12, sum(map(len, recorded)))
    assert dataset.observation_space == gymnasium.spaces.Box(0, 255, (3, 8, 8), np.uint8)
    assert dataset.action_space == gymnasium.spaces.Box(np.float32([-1, 0, 0]), np.float32([1, 1, 1]))
    assert dataset.id == "dreamer/my_drives-v0"
    for read, episode in zip(dataset.iterate_episodes(), recorded, strict=True):
        for name in ("observations", *COLUMNS):
            np.testing.assert_array_equal(getattr(read, name), getattr(episode, name))
        for name, values in episode.infos.items():
            np.testing.assert_array_equal(read.infos[name], values)
    facts = list(dataset.storage.get_episode_metadata(range(12)))
    assert [fact["seed"] for fact in facts] == [episode.seed for episode in recorded]


def test_minari_reads_discrete_actions(
    tmp_path: Path, write_store: Callable[[Path, Sequence[Episode]], Path], make_episode: MakeEpisode
) -> None:
    recorded = [make_episode(number, 3 + number, discrete=True) for number in range(3)]
    dataset = minari.MinariDataset(write_store(tmp_path / "x", recorded))
    assert dataset.action_space == gymnasium.spaces.Discrete(5)
    for read, episode in zip(dataset.iterate_episodes(), recorded, strict=True):
        assert read.actions.shape == (len(episode),) and read.actions.dtype == np.int64
        assert all(action in dataset.action_space for action in read.actions)
        for name in ("observations", *COLUMNS):
            np.testing.assert_array_equal(getattr(read, name), getattr(episode, name))
    environment = dataset.recover_environment()
    assert environment.action_space == dataset.action_space
    environment.close()
    assert gymnasium.spec("CarRacing-v3").kwargs == {}  # the registry's own is left alone


def test_minari_makes_the_environment(
    tmp_path: Path, write_store: Callable[..., Path], make_episode: MakeEpisode
) -> None:
    dataset = minari.MinariDataset(write_store(tmp_path / "x", [make_episode(0, 3)]))
    environment = dataset.recover_environment()
    assert environment.spec is not None and environment.spec.id == "CarRacing-v3"
    assert environment.action_space == dataset.action_space
    environment.close()


def test_an_environment_unknown_to_minari_is_no_reason_to_fail(
    tmp_path: Path, write_store: Callable[..., Path], make_episode: MakeEpisode
) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3)])
    text = (path / "metadata.json").read_text()
    (path / "metadata.json").write_text(text.replace("order_enforce", "of_a_later_gymnasium"))
    with EpisodeStore.open(path) as store:
        assert len(store.read(0)) == 3


def test_a_data_set_of_minari_itself_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given whole, or only the folder with its data file, whose layout is like ours."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    buffer = minari.data_collector.EpisodeBuffer(
        observations=rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
        actions=rng.random((5, 3), np.float32),
        rewards=list(rng.random(5)),
        terminations=[False] * 5,
        truncations=[False] * 4 + [True],
        infos={},
    )
    minari.create_dataset_from_buffers(
        "theirs-v0",
        [buffer],
        observation_space=gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8),
        action_space=gymnasium.spaces.Box(0, 1, (3,), np.float32),
    )
    for folder in (tmp_path / "theirs-v0", tmp_path / "theirs-v0" / "data"):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert any(path.name == "main_data.hdf5" for path in before)
        with pytest.raises(StageError, match=r"[Mm]inari data set") as caught:
            EpisodeStore.open(folder)
        assert "--fresh" not in str(caught.value) and "\n" not in str(caught.value)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
