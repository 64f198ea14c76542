"""Data files from strangers: what this project would not write is refused before any of it is read."""

from __future__ import annotations

import json
import os
import resource
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.config import ViewSettings
from pipeline.episodes import hdf5
from pipeline.episodes.episode import Episode
from pipeline.episodes.store import EpisodeStore
from pipeline.episodes.windows import Windows
from pipeline.errors import StageError

MakeEpisode = Callable[..., Episode]
WriteStore = Callable[[Path, Sequence[Episode]], Path]
Change = Callable[[h5py.Group, Path], object]

RAGGED = np.array([np.arange(2), np.arange(3)], dtype=object)
SECRET = np.full((5, 3), 7, np.float32)


@pytest.fixture
def store_path(tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode) -> Path:
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["actions"] = SECRET
        file.create_group("episode_1").attrs.update(total_steps=5, sha256="0" * 64)
    SECRET.tofile(tmp_path / "secret.raw")
    return write_store(tmp_path / "x", [make_episode(0, 5), make_episode(1, 5)])


def refusal(path: Path, change: Change, *, whole: bool = True) -> str:
    """Change the second episode, where HDF5 can still open the file, read both, and return the error."""
    if whole:
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
        (put("rewards", shape=(5,), dtype=np.float32, chunks=(5,), compression="lzf"), "stored in another way"),
        (put("rewards", shape=(5,), dtype=np.float32, chunks=(5,), shuffle=True), "stored in another way"),
        (put("rewards", shape=(5,), dtype=np.float32, fletcher32=True), "stored in another way"),
        (put("observations", shape=(6, 3, 8, 8), dtype=np.uint8), "stored in another way"),
        (put("observations", shape=(6, 3, 8, 8), dtype=np.uint8, chunks=(6, 3, 8, 8)), "stored in another way"),
        (put("observations", shape=(6, 3, 8, 8), dtype=np.uint8, chunks=(1, 3, 8, 8), compression=1), "another way"),
        (put("rewards", shape=(5,), maxshape=(None,), dtype=np.float32, chunks=(2**28,)), "stored in another way"),
        (put("observations", shape=(6, 3, 8, 8), dtype=np.uint8, chunks=(6, 3, 8, 8), compression=1), "is damaged"),
        (put("actions", data=np.full((5, 3), np.nan, np.float32)), "finite numbers"),
        (put("rewards", data=np.array([0, 1, np.nan, 0, 0], np.float32)), "finite numbers"),
        (put("rewards", data=np.array([0, 1, np.inf, 0, 0], np.float32)), "finite numbers"),
        (lambda group, _: group["infos/speed"].write_direct(np.full(5, np.nan, np.float32)), "finite numbers"),
        (lambda group, _: group.attrs.create("total_steps", 0), "claims to have 0 decisions"),
        (lambda group, _: group.attrs.create("total_steps", -1), "claims to have -1 decisions"),
        (lambda group, _: group.attrs.create("sha256", "../../x"), "has no SHA-256"),
        (lambda group, _: group.attrs.create("policy", "\x1b[2J\x1b]0;title"), "cannot be printed"),
        (lambda group, _: group.create_dataset("more", data=1), "does not hold just"),
        (lambda group, _: group["infos"].create_dataset("more", data=1), "does not hold just"),
        (lambda group, _: group.pop("rewards"), "does not hold just"),
        (lambda group, _: group.attrs.create("policy", ["a", "b"]), "is not a short text"),
        (lambda group, _: group.attrs.create("more", ["a", "b"]), "is not a short text"),
        (lambda group, _: group.attrs.create("more", "a" * (2**16 + 1)), "is not a short text"),
        (
            lambda group, _: group.attrs.create("more", RAGGED, dtype=h5py.vlen_dtype(int)),
            "neither a number nor a text",
        ),
        (lambda group, _: group.attrs.create("more", group.ref, dtype=h5py.ref_dtype), "neither a number nor a text"),
        (lambda group, _: group.attrs.create("more", (1, 2), dtype="i4,i4"), "neither a number nor a text"),
        (lambda group, _: group.attrs.create("sha256", 7), "is not of type str"),
        (lambda group, _: group["rewards"].attrs.create("more", "a"), "rewards has attributes"),
        (lambda group, _: group["infos"].attrs.create("more", "a"), "infos has attributes"),
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


