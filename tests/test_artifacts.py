"""Run folders: names, atomic writes, lineage, weights that are numbers only."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
import torch

from pipeline.artifacts import (
    Manifest,
    Run,
    StageFolder,
    atomic_path,
    check_name,
    file_hash,
    load_weights,
    save_weights,
    write_text,
)
from pipeline.config import Settings
from pipeline.errors import StageError, UsageError


@pytest.mark.parametrize("name", ["demo", "a", "run-2.b_c", "9" * 64])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "-x", ".hidden", "a b", "x\n", "é", "9" * 65, "a\x1b[2J"]
)
def test_bad_names_never_become_paths(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        Run.named(name)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    return Run(tmp_path / "demo").world


def finish(folder: StageFolder, manifest: Manifest) -> None:
    write_text(folder.weights, "numbers")
    folder.write_manifest(replace(manifest, complete=True, outputs={folder.weights.name: file_hash(folder.weights)}))


def test_what_is_finished_and_unchanged_is_accepted(folder: StageFolder) -> None:
    manifest, _ = folder.start(Settings(), ("seed", "world"), {"data": "abc"})
    finish(folder, manifest)
    assert folder.require({"data": "abc"}).inputs == {"data": "abc"}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("nothing made", r"world is missing; run `dreamer fit-world --run demo`$"),
        ("unfinished", r"world is unfinished .*to go on"),
        ("stale", r"made from another data than there is now; run `dreamer fit-world --run demo --fresh`"),
        ("changed", r"model\.safetensors is missing or changed since"),
        ("deleted", r"model\.safetensors is missing or changed since"),
        ("nonsense", r"manifest\.json is damaged"),
        ("future", r"manifest\.json has format 99, this version reads"),
    ],
)
def test_what_is_not_is_refused_with_its_cure(folder: StageFolder, harm: str, message: str) -> None:
    digest = "abc"
    if harm != "nothing made":
        manifest, _ = folder.start(Settings(), ("seed", "world"), {"data": "abc"})
        if harm != "unfinished":
            finish(folder, manifest)
    path = folder.path / "manifest.json"
    if harm == "stale":
        digest = "def"
    elif harm == "changed":
        folder.weights.write_text("other numbers")
    elif harm == "deleted":
        folder.weights.unlink()
    elif harm == "nonsense":
        path.write_text('{"stage": 1, "unknown": 2}')
    elif harm == "future":
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(StageError, match=message):
        folder.require({"data": digest})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": {"../../etc/passwd": "0" * 64}}, "cannot be the name of a file"),
        ({"outputs": {"/dev/zero": "0" * 64}}, "cannot be the name of a file"),
        ({"outputs": ["model.safetensors"]}, r"outputs = .* is not valid"),
        ({"outputs": {}}, "does not name model.safetensors"),
        ({"done": "many"}, "done = 'many' is not valid"),
        ({"facts": None}, "facts = None is not valid"),
        ({"inputs": {"data": 7}}, r"inputs\.data = 7 is not valid"),
        ({"stage": "x" * 2**20}, "larger than"),
        ({"surprise": "\x1b[2J"}, "surprise"),
    ],
)
def test_a_manifest_that_no_stage_wrote_is_refused(
    folder: StageFolder, change: dict[str, object], message: str
) -> None:
    manifest, _ = folder.start(Settings(), ("seed", "world"), {"data": "abc"})
    finish(folder, manifest)
    path = folder.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StageError, match=message) as caught:
        folder.require({"data": "abc"})
    assert str(caught.value).endswith("run `dreamer fit-world --run demo --fresh`")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("left", ["model.safetensors", "training_state.pt"])
def test_weights_without_a_manifest_are_not_written_over(folder: StageFolder, left: str) -> None:
    write_text(folder.path / left, "numbers")
    with pytest.raises(
        StageError, match=r"has weights, but no manifest\.json; run `dreamer fit-world --run demo --fresh`"
    ):
        folder.start(Settings(), ("seed", "world"), {"data": "abc"})
    with folder.writing():
        folder.start(Settings(), ("seed", "world"), {"data": "abc"}, fresh=True)
        assert not (folder.path / left).exists()


def test_the_cure_of_what_is_made_in_one_go_has_no_fresh(folder: StageFolder) -> None:
    evaluation = Run(folder.path.parent).evaluation
    write_text(evaluation.path / "manifest.json", "nonsense")
    with pytest.raises(StageError, match=r"run `dreamer evaluate --run demo`$"):
        evaluation.read_manifest()


def test_a_stage_beyond_the_runs_is_not_written(tmp_path: Path) -> None:
    for name in ("artifacts/theirs", "artifacts/mine/world", "home"):
        (tmp_path / name).mkdir(parents=True)
    run = Run(tmp_path / "artifacts" / "theirs")
    run.world.path.symlink_to(tmp_path / "artifacts" / "mine" / "world")
    assert run.world.path.is_symlink(), "the world model of another run may be used"
    (run.root / "policy").symlink_to(tmp_path / "home")
    with pytest.raises(StageError, match="policy is a link to a folder beyond the runs"):
        _ = run.policy


def begin(
    folder: StageFolder,
    settings: Settings,
    sections: tuple[str, ...],
    inputs: dict[str, str],
    *,
    complete: bool = False,
) -> None:
    """One update has been done, or all."""
    manifest, _ = folder.start(settings, sections, inputs)
    folder.write_manifest(replace(manifest, done=1, complete=complete))


class TestStart:
    def test_goes_on_with_the_same_settings_and_more_updates(self, folder: StageFolder) -> None:
        settings = Settings().with_value("world.precision", "float32")
        begin(folder, settings, ("seed", "world"), {"data": "abc"}, complete=True)
        asked = Settings().with_value("world.updates", 77).with_value("policy.lam", 0.1)
        _, resolved = folder.start(asked, ("seed", "world"), {"data": "abc"})
        assert resolved == asked.with_value("world.precision", "float32")
        assert folder.read_settings() == settings, "only a stage that has work to do writes them"

    def test_updates_planned_by_time_are_kept(self, folder: StageFolder) -> None:
        manifest, settings = folder.start(Settings().with_value("world.updates", 300), ("world",), {}, minutes=5.0)
        assert settings.world.updates == 300
        folder.write_manifest(replace(manifest, done=100))
        asked = Settings().with_value("world.updates", 4000)
        assert folder.start(asked, ("world",), {}, minutes=5.0)[1].world.updates == 300
        with pytest.raises(UsageError, match=r"world\.updates = 300, not 4000"):
            folder.start(asked, ("world",), {})
        folder.write_manifest(replace(manifest, done=300, complete=True))
        assert folder.start(asked, ("world",), {})[1].world.updates == 4000

    def test_other_settings_are_refused(self, folder: StageFolder) -> None:
        begin(folder, Settings(), ("seed", "world"), {"data": "abc"})
        with pytest.raises(UsageError, match=r"begun with seed = 0, not 1"):
            folder.start(Settings().with_value("seed", 1), ("seed", "world"), {"data": "abc"})

    def test_what_was_refused_before_its_first_update_holds_nothing(self, folder: StageFolder) -> None:
        folder.start(Settings(), ("seed", "world"), {"data": "abc"})
        (folder.path / "settings.toml").write_text("[world]\nupdates = -1\n")
        other = Settings().with_value("seed", 1)
        manifest, resolved = folder.start(other, ("seed", "world"), {"data": "def"})
        assert (manifest.inputs, resolved, folder.read_settings()) == ({"data": "def"}, other, other)

    def test_other_inputs_are_refused(self, folder: StageFolder) -> None:
        begin(folder, Settings(), ("seed", "world"), {"data": "abc"})
        with pytest.raises(StageError, match="another data than there is now"):
            folder.start(Settings(), ("seed", "world"), {"data": "def"})

    def test_fresh_forgets_everything(self, folder: StageFolder) -> None:
        manifest, _ = folder.start(Settings(), ("seed", "world"), {"data": "abc"})
        finish(folder, manifest)
        with folder.writing():
            again, _ = folder.start(Settings().with_value("seed", 1), ("seed", "world"), {"data": "def"}, fresh=True)
            assert not folder.weights.exists()
            assert again == Manifest("fit-world", {"data": "def"})
            folder.state.touch()
        assert not folder.replaced.exists() and not folder.weights.exists()

    def test_what_fresh_replaces_comes_back_without_a_checkpoint(self, folder: StageFolder) -> None:
        manifest, _ = folder.start(Settings(), ("seed", "world"), {"data": "abc"})
        finish(folder, manifest)
        with folder.writing():
            folder.start(Settings().with_value("seed", 1), ("seed", "world"), {"data": "def"}, fresh=True)
        assert folder.require({"data": "abc"}) and not folder.replaced.exists()

    def test_fresh_replaces_a_link_and_not_what_it_leads_to(self, folder: StageFolder, tmp_path: Path) -> None:
        theirs = Run(tmp_path / "theirs").world
        manifest, _ = theirs.start(Settings(), ("seed", "world"), {"data": "abc"})
        finish(theirs, manifest)
        folder.path.parent.mkdir()
        folder.path.symlink_to(theirs.path)
        with folder.writing():
            folder.start(Settings(), ("seed", "world"), {"data": "def"}, fresh=True)
            folder.state.touch()
        assert theirs.require({"data": "abc"}) and not folder.path.is_symlink()

    def test_settings_of_before_there_were_some_have_them_as_it_was_then(self, folder: StageFolder) -> None:
        begin(folder, Settings(), ("seed", "policy"), {"data": "abc"})
        told = Settings().model_dump()
        del told["model"]["fine"], told["policy"]["steepness"], told["evaluate"]["particles"]
        (folder.path / "settings.toml").write_text(tomli_w.dumps(told))
        then = Settings().with_value("model.fine", False).with_value("policy.steepness", 1.0)
        then = then.with_value("evaluate.particles", 1)
        assert folder.read_settings() == then != Settings()
        folder.start(then, ("seed", "policy"), {"data": "abc"})
        with pytest.raises(UsageError, match=r"begun with policy\.steepness = 1\.0, not 15\.0"):
            folder.start(Settings(), ("seed", "policy"), {"data": "abc"})

    def test_damaged_settings_are_refused(self, folder: StageFolder) -> None:
        begin(folder, Settings(), ("seed", "world"), {"data": "abc"})
        (folder.path / "settings.toml").write_text("[world]\nupdates = -1\n")
        with pytest.raises(StageError, match=r"settings\.toml cannot be read .*world\.updates = -1"):
            folder.start(Settings(), ("seed", "world"), {"data": "abc"})


def test_weights_round_trip_with_their_header(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensor = torch.randn(3, 4).T  # not contiguous
    save_weights(path, {"a": tensor}, {"kind": "test", "low": [0.5]})
    tensors, header = load_weights(path)
    assert torch.equal(tensors["a"], tensor)
    assert header == {"kind": "test", "low": [0.5]}


def _safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _tensor(shape: list[int], *offsets: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


_OURS = {"__metadata__": {"dreamer": "{}"}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_safetensors(_OURS | {"a": _tensor([2], 0, 8), "b": _tensor([2], 4, 12)}, bytes(12)), "invalid offset"),
        (_safetensors(_OURS | {"a": _tensor([2**40], 0, 2**42)}, bytes(8)), "not fully covered"),
        (_safetensors(_OURS | {"a": _tensor([2**62, 8], 0, 0)}), "overflow"),
        (_safetensors(_OURS | {"a": _tensor([2], 0, 8)}, bytes(100)), "not fully covered"),
        (_safetensors(_OURS | {"a": _tensor([1], 0, 8, dtype="object")}, bytes(8)), "unknown variant"),
        (_safetensors(_OURS, length=2**63), "more than 1048576 bytes to describe"),
        (_safetensors(_OURS | {str(n): _tensor([0], 0, 0) for n in range(2**15)}), "more than 1048576 bytes"),
        (_safetensors({}), "dreamer"),
        (_safetensors({"__metadata__": {"dreamer": "[" * 10**5}}), "nested too deeply"),
        (_safetensors({"__metadata__": {"dreamer": "7"}}), "not a JSON object"),
    ],
    ids=range(10),
)
def test_a_hostile_weights_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(StageError, match=rf"not a weights file of this project \(.*{reason}"):
        load_weights(path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100, b"\x80\x04\x95pickle"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(StageError, match="not a weights file of this project"):
        load_weights(path)


@pytest.mark.parametrize(
    "data",
    [
        7,
        [3],
        [{"name": "a"}],
        [{"name": "a", "sha256": "b", "kind": "mixed"}],
        [{"name": "a", "sha256": "b", "decisions": -1}],
    ],
)
def test_data_sets_that_are_told_otherwise_are_refused(tmp_path: Path, data: object) -> None:
    folder = StageFolder(tmp_path / "world", "dreamer fit-world --run x")
    folder.write_manifest(Manifest("fit-world", facts={"data": data}))
    with pytest.raises(StageError, match=r"manifest\.json is damaged"):
        folder.read_manifest()
