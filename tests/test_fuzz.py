"""Thousands of mutated files at every reader: it reads them, or says why not in the project's own words.

A normal run tries a few dozen files a reader, always the same. With `DREAMER_FUZZ=5000` in the environment it is that
many, other ones each time. A reader that hangs or crashes takes the test with it: nothing here would hide it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import scores
from pipeline.artifacts import Run, file_hash
from pipeline.config import read_settings_file, resolve
from pipeline.console import MetricsLog, read_lines
from pipeline.envs.car_racing.actions import action_bounds
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.envs.car_racing.scores import DriveScore
from pipeline.episodes.episode import Episode
from pipeline.episodes.metadata import Origin, View
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import DreamerError
from pipeline.lineage import read_score, trace
from pipeline.models.checkpoints import load_actor, load_world
from pipeline.scores import Promise, Report
from pipeline.stages.verify import verify
from pipeline.viewing import report

FILES = int(os.environ.get("DREAMER_FUZZ", "0"))
_MAX_GROWTH = 2**19  # kB of memory that all of a reader's files may take beside what was taken before
_NUMBERS = [0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31, 2**32 - 1, 2**63, 2**64 - 8, 2**64 - 1]
_WORDS = [
    b"",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"[" * 999,
    b'{"a":' * 999,
    b'"\\u001b[2J"',
    b"\xff\xfe",
    b"\n",
    b"../../x",
]

Changes = Sequence[tuple[str, float, int, bytes]]


@st.composite
def mutations(draw: st.DrawFn) -> Changes:
    """Up to a few changes of a file: what, where (as a share of its length), how long, and with what."""
    kinds = st.sampled_from(["flip", "set", "number", "word", "copy", "delete", "cut"])
    number = st.sampled_from(_NUMBERS).map(lambda value: value.to_bytes(8, "little"))
    content = st.one_of(st.binary(min_size=1, max_size=8), number, st.sampled_from(_WORDS))
    change = st.tuples(kinds, st.floats(0, 1, exclude_max=True), st.integers(1, 256), content)
    return draw(st.lists(change, min_size=1, max_size=4))


def mutate(original: bytes, changes: Changes) -> bytes:
    """Apply `mutations`."""
    content = bytearray(original)
    for kind, share, length, what in changes:
        at = int(share * len(content))
        if kind == "flip" and content:
            content[at] ^= 1 << length % 8
        elif kind == "set":
            content[at : at + 1] = what[:1]
        elif kind == "number":
            content[at : at + len(what)] = what
        elif kind == "word":
            content[at:at] = what
        elif kind == "copy":
            content[at : at + length] = content[length : 2 * length]
        elif kind == "delete":
            del content[at : at + length]
        elif kind == "cut":
            del content[at:]
    return bytes(content)


def throw(path: Path, read: Callable[[], object]) -> None:
    """Give the reader many mutations of the file at `path`."""
    original = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=FILES or 60,
        derandomize=not FILES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations())
    def one(changes: Changes) -> None:
        path.write_bytes(mutate(original, changes))
        try:
            read()
        except DreamerError as error:
            assert "\n" not in str(error) and len(str(error)) < 5000

    one()
    path.write_bytes(original)
    read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MAX_GROWTH


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three short episodes of pictures of 8 x 8, so that most of the file is what HDF5 makes of it."""
    low, high = action_bounds(True)
    view = View(action_repeat=4, size=8, action_low=low, action_high=high)
    origin = Origin(gymnasium="1.4.0", view=view, policy="smooth", patience=9, limit=9, seed=0)
    with EpisodeStore.create(tmp_path / "drives", origin) as writer:
        for number in range(3):
            writer.append(_episode(number, 4 + 9 * number))
    return tmp_path / "drives"


def _episode(number: int, steps: int) -> Episode:
    rng, last = np.random.default_rng(number), np.arange(steps) == steps - 1
    return Episode(
        observations=rng.integers(0, 256, (steps + 1, 3, 8, 8), np.uint8),
        actions=rng.random((steps, 3), np.float32),
        rewards=rng.random(steps, np.float32),
        terminations=last,
        truncations=np.zeros(steps, np.bool_),
        infos={name: rng.integers(0, 2, steps).astype(dtype) for name, dtype in CarRacing.info_types.items()},
        seed=number,
        policy="smooth",
        track_tiles=300,
    )


def read_all(path: Path) -> None:
    """Read a data set in all the ways that there are."""
    with EpisodeStore.open(path) as store:
        assert len(store.fingerprint) == 64
        for index in range(len(store)):
            store.read_decisions(index)
            store.read_frames(index, 1, int(store.lengths[index]))
            store.read(index)


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_data_sets(data: Path, name: str) -> None:
    throw(data / name, lambda: read_all(data))


