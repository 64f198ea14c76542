"""The command line: a command reads its options and calls one stage.

What is slow to import is imported inside the commands, after the options are checked: help and mistakes answer at once.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import __version__, console, distributed
from .artifacts import Run, check_name
from .config import Settings, flatten, parse_value, read_settings_file, resolve
from .errors import DreamerError, InterruptedRunError, UsageError
from .processes import cores

if TYPE_CHECKING:
    import torch

    from .scores import Report


def _examples(*lines: str) -> str:
    """The end of a help page."""
    return "Examples:\n\n" + "\n\n".join(f"$ {line}" for line in lines)


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Learn a world model of CarRacing from random driving, then learn to drive entirely inside it.",
    epilog=_examples("dreamer run --preset demo --video", "dreamer fit-world --help"),
)

_OWNERS = {
    "view": "collect",
    "collect": "collect",
    "model": "fit-world",
    "world": "fit-world",
    "policy": "fit-policy",
    "evaluate": "evaluate",
}
"""The command that each section of the settings belongs to; `run` uses them all, and all commands use `seed`."""


_shared_option = functools.partial(typer.Option, rich_help_panel="Shared options")


@dataclass(frozen=True)
class Shared:
    """The options that every command has."""

    preset: Annotated[
        str | None,
        _shared_option(
            metavar="tiny|demo|full",
            help="Settings that end in seconds, in minutes, or at the best.",
            show_default="the run's own settings, full for a new run",
        ),
    ] = None
    variant: Annotated[
        str | None,
        _shared_option(
            metavar="laptop|memoryless|v1|v2|v3",
            help="Which Dreamer: our own, one of the three published, or one without memory.",
            show_default="the run's own, laptop for a new run",
        ),
    ] = None
    size: Annotated[
        str | None,
        _shared_option(
            metavar="1m|12m|25m|50m|100m|200m|400m",
            help="DreamerV3's sizes by its own names.",
            show_default="the variant's own",
        ),
    ] = None
    config: Annotated[Path | None, _shared_option(metavar="FILE", help="Settings from a TOML file.")] = None
    assignments: Annotated[
        list[str] | None,
        _shared_option("--set", metavar="SECTION.KEY=VALUE", help="A single setting; may be given several times."),
    ] = None
    seed: Annotated[int | None, _shared_option(metavar="N", help="Seed of everything random.", show_default="0")] = None
    device: Annotated[
        str, _shared_option(metavar="auto|cpu|cuda|mps", help="Where the networks run; collecting has none.")
    ] = "auto"
    quiet: Annotated[bool, _shared_option("--quiet", metavar="", help="Print warnings and errors only.")] = False
    debug: Annotated[bool, _shared_option("--debug", metavar="", help="Show the whole traceback of an error.")] = False
    dry_run: Annotated[
        bool,
        _shared_option("--dry-run", metavar="", help="Print settings, sizes, memory and time expected; write nothing."),
    ] = False

    def settings(
        self, command: str, shortcuts: Mapping[str, Any] | None = None, recorded: Settings | None = None
    ) -> Settings:
        """What variant, size, preset, file, `--set` and shortcuts come to, each overriding the one before.

        Args:
            command: name of the command that will use them.
            shortcuts: settings that have an option of their own, by their dotted names; None where not given.
            recorded: those of the run; they take the place of variant, size and preset where none is asked for.

        Raises:
            UsageError: a setting is unknown, out of bounds or, given with `--set`, of no use to the command.
        """
        given = [_assignment(text) for text in self.assignments or ()]
        options = {"seed": self.seed, **(shortcuts or {})}
        file = read_settings_file(self.config) if self.config else None
        chosen = (self.variant, self.size, self.preset, file)
        if recorded is not None and all(choice is None for choice in chosen):
            measured = dict.fromkeys(("world.precision", "policy.precision"), "auto")  # where it ran, not here
            file = flatten(recorded.model_dump()) | measured
        settings = resolve(
            self.preset or "full",
            file,
            [*given, *((k, v) for k, v in options.items() if v is not None)],
            variant=self.variant or "laptop",
            size=self.size,
        )
        for name, _ in given:
            owner = _OWNERS.get(name.partition(".")[0], command)
            if command not in (owner, "run"):
                raise UsageError(f"The setting {name} belongs to `dreamer {owner}`, not to `dreamer {command}`")
        return settings

    def torch_device(self) -> torch.device:
        """The device asked for, with memory handled for speed. Raises UsageError where it is not there."""
        from .allocator import keep_memory

        keep_memory()
        from .devices import pick_device

        return pick_device(self.device)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes section.key=value, such as world.updates=2000, not '{text}'")
    return name.strip(), parse_value(value.strip())


_NAME = "carracing"  # of data set and run, where none is given

DataName = Annotated[str, typer.Option("--data", metavar="NAME", help="Data set, a folder in data/.")]
RunDataName = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="NAME", help="Data set, a folder in data/.", show_default=f"the run's own, else {_NAME}"
    ),
]
RunName = Annotated[str, typer.Option("--run", metavar="NAME", help="Run, a folder in artifacts/.")]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes.", show_default="all cores")]
Updates = Annotated[int | None, typer.Option(metavar="N", help="Gradient updates.", show_default="by the preset")]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.1, metavar="N", help="Fit for about N minutes, whatever the number of updates; `run`: each fit."
    ),
]
Decisions = Annotated[
    int | None, typer.Option(metavar="N", help="Decisions to record, at least.", show_default="by the preset")
]
RandomPolicy = Annotated[
    str | None,
    typer.Option("--policy", metavar="mixture|smooth|brownian|uniform", help="Random process that drives."),
]
Tracks = Annotated[int | None, typer.Option(metavar="N", help="Tracks to drive.", show_default="by the preset")]
TrackList = Annotated[
    str | None,
    typer.Option("--list", metavar="report|selection", help="Published list of tracks.", show_default="report"),
]
Video = Annotated[bool, typer.Option("--video", metavar="", help="Film the worst, the median and the best track.")]
Stochastic = Annotated[
    bool, typer.Option("--stochastic", metavar="", help="Draw actions from the policy; else take their mean.")
]
ShardText = Annotated[
    str | None,
    typer.Option("--shard", metavar="K/N", help="Record part K of N alone, such as 2/8, as data set NAME-KofN."),
]
Merge = Annotated[
    int | None,
    typer.Option("--merge", min=1, metavar="N", help="Put N such parts together, and record only what they lack."),
]
Fresh = Annotated[bool, typer.Option("--fresh", metavar="", help="Start anew and replace what is there; asks first.")]
Yes = Annotated[bool, typer.Option("--yes", metavar="", help="Answer yes to what --fresh asks.")]


def _command(*examples: str, shares: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the app: its first parameter, `shared`, stands for all fields of `Shared`.

    Args:
        examples: command lines shown in the help.
        shares: whether several processes can share its work, see `distributed`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        shared = inspect.signature(Shared, eval_str=True).parameters
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        @functools.wraps(function)
        def call(**options: Any) -> None:
            common = Shared(**{name: options.pop(name) for name in shared})
            console.set_quiet(common.quiet)
            if distributed.size() > 1:
                _share_out(shares and not common.dry_run)
            function(common, **options)

        call.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
        app.command(epilog=_examples(*examples))(call)
        return function

    return register


def _share_out(possible: bool) -> None:
    """Begin as one of several processes. Raises UsageError where there is nothing to share out."""
    if not possible:
        raise UsageError(
            f"`dreamer {' '.join(sys.argv[1:2])}` is for one process; with torchrun start one of "
            "collect, fit-world, fit-policy and evaluate, without --dry-run"
        )
    if not distributed.is_first():
        console.set_mute(True)


def _allow_replacing(shared: Shared, fresh: bool, yes: bool, *folders: Path) -> None:
    """Ask before `--fresh` replaces folders. Raises UsageError where there is nobody to ask."""
    there = " and ".join(str(folder) for folder in folders if folder.exists())
    if not fresh or yes or shared.dry_run or not there:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"--fresh replaces {there}, and there is no terminal to ask on; add --yes to allow it")
    typer.confirm(f"Replace {there}?", abort=True)


def _data_path(name: str | None, run: Run | None = None) -> Path:
    """The folder of a data set; where none is named, of the one that the run was fitted to."""
    if name is None and run is not None and (manifest := run.world.read_manifest()) is not None:
        name = str(manifest.facts.get("data", _NAME))
    return Path("data") / check_name(name or _NAME, "data set")


def _own_workers(workers: int | None) -> int | None:
    """The workers of this process: of several on a machine, each takes its share of the cores, unless it is told."""
    neighbours = distributed.neighbours()
    return workers if workers or neighbours == 1 else max(1, cores() // neighbours)


def _print_version(asked: bool) -> None:
    if asked:
        console.say(f"dreamer {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@_command(
    "dreamer collect",
    "dreamer collect --data more --decisions 300000 --policy smooth --seed 1",
    "dreamer collect --data more --decisions 300000 --shard 2/8",
    shares=True,
)
def collect(
    shared: Shared,
    data: DataName = _NAME,
    policy: RandomPolicy = None,
    decisions: Decisions = None,
    workers: Workers = None,
    shard: ShardText = None,
    merge: Merge = None,
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Record random driving; asking for more extends what is there."""
    settings = shared.settings("collect", {"collect.policy": policy, "collect.decisions": decisions})
    from .episodes.shards import Shard

    if distributed.size() > 1 and not shard:
        shard = f"{distributed.rank() + 1}/{distributed.size()}"
    part = Shard.parse(shard) if shard else None
    if part and (merge or shared.dry_run):
        raise UsageError("A part of a data set is neither merged nor foreseen; leave --merge, --dry-run or --shard out")
    path = _data_path(part.name(data) if part else data)
    _allow_replacing(shared, fresh, yes, path)
    if shared.dry_run:
        from .stages import forecast

        forecast.show(forecast.collect(settings, data=path, workers=workers, fresh=fresh))
        return
    from .stages.collect import collect

    workers = _own_workers(workers)
    collect(settings, name=data, root=path.parent, workers=workers, fresh=fresh, shard=part, merge=merge or 0)


