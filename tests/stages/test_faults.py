"""What a machine and its user can do to a stage: a full or read-only disk, too little memory, two commands at once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from test_fitting_stages import CPU, TINY, same_state, write_data

from pipeline import console, processes
from pipeline.artifacts import Run, StageFolder, file_hash
from pipeline.config import Settings, resolve
from pipeline.devices import deterministic
from pipeline.episodes.store import EpisodeStore, EpisodeWriter, lock_of
from pipeline.errors import BusyError, DreamerError, StageError, UsageError, of_the_machine
from pipeline.learning.precision import resolve_precision
from pipeline.locks import Lock, reading
from pipeline.stages import forecast
from pipeline.stages.collect import collect
from pipeline.stages.evaluate import evaluate
from pipeline.stages.fit_policy import fit_policy
from pipeline.stages.fit_world import fit_world
from pipeline.stages.probe import probe
from pipeline.stages.show_encodings import show_encodings
from pipeline.stages.show_futures import show_futures


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "artifacts" / "run")


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of both fits. Shared: only read it."""
    run = Run(tmp_path_factory.mktemp("artifacts") / "run")
    fit_world(longer(2), run=run, data=data, device=CPU)
    fit_policy(TINY.with_value("policy.updates", 2), run=run, data=data, device=CPU)
    return run


def longer(updates: int) -> Settings:
    return TINY.with_value("world.updates", updates)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in folder.iterdir()}


# The disk


@contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    """Within it, this process may not have more of something."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(data: Path, run: Run, tmp_path: Path) -> None:
    fit_world(longer(4), run=run, data=data, device=CPU)
    before = hashes(run.world.path)
    with limit(resource.RLIMIT_FSIZE, 20_000), pytest.raises(DreamerError) as caught:
        fit_world(TINY, run=run, data=data, device=CPU)
    assert str(caught.value).startswith(f"{run.world.state} cannot be written, for it becomes larger than a file")
    after, beyond = hashes(run.world.path), {"settings.toml": "", "metrics.jsonl": ""}
    assert after | beyond == before | beyond
    fit_world(TINY, run=run, data=data, device=CPU)
    other = Run(tmp_path / "other")
    fit_world(longer(4), run=other, data=data, device=CPU)
    fit_world(TINY, run=other, data=data, device=CPU)
    assert same_state(run.world.state, other.world.state)
    assert console.read_lines(run.world.metrics) == console.read_lines(other.world.metrics)


def test_weights_that_cannot_be_written_are_written_next_time(data: Path, run: Run) -> None:
    with limit(resource.RLIMIT_FSIZE, 10**9):
        fit_world(longer(2), run=run, data=data, device=CPU)
    weights, size = file_hash(run.world.weights), run.world.weights.stat().st_size
    (run.world.path / "manifest.json").write_text(
        (run.world.path / "manifest.json").read_text().replace('"complete": true', '"complete": false')
    )
    with limit(resource.RLIMIT_FSIZE, size // 2), pytest.raises(DreamerError, match=r"last\.safetensors cannot be"):
        fit_world(longer(2), run=run, data=data, device=CPU)
    assert fit_world(longer(2), run=run, data=data, device=CPU).complete and file_hash(run.world.weights) == weights


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Gives a small disk with options such as `size=1m` or `ro`; called again, changes them."""
    path, mounted = tmp_path / "disk", False

    def mount(options: str) -> Path:
        nonlocal mounted
        path.mkdir(exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"remount,{options}" if mounted else options, "dreamer", str(path)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a disk, and not everywhere")
        mounted = True
        return path

    yield mount
    if mounted:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_keeps_the_finished_episodes(disk: Callable[[str], Path], tmp_path: Path) -> None:
    settings = resolve("tiny", values=[("collect.decisions", 300)])
    root = disk("size=400k")
    with pytest.raises(DreamerError, match="cannot be written, for the disk is full"):
        collect(settings, name="drives", root=root, workers=1)
    kept = len(list((root / "drives" / "pending").glob("episode_*.hdf5")))
    assert kept
    disk("size=64m")
    with EpisodeStore.extend(root / "drives") as writer:
        assert len(writer) == kept
    path = collect(settings, name="drives", root=root, workers=1)
    whole = collect(settings, name="drives", root=tmp_path, workers=1)
    with EpisodeStore.open(path) as one, EpisodeStore.open(whole) as other:
        assert one.fingerprint == other.fingerprint
    assert {file.name for file in path.iterdir()} == {file.name for file in whole.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["world", "encodings", "policy", "evaluation"])
def test_on_a_full_disk_no_stage_harms_what_is_there(
    name: str, disk: Callable[[str], Path], data: Path, fitted: Run
) -> None:
    root = disk("size=256m")
    run = Run(Path(shutil.copytree(fitted.root, root / "run")))
    one_track = resolve("tiny", values=[("evaluate.tracks", 1)])
    make: dict[str, Callable[[], object]] = {
        "world": lambda: fit_world(longer(4), run=run, data=data, device=CPU),
        "encodings": lambda: show_encodings(TINY, run=run, data=data, device=CPU),
        "policy": lambda: fit_policy(TINY.with_value("policy.updates", 4), run=run, data=data, device=CPU),
        "evaluation": lambda: evaluate(one_track, run=run, workers=1),
    }
    before = {path: file_hash(path) for path in run.root.rglob("*.*") if path.is_file()}
    disk(f"size={shutil.disk_usage(root).used}")
    with pytest.raises((DreamerError, OSError)) as caught:
        make[name]()
    assert "cannot be written, for the disk is full" in str(of_the_machine(caught.value) or caught.value)
    assert {path: file_hash(path) for path in before} == before
    disk("size=256m")
    make[name]()
    assert getattr(run, name).require({}).complete
    assert not [path for path in run.root.rglob(".*") if not path.name.endswith(".lock")]


def test_a_read_only_disk_is_told_and_can_be_read(disk: Callable[[str], Path], data: Path, tiny_run: Run) -> None:
    root = disk("size=64m")
    run = Run(root / "run")
    fit_world(longer(2), run=run, data=data, device=CPU)
    store = Path(shutil.copytree(data, root / "made", ignore=shutil.ignore_patterns(".lock")))
    disk("ro")
    with pytest.raises(OSError) as caught:
        fit_world(TINY, run=run, data=store, device=CPU)
    assert "cannot be written, for the disk is read-only" in str(of_the_machine(caught.value))
    with reading("dreamer evaluate", (lock_of(store), store), (run.world.lock, run.world.path)):
        assert run.world.require({}).done == 2


# Memory


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads how much there is from /proc")
def test_too_little_memory_is_told_and_nothing_is_lost(data: Path, run: Run) -> None:
    fit_world(longer(2), run=run, data=data, device=CPU)
    before = hashes(run.world.path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    torch.ones(8).sum()
    with limit(resource.RLIMIT_AS, used + 2**29), pytest.raises((MemoryError, RuntimeError)) as caught:
        fit_world(resolve("tiny", values=[("world.batch", 4096)]), run=Run(run.root / "large"), data=data, device=CPU)
    assert "There is not enough memory" in str(of_the_machine(caught.value))
    assert hashes(run.world.path) == before


# Workers


@pytest.fixture(params=[signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def harm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """To be called amid the work: does it to a worker process."""

    def harm(*_: object) -> None:
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            os.kill(worker.pid, request.param)
        monkeypatch.setattr(processes, "PATIENCE", 0.2)

    return harm


_LOST = "A worker process was killed|No worker process has answered"


@pytest.mark.slow
def test_collect_keeps_what_was_finished_when_its_worker_fails(
    harm: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, append = resolve("tiny", values=[("collect.decisions", 300)]), EpisodeWriter.append
    with monkeypatch.context() as patch:
        patch.setattr(EpisodeWriter, "append", lambda *args: (append(*args), harm()))
        with pytest.raises(DreamerError, match=_LOST):
            collect(settings, name="drives", root=tmp_path, workers=1)
    assert not multiprocessing.active_children()
    with EpisodeStore.open(tmp_path / "drives") as store:
        kept = [store.read(index).digest() for index in range(len(store))]
    monkeypatch.undo()
    path, whole = (collect(settings, name=name, root=tmp_path, workers=1) for name in ("drives", "whole"))
    with EpisodeStore.open(path) as one, EpisodeStore.open(whole) as other:
        assert one.fingerprint == other.fingerprint
        assert 0 < len(kept) < len(other) and [other.read(index).digest() for index in range(len(kept))] == kept


@pytest.mark.slow
def test_evaluate_writes_nothing_when_its_worker_fails(
    harm: Callable[..., None], fitted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(Path(shutil.copytree(fitted.root, tmp_path / "run")))
    monkeypatch.setattr(console.Meter, "advance_to", harm)
    with pytest.raises(DreamerError, match=_LOST):
        evaluate(resolve("tiny", values=[("evaluate.tracks", 4)]), run=run, workers=1)
    assert not multiprocessing.active_children() and not run.evaluation.path.exists()


# Two commands at once


def test_who_writes_a_stage_keeps_all_others_out(data: Path, run: Run) -> None:
    fit_world(TINY, run=run, data=data, device=CPU)
    before = hashes(run.world.path)
    with Lock(run.world.lock, run.world.path, run.world.command):
        for begin in (
            lambda: fit_world(TINY, run=run, data=data, device=CPU),
            lambda: fit_world(TINY, run=run, data=data, device=CPU, fresh=True),
            lambda: show_encodings(TINY, run=run, data=data, device=CPU),
            lambda: fit_policy(TINY, run=run, data=data, device=CPU),
            lambda: evaluate(TINY, run=run),
            lambda: show_futures(TINY, run=run, data=data, device=CPU),
            lambda: probe(TINY, run=run, data=data, device=CPU),
        ):
            with pytest.raises(BusyError, match=r"world is in use by `dreamer fit-world --run run` \(process"):
                begin()
        assert forecast.show_encodings(TINY)  # a forecast takes no lock
        assert forecast.fit_policy(TINY, run=run, data=data, device=CPU, minutes=None, fresh=False)
    assert hashes(run.world.path) == before
    assert not run.policy.path.exists() and not run.encodings.path.exists()


@pytest.mark.parametrize("name", ["encodings", "policy"])
def test_a_stage_is_made_by_one_command_at_a_time_and_what_it_reads_may_be_read(
    name: str, data: Path, run: Run
) -> None:
    fit_world(TINY, run=run, data=data, device=CPU)
    stage: StageFolder = getattr(run, name)
    make = {"encodings": show_encodings, "policy": fit_policy}[name]
    with run.encodings.writing(), pytest.raises(BusyError, match="encodings is in use by"):
        show_futures(TINY, run=run, data=data, device=CPU, episode=0)
    with stage.writing(), pytest.raises(BusyError, match=f"{name} is in use by"):
        make(TINY, run=run, data=data, device=CPU)
    with reading("dreamer evaluate", (lock_of(data), data), (run.world.lock, run.world.path)):
        assert make(TINY, run=run, data=data, device=CPU).complete


def test_data_that_are_read_are_not_changed_and_those_that_are_written_not_read(data: Path, run: Run) -> None:
    with reading("dreamer fit-world --run run", (lock_of(data), data)), pytest.raises(BusyError) as busy:
        collect(resolve("tiny"), name=data.name, root=data.parent, workers=1, fresh=True)
    assert "made is in use by `dreamer fit-world --run run`" in str(busy.value)
    with EpisodeStore.extend(data), pytest.raises(BusyError, match="made is in use by `dreamer collect --data made`"):
        fit_world(TINY, run=run, data=data, device=CPU)
    assert not run.root.exists()


# Beginnings that were cut short


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("stage", ["world", "policy"])
def test_fresh_loses_nothing_where_it_fails_before_its_first_checkpoint(
    stage: str, killed: bool, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_world(TINY, run=run, data=data, device=CPU)
    fit_policy(TINY, run=run, data=data, device=CPU)
    fit, folder = {"world": fit_world, "policy": fit_policy}[stage], getattr(run, stage)
    before = hashes(folder.path)

    def cut_short(*_: object) -> None:
        raise KeyboardInterrupt

    other = TINY.with_value(f"{stage}.updates", 7)
    with monkeypatch.context() as patch:
        patch.setattr(f"pipeline.stages.fit_{stage}.fit", cut_short)
        if killed:  # nothing is cleared up
            patch.setattr(StageFolder, "_settle", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            fit(other, run=run, data=data, device=CPU, fresh=True)
    assert (folder.replaced if killed else folder.path).exists()
    assert fit(TINY, run=run, data=data, device=CPU).done == 6
    assert hashes(folder.path) == before and not folder.replaced.exists()


def test_what_fresh_replaced_is_gone_after_the_first_checkpoint(
    data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_world(TINY, run=run, data=data, device=CPU)
    other = TINY.with_value("world.learning_rate", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "_settle", lambda _: None)  # killed at the end
        fit_world(other, run=run, data=data, device=CPU, fresh=True)
    assert run.world.replaced.exists()
    assert fit_world(other, run=run, data=data, device=CPU).done == 6
    assert not run.world.replaced.exists()
    assert run.world.read_settings().world.learning_rate == 0.5


@pytest.mark.parametrize("stage", ["world", "policy"])
def test_what_cannot_go_on_keeps_its_settings(stage: str, data: Path, run: Run) -> None:
    fit_world(TINY, run=run, data=data, device=CPU)
    fit_policy(TINY, run=run, data=data, device=CPU)
    fit, folder = {"world": fit_world, "policy": fit_policy}[stage], getattr(run, stage)
    folder.state.unlink()  # as in a run that was exported
    before = hashes(folder.path)
    with pytest.raises(StageError, match=r"training_state\.pt is missing"):
        fit(TINY.with_value(f"{stage}.updates", 7), run=run, data=data, device=CPU)
    assert hashes(folder.path) == before


def test_a_policy_that_does_not_go_with_the_world_model_replaces_none(data: Path, run: Run) -> None:
    fit_world(TINY.with_value("policy.penalty", 0.0).with_value("model.ensemble", 0), run=run, data=data, device=CPU)
    good = TINY.with_value("policy.penalty", 0.0)
    fit_policy(good, run=run, data=data, device=CPU)
    before = hashes(run.policy.path)
    with pytest.raises(UsageError, match=r"policy\.penalty needs a model\.ensemble"):
        fit_policy(TINY, run=run, data=data, device=CPU, fresh=True)
    assert hashes(run.policy.path) == before


@pytest.mark.parametrize("stage", ["world", "policy"])
def test_a_plan_by_minutes_holds_from_its_first_checkpoint_on(
    stage: str, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is written a moment before the manifest."""
    fit = {"world": fit_world, "policy": fit_policy}[stage]
    if stage == "policy":
        fit_world(TINY, run=run, data=data, device=CPU)
    plans = iter((5, 9))
    monkeypatch.setattr(f"pipeline.stages.fit_{stage}.planned_updates", lambda *_: next(plans))
    write = StageFolder.write_manifest

    def cut_short(folder: StageFolder, manifest: object) -> None:
        if folder.state.exists():
            raise KeyboardInterrupt
        write(folder, manifest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "write_manifest", cut_short)
        with pytest.raises(KeyboardInterrupt):
            fit(TINY, run=run, data=data, device=CPU, minutes=1.0)
    assert fit(TINY, run=run, data=data, device=CPU, minutes=1.0).done == 5


def test_what_a_killed_command_has_half_written_is_cleared_up(data: Path, run: Run) -> None:
    fit_world(longer(2), run=run, data=data, device=CPU)
    (run.world.path / ".training_state.pt.abcd1234.pt").write_bytes(b"half")
    (run.world.path / ".mine").write_text("kept")
    fit_world(longer(2), run=run, data=data, device=CPU)
    assert {path.name for path in run.world.path.iterdir() if path.name.startswith(".")} == {".mine"}


# The same again


def test_deterministic_is_recorded_and_kept_to(data: Path, run: Run) -> None:
    settings = TINY.with_value("deterministic", True).with_value("world.precision", "auto")
    fit_world(settings.with_value("world.updates", 2), run=run, data=data, device=CPU)
    recorded = run.world.read_settings()
    assert recorded.deterministic and recorded.world.precision == "float32"
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(UsageError, match="was begun with deterministic = True, not False"):
        fit_world(TINY, run=run, data=data, device=CPU)
    with pytest.raises(UsageError, match="with --deterministic give --updates"):
        fit_world(settings, run=run, data=data, device=CPU, minutes=1.0)


def test_two_runs_are_bitwise_equal_with_it(data: Path, tmp_path: Path) -> None:
    settings = TINY.with_value("deterministic", True).with_value("policy.updates", 4)
    runs = [Run(tmp_path / name) for name in ("one", "other")]
    for run in runs:
        fit_world(settings, run=run, data=data, device=CPU)
        fit_policy(settings, run=run, data=data, device=CPU)
        torch.rand(1)
    for one, other in zip(*([run.world, run.policy] for run in runs), strict=True):
        assert same_state(one.state, other.state) and file_hash(one.weights) == file_hash(other.weights)
        assert console.read_lines(one.metrics) == console.read_lines(other.metrics) != []


def test_within_it_only_deterministic_algorithms_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr("pipeline.learning.precision._seconds", lambda _: pytest.fail("nothing is measured"))
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert resolve_precision("auto", CPU) == "float32"
    assert not torch.are_deterministic_algorithms_enabled()
