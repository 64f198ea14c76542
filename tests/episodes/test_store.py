from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.episodes.episode import COLUMNS, Episode
from pipeline.episodes.metadata import Origin
from pipeline.episodes.store import EpisodeStore, read_pending
from pipeline.errors import StageError

MakeEpisode = Callable[..., Episode]
WriteStore = Callable[[Path, Sequence[Episode]], Path]


@st.composite
def episodes(draw: st.DrawFn, discrete: bool) -> Episode:
    steps = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    last, terminated = np.arange(steps) == steps - 1, draw(st.booleans())
    return Episode(
        observations=rng.integers(0, 256, (steps + 1, 3, 8, 8), np.uint8),
        actions=rng.integers(0, 5, steps) if discrete else rng.normal(size=(steps, 3)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminations=last & terminated,
        truncations=last & (not terminated),
        infos={name: rng.integers(0, 2, steps).astype(dtype) for name, dtype in CarRacing.info_types.items()},
        seed=draw(st.integers(0, 2**31 - 1)),
        policy=draw(st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=20)),
        track_tiles=draw(st.integers(1, 400)),
    )


@settings(max_examples=25, deadline=None)
@given(st.booleans().flatmap(lambda discrete: st.lists(episodes(discrete), min_size=1, max_size=4)))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, write_store: WriteStore, recorded: list[Episode]) -> None:
    path = write_store(tmp_path_factory.mktemp("data") / "x", recorded)
    with EpisodeStore.open(path) as store:
        assert store.lengths.tolist() == [len(episode) + 1 for episode in recorded]
        assert store.steps == sum(map(len, recorded))
        for index, episode in enumerate(recorded):
            read = store.read(index)
            assert read.digest() == episode.digest()
            for name in ("observations", *COLUMNS):
                np.testing.assert_array_equal(getattr(read, name), getattr(episode, name))
            middle = len(episode) // 2
            rows = store.read_frames(index, middle, len(episode) + 1)
            np.testing.assert_array_equal(rows, episode.observations[middle:])


def test_view_and_origin(tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode, origin: Origin) -> None:
    with EpisodeStore.open(write_store(tmp_path / "x", [make_episode(0, 3)])) as store:
        assert store.origin == origin
        assert (store.view.action_repeat, store.view.size) == (4, 8)
        assert store.view.action_low == (-1.0, 0.0, 0.0)


def test_plain_h5py_reads_the_documented_layout(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode
) -> None:
    recorded = make_episode(3, 20)
    path = write_store(tmp_path / "x", [recorded])
    with h5py.File(path / "main_data.hdf5") as file:
        group = file["episode_0"]
        np.testing.assert_array_equal(group["observations"], recorded.observations)
        assert (group["observations"].compression, group["observations"].chunks[0]) == ("gzip", 16)
        np.testing.assert_array_equal(group["infos/speed"], recorded.infos["speed"])
        assert dict(group.attrs) == {
            "id": 0,
            "total_steps": 20,
            "seed": 2**24 + 3,
            "policy": "smooth",
            "track_tiles": 300,
            "sha256": recorded.digest(),
        }
    facts = json.loads((path / "metadata.json").read_text())
    assert (facts["total_episodes"], facts["total_steps"]) == (1, 20)


def test_fingerprint_is_of_the_content_in_its_order(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode
) -> None:
    first, second = make_episode(0, 5), make_episode(1, 6)
    paths = [
        write_store(tmp_path / "once", [first, second]),
        write_store(tmp_path / "grown", [first]),
        write_store(tmp_path / "turned", [second, first]),
    ]
    with EpisodeStore.extend(paths[1]) as writer:
        writer.append(second)
    prints = []
    for path in paths:
        with EpisodeStore.open(path) as store:
            prints.append(store.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_missing_and_empty_data_sets_name_the_command(tmp_path: Path, origin: Origin) -> None:
    with pytest.raises(StageError, match=r"is missing; run `dreamer collect --data absent`"):
        EpisodeStore.open(tmp_path / "absent")
    with pytest.raises(StageError, match="is missing"):
        EpisodeStore.extend(tmp_path / "absent")
    EpisodeStore.create(tmp_path / "empty", origin).close()
    with pytest.raises(StageError, match=r"holds no episodes yet; run `dreamer collect --data empty`"):
        EpisodeStore.open(tmp_path / "empty")


def test_a_view_that_no_model_has(tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3)])
    with EpisodeStore.open(path) as store, pytest.raises(StageError, match=r"view\.size = 8 is not valid"):
        _ = store.view_settings


def test_another_version_of_gymnasium_is_told(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode
) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3)])
    tree = json.loads((path / "metadata.json").read_text())
    for recorded, said in ((gymnasium.__version__, None), ("1.3.7", "recorded with gymnasium 1.3.7, here is")):
        tree["dreamer"]["gymnasium"] = recorded
        (path / "metadata.json").write_text(json.dumps(tree))
        with EpisodeStore.open(path) as store:
            assert store.warning is None if said is None else said in (store.warning or "")


def test_pending_episodes_are_read_where_they_wait(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode
) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3)])
    writer = EpisodeStore.extend(path)
    for number in (1, 2):
        writer.append(make_episode(number, 4))
    writer.release()
    assert [episode.digest() for episode in read_pending(path, 1)] == [make_episode(n, 4).digest() for n in (1, 2)]
    pending = path / "pending" / "episode_2.hdf5"
    pending.write_bytes(pending.read_bytes()[:-9])
    with pytest.raises(StageError, match="episode_2"):
        list(read_pending(path, 1))


