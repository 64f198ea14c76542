"""What `collect.truth` adds to the data, and that it adds nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.config import resolve
from pipeline.envs.random_policies import make_policy
from pipeline.envs.tracks import episode_seed
from pipeline.envs.view import AgentView
from pipeline.episodes.episode import INFO_TYPES, TRUTH_TYPES
from pipeline.episodes.metadata import Origin, read_origin
from pipeline.episodes.recording import record_episode
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError
from pipeline.randomness import Stream, numpy_stream

PLAIN = resolve("tiny", values=[("collect.limit", 12)])
ASKED = resolve("tiny", values=[("collect.limit", 12), ("collect.truth", True)])


def test_the_truth_is_recorded_beside_the_same_drive() -> None:
    plain, asked = record_episode(PLAIN, 3), record_episode(ASKED, 3)
    assert [*plain.infos] == [*INFO_TYPES] and [*asked.infos] == [*INFO_TYPES, *TRUTH_TYPES]
    without = replace(asked, infos={name: asked.infos[name] for name in INFO_TYPES})
    assert without.digest() == plain.digest() != asked.digest()
    policy = make_policy("mixture", numpy_stream(0, Stream.RANDOM_POLICY, 3))
    with AgentView() as view:
        view.reset(episode_seed(0, 3))
        for index in range(len(asked)):
            view.step(policy())
            assert asked.infos["yaw_rate"][index] == np.float32(view.truth.yaw_rate)
            assert asked.infos["track_offset"][index] == np.float32(view.truth.track_offset)


def test_it_lies_with_the_infos_and_the_metadata_say_so(truth_data: Path, tiny_data: Path) -> None:
    data = truth_data / "main_data.hdf5"
    with EpisodeStore.open(truth_data) as store, h5py.File(data, locking=False) as file:
        assert store.origin.truth is True
        for name in TRUTH_TYPES:
            np.testing.assert_array_equal(file[f"episode_1/infos/{name}"], store.read(1).infos[name])
    assert read_origin(tiny_data / "metadata.json").truth is None
    assert "truth" not in json.loads((tiny_data / "metadata.json").read_text(encoding="utf-8"))["dreamer"]


def test_data_with_and_without_do_not_mix(tmp_path: Path) -> None:
    plain = record_episode(PLAIN, 0)
    with (
        EpisodeStore.create(tmp_path / "some", Origin.of(ASKED)) as writer,
        pytest.raises(ValueError, match="infos speed"),
    ):
        writer.append(plain)
    difference = Origin.of(ASKED).difference(Origin.of(PLAIN))
    assert difference is not None and "truth" in difference


@pytest.mark.parametrize("name", [*TRUTH_TYPES])
def test_a_part_of_it_is_not_the_truth(truth_data: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in ("metadata.json", "main_data.hdf5"):
        (copy / file).write_bytes((truth_data / file).read_bytes())
    with h5py.File(copy / "main_data.hdf5", "r+") as file:
        del file[f"episode_0/infos/{name}"]
    with EpisodeStore.open(copy) as store, pytest.raises(StageError, match="does not hold just"):
        store.read(0)
    with EpisodeStore.open(truth_data) as store:
        recorded = store.read(0)
    with pytest.raises(ValueError, match="infos are"):
        replace(recorded, infos={key: value for key, value in recorded.infos.items() if key != name})
