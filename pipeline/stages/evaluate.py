"""`dreamer evaluate`: how well the policy does in the real environment, and whether its dream told the truth."""

from __future__ import annotations

import itertools
import json
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, console, distributed
from ..artifacts import FORMAT, Manifest, Run, StageFolder, file_hash, learned_from, write_text
from ..config import Settings, ViewSettings
from ..devices import deterministic
from ..driving import (
    DREAM_SAMPLES,
    HORIZONS,
    PLANNER,
    POLICY,
    Drive,
    Garage,
    Job,
    adapter_to,
    agent_of,
    drive_all,
    drivers,
    one_thread,
    open_garage,
    planning_agent_of,
)
from ..envs.tracks import REPORT_TRACKS, SELECTION_TRACKS
from ..errors import InterruptedRunError, UsageError
from ..locks import reading
from ..processes import Interruption, cores
from ..reading import read_json
from ..scores import MAX_BYTES, EpisodeScore, Promise, Report, Scores, compare, trust_horizon
from ..viewing.drive_film import film_drive, film_fps, pick
from ..viewing.film import Film, Frame, write_film

_REPORT, _FILM = "evaluation.json", "drive.mp4"


def evaluate(
    settings: Settings,
    *,
    run: Run,
    video: bool = False,
    stochastic: bool = False,
    workers: int | None = None,
    device: torch.device | str = "cpu",
) -> Report:
    """Drive published tracks and report the scores. Several processes share the tracks, and the first one reports.

    Writes `evaluation/evaluation.json`, and `evaluation/drive.mp4` where a video is asked for. What an earlier
    evaluation found there is kept under another name, unless it is just the same.

    Args:
        settings: `seed`, `evaluate` and `planner` count.
        run: whose world model and policy drive.
        video: film the worst, the median and the best track too.
        stochastic: draw actions from the policy instead of taking their mean.
        workers: processes that drive; all cores by default. The scores do not depend on it.
        device: where the policy computes.

    Returns:
        The report.

    Raises:
        StageError: the world model or the policy is missing, damaged or stale, or the planner has no critic.
        BusyError: another command is at work on them, or on this.
        UsageError: there are more processes than tracks, or the planner is asked to choose discrete actions.
        InterruptedRunError: after Ctrl-C.
        DreamerError: a worker was killed, or nothing here encodes a film.
    """
    with (
        deterministic(settings.deterministic),
        reading(run.evaluation.command, *((stage.lock, stage.path) for stage in (run.world, run.policy))),
    ):
        garage = open_garage(run, seed=settings.seed, stochastic=stochastic, device=device)
        planner = settings.planner if settings.evaluate.planner else None
        garage = replace(
            garage, deterministic=settings.deterministic, planner=planner, particles=settings.evaluate.particles
        )
        agent_of(garage)  # finds fault with the weights before any work
        if planner is not None:
            planning_agent_of(garage)
        with run.evaluation.writing():
            return _evaluate(settings, garage, run.evaluation, workers, video=video)


def _evaluate(settings: Settings, garage: Garage, folder: StageFolder, workers: int | None, *, video: bool) -> Report:
    started = time.monotonic()
    tracks = (REPORT_TRACKS if settings.evaluate.list == "report" else SELECTION_TRACKS)[: settings.evaluate.tracks]
    if distributed.size() > len(tracks):
        raise UsageError(f"evaluate.tracks = {len(tracks)} are not enough for {distributed.size()} processes")
    own = tracks[distributed.rank() :: distributed.size()]
    workers = min(workers or cores(), len(own) * len(drivers(garage)))
    particles = agent_of(garage).particles
    question = {
        "list": settings.evaluate.list,
        "tracks": list(tracks),
        "actions": "stochastic" if garage.stochastic else "deterministic",
        "seed": settings.seed,
        **_environment(garage),
        **_data(garage),
        "world": garage.world,
        "policy": garage.policy,
        **({"particles": particles} if particles > 1 else {}),
        **({"planner": garage.planner.model_dump()} if garage.planner else {}),
    }
    drives = _of_all_processes(_drive(garage, own, workers))
    report, thinking = make_report(question, drives), milliseconds(drives) if garage.planner else {}
    show(report, thinking)
    if not distributed.is_first():
        return report
    facts = {"seconds": round(time.monotonic() - started, 1), "workers": workers, **_here(garage)}
    if thinking:
        facts["milliseconds a decision"] = thinking
    _save(report, settings, folder, facts)
    if video:
        _film(report, garage, folder)
    return report


def _environment(garage: Garage) -> dict[str, str]:
    """Which environment is asked about; nothing where it is CarRacing as it comes."""
    view, asked = agent_of(garage).world.interface.view, ViewSettings()
    names = ("env", "env_kwargs")
    return {name: getattr(view, name) for name in names if getattr(view, name) != getattr(asked, name)}


