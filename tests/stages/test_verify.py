"""Each harm is done to a copy of a whole data set or run, and `verify` finds it and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from pipeline.artifacts import Run, file_hash, load_weights, save_weights
from pipeline.config import resolve
from pipeline.envs.car_racing.scores import DriveScore
from pipeline.episodes.metadata import Origin
from pipeline.episodes.recording import record_episode
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import UsageError
from pipeline.scores import Report
from pipeline.stages.verify import verify

Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = resolve("tiny", values=[("collect.limit", 3)])
    path = tmp_path_factory.mktemp("data") / "drives"
    with EpisodeStore.create(path, Origin.of(settings)) as writer:
        for number in range(3):
            writer.append(record_episode(settings, number))
    return path


@pytest.fixture
def data(whole_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_data, tmp_path / "data" / "drives"))


@pytest.fixture
def run(tiny_run: Run, data: Path, tmp_path: Path) -> Run:
    """World, policy and evaluation, and the data set that they name."""
    run = Run(Path(shutil.copytree(tiny_run.root, tmp_path / "artifacts" / "tiny")))
    with EpisodeStore.open(data) as store:
        inputs = {"data": store.fingerprint}
    shutil.copy(run.world.weights, run.world.path / "last.safetensors")
    outputs = {name: file_hash(run.world.path / name) for name in ("model.safetensors", "last.safetensors")}
    _edit(run.world.path, inputs=inputs, outputs=outputs, facts={"data": "drives"})
    hashes = {"world": file_hash(run.world.weights), "policy": file_hash(run.policy.weights)}
    facts = {"tiles": 8, "track_tiles": 300, "lap_finished": False, "left_field": False, "truncated": True}
    scores = [DriveScore(track, 10.0 * track, 9, **facts) for track in (1, 2)]
    report = Report({"list": "report", "tracks": [1, 2], "actions": "deterministic", **hashes}, {"policy": scores}, {})
    run.evaluation.path.mkdir()
    (run.evaluation.path / "evaluation.json").write_text(json.dumps(report.as_json()))
    run.evaluation.write_settings(resolve("tiny"))
    manifest = run.world.read_manifest()
    assert manifest is not None
    outputs = {"evaluation.json": file_hash(run.evaluation.path / "evaluation.json")}
    run.evaluation.write_manifest(replace(manifest, stage="evaluate", inputs=hashes, outputs=outputs))
    return run


def _edit(folder: Path, **changes: object) -> None:
    """Change a manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _sign(folder: Path, name: str) -> None:
    """Give the manifest the hash that a file has now, as somebody would who wants to be believed."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["outputs"][name] = file_hash(folder / name)
    path.write_text(json.dumps(manifest))


def test_a_whole_data_set_is_sound(data: Path) -> None:
    before = {path: path.read_bytes() for path in data.iterdir()}
    verdict = verify(data)
    assert (verdict.kind, verdict.sound, verdict.warnings) == ("data set", True, [])
    assert verdict.fine[0] == "3 of 3 episodes are what was recorded, by their SHA-256"
    assert {path: path.read_bytes() for path in data.iterdir()} == before, "it changes nothing"


def test_a_whole_run_is_sound(run: Run, data: Path) -> None:
    verdict = verify(run.root, data.parent)
    assert (verdict.kind, verdict.faults, verdict.warnings) == ("run", [], [])
    assert any("last.safetensors fits its settings" in line for line in verdict.fine)
    assert any("policy/model.safetensors fits the world model" in line for line in verdict.fine)
    assert json.loads(json.dumps(verdict.as_json()))["sound"] is True


def test_neither_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a data set nor a run"):
        verify(tmp_path)


def flip(path: Path, episode: int) -> None:
    with h5py.File(path / "main_data.hdf5", "r+") as file:
        file[f"episode_{episode}/rewards"][0] += 1


def test_every_damaged_episode_is_named_and_the_others_are_counted(data: Path) -> None:
    flip(data, 0)
    flip(data, 2)
    verdict = verify(data)
    assert [f"episode_{n} has changed" in fault for n, fault in zip((0, 2), verdict.faults, strict=True)] == [True] * 2
    assert verdict.fine[0].startswith("1 of 3 episodes")


def _metadata(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((path / "metadata.json").read_text())
    change(tree)
    (path / "metadata.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: (path / "metadata.json").unlink(), "metadata.json cannot be read"),
        (lambda path: (path / "main_data.hdf5").write_bytes(b""), "not an HDF5 file"),
        (lambda path: _metadata(path, lambda tree: tree.update(total_steps=1)), "does not tell the number"),
        (lambda path: (path / "theirs").symlink_to("/etc/passwd"), "theirs is a link that leads out of"),
        (lambda path: (path / "up").symlink_to(".."), "up is a link that leads out of"),
        (lambda path: os.mkfifo(path / "pipe"), "pipe is neither a file nor a folder"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_found(data: Path, harm: Harm, message: str) -> None:
    harm(data)
    verdict = verify(data)
    assert len(verdict.faults) == 1 and message in verdict.faults[0]


def test_a_data_set_under_way_is_sound(data: Path) -> None:
    settings = resolve("tiny", values=[("collect.limit", 3)])
    writer = EpisodeStore.extend(data)
    writer.append(record_episode(settings, 3))
    writer.release()
    verdict = verify(data)
    assert verdict.sound and "1 whole episodes wait in" in verdict.warnings[0]
    (data / "pending" / "episode_3.hdf5").write_bytes(b"cut")
    assert not verify(data).sound
    EpisodeStore.create(data.with_name("empty"), Origin.of(settings)).close()
    assert "holds no episodes yet" in verify(data.with_name("empty")).warnings[0]


def test_data_of_another_gymnasium_is_used_with_a_warning(data: Path) -> None:
    _metadata(data, lambda tree: tree["dreamer"].update(gymnasium="1.3.0"))
    verdict = verify(data)
    assert verdict.sound and "recorded with gymnasium 1.3.0" in verdict.warnings[0]


def _poison(folder: Path, value: float) -> None:
    """Weights that are not finite, with a manifest that vouches for them."""
    tensors, header = load_weights(folder / "model.safetensors")
    next(iter(tensors.values())).flatten()[0] = value
    save_weights(folder / "model.safetensors", tensors, header)
    _sign(folder, "model.safetensors")


def _of_another(run: Path) -> None:
    """The actor of another world model, with a manifest that vouches for it."""
    tensors, header = load_weights(run / "policy" / "model.safetensors")
    save_weights(run / "policy" / "model.safetensors", tensors, header | {"world": "f" * 64})
    _sign(run / "policy", "model.safetensors")
    _edit(run / "evaluation", inputs={})  # which names the former actor


def _better(run: Path, signed: bool) -> None:
    path = run / "evaluation" / "evaluation.json"
    tree = json.loads(path.read_text())
    tree["drives"]["policy"]["summary"]["mean"] = 900.0
    path.write_text(json.dumps(tree))
    if signed:
        _sign(run / "evaluation", "evaluation.json")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: (run / "world" / "last.safetensors").unlink(), "last.safetensors is missing"),
        (lambda run: (run / "world" / "last.safetensors").write_bytes(b"x"), "damaged or was changed, by its SHA-256"),
        (lambda run: (run / "policy" / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda run: (run / "policy" / "settings.toml").write_text("seed = -1"), "settings.toml cannot be read"),
        (lambda run: (run / "world" / "metrics.jsonl").write_text("x\n"), "metrics.jsonl is damaged in line 1"),
        (
            lambda run: (run / "world" / "metrics.jsonl").write_text('{"step": 2}\n{"step": 2}\n'),
            "steps twice or out of order",
        ),
        (lambda run: _edit(run / "policy", inputs={"world": "0" * 64}), "policy was made from another world"),
        (lambda run: _edit(run / "evaluation", inputs={"policy": "0" * 64}), "another policy than there is now"),
        (lambda run: _edit(run / "world", inputs={"data": "0" * 64}), "world was made from another data"),
        (lambda run: _edit(run / "world", facts={"data": "../../etc"}), "cannot name a data set"),
        (lambda run: _better(run, signed=False), "evaluation.json is damaged or was changed"),
        (lambda run: _better(run, signed=True), "a mean score is given as 900.0 where it is 15.0"),
        (lambda run: (run / "theirs").symlink_to("/"), "is a link that leads out of"),
    ],
)
def test_what_is_wrong_with_a_run_is_found(run: Run, data: Path, harm: Harm, message: str) -> None:
    harm(run.root)
    verdict = verify(run.root, data.parent)
    assert any(message in fault for fault in verdict.faults), verdict.faults
    assert not verdict.sound and all("\n" not in fault for fault in verdict.faults)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("stage", ["world", "policy"])
def test_weights_that_are_not_finite_are_found_though_their_hash_is_right(
    run: Run, data: Path, stage: str, value: float
) -> None:
    _poison(run.root / stage, value)
    assert any("not finite" in fault for fault in verify(run.root, data.parent).faults)


def test_an_actor_of_another_world_model_is_found(run: Run, data: Path) -> None:
    _of_another(run.root)
    assert any("names another world model" in fault for fault in verify(run.root, data.parent).faults)


def _of_another_environment(folder: Path, env: str) -> None:
    """Weights that name another environment, with a manifest that vouches for them."""
    for name in ("model.safetensors", "last.safetensors"):
        tensors, header = load_weights(folder / name)
        header["view"]["env"] = env
        save_weights(folder / name, tensors, header)
        _sign(folder, name)


def test_code_that_an_evaluation_would_import_is_named(run: Run, data: Path) -> None:
    _of_another_environment(run.root / "world", "theirs:CarRacing-v3")
    verdict = verify(run.root, data.parent)
    assert any("the module theirs is imported" in warning for warning in verdict.warnings)
    assert any("another view than" in fault and "settings.toml tells" in fault for fault in verdict.faults)


def test_what_is_not_done_yet_is_no_fault(run: Run, tmp_path: Path) -> None:
    shutil.rmtree(run.evaluation.path)
    _edit(run.policy.path, complete=False)
    verdict = verify(run.root, tmp_path / "elsewhere")
    assert verdict.sound
    assert [text in warning for text, warning in zip(("unfinished", "is not here"), verdict.warnings, strict=True)]


def test_the_resume_state_is_left_closed(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.world.path / "training_state.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    assert verify(run.root, data.parent).sound


def test_a_verdict_is_plain(data: Path) -> None:
    verdict = verify(data)
    assert verdict.as_json() == {"sound": True, **asdict(verdict)}
