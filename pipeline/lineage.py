"""The chain of every run, data -> world -> policy -> evaluation: what is there, made from what, and what is stale.

Only manifests and the data sets' digests are read, so that a glance at many runs takes no time.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from .artifacts import Run, Source, StageFolder, check_name, is_name, learned_from
from .config import CAR_RACING, PRESETS, SIZES, STAGE_SECTIONS, VARIANTS, Settings, flatten, resolve
from .envs import adapter_of
from .episodes.joined import joint_fingerprint
from .episodes.store import EpisodeStore
from .errors import StageError, UsageError, did_you_mean
from .reading import read_json
from .scores import MAX_BYTES

State = Literal["ready", "unfinished", "stale", "damaged", "missing"]
REPORT = "report.html"


@dataclass(frozen=True)
class Link:
    """One step of a chain.

    Attributes:
        state: what it is now; "stale" where something before it has changed since.
        cure: the command that makes it ready; empty where it is.
        reason: why it is not ready, part of a sentence.
        digest: content hash of what the next step reads; None where there is nothing yet.
        inputs: content hashes of what it was made from, by name.
        made: when.
        size: how much it is, such as "2,800 updates".
    """

    state: State
    cure: str = ""
    reason: str = ""
    digest: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    made: datetime | None = None
    size: str = ""


@dataclass(frozen=True)
class Score:
    """What an evaluation came to: the mean over so many seeds of a list, and its 95 % interval where there is one."""

    mean: float
    low: float | None
    high: float | None
    tracks: int
    list: str


@dataclass(frozen=True)
class Chain:
    """A run as it is now.

    Attributes:
        run: the run.
        sources: its data sets, by the names that they have now; none where that is not recorded.
        links: "data", "world", "policy" and "evaluation", in this order.
        score: of the evaluation; None where there is none to be read.
        next: the command to type next; empty where nothing is left to do.
    """

    run: Run
    sources: tuple[Source, ...]
    links: dict[str, Link]
    score: Score | None
    next: str

    @property
    def data_name(self) -> str | None:
        """The names of its data sets, such as "demo + round2"; None where they are not recorded."""
        return " + ".join(source.name for source in self.sources) or None

    @property
    def learned_from(self) -> str | None:
        """See `artifacts.learned_from`."""
        return learned_from(self.sources)


def data_sets(root: Path = Path("data")) -> dict[str, Link]:
    """The data sets in a folder, by name."""
    return {path.name: _data_link(path) for path in _folders(root) if EpisodeStore.exists(path)}


def run_names(root: Path = Path("artifacts")) -> list[str]:
    """The runs in a folder."""
    stages = ("world", "policy", "evaluation")
    return [path.name for path in _folders(root) if any((path / stage / "manifest.json").exists() for stage in stages)]


def _folders(root: Path) -> list[Path]:
    """The folders in a folder whose names a command takes: others become part of no command to type."""
    return sorted(path for path in root.iterdir() if path.is_dir() and is_name(path.name)) if root.is_dir() else []


def find_run(name: str, root: Path = Path("artifacts")) -> Run:
    """The run of this name. Raises StageError where there is none, with the name nearest to it."""
    run, names = Run.named(name, root), run_names(root)
    if name not in names:
        hint = did_you_mean(name, names) if names else f"; run `dreamer run --run {name}`"
        raise StageError(f"There is no run '{name}' in {root}{hint}")
    return run


def trace(run: Run, data: Mapping[str, Link]) -> Chain:
    """What became of a run.

    Args:
        run: it may lack any of its stages.
        data: all data sets, see `data_sets`.
    """
    sources = _sources(run, data)
    links = {"data": _joint_link([data.get(source.name) or _gone(run, source) for source in sources] or [_gone(run)])}
    links["world"] = _stage_link(run.world, links, ("data",), "updates")
    links["policy"] = _stage_link(run.policy, links, ("data", "world"), "updates")
    links["evaluation"] = _stage_link(run.evaluation, links, ("world", "policy"), _places(run))
    try:
        score = read_score(run)
    except StageError as error:
        score, links["evaluation"] = None, Link("damaged", run.evaluation.command, str(error))
    return Chain(run, sources, links, score, _next(run, links))


def read_score(run: Run) -> Score | None:
    """The score of the last evaluation, None where there is none. Raises StageError where it cannot be read."""
    path = run.evaluation.path / "evaluation.json"
    if not path.exists():
        return None
    try:
        tree = read_json(path, MAX_BYTES)
        summary, question = tree["drives"]["policy"]["summary"], tree["question"]
        low, high = (None if summary[end] is None else _finite(summary[end]) for end in ("low", "high"))
        return Score(_finite(summary["mean"]), low, high, len(question["tracks"]), str(question["list"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise StageError(f"{path} is damaged ({error!r:.200}); run `{run.evaluation.command}`") from error


def _question(run: Run) -> dict[str, Any]:
    """What the last evaluation asked; nothing where there is none, or it cannot be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return dict(read_json(run.evaluation.path / "evaluation.json", MAX_BYTES)["question"])
    return {}


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"a score is {number}")
    return number


