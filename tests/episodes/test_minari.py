from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from pipeline.episodes.episode import COLUMNS, Episode
from pipeline.episodes.store import EpisodeStore

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
