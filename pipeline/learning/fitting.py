"""The loop that fits a model: progress, metrics, checkpoints, an exact resume, a clean interruption."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from .. import distributed
from ..artifacts import Manifest, StageFolder, atomic_path
from ..config import Settings
from ..console import Meter, MetricsLog, warn
from ..errors import DreamerError, InterruptedRunError, StageError, of_the_machine
from ..processes import Interruption
from ..randomness import Stream, seed_torch
from .watching import NotFiniteError, Recent, Watch, check_finite

LOG_EVERY = 10
"""Updates between two lines of metrics."""


class Learner(Protocol):
    """What `fit` fits. An update may depend on its number and on the state alone: that is what makes resuming exact.

    Attributes:
        gradients: (P,), norms of the last update's gradients before clipping, of the P parameters that have one.
    """

    gradients: Tensor

    def begin(self, first: int, last: int) -> None:
        """Get ready for the updates first .. last - 1."""

    def update(self, index: int) -> Mapping[str, Tensor]:
        """Take one gradient step and give its metrics, each ()."""

    def parameters(self) -> Sequence[str]:
        """The names of those P parameters."""

    def check(self, done: int, final: bool) -> Mapping[str, float]:
        """Look at held-out data where it is time to, after `done` updates; {} where it is not."""

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on, of all processes; tensors and plain values only."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state back."""


@dataclass(frozen=True)
class Plan:
    """How long to fit and what to show.

    Attributes:
        title: for the progress line.
        updates: to end with.
        save_every: updates between two checkpoints.
        seed: of every update's random stream.
        shown: metrics beside the bar.
        watches: what to look out for.
    """

    title: str
    updates: int
    save_every: int
    seed: int
    shown: tuple[str, ...]
    watches: tuple[Watch, ...] = ()


@contextmanager
def begun(
    folder: StageFolder,
    settings: Settings,
    sections: Collection[str],
    inputs: Mapping[str, str],
    *,
    minutes: float | None = None,
    fresh: bool = False,
) -> Iterator[tuple[Manifest, Settings]]:
    """Alone with the folder, `StageFolder.start`, done by the first process for all.

    Raises, beside what that raises:
        BusyError: another command writes the folder, or reads it.
        StageError: this process has read other inputs than the first.
    """
    with folder.writing():
        manifest, settings = distributed.once(
            lambda: folder.start(settings, sections, inputs, minutes=minutes, fresh=fresh)
        )
        for name, digest in inputs.items():
            if manifest.inputs[name] != digest:
                raise StageError(
                    f"Process {distributed.rank()} sees another {name} than the first one; data/ and artifacts/ must "
                    "be the same folders on all machines"
                )
        yield manifest, settings


def fit(learner: Learner, plan: Plan, folder: StageFolder, manifest: Manifest, settings: Settings) -> Manifest:
    """Bring the learner from where its last checkpoint is to the end of the plan.

    Args:
        learner: with fresh weights; a checkpoint in the folder replaces them.
        plan: how long.
        folder: where the checkpoints, the metrics and the manifest go.
        manifest: what to record as inputs; its progress is filled in here.
        settings: all of them, to be left in the folder once there is something to go on from.

    Returns:
        The manifest after the last update, not yet complete: the stage still writes its results.

    Raises:
        InterruptedRunError: after Ctrl-C or SIGTERM, everything saved.
        DreamerError: a loss, a gradient or a measurement is not finite.
        LostProcessError: this is one of several processes, and another one is gone.
    """
    first = load_state(learner, folder, manifest.done)
    if distributed.once(lambda: first) != first:
        raise StageError(f"{folder.state} is not the same on all machines; artifacts/ must be one folder")
    distributed.once(lambda: folder.write_settings(settings))  # of what cannot go on, they stay as they were
    if manifest.complete and first < plan.updates:
        warn(
            f"{folder.path} goes on from {first} to {plan.updates} updates: what falls towards the last one, such as "
            "step sizes, rises again"
        )
    learner.begin(first, plan.updates)
    started, seconds = time.monotonic(), float(manifest.facts.get("seconds", 0.0)) if first else 0.0
    manifest = replace(manifest, done=first, complete=False, facts={**manifest.facts, "seconds": seconds})
    shown: dict[str, float] = {}
    recent = Recent()
    with (
        _Record(folder, first) as record,
        Interruption() as interruption,
        Meter(plan.title, plan.updates, "updates", first) as meter,
    ):
        for index in range(first, plan.updates):
            seed_torch(plan.seed, Stream.UPDATE, index)
            metrics = learner.update(index)
            done, final = index + 1, index + 1 == plan.updates
            recent.add(done, metrics, learner.gradients)
            checked = learner.check(done, final)
            if checked or final or done % LOG_EVERY == 0:
                line = _look(recent, learner, folder, manifest.done, checked)
                record.line(done, line)
                shown |= {name: line[name] for name in plan.shown if name in line}
                for said in filter(None, (watch.look(done, line) for watch in plan.watches)):
                    warn(said)
            meter.advance_to(done, shown)
            stop = distributed.any_of(interruption.asked)
            if final or stop or done % plan.save_every == 0:
                _look(recent, learner, folder, manifest.done, {})  # what is not finite replaces no checkpoint
                spent = round(seconds + time.monotonic() - started, 1)
                manifest = replace(manifest, done=done, facts={**manifest.facts, "seconds": spent})
                record.checkpoint(learner.state(), manifest)
            if stop:
                raise InterruptedRunError(
                    f"Stopped after {done} updates of {folder.path}, all saved; the same command goes on from there"
                )
    return manifest


