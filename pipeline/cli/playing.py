"""What is there to play with once a run is fitted: its futures, what it knows, and driving in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..artifacts import Run, check_name
from ..errors import UsageError
from .options import NAME, RunDataNames, RunName, Shared, command, data_paths, refuse_dry_run

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON and nothing else.")]
EpisodeNumber = Annotated[
    int | None, typer.Option(metavar="N", help="Episode to begin in.", show_default="the held-out one that earns most")
]
DecisionNumber = Annotated[
    int | None, typer.Option(metavar="N", help="Decision of it.", show_default="the one after which it earns most")
]


@command("dreamer show-futures --run mine", "dreamer show-futures --run mine --episode 12 --decision 40")
def show_futures(
    shared: Shared,
    run: RunName = NAME,
    data: RunDataNames = None,
    episode: EpisodeNumber = None,
    decision: DecisionNumber = None,
) -> None:
    """Draw one present, and the futures that the world model imagines after several actions."""
    refuse_dry_run(shared)
    folder = Run.named(run)
    settings = shared.settings("show-futures", recorded=folder.recorded_settings(folder.world))
    paths, device = data_paths(data, folder), shared.torch_device()
    from ..stages.show_futures import show_futures

    show_futures(settings, run=folder, data=paths, device=device, episode=episode, decision=decision)


@command("dreamer probe --run mine", "dreamer probe --run mine --data truth --json")
def probe(shared: Shared, run: RunName = NAME, data: RunDataNames = None, as_json: Json = False) -> None:
    """Tell how well speed, yaw rate and place on the road can be read off the world model's states."""
    refuse_dry_run(shared)
    console.set_quiet(shared.quiet or as_json)
    folder = Run.named(run)
    settings = shared.settings("probe", recorded=folder.recorded_settings(folder.world))
    paths, device = data_paths(data, folder), shared.torch_device()
    from ..stages import probe as stage

    findings = stage.probe(settings, run=folder, data=paths, device=device)
    if as_json:
        typer.echo(json.dumps(stage.as_json(findings), indent=2))
    else:
        stage.show(findings, folder)


@command(
    "dreamer play --run mine",
    "dreamer play --run mine --real --record mydrives",
    "dreamer play --run mine --headless --script 'gas*20 gas+left*5 rewind*9 gas+right*9' --film drive.mp4",
)
def play(
    shared: Shared,
    run: RunName = NAME,
    data: RunDataNames = None,
    real: Annotated[bool, typer.Option("--real", metavar="", help="Begin in the real environment.")] = False,
    track: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Real track.", show_default="another for each drive")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.1, max=10, metavar="X", help="1 is the environment's own.")] = 1.0,
    record: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add the real drives to a data set, a folder in data/.")
    ] = None,
    film: Annotated[Path | None, typer.Option(metavar="FILE", help="Film what is to be seen, as MP4.")] = None,
    headless: Annotated[bool, typer.Option("--headless", metavar="", help="Open no window; needs --script.")] = False,
    script: Annotated[
        str | None, typer.Option(metavar="TEXT|FILE", help="What to do without a window, see docs/play.md.")
    ] = None,
) -> None:
    """Drive in the dream or in the real environment: stop, go back, try another future. H shows the keys.

    In other environments than CarRacing the policy acts.
    """
    refuse_dry_run(shared)
    if headless != (script is not None):
        raise UsageError("--headless and --script go together: a script is what is played where there is no window")
    folder = Run.named(run)
    settings = shared.settings("play", recorded=folder.recorded_settings(folder.world))
    paths, device = data_paths(data, folder), shared.torch_device()
    recorded = Path("data") / check_name(record, "data set") if record else None
    from ..playing.play import play
    from ..playing.script import read_script

    inputs = None if script is None else read_script(script)
    play(
        settings,
        run=folder,
        data=paths,
        device=device,
        script=inputs,
        real=real,
        track=track,
        speed=speed,
        record=recorded,
        film=film,
    )