def options_for(settings: Settings, sections: Collection[str]) -> str:
    """Options that give these sections of the settings, such as `--preset demo --set world.batch=32`.

    Variant, preset and size are those nearest to all of the settings, as far as they matter to the sections. What was
    measured where it ran (`precision`) is left to be measured again.
    """
    wanted, names = flatten(settings.model_dump()), list(settings.section_values(sections))
    env, env_kwargs = settings.view.env, settings.view.env_kwargs
    bases = _bases(env, env_kwargs)
    _, given = min(bases, key=lambda base: len(base[0]) + sum(wanted[name] != base[1][name] for name in wanted))
    alike = [options for options, values in bases if all(values[name] == given[name] for name in names)]
    options = min(alike, key=len) if len(alike) < len(bases) else ()
    if "view" in sections and env != CAR_RACING:
        options = (f"--env {shlex.quote(env)}", *options)
        names.remove("view.continuous")  # a fact there
    if "view" in sections and settings.view.arguments:
        options = (*options, f"--env-kwargs {shlex.quote(env_kwargs)}")
    singles = {n: wanted[n] for n in names if wanted[n] != given[n] and not n.endswith(".precision")}
    seed = [f"--seed {settings.seed}"] if "seed" in singles else []
    sets = [f"--set {shlex.quote(f'{name}={_toml(value)}')}" for name, value in singles.items() if name != "seed"]
    return " ".join((*options, *seed, *sets))


@cache
def _bases(env: str, env_kwargs: str) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """What variants, presets and sizes give in an environment, by dotted names, each with the options for it."""
    bases, known = [], {"view.env": env, "view.env_kwargs": env_kwargs}
    for variant, preset, size in itertools.product(VARIANTS, PRESETS, (None, *SIZES)):
        chosen = {"variant": (variant, "laptop"), "preset": (preset, None), "size": (size, None)}
        options = tuple(f"--{option} {value}" for option, (value, usual) in chosen.items() if value != usual)
        with suppress(UsageError):  # they do not go together
            bases.append((options, flatten(resolve(preset, known, variant=variant, size=size).model_dump())))
    return bases


def commands(chain: Chain) -> list[str]:
    """The commands that make the run again, as far as it got: each stage with the settings that it was made with."""
    run = chain.run
    place = f"--run {run.root.name}"
    placed = " ".join([place, *(f"--data {source.name}" for source in chain.sources)])
    film = " --video" if any(run.evaluation.path.glob("drive.*")) else ""
    drawn = " --stochastic" if _question(run).get("actions") == "stochastic" else ""
    lines = [_collecting(run, source, alone=len(chain.sources) == 1) for source in chain.sources]
    for folder, command, ends in (
        (run.world, "fit-world", placed),
        (run.encodings, "show-encodings", place),
        (run.policy, "fit-policy", place),
        (run.evaluation, "evaluate", place + film + drawn),
    ):
        settings = run.recorded_settings(folder)
        if settings is not None:
            sections = [name for name in STAGE_SECTIONS[command] if name != "view"]
            lines.append(f"dreamer {command} {ends} {options_for(settings, sections)}".rstrip())
    return [line for line in lines if line]


def _collecting(run: Run, source: Source, *, alone: bool) -> str:
    """The command that collects a data set of a run; empty where there is none to be told."""
    settings = run.recorded_settings(run.world)
    if settings is None or source.kind == "played":
        return ""
    if source.decisions is not None and not alone:  # the settings count the decisions of all
        settings = settings.with_value("collect.decisions", source.decisions)
    if source.seed is not None:
        settings = settings.with_value("seed", source.seed)
    driver = f" --policy artifacts/{source.driver}" if source.driver and is_name(source.driver) else ""
    return f"dreamer collect --data {source.name}{driver} {options_for(settings, STAGE_SECTIONS['collect'])}".rstrip()