def test_episodes_that_wait(data: Path) -> None:
    writer = EpisodeStore.extend(data)
    writer.append(_episode(3, 20))
    writer.release()
    saved = data.with_name("saved")
    shutil.copytree(data, saved)
    pending = data / "pending" / "episode_3.hdf5"

    def merge() -> None:
        try:
            EpisodeStore.extend(data).close()
        finally:
            content = pending.read_bytes() if pending.exists() else b""
            shutil.rmtree(data)
            shutil.copytree(saved, data)
            if content:
                pending.write_bytes(content)

    throw(pending, merge)


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Run:
    """A run with metrics and an evaluation."""
    run = Run(Path(shutil.copytree(tiny_run.root, tmp_path / "artifacts" / "tiny")))
    log = MetricsLog(run.world.metrics)
    for step in range(10, 60, 10):
        log.append(step, {"loss": 1 / step, "kl": float("nan")})
    log.close()
    hashes = {"world": file_hash(run.world.weights), "policy": file_hash(run.policy.weights)}
    facts = {"tiles": 8, "track_tiles": 300, "lap_finished": False, "left_field": False, "truncated": True}
    drives = [DriveScore(track, 10.0 * track, 9, **facts) for track in (1, 2)]
    question = {"list": "report", "tracks": [1, 2], "actions": "deterministic", **hashes}
    promises = {15: [Promise(track, 15, 2.0, 3.0) for track in (1, 2)]}
    tree: dict[str, Any] = {**Report(question, {"policy": drives}, promises).as_json(), "facts": {"seconds": 1.0}}
    run.evaluation.path.mkdir()
    path = run.evaluation.path / "evaluation.json"
    path.write_text(json.dumps(tree))
    run.evaluation.write_settings(resolve("tiny"))
    manifest = run.policy.read_manifest()
    assert manifest is not None
    run.evaluation.write_manifest(replace(manifest, inputs=hashes, outputs={path.name: file_hash(path)}))
    return run


@pytest.mark.parametrize("stage", ["world", "policy"])
def test_weights(run: Run, stage: str) -> None:
    def read() -> None:
        load_actor(run.policy.weights, load_world(run.world.weights))

    throw(run.root / stage / "model.safetensors", read)


def test_settings_of_a_run(run: Run) -> None:
    throw(run.world.path / "settings.toml", run.world.read_settings)


def test_settings_of_somebody_else(run: Run) -> None:
    path = run.world.path / "settings.toml"
    throw(path, lambda: resolve("full", read_settings_file(path)))


def test_manifests(run: Run) -> None:
    throw(run.world.path / "manifest.json", lambda: run.world.require({}))


def test_metrics(run: Run) -> None:
    throw(run.world.metrics, lambda: read_lines(run.world.metrics))


@pytest.mark.parametrize("name", ["evaluation/evaluation.json", "policy/manifest.json", "world/metrics.jsonl"])
def test_verify(run: Run, name: str) -> None:
    def look() -> None:
        path = run.evaluation.path / "manifest.json"
        manifest = path.read_text()
        if name.endswith("evaluation.json"):  # as somebody would who wants to be believed
            was = file_hash(run.evaluation.path / "evaluation.json")
            path.write_text(manifest.replace(original, was))
        verdict = verify(run.root, run.root.parent)
        path.write_text(manifest)
        assert all("\n" not in fault for fault in verdict.faults)

    original = file_hash(run.evaluation.path / "evaluation.json")
    throw(run.root / name, look)


@pytest.mark.parametrize("name", ["evaluation/evaluation.json", "policy/manifest.json", "world/metrics.jsonl"])
def test_status_report_and_curves(run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_RESAMPLES", 9)
    monkeypatch.setattr(report, "_svg", lambda figure: "")  # what takes long, and reads nothing

    def look() -> None:
        read_score(run)
        report.render(trace(run, {}), run.root)

    throw(run.root / name, look)


_LEAVES = [None, True, -1, 0, 1e308, 10**400, float("inf"), "x", "\x1b[2J", [], {}, [[]]]


def test_every_part_of_an_evaluation_may_be_anything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What random bytes seldom come to: well-formed, and each value in turn another one or missing."""
    monkeypatch.setattr(scores, "_RESAMPLES", 9)
    path = run.evaluation.path / "evaluation.json"
    whole = json.loads(path.read_text())
    for place in _places(whole):
        for leaf in (..., *_LEAVES):
            path.write_text(json.dumps(_put(whole, place, leaf)))
            for read in (lambda: read_score(run), lambda: report.read_evaluation(run)):
                with contextlib.suppress(DreamerError):
                    read()


def _places(tree: object, within: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*within, key)
        yield from _places(value, (*within, key))


def _put(tree: Any, place: tuple[Any, ...], leaf: object) -> Any:
    """A copy of the tree with another leaf in a place, or, where that is `...`, with none."""
    tree = copy.deepcopy(tree)
    *way, last = place
    branch = tree
    for key in way:
        branch = branch[key]
    if leaf is ...:
        del branch[last]
    else:
        branch[last] = leaf
    return tree