def _look(
    recent: Recent, learner: Learner, folder: StageFolder, saved: int, checked: Mapping[str, float]
) -> dict[str, float]:
    """The metrics of the last update, and what was found on held-out data then.

    Raises DreamerError where a number has not been finite since the last look; `saved` is the last good checkpoint's.
    """
    try:
        metrics = recent.look(learner.parameters())
        check_finite(recent.done, checked)
    except NotFiniteError as error:
        kept = (
            f"the last good checkpoint, {folder.state}, is of update {saved}" if saved else "nothing was saved before"
        )
        raise DreamerError(
            f"{error}; {kept}; run `{folder.command} --fresh` with a lower learning rate (--set)"
        ) from error
    return {**metrics, **checked}


class _Record:
    """What fitting leaves in its folder as it goes on: metrics and checkpoints. Only the first process writes.

    Args:
        folder: where to.
        after: updates whose metrics are there already, and stay.
    """

    def __init__(self, folder: StageFolder, after: int) -> None:
        self.folder = folder
        self.log = MetricsLog(folder.metrics, after) if distributed.is_first() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.log is not None:
            self.log.close()

    def line(self, done: int, metrics: Mapping[str, float]) -> None:
        """Note the metrics after `done` updates."""
        if self.log is not None:
            self.log.append(done, metrics)

    def checkpoint(self, state: Mapping[str, Any], manifest: Manifest) -> None:
        """Write a checkpoint and then the manifest, each atomically. The first is private: nobody else's is read."""
        if self.log is not None:
            self.log.sync()  # what is saved has its metrics
            with atomic_path(self.folder.state) as temporary, temporary.open("wb") as stream:
                torch.save({"done": manifest.done, "learner": state}, stream)  # its own files hide why they fail
            self.folder.write_manifest(manifest)


def load_state(learner: Learner, folder: StageFolder, done: int) -> int:
    """Restore the last checkpoint, if there is one, and give the number of updates it holds.

    Raises StageError where it is damaged, or missing although `done` updates were recorded.
    """
    path = folder.state
    if not path.exists():
        if done:
            raise StageError(
                f"{path} is missing, so fitting cannot go on; run `{folder.command} --fresh` to start anew"
            )
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        learner.restore(state["learner"])
        return int(state["done"])
    except Exception as error:  # torch.load raises almost anything on a damaged file
        raise of_the_machine(error, path) or StageError(
            f"{path} is damaged ({type(error).__name__}); run `{folder.command} --fresh` to start anew"
        ) from error


def planned_updates(learner: Learner, minutes: float, seed: int) -> int:
    """Number of updates that fit in a time, by timing some on a learner that is thrown away afterwards.

    All processes take part, and have the first one's clock. The median counts, for whatever else the machine does
    meanwhile makes some of them slow.
    """
    warm, timed, seconds = 3, 15, []
    learner.begin(0, warm + timed)
    for index in range(warm + timed):
        started = time.perf_counter()
        seed_torch(seed, Stream.UPDATE, index)
        torch.stack(list(learner.update(index).values())).tolist()  # wait for the device
        seconds.append(time.perf_counter() - started)
    planned = max(1, int(minutes * 60 / median(seconds[warm:])))
    return distributed.once(lambda: planned)