def _data(garage: Garage) -> dict[str, str]:
    """What the world model was fitted to, in words; nothing where that is not recorded."""
    manifest = Run(garage.run).world.read_manifest()
    told = learned_from(manifest.sources) if manifest else None
    return {"data": told} if told else {}


def _drive(garage: Garage, tracks: Sequence[int], workers: int) -> dict[str, list[Drive]]:
    """All drives, by driver and in the order of the tracks."""
    who = drivers(garage)
    jobs = [Job(driver, track) for driver in who for track in tracks]  # short ones last: the workers end together
    drives: dict[str, list[Drive]] = {driver: [] for driver in who}
    with (
        Interruption() as interruption,
        console.Meter("Evaluating", len(jobs), "episodes") as meter,
        closing(drive_all(garage, jobs, workers, lambda: interruption.asked)) as done,
    ):
        for index, drive in enumerate(done):
            drives[jobs[index].driver].append(drive)
            meter.advance_to(index + 1, _so_far([one.score for one in drives[POLICY]]))
        if sum(map(len, drives.values())) < len(jobs):
            raise InterruptedRunError("Stopped; nothing is written before all episodes are done")
    return drives


def _so_far(scores: Sequence[EpisodeScore]) -> dict[str, float]:
    """What the policy has come to in these drives."""
    each = [one.score for one in scores]
    return {"mean score": float(np.mean(each)), "lowest": min(each), "highest": max(each)}


def _of_all_processes(drives: dict[str, list[Drive]]) -> dict[str, list[Drive]]:
    """The drives of all processes, of which number r of R has every R-th from r on, in the order of the tracks."""
    parts = distributed.everyone(drives)
    rows = {driver: itertools.zip_longest(*(part[driver] for part in parts)) for driver in drives}
    return {driver: [one for row in many for one in row if one is not None] for driver, many in rows.items()}


def make_report(question: dict[str, Any], drives: Mapping[str, Sequence[Drive]]) -> Report:
    """Put scores and promises together."""
    promises: dict[int, list[Promise]] = {horizon: [] for horizon in HORIZONS}
    asked = [(one.score, one.dreamt, one.rewards[one.dream_start :]) for one in drives[POLICY] if one.dreamt]
    for (score, dreamt, real), horizon in itertools.product(asked, HORIZONS):
        promises[horizon].append(compare(score.track, dreamt, real, horizon, score.foreseeable))
    scores = {driver: [one.score for one in many] for driver, many in drives.items()}
    return Report(question, scores, promises, trust_horizon([(dreamt, real) for _, dreamt, real in asked]))


def milliseconds(drives: Mapping[str, Sequence[Drive]]) -> dict[str, float]:
    """Processor time of a decision, the mean over the drives, of those drivers that look where they drive."""
    return {
        driver: round(1000 * float(np.mean([one.thinking for one in many])), 1)
        for driver, many in drives.items()
        if driver in (POLICY, PLANNER)
    }


def show(report: Report, thinking: Mapping[str, float] | None = None) -> None:
    """Print the two tables, how far the policy is ahead, and a warning where the dream promises too much.

    Args:
        report: what came of it.
        thinking: milliseconds of a decision, by driver, where they are to be shown.
    """
    tracks, kind, summaries = len(report.question["tracks"]), report.question["list"], report.summaries
    timed = bool(thinking)
    data = f"; learned from {report.question['data']}" if "data" in report.question else ""
    console.table(
        f"Score on {tracks} {kind} {report.place}{'s' * (tracks > 1)}, {report.question['actions']} actions{data}"
        + "; ms: processor time of a decision" * timed,
        ["driver", "mean", "95 %", "std", "IQM", "min", "max", *summaries[POLICY].special, *["ms"] * timed],
        [
            [driver, *_cells(summary), *[_number((thinking or {}).get(driver, math.nan), 1)] * timed]
            for driver, summary in summaries.items()
        ],
    )
    for driver, ahead in report.differences.items():
        behind = ahead.mean < 0
        mean, low, high = (-ahead.mean, -ahead.high, -ahead.low) if behind else (ahead.mean, ahead.low, ahead.high)
        console.say(
            f"The policy is {'behind' if behind else 'ahead of'} '{driver}' by {_number(mean, 1)} on the same "
            f"{report.place}s (95 % {_range(low, high)})"
        )
    if not report.trusts:
        return
    console.table(
        "Does the dream tell the truth? Rewards to come, once the agent has seen enough to tell",
        ["decisions", "dreamt", "real", "dreamt - real", "95 %", "correlation"],
        [
            [
                str(horizon),
                *map(_number, (t.dreamt, t.real, t.excess)),
                _range(t.low, t.high),
                _number(t.correlation, 2),
            ]
            for horizon, t in report.trusts.items()
        ],
    )
    if report.trust_horizon is not None:
        console.say(
            f"Trust horizon: {report.trust_horizon} decisions; then dreamt and real rewards differ, drive by drive, by "
            "more than 20 % and 5 points"
        )
    if report.warning:
        console.warn(report.warning)