@_command(
    "dreamer fit-world --run mine",
    "dreamer fit-world --minutes 60 --set model.deter=512 --set world.batch=32",
    shares=True,
)
def fit_world(
    shared: Shared,
    run: RunName = _NAME,
    data: RunDataName = None,
    updates: Updates = None,
    minutes: Minutes = None,
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Fit the world model to the data; the same command goes on after an interruption."""
    folder = Run.named(run)
    settings = shared.settings("fit-world", {"world.updates": updates}, folder.recorded_settings(folder.world))
    path = _data_path(data, folder)
    _allow_replacing(shared, fresh, yes, folder.world.path)
    device = shared.torch_device()
    if shared.dry_run:
        from .stages import forecast

        forecast.show(forecast.fit_world(settings, run=folder, data=path, device=device, minutes=minutes, fresh=fresh))
        return
    from .stages.fit_world import fit_world

    fit_world(settings, run=folder, data=path, device=device, minutes=minutes, fresh=fresh)


@_command("dreamer show-encodings --run mine")
def show_encodings(shared: Shared, run: RunName = _NAME, data: RunDataName = None) -> None:
    """Draw what the world model sees and what it dreams beside what was recorded."""
    folder = Run.named(run)
    settings = shared.settings("show-encodings", recorded=folder.recorded_settings(folder.world))
    path = _data_path(data, folder)
    device = shared.torch_device()
    if shared.dry_run:
        from .stages import forecast

        forecast.show(forecast.show_encodings(settings))
        return
    from .stages.show_encodings import show_encodings

    show_encodings(settings, run=folder, data=path, device=device)


@_command("dreamer fit-policy --run mine", "dreamer fit-policy --minutes 10 --set policy.horizon=20", shares=True)
def fit_policy(
    shared: Shared,
    run: RunName = _NAME,
    data: RunDataName = None,
    updates: Updates = None,
    minutes: Minutes = None,
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Fit the actor and the critic in imagination alone; the same command goes on after an interruption."""
    folder = Run.named(run)
    recorded = folder.recorded_settings(folder.policy, folder.world)
    settings = shared.settings("fit-policy", {"policy.updates": updates}, recorded)
    path = _data_path(data, folder)
    _allow_replacing(shared, fresh, yes, folder.policy.path)
    device = shared.torch_device()
    if shared.dry_run:
        from .stages import forecast

        forecast.show(forecast.fit_policy(settings, run=folder, data=path, device=device, minutes=minutes, fresh=fresh))
        return
    from .stages.fit_policy import fit_policy

    fit_policy(settings, run=folder, data=path, device=device, minutes=minutes, fresh=fresh)


@_command("dreamer evaluate --run mine --video", "dreamer evaluate --list selection --tracks 20", shares=True)
def evaluate(
    shared: Shared,
    run: RunName = _NAME,
    tracks: Tracks = None,
    track_list: TrackList = None,
    video: Video = False,
    stochastic: Stochastic = False,
    workers: Workers = None,
) -> None:
    """Drive the real tracks: scores beside the baselines, and a video."""
    folder = Run.named(run)
    recorded = folder.recorded_settings(folder.policy, folder.world)
    settings = shared.settings("evaluate", {"evaluate.tracks": tracks, "evaluate.list": track_list}, recorded)
    device = shared.torch_device()
    if shared.dry_run:
        from .stages import forecast

        forecast.show(forecast.evaluate(settings, run=folder, video=video, workers=workers, device=device))
        return
    from .stages.evaluate import evaluate

    workers = _own_workers(workers)
    evaluate(settings, run=folder, video=video, stochastic=stochastic, workers=workers, device=device)


@_command("dreamer run --preset demo --video", "dreamer run --data mine --run mine --seed 1 --minutes 20")
def run(
    shared: Shared,
    run: RunName = _NAME,
    data: RunDataName = None,
    minutes: Minutes = None,
    video: Video = False,
    workers: Workers = None,
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """All five stages in order, from random driving to the score."""
    folder = Run.named(run)
    recorded = folder.recorded_settings(folder.policy, folder.world)
    settings = shared.settings("run", recorded=recorded)
    path = _data_path(data, folder)
    _allow_replacing(shared, fresh, yes, path, folder.root)
    device = shared.torch_device()
    if shared.dry_run:
        from .stages import forecast

        forecasts = forecast.whole_run(
            settings, run=folder, data=path, device=device, minutes=minutes, video=video, workers=workers, fresh=fresh
        )
        for one in forecasts:
            forecast.show(one)
        forecast.show_total(forecasts)
        return
    from .stages.collect import collect
    from .stages.evaluate import evaluate
    from .stages.fit_policy import fit_policy
    from .stages.fit_world import fit_world
    from .stages.show_encodings import show_encodings

    collect(settings, name=path.name, root=path.parent, workers=workers, fresh=fresh)
    fit_world(settings, run=folder, data=path, device=device, minutes=minutes, fresh=fresh)
    show_encodings(settings, run=folder, data=path, device=device)
    fit_policy(settings, run=folder, data=path, device=device, minutes=minutes, fresh=fresh)
    _print_results(folder, evaluate(settings, run=folder, video=video, workers=workers, device=device))


def _print_results(run: Run, report: Report) -> None:
    """What came of a run, and where it is."""
    from .driving import POLICY

    tracks, score = f"{len(report.question['tracks'])} {report.question['list']} tracks", report.summaries[POLICY]
    console.say(f"Score: {score.mean:.0f} (95 % interval {score.low:.0f} to {score.high:.0f}), mean over {tracks}")
    console.say(f"Figure: {run.encodings.path / 'encodings.png'}")
    for film in sorted(run.evaluation.path.glob("drive.*")):
        console.say(f"Video: {film}")
    console.say(f"Run folder: {run.root}")


def main() -> NoReturn:
    """The console script. An error is one sentence and an exit code; `--debug` shows its traceback first."""
    try:
        with distributed.joined():
            app(prog_name="dreamer")
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        console.set_mute(not distributed.first_to_say(str(error)))
        if isinstance(error, DreamerError):
            (console.warn if isinstance(error, InterruptedRunError) else console.fail)(str(error))
            sys.exit(error.exit_code)
        console.fail(f"{type(error).__name__}: {error} (run again with --debug to see where)")
        sys.exit(1)
    raise AssertionError("typer ends by SystemExit")