def _toml(value: object) -> str:
    """A setting as `--set` reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _data_link(path: Path) -> Link:
    command = f"dreamer collect --data {path.name}"
    if not EpisodeStore.has_episodes(path):
        return Link("unfinished", command, "holds no episodes yet")
    try:
        with EpisodeStore.open(path) as store:
            size, digest = f"{store.steps:,} decisions", store.fingerprint
    except StageError as error:
        return Link("damaged", f"{command} --fresh", str(error))
    return Link("ready", digest=digest, made=_changed(path / "main_data.hdf5"), size=size)


def _sources(run: Run, data: Mapping[str, Link]) -> tuple[Source, ...]:
    """The data sets that a run was fitted to: each by the name it had then, else by its content."""
    try:
        manifest = run.world.read_manifest()
        return tuple(replace(source, name=_name(source, data)) for source in manifest.sources) if manifest else ()
    except (StageError, UsageError):  # what cannot name a data set is no part of a command to type
        return ()


def _name(source: Source, data: Mapping[str, Link]) -> str:
    """The name of a data set as it is now. Raises UsageError where it is none."""
    if source.name in data and data[source.name].digest == source.sha256:
        return source.name
    same = next((other for other, link in data.items() if link.digest == source.sha256), None)
    return same or check_name(source.name)


def _joint_link(links: Sequence[Link]) -> Link:
    """Several data sets as one step: as good as the first that is not ready."""
    lacking = next((link for link in links if link.state != "ready"), None)
    if lacking or len(links) == 1:
        return lacking or links[0]
    digest = joint_fingerprint([str(link.digest) for link in links])
    made = max((link.made for link in links if link.made), default=None)
    return Link("ready", digest=digest, made=made, size=" + ".join(link.size for link in links))


def _gone(run: Run, source: Source | None = None) -> Link:
    """A data set of a run that is not there (any more), with the command that collects it again."""
    command = f"dreamer collect --data {source.name if source else run.root.name}"
    if source and source.driver and is_name(source.driver):
        return Link("missing", f"{command} --policy artifacts/{source.driver}")
    settings = run.world.path / "settings.toml"
    return Link("missing", f"{command} --config {settings}" if settings.exists() else command)


def _stage_link(folder: StageFolder, before: Mapping[str, Link], inputs: tuple[str, ...], unit: str) -> Link:
    try:
        manifest = folder.read_manifest()
        if manifest is None:
            return Link("missing", folder.command)
        folder.read_settings()
    except StageError as error:
        return Link("damaged", folder.anew, str(error))
    state, cure, reason = _judge(folder, before, inputs)
    output = folder.weights.name if unit == "updates" else "evaluation.json"
    return Link(
        state,
        cure,
        reason,
        digest=manifest.outputs.get(output),
        inputs=manifest.inputs,
        made=_changed(folder.path / "manifest.json"),
        size=f"{manifest.done:,} {unit}",
    )


def _places(run: Run) -> str:
    """What the seeds of an evaluation make, such as "tracks"."""
    try:
        settings = run.recorded_settings(run.world)
    except StageError:  # which the world's own link tells
        settings = None
    return f"{adapter_of(settings.view.env if settings else CAR_RACING).score_type.PLACE}s"


def _judge(folder: StageFolder, before: Mapping[str, Link], inputs: tuple[str, ...]) -> tuple[State, str, str]:
    """State, cure and reason of a stage that was begun."""
    manifest = folder.read_manifest()
    assert manifest is not None
    for name in inputs:
        link = before[name]
        if link.digest is not None and name in manifest.inputs and manifest.inputs[name] != link.digest:
            return "stale", folder.anew, f"was made from another {name} than there is now"
    for name in inputs:
        if before[name].state == "stale":
            return "stale", folder.anew, f"was made from a {name} that is stale"
    if not manifest.complete:
        return "unfinished", folder.command, f"has {manifest.done} done"
    lost = next((name for name in manifest.outputs if not (folder.path / name).exists()), None)
    return ("damaged", folder.anew, f"lacks {lost}") if lost else ("ready", "", "")


def _next(run: Run, links: Mapping[str, Link]) -> str:
    """The command of the first step that is not ready; the report, where all are."""
    first = next((name for name in ("world", "policy", "evaluation") if links[name].state != "ready"), None)
    if first is None:
        report, made = run.root / REPORT, links["evaluation"].made
        new = report.exists() and made is not None and _changed(report) >= made
        return "" if new else f"dreamer report {run.root.name}"
    if first != "evaluation" and links["data"].state != "ready" and links["world"].state != "damaged":
        return links["data"].cure
    return links[first].cure


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