def _cells(summary: Scores) -> list[str]:
    return [
        _number(summary.mean),
        _range(summary.low, summary.high),
        *map(_number, (summary.std, summary.iqm, summary.minimum, summary.maximum)),
        *summary.special.values(),
    ]


def _number(value: float, digits: int = 0) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else "-"  # + 0.0: no "-0"


def _range(low: float, high: float) -> str:
    return f"{_number(low)}..{_number(high)}" if math.isfinite(low) else "-"


def _save(report: Report, settings: Settings, folder: StageFolder, facts: dict[str, Any]) -> None:
    """Write the report and what belongs to it; what was there before is kept."""
    content = report.as_json()
    keep_earlier(folder, content)
    facts = {"finished": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
    method = {"dream_samples": DREAM_SAMPLES, "interval": "95 % percentile bootstrap of the mean"}
    whole = {"format": FORMAT, **content, "method": method, "facts": facts}
    write_text(folder.path / _REPORT, json.dumps(whole, indent=1, allow_nan=False) + "\n")
    log = console.MetricsLog(folder.metrics)
    for step, row in enumerate(zip(*report.scores.values(), strict=True), 1):
        by_driver = {driver: one.score for driver, one in zip(report.scores, row, strict=True)}
        log.append(step, {**asdict(row[0]), **by_driver})
    log.close()
    folder.write_settings(settings)
    inputs = {name: report.question[name] for name in ("world", "policy")}
    outputs = {_REPORT: file_hash(folder.path / _REPORT)}
    folder.write_manifest(Manifest("evaluate", inputs, outputs, len(report.scores[POLICY]), complete=True, facts=facts))
    console.say(f"Scores: {folder.path / _REPORT}")


def keep_earlier(folder: StageFolder, content: Mapping[str, Any]) -> None:
    """Rename an earlier report that says anything else than `content`, and its film: nothing found is lost."""
    path = folder.path / _REPORT
    if not path.exists():
        return
    try:
        earlier = read_json(path, MAX_BYTES)
        same = {name: earlier.get(name) for name in content} == content
    except (OSError, ValueError):
        same = False
    if same:
        return
    kept = [*folder.path.glob(f"{Path(_FILM).stem}.*"), path]  # the report last, by which a renaming cut short is told
    number = next(n for n in itertools.count(1) if not any(old.with_stem(f"{old.stem}-{n}").exists() for old in kept))
    for old in kept:
        old.rename(old.with_stem(f"{old.stem}-{number}"))
    console.say(f"The earlier report is kept as {path.with_stem(f'{path.stem}-{number}')}")


def _here(garage: Garage) -> dict[str, Any]:
    """Versions and hardware, which scores may depend on in the last digit."""
    beside = adapter_to(garage).package
    packages = {name: version(name) for name in ("gymnasium", *([beside] if beside else []), "numpy", "torch")}
    return {
        "versions": {"dreamer": __version__, "python": platform.python_version(), **packages},
        "hardware": {"system": f"{platform.system()} {platform.machine()}", "cores": cores(), "device": garage.device},
    }


def _film(report: Report, garage: Garage, folder: StageFolder) -> None:
    """Drive three tracks again, filming, and add the film to the manifest."""
    picks = pick(report.scores[POLICY])
    with Interruption() as interruption, console.Meter("Filming", len(picks), "episodes") as meter, one_thread():

        def frames() -> Iterator[Frame]:
            for done, one in enumerate(picks, 1):
                for frame in film_drive(garage, one):
                    if interruption.asked:
                        raise InterruptedRunError("Stopped while filming; the report is written")
                    yield frame
                meter.advance_to(done)

        fps = film_fps(garage)
        film = write_film(folder.path / _FILM, frames(), fps)
    manifest = folder.read_manifest()
    assert manifest is not None
    manifest.outputs[film.path.name] = file_hash(film.path)
    folder.write_manifest(manifest)
    _announce(film, fps)


def _announce(film: Film, fps: float) -> None:
    if not film.h264:
        console.warn(
            f"No H.264 encoder is here, so the film is VP8, which not every player knows, by {film.encoder}; "
            "`pip install av` and the same command again give H.264"
        )
    console.say(f"Film: {film.path} ({film.frames / fps:.0f} s, by {film.encoder})")
