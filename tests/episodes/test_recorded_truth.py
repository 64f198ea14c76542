"""What `collect.truth` adds to the data, and that it adds nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.config import resolve
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.envs.car_racing.drivers import make_policy
from pipeline.envs.car_racing.view import CarRacingView
from pipeline.envs.tracks import episode_seed
from pipeline.episodes.metadata import Origin, read_origin
from pipeline.episodes.recording import record_episode
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError, UsageError
from pipeline.randomness import Stream, numpy_stream

INFOS, TRUTH = CarRacing.info_types, CarRacing.truth_types
PLAIN = resolve("tiny", values=[("collect.limit", 12)])
ASKED = resolve("tiny", values=[("collect.limit", 12), ("collect.truth", True)])


def test_the_truth_is_recorded_beside_the_same_drive() -> None:
    plain, asked = record_episode(PLAIN, 3), record_episode(ASKED, 3)
    assert [*plain.infos] == [*INFOS] and [*asked.infos] == [*INFOS, *TRUTH]
    without = replace(asked, infos={name: asked.infos[name] for name in INFOS})
    assert without.digest() == plain.digest() != asked.digest()
    rng = numpy_stream(0, Stream.RANDOM_POLICY, 3)
    rng.random()  # whether the episode may stay lost
    policy = make_policy("mixture", rng)
    with CarRacingView() as view:
        seen = view.reset(episode_seed(0, 3))
        for index in range(len(asked)):
            seen = view.step(policy(seen)).observation
            assert asked.infos["yaw_rate"][index] == np.float32(view.truth["yaw_rate"])
            assert asked.infos["track_offset"][index] == np.float32(view.truth["track_offset"])


def test_it_lies_with_the_infos_and_the_metadata_say_so(truth_data: Path, tiny_data: Path) -> None:
    data = truth_data / "main_data.hdf5"
    with EpisodeStore.open(truth_data) as store, h5py.File(data, locking=False) as file:
        assert store.origin.truth is True
        for name in TRUTH:
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


@pytest.mark.parametrize("name", [*TRUTH])
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
    less = replace(recorded, infos={key: value for key, value in recorded.infos.items() if key != name})
    with EpisodeStore.extend(copy) as writer, pytest.raises(ValueError, match="infos speed"):
        writer.append(less)


def test_where_there_is_no_truth_it_is_refused() -> None:
    settings = resolve("tiny", values=[("view.env", "Pendulum-v1"), ("collect.truth", True)])
    with pytest.raises(UsageError, match="no truth of Pendulum-v1"):
        Origin.of(settings)