@pytest.mark.parametrize("content", [{}, {"dreamer": None}, {"dreamer": [[]]}])
def test_metadata_of_another_program(store_path: Path, content: dict[str, object]) -> None:
    (store_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(StageError, match=r"is another program's Minari data set, .*; use another --data"):
        EpisodeStore.open(store_path)


def test_data_that_no_model_here_can_be_fitted_to(store_path: Path, tmp_path: Path) -> None:
    with EpisodeStore.open(store_path) as store, pytest.raises(StageError, match=r"such a view \(view\.size"):
        store.require_view(ViewSettings())
    metadata = store_path / "metadata.json"
    tree = json.loads(metadata.read_text())
    tree["dreamer"]["view"].update(size=64, action_high=[1, 1, 9])
    metadata.write_text(json.dumps(tree))
    with EpisodeStore.open(store_path) as store, pytest.raises(StageError, match="its actions are not CarRacing's"):
        store.require_view(ViewSettings())
    tree["dreamer"]["view"].update(action_high=[1, 1, 1], action_repeat=2)
    metadata.write_text(json.dumps(tree))
    with EpisodeStore.open(store_path) as store:
        store.require_view(ViewSettings(action_repeat=2))
        with pytest.raises(StageError, match="another view than the world model"):
            store.require_view(ViewSettings(action_repeat=4))


def test_episodes_are_not_written_elsewhere(store_path: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (store_path / "pending").symlink_to(tmp_path / "home")
    with pytest.raises(StageError, match="pending is a link that leads elsewhere; remove it"):
        EpisodeStore.extend(store_path)
    assert not list((tmp_path / "home").iterdir())


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


def bomb(content: bytes, cut: int = 0) -> Change:
    """Put bytes that unfold to these in the place of the pictures, without the last few of them."""

    def change(group: h5py.Group, _: Path) -> None:
        del group["observations"]
        creation = {"dtype": np.uint8, "chunks": (6, 3, 8, 8), "compression": "gzip", "compression_opts": 1}
        frames = group.create_dataset("observations", (6, 3, 8, 8), **creation)
        frames.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(content)[: -cut or None])

    return change


@pytest.mark.parametrize("size", [0, 6 * 3 * 64 - 1, 6 * 3 * 64 + 1, 2**20])
def test_pictures_that_unfold_to_another_size(store_path: Path, size: int) -> None:
    assert "do not unfold to their size" in refusal(store_path, bomb(bytes(size)))


def test_pictures_without_their_checksum(store_path: Path) -> None:
    assert "do not unfold to their size" in refusal(store_path, bomb(bytes(6 * 3 * 64), cut=1))


def test_pictures_that_unfold_a_thousandfold(store_path: Path) -> None:
    assert "/episode_1/observations is damaged: rows 0 on take" in refusal(store_path, bomb(bytes(2**26)))


def test_a_file_claims_no_more_than_it_can_hold(store_path: Path) -> None:
    claimed = (store_path / "main_data.hdf5").stat().st_size // 16

    def claim(group: h5py.Group, _: Path) -> None:
        group.attrs["total_steps"] = claimed

    assert f"main_data.hdf5 claims to hold {claimed + 5} decisions" in refusal(store_path, claim)


def heap_of(path: Path) -> tuple[bytearray, int]:
    """A data file's bytes, and where its last collection of texts begins."""
    content = bytearray((path / "main_data.hdf5").read_bytes())
    return content, content.rindex(b"GCOL")


@pytest.mark.parametrize("length", [0, 8, 2**64 - 8, 2**63])
def test_texts_that_hdf5_would_walk_through_for_ever(store_path: Path, length: int) -> None:
    content, heap = heap_of(store_path)
    struct.pack_into("<HHIQ", content, heap + 16, 0, 0, 0, length)
    (store_path / "main_data.hdf5").write_bytes(content)
    assert "a collection of texts in it is damaged" in refusal(store_path, lambda *_: None, whole=False)


def test_a_heap_larger_than_the_file(store_path: Path) -> None:
    content, heap = heap_of(store_path)
    struct.pack_into("<Q", content, heap + 8, 2**40)
    (store_path / "main_data.hdf5").write_bytes(content)
    assert "a collection of texts in it is damaged" in refusal(store_path, lambda *_: None, whole=False)


@pytest.mark.parametrize("name", [b"sha256", b"policy"])
def test_a_text_that_claims_gigabytes(store_path: Path, name: bytes) -> None:
    """HDF5 would fill 4 GiB with zeros before it finds that there is no such text."""
    content = bytearray((store_path / "main_data.hdf5").read_bytes())
    at = content.index(name + bytes(2)) + 8 + 24 + 8
    assert struct.unpack_from("<I", content, at)[0] in (6, 64)
    struct.pack_into("<I", content, at, 2**32 - 1)
    (store_path / "main_data.hdf5").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "is not a short text" in refusal(store_path, lambda *_: None, whole=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17, "kB"


def test_heaps_are_found_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    for place in range(20):
        path.write_bytes(bytes(place) + b"GCOL\x01\0\0\0" + bytes(20) + b"GCOL\x01\0\0\0")
        for block in (8, 9, 16, 2**24):
            monkeypatch.setattr(hdf5, "_BLOCK", block)
            assert list(hdf5._heaps(path)) == [place, place + 28]


@pytest.mark.parametrize(
    "content",
    [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100), b"\x89HDF\r\n\x1a\n" + bytes(5) + b"\x08\x08" + bytes(99)],
)
def test_a_file_that_is_no_hdf5(store_path: Path, content: bytes) -> None:
    (store_path / "main_data.hdf5").write_bytes(content)
    with pytest.raises(StageError, match=r"not an HDF5 file, or damaged \(.*collect it anew"):
        EpisodeStore.open(store_path)


@pytest.mark.parametrize("harm", ["userblock", "latest", "base"])
def test_another_kind_of_hdf5(store_path: Path, harm: str) -> None:
    """Where what is looked through here is not what HDF5 would read."""
    path = store_path / "main_data.hdf5"
    content = bytearray(path.read_bytes())
    if harm == "base":
        content[24] = 8
        path.write_bytes(content)
    elif harm == "userblock":
        path.write_bytes(bytes(512) + content)
    else:
        h5py.File(path, "w", libver="latest").close()
    with pytest.raises(StageError, match="one of another version than this project writes"):
        EpisodeStore.open(store_path)


def test_a_file_cut_short(store_path: Path) -> None:
    content = (store_path / "main_data.hdf5").read_bytes()
    for length in (9, 100, 1000, len(content) // 2, len(content) - 1):
        (store_path / "main_data.hdf5").write_bytes(content[:length])
        with pytest.raises(StageError, match=r"collect it anew"), EpisodeStore.open(store_path) as store:
            store.read(0)
            store.read(1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_a_pipe_is_not_waited_for(store_path: Path, name: str) -> None:
    (store_path / name).unlink()
    os.mkfifo(store_path / name)
    with pytest.raises(StageError, match="is not a file"):
        EpisodeStore.open(store_path)


def test_an_episode_of_one_decision_is_read(tmp_path: Path, write_store: WriteStore, make_episode: MakeEpisode) -> None:
    with EpisodeStore.open(write_store(tmp_path / "x", [make_episode(0, 1), make_episode(1, 1)])) as store:
        assert [len(store.read(index)) for index in range(2)] == [1, 1]
        assert Windows(store, [0, 1], 2, 1.0).sample(np.random.default_rng(0), 3).reward.shape == (3, 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tree: tree["dreamer"]["view"].update(action_low=[float("nan")] * 3), "finite number"),
        (lambda tree: tree["dreamer"]["view"].update(action_low=[5.0] * 3), "lower bound is not below"),
        (lambda tree: tree["dreamer"].update(policy="\x1b[31m<script>"), r"policy = '.x1b\[31m<script>' is not valid"),
        (lambda tree: tree["dreamer"].update(environment="x" * 10**6), "environment = 'xxx"),
        (lambda tree: tree["dreamer"].update(format=2), "has data format 2, this version reads 1"),
        (lambda tree: tree["dreamer"].pop("view"), "view = .* is not valid: field required"),
        (lambda tree: tree["dreamer"]["view"].update(size=10**6), "view.size = 1000000 is not valid"),
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
    assert len(str(caught.value)) < 500
    for content in ("{", "[" * 10**5, '{"a":' * 10**5, "[]", "1" * 5000, "\0"):
        metadata.write_text(content)
        with pytest.raises(StageError, match=r"metadata.json cannot be read"):
            EpisodeStore.open(store_path)
    metadata.write_bytes(b"\xff\xfe{}")
    with pytest.raises(StageError, match=r"metadata.json cannot be read"):
        EpisodeStore.open(store_path)
