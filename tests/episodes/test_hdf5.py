"""Data files from strangers: what this project would not write is refused before any of it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.episodes.episode import Episode
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError

MakeEpisode = Callable[..., Episode]
WriteStore = Callable[[Path, Sequence[Episode]], Path]
Change = Callable[[h5py.Group, Path], object]

SECRET = np.full((5, 3), 7, np.float32)


@pytest.fixture
def store_path(tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode) -> Path:
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["actions"] = SECRET
        file.create_group("episode_1").attrs.update(total_steps=5, sha256="0" * 64)
    SECRET.tofile(tmp_path / "secret.raw")
    return write_store(tmp_path / "x", [make_episode(0, 5), make_episode(1, 5)])


def refusal(path: Path, change: Change) -> str:
    """Change the second episode, read both, and return the error."""
    with h5py.File(path / "main_data.hdf5", "r+") as file:
        change(file["episode_1"], path.parent)
    with pytest.raises(StageError) as caught, EpisodeStore.open(path) as store:
        store.read(0)
        store.read(1)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith("`dreamer collect --data x --fresh`")
    return message


def put(name: str, **creation: object) -> Change:
    """Put another data set in the place of one."""

    def change(group: h5py.Group, _: Path) -> None:
        del group[name]
        group.create_dataset(name, **creation)

    return change


def soft_link(group: h5py.Group, _: Path) -> None:
    del group["actions"]
    group["actions"] = h5py.SoftLink("/episode_0/actions")


def external_link(group: h5py.Group, folder: Path) -> None:
    del group["actions"]
    group["actions"] = h5py.ExternalLink(folder / "secret.hdf5", "/actions")


def external_link_to_a_group(group: h5py.Group, folder: Path) -> None:
    file = group.file
    del file["episode_1"]
    file["episode_1"] = h5py.ExternalLink(folder / "secret.hdf5", "/episode_1")


def soft_link_to_the_infos(group: h5py.Group, _: Path) -> None:
    del group["infos"]
    group["infos"] = h5py.SoftLink("/episode_0/infos")


def external_storage(group: h5py.Group, folder: Path) -> None:
    del group["actions"]
    raw = [(folder / "secret.raw", 0, SECRET.nbytes)]
    group.create_dataset("actions", shape=(5, 3), dtype=np.float32, external=raw)


def virtual(group: h5py.Group, folder: Path) -> None:
    del group["actions"]
    layout = h5py.VirtualLayout((5, 3), np.float32)
    layout[:] = h5py.VirtualSource(folder / "secret.hdf5", "actions", (5, 3))
    group.create_virtual_dataset("actions", layout)


@pytest.mark.parametrize("change", [soft_link, external_link, external_link_to_a_group, soft_link_to_the_infos])
def test_links_that_lead_elsewhere(store_path: Path, change: Change) -> None:
    assert "is a link that leads elsewhere" in refusal(store_path, change)


@pytest.mark.parametrize("change", [external_storage, virtual])
def test_values_kept_elsewhere(store_path: Path, change: Change) -> None:
    assert "keeps its values elsewhere" in refusal(store_path, change)


def test_a_group_that_holds_itself(store_path: Path) -> None:
    def cycle(group: h5py.Group, _: Path) -> None:
        del group["infos"]
        group["infos"] = group

    assert "does not hold just" in refusal(store_path, cycle)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("actions", shape=(5, 3), dtype=h5py.vlen_dtype(np.uint8)), "is object"),
        (put("actions", shape=(5, 3), dtype=h5py.ref_dtype), "is object"),
        (put("actions", shape=(5, 3), dtype=np.float64), "is float64"),
        (put("rewards", shape=(6,), dtype=np.float32), r"is float32 (6,)"),
        (put("rewards", shape=(5,), dtype=np.float32, chunks=(5,), compression="lzf"), "another filter"),
        (put("rewards", shape=(5,), dtype=np.float32, chunks=(5,), shuffle=True), "another filter"),
        (put("rewards", shape=(5,), maxshape=(None,), dtype=np.float32, chunks=(2**28,)), "has chunks of"),
        (lambda group, _: group.create_dataset("more", data=1), "does not hold just"),
        (lambda group, _: group["infos"].create_dataset("more", data=1), "does not hold just"),
        (lambda group, _: group.pop("rewards"), "does not hold just"),
        (lambda group, _: group.attrs.create("policy", ["a", "b"]), "is not of type str"),
        (lambda group, _: group.attrs.create("policy", "a" * 1000), "has 1000 characters"),
        (lambda group, _: group.attrs.create("seed", 1.5), "is not of type int"),
        (lambda group, _: group.attrs.pop("sha256"), "is missing or damaged"),
        (lambda group, _: group.file.move("episode_1", "episode_2"), "is missing or damaged"),
        (lambda group, _: group.file.create_dataset("episode_2", data=1), "is not a group"),
        (lambda group, _: group["truncations"].write_direct(np.zeros(5, np.bool_)), "an episode ends at its last"),
    ],
)
def test_what_is_not_ours(store_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(store_path, change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("actions", data=np.array([0, 1, 2, 3, 5])), "has an action beyond the 5 that there are"),
        (put("actions", data=np.array([0, 1, 2, 3, -1])), "numbers from 0 on"),
        (put("actions", shape=(5,), dtype=np.int32), "is int32"),
        (put("actions", shape=(5,), dtype=np.float32), "is float32"),
        (put("actions", shape=(5, 5), dtype=np.float32), "is float32 (5, 5)"),
        (put("actions", shape=(5, 1), dtype=np.int64), "is int64 (5, 1)"),
    ],
)
def test_what_are_not_our_discrete_actions(
    tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode, change: Change, reason: str
) -> None:
    path = write_store(tmp_path / "x", [make_episode(number, 5, discrete=True) for number in range(2)])
    assert reason in refusal(path, change)


def test_metadata_of_the_other_kind(store_path: Path) -> None:
    metadata = store_path / "metadata.json"
    tree = json.loads(metadata.read_text())
    tree["dreamer"]["view"].update(continuous=False)
    metadata.write_text(json.dumps(tree))
    with pytest.raises(StageError, match="not those of one-hot vectors"):
        EpisodeStore.open(store_path)
    tree["dreamer"]["view"].update(action_low=[0] * 5, action_high=[1] * 5)
    metadata.write_text(json.dumps(tree))
    with (
        pytest.raises(StageError, match=r"is float32 \(5, 3\), not int64 \(5,\)"),
        EpisodeStore.open(store_path) as store,
    ):
        store.read_decisions(0)


def test_a_declared_size_is_not_believed(store_path: Path) -> None:
    def claim(group: h5py.Group, _: Path) -> None:
        rows = 2 * 10**9
        del group["observations"]
        group.create_dataset("observations", (rows, 3, 8, 8), np.uint8, chunks=(16, 3, 8, 8), compression="gzip")
        group.attrs["total_steps"] = rows - 1

    assert "claims to have 1999999999 decisions" in refusal(store_path, claim)


def test_a_damaged_picture(store_path: Path) -> None:
    data = store_path / "main_data.hdf5"
    with h5py.File(data) as file:
        chunk = file["episode_1/observations"].id.get_chunk_info(0)
    content = bytearray(data.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    data.write_bytes(content)
    assert "episode_1/observations is damaged" in refusal(store_path, lambda *_: None)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_file_that_is_no_hdf5(store_path: Path, content: bytes) -> None:
    (store_path / "main_data.hdf5").write_bytes(content)
    with pytest.raises(StageError, match="not an HDF5 file, or damaged; collect it anew"):
        EpisodeStore.open(store_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tree: tree.clear(), "does not say how the episodes came about"),
        (lambda tree: tree["dreamer"].update(format=2), "has data format 2, this version reads 1"),
        (lambda tree: tree["dreamer"].pop("view"), "cannot be read"),
        (lambda tree: tree["dreamer"]["view"].update(size=10**6), "cannot be read"),
        (lambda tree: tree["dreamer"]["view"].update(action_low=[0.0]), "bounds of an action differ"),
        (lambda tree: tree["dreamer"].update(surprise=1), "cannot be read"),
        (lambda tree: tree.update(padding="x" * 2**24), "larger than"),
    ],
)
def test_metadata_that_is_not_ours(store_path: Path, change: Callable[[dict], object], reason: str) -> None:
    metadata = store_path / "metadata.json"
    tree = json.loads(metadata.read_text())
    change(tree)
    metadata.write_text(json.dumps(tree))
    with pytest.raises(StageError, match=reason) as caught:
        EpisodeStore.open(store_path)
    assert "\n" not in str(caught.value)
    metadata.write_text("{")
    with pytest.raises(StageError, match=r"metadata.json cannot be read"):
        EpisodeStore.open(store_path)