def test_an_existing_data_set_is_replaced_only_when_told(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode, origin: Origin
) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3)])
    with pytest.raises(StageError, match="exists"):
        EpisodeStore.create(path, origin)
    with EpisodeStore.open(path) as store:
        assert len(store) == 1
    with EpisodeStore.create(path, origin, replace=True) as writer:
        writer.append(make_episode(5, 4))
    with EpisodeStore.open(path) as store:
        assert store.read(0).digest() == make_episode(5, 4).digest()
        assert len(store) == 1


def test_two_writers_are_kept_apart(tmp_path: Path, origin: Origin) -> None:
    with (
        EpisodeStore.create(tmp_path / "x", origin),
        pytest.raises(StageError, match=rf"in use by `dreamer collect --data x` \(process {os.getpid()}, "),
    ):
        EpisodeStore.extend(tmp_path / "x")
    EpisodeStore.extend(tmp_path / "x").close()  # free again


def test_episodes_of_another_shape_do_not_enter(tmp_path: Path, make_episode: MakeEpisode, origin: Origin) -> None:
    larger = replace(make_episode(0, 2), observations=np.zeros((3, 3, 9, 9), np.uint8))
    with (
        EpisodeStore.create(tmp_path / "x", origin) as writer,
        pytest.raises(ValueError, match="the data set holds"),
    ):
        writer.append(larger)


def test_actions_of_the_other_kind_do_not_enter(
    tmp_path: Path, make_episode: MakeEpisode, origin: Origin, discrete_origin: Origin
) -> None:
    one, other = make_episode(0, 9), make_episode(0, 9, discrete=True)
    beyond = replace(other, actions=other.actions + 1)
    for number, (kind, wrong) in enumerate([(origin, other), (discrete_origin, one), (discrete_origin, beyond)]):
        with (
            EpisodeStore.create(tmp_path / str(number), kind) as writer,
            pytest.raises(ValueError, match="the data set holds"),
        ):
            writer.append(wrong)
        assert writer.steps == 0


def test_a_data_set_from_before_there_were_discrete_actions_is_read(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode, origin: Origin
) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3)])
    tree = json.loads((path / "metadata.json").read_text())
    del tree["dreamer"]["view"]["continuous"]
    (path / "metadata.json").write_text(json.dumps(tree))
    with EpisodeStore.open(path) as store:
        assert store.origin == origin
        assert store.read(0).digest() == make_episode(0, 3).digest()


def test_a_changed_picture_is_noticed(tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3), make_episode(1, 3)])
    with h5py.File(path / "main_data.hdf5", "r+") as file:
        file["episode_1/observations"][2, 0, 0, 0] = 99
    with EpisodeStore.open(path) as store:
        store.read(0)
        with pytest.raises(StageError, match="episode_1 has changed"):
            store.read(1)


def test_what_others_read_stays_whole_while_episodes_are_added(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode
) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3)])
    with EpisodeStore.open(path) as before:
        with EpisodeStore.extend(path) as writer:
            writer.append(make_episode(1, 3))
            with EpisodeStore.open(path) as meanwhile:
                assert len(meanwhile) == 1
        assert before.read(0).digest() == make_episode(0, 3).digest()
    with EpisodeStore.open(path) as after:
        assert len(after) == 2


def test_a_merge_cut_short_is_done_again(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_store(tmp_path / "x", [make_episode(0, 3)])
    writer = EpisodeStore.extend(path)
    writer.append(make_episode(1, 4))
    monkeypatch.setattr(shutil, "rmtree", lambda path: pytest.fail(f"a kill before {path.name} is gone"))
    with pytest.raises(pytest.fail.Exception):
        writer.close()
    monkeypatch.undo()
    (path / ".main_data.hdf5.abc.hdf5").write_bytes(b"half a copy")
    with EpisodeStore.extend(path) as writer:
        assert len(writer) == 2
        writer.append(make_episode(2, 5))
    assert {file.name for file in path.iterdir()} == {"main_data.hdf5", "metadata.json", ".lock"}
    with EpisodeStore.open(path) as store:
        assert [store.read(index).digest() for index in range(len(store))] == [
            make_episode(index, 3 + index).digest() for index in range(3)
        ]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.episodes.episode import Episode
from pipeline.episodes.store import EpisodeStore, read_pending

def episode(number):
    rng = np.random.default_rng(number)
    last = np.arange(50) == 49
    return Episode(
        observations=rng.integers(0, 256, (51, 3, 8, 8), np.uint8), actions=np.zeros((50, 3), np.float32),
        rewards=np.zeros(50, np.float32), terminations=last, truncations=np.zeros(50, bool),
        infos={name: np.zeros(50, dtype) for name, dtype in CarRacing.info_types.items()},
        seed=number, policy="x", track_tiles=1)

path = Path(sys.argv[1])
while True:
    with EpisodeStore.extend(path) as writer:
        for _ in range(5):
            added = episode(len(writer))
            writer.append(added)
            print(len(writer), added.digest(), flush=True)
"""


def test_kill_9_loses_no_episode_that_append_has_confirmed(tmp_path: Path, origin: Origin) -> None:
    path = tmp_path / "x"
    EpisodeStore.create(path, origin).close()
    confirmed: list[str] = []
    root = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    rng = np.random.default_rng(0)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True, env=root)
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(rng.uniform(0, 0.1))  # then it may be anywhere, in a merge too
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait()
        confirmed += [line.split()[1] for line in lines if line.endswith("\n")]
    EpisodeStore.extend(path).close()
    with EpisodeStore.open(path) as store:
        assert len(confirmed) >= 5
        assert len(confirmed) <= len(store) <= len(confirmed) + 5  # a kill between the rename and the word of it
        stored = [store.read(index).digest() for index in range(len(store))]
    places = [stored.index(digest) for digest in confirmed]
    assert places == sorted(places)
