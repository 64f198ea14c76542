"""What the commands share: the app, the options, and what is done with them before a stage is called."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import console, distributed
from ..artifacts import Run, check_name
from ..config import (
    PRESETS,
    SIZES,
    VARIANTS,
    Settings,
    flatten,
    parse_value,
    read_settings_file,
    resolve,
    setting_names,
)
from ..errors import InterruptedRunError, StageError, UsageError
from ..processes import cores
from ..reading import read_json
from ..trackers import require

if TYPE_CHECKING:
    import torch


def examples(*lines: str) -> str:
    """The end of a help page."""
    return "Examples:\n\n" + "\n\n".join(f"$ {line}" for line in lines)


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Learn a world model of CarRacing from random driving, then learn to drive entirely inside it.",
    epilog=examples("dreamer run --preset demo --video", "dreamer fit-world --help"),
)

_MAX_METADATA = 2**24  # bytes

OWNERS = {
    "view": "collect",
    "collect": "collect",
    "model": "fit-world",
    "world": "fit-world",
    "policy": "fit-policy",
    "evaluate": "evaluate",
    "planner": "evaluate",
}
"""The command that each section of the settings belongs to; `run` uses them all, and all commands use `seed`."""


def _completes(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Completion by the shell: those of the names that begin with what was typed."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def _folders(root: str) -> Callable[[str], list[str]]:
    """Completion by the names of the folders in a folder."""
    return _completes(lambda: sorted(path.name for path in Path(root).glob("*/")))


_shared_option = functools.partial(typer.Option, rich_help_panel="Shared options")


@dataclass(frozen=True)
class Shared:
    """The options that every command has."""

    preset: Annotated[
        str | None,
        _shared_option(
            metavar="tiny|demo|full",
            autocompletion=_completes(lambda: PRESETS),
            help="Settings that end in seconds, in minutes, or at the best.",
            show_default="the run's own settings, full for a new run",
        ),
    ] = None
    variant: Annotated[
        str | None,
        _shared_option(
            metavar="laptop|memoryless|v1|v2|v3",
            autocompletion=_completes(lambda: VARIANTS),
            help="Which Dreamer: our own, one of the three published, or one without memory.",
            show_default="the run's own, laptop for a new run",
        ),
    ] = None
    size: Annotated[
        str | None,
        _shared_option(
            metavar="1m|12m|25m|50m|100m|200m|400m",
            autocompletion=_completes(lambda: SIZES),
            help="DreamerV3's sizes by its own names.",
            show_default="the variant's own",
        ),
    ] = None
    config: Annotated[Path | None, _shared_option(metavar="FILE", help="Settings from a TOML file.")] = None
    assignments: Annotated[
        list[str] | None,
        _shared_option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            autocompletion=_completes(lambda: [f"{name}=" for name in setting_names()]),
            help="A single setting; may be given several times.",
        ),
    ] = None
    seed: Annotated[int | None, _shared_option(metavar="N", help="Seed of everything random.", show_default="0")] = None
    deterministic: Annotated[
        bool,
        _shared_option("--deterministic", metavar="", help="Bitwise the same again on this machine."),
    ] = False
    device: Annotated[
        str,
        _shared_option(
            metavar="auto|cpu|cuda|mps",
            autocompletion=_completes(lambda: ("auto", "cpu", "cuda", "mps")),
            help="Where the networks run; collecting has none.",
        ),
    ] = "auto"
    quiet: Annotated[bool, _shared_option("--quiet", metavar="", help="Print warnings and errors only.")] = False
    debug: Annotated[bool, _shared_option("--debug", metavar="", help="Show the whole traceback of an error.")] = False
    dry_run: Annotated[
        bool,
        _shared_option("--dry-run", metavar="", help="Print settings, sizes, memory and time expected; write nothing."),
    ] = False

    def settings(
        self,
        command: str,
        shortcuts: Mapping[str, Any] | None = None,
        recorded: Settings | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> Settings:
        """What variant, size, preset, file, `--set` and shortcuts come to, each overriding the one before.

        Args:
            command: name of the command that will use them.
            shortcuts: settings that have an option of their own, by their dotted names; None where not given.
            recorded: those of the run; they take the place of variant, size and preset where none is asked for.
            environment: that of the data set, for a run that has recorded none, see `recorded_environment`.

        Raises:
            UsageError: a setting is unknown, out of bounds or, given with `--set`, of no use to the command. What
                `fit-world` is told of the policy, the run remembers for `fit-policy`.
        """
        given = [_assignment(text) for text in self.assignments or ()]
        options = {"seed": self.seed, "deterministic": self.deterministic or None, **(shortcuts or {})}
        file = read_settings_file(self.config) if self.config else None
        chosen = (self.variant, self.size, self.preset, file)
        known = dict(environment or {})
        if recorded is not None:
            known = {"view.env": recorded.view.env, "view.env_kwargs": recorded.view.env_kwargs}
            if all(choice is None for choice in chosen):
                measured = dict.fromkeys(("world.precision", "policy.precision"), "auto")  # where it ran, not here
                file = flatten(recorded.model_dump()) | measured
        settings = resolve(
            self.preset or "full",
            known | flatten(file or {}),
            [*given, *((k, v) for k, v in options.items() if v is not None)],
            variant=self.variant or "laptop",
            size=self.size,
        )
        for name, _ in given:
            if options.get(name) is not None:
                raise UsageError(f"The setting {name} is given with --set and by an option of its own; leave one out")
            owner = OWNERS.get(name.partition(".")[0], command)
            together = (command, owner) == ("fit-world", "fit-policy")  # some settings of the two go together
            if command not in (owner, "run") and not together:
                raise UsageError(f"The setting {name} belongs to `dreamer {owner}`, not to `dreamer {command}`")
        return settings

    def torch_device(self) -> torch.device:
        """The device asked for, with memory handled for speed. Raises UsageError where it is not there."""
        from ..allocator import keep_memory

        keep_memory()
        from ..devices import pick_device

        return pick_device(self.device)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes section.key=value, such as world.updates=2000, not '{text}'")
    return name.strip(), parse_value(value.strip())


NAME = "carracing"  # of data set and run, where none is given

DataName = Annotated[
    str,
    typer.Option("--data", metavar="NAME", autocompletion=_folders("data"), help="Data set, a folder in data/."),
]


def _run_data(text: str) -> Any:
    return typer.Option(
        "--data", metavar="NAME", autocompletion=_folders("data"), help=text, show_default=f"the run's own, else {NAME}"
    )


RunDataName = Annotated[str | None, _run_data("Data set, a folder in data/.")]
RunDataNames = Annotated[list[str] | None, _run_data("Data set, a folder in data/; may be given several times.")]
run_names = _folders("artifacts")
RunName = Annotated[
    str, typer.Option("--run", metavar="NAME", autocompletion=run_names, help="Run, a folder in artifacts/.")
]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes.", show_default="all cores")]
Updates = Annotated[int | None, typer.Option(metavar="N", help="Gradient updates.", show_default="by the preset")]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.1, max=1e6, metavar="N", help="Fit for about N minutes, whatever the number of updates; `run`: each fit."
    ),
]
Decisions = Annotated[
    int | None, typer.Option(metavar="N", help="Decisions to record, at least.", show_default="by the preset")
]
ActingPolicy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="mixture|smooth|glance|launch|sticky|brownian|uniform|artifacts/RUN",
        help="Random process that acts, or the run whose policy does.",
    ),
]
Env = Annotated[
    str | None,
    typer.Option(
        "--env",
        metavar="ID",
        help="Gymnasium's id of the environment, or module:ID.",
        show_default="the run's own, else CarRacing-v3",
    ),
]
EnvKwargs = Annotated[
    str | None,
    typer.Option("--env-kwargs", metavar="JSON", help="Arguments that it is made with, such as '{\"gravity\": -5}'."),
]
Tracks = Annotated[
    int | None, typer.Option(metavar="N", help="Tracks to drive, or else seeds.", show_default="by the preset")
]
TrackList = Annotated[
    str | None,
    typer.Option("--list", metavar="report|selection", help="Published list of them.", show_default="report"),
]
Video = Annotated[bool, typer.Option("--video", metavar="", help="Film the worst, the median and the best track.")]
Stochastic = Annotated[
    bool, typer.Option("--stochastic", metavar="", help="Draw actions from the policy; else take their mean.")
]
Planner = Annotated[
    bool,
    typer.Option(
        "--planner", metavar="", help="Also drive by searching the dream for the best actions at each decision."
    ),
]
ShardText = Annotated[
    str | None,
    typer.Option("--shard", metavar="K/N", help="Record part K of N alone, such as 2/8, as data set NAME-KofN."),
]
Merge = Annotated[
    int | None,
    typer.Option("--merge", min=1, metavar="N", help="Put N such parts together, and record only what they lack."),
]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Show the whole traceback of an error.")]
Fresh = Annotated[bool, typer.Option("--fresh", metavar="", help="Start anew and replace what is there; asks first.")]
Yes = Annotated[bool, typer.Option("--yes", metavar="", help="Answer yes to what --fresh asks.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", metavar="", help="Log for TensorBoard too: tensorboard --logdir artifacts.")
]
WandB = Annotated[
    bool, typer.Option("--wandb", metavar="", help="Log to Weights & Biases too; WANDB_MODE=offline keeps it here.")
]
AsJson = Annotated[
    bool, typer.Option("--json", metavar="", help="Print JSON and nothing else; warnings go to standard error.")
]


def command(*lines: str, shares: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the app: its first parameter, `shared`, stands for all fields of `Shared`.

    Args:
        lines: examples, shown in the help.
        shares: whether several processes can share its work, see `distributed`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        shared = inspect.signature(Shared, eval_str=True).parameters
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        @functools.wraps(function)
        def call(**options: Any) -> None:
            common = Shared(**{name: options.pop(name) for name in shared})
            console.set_quiet(common.quiet and not common.dry_run)  # which is there to be read
            if distributed.size() > 1:
                _share_out(shares and not common.dry_run)
            try:
                function(common, **options)
            except KeyboardInterrupt:  # where there is nothing to save
                raise InterruptedRunError from None

        call.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
        app.command(epilog=examples(*lines))(call)
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


def allow_replacing(shared: Shared, fresh: bool, yes: bool, *folders: Path) -> None:
    """Ask before `--fresh` replaces folders. Raises UsageError where there is nobody to ask."""
    there = " and ".join(str(folder) for folder in folders if folder.exists())
    if not fresh or yes or shared.dry_run or not there:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"--fresh replaces {there}, and there is no terminal to ask on; add --yes to allow it")
    typer.confirm(f"Replace {there}?", abort=True)


def refuse_two_lengths(updates: int | None, minutes: float | None) -> None:
    """Raise UsageError where both say how long to fit."""
    if updates is not None and minutes is not None:
        raise UsageError("--updates and --minutes both say how long to fit; leave one out")


def log_to(**asked: bool) -> None:
    """Log metrics to these services too. Raises UsageError where the package of one is not installed."""
    console.track_with(*(require(name) for name, wanted in asked.items() if wanted))


def data_paths(names: Sequence[str] | None, run: Run, *, fresh: bool = False) -> list[Path]:
    """The folders of data sets; where none is named, of those that the run was fitted to.

    Raises StageError where its world model does not tell, and UsageError where that one is to be replaced (`fresh`).
    """
    try:
        if not names and (manifest := run.world.read_manifest()) is not None:
            names = [source.name for source in manifest.sources]
    except StageError as error:
        if fresh:
            raise UsageError(
                f"{run.world.path} cannot tell which data it was fitted to; name them, "
                f"`{run.world.command} --data NAME --fresh`"
            ) from error
        raise
    return [data_path(name) for name in names or [NAME]]


def data_path(name: str) -> Path:
    """The folder of a data set."""
    return Path("data") / check_name(name, "data set")


def driving_run(policy: str | None) -> Run | None:
    """The run that `--policy` gives by its folder; None for the name of a random process."""
    if policy is None or not {"/", os.sep} & {*policy}:
        return None
    path = Path(policy)
    return Run.named(path.name, path.parent)


def recorded_view(run: Run) -> dict[str, Any]:
    """How the world model of a run sees, by the names of the settings; nothing where there is none."""
    settings = run.recorded_settings(run.world)
    return settings.section_values(["view"]) if settings else {}  # that it is missing, the stage says


def recorded_environment(path: Path) -> dict[str, Any]:
    """The environment of the data set in a folder, by the names of the settings; nothing where none can be read."""
    try:
        origin = read_json(path / "metadata.json", _MAX_METADATA)["dreamer"]
        arguments = origin["view"].get("env_kwargs") or "{}"
        return {"view.env": str(origin["environment"]), "view.env_kwargs": str(arguments)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # what is wrong with it, its reader says
        return {}


def own_workers(workers: int | None) -> int | None:
    """The workers of this process: of several on a machine, each takes its share of the cores, unless it is told."""
    neighbours = distributed.neighbours()
    return workers if workers or neighbours == 1 else max(1, cores() // neighbours)


def refuse_dry_run(shared: Shared) -> None:
    """Raise UsageError where a command that is over in seconds is to foresee what it will do."""
    if shared.dry_run:
        raise UsageError(f"There is nothing to foresee for `dreamer {sys.argv[1]}`; leave --dry-run out")
