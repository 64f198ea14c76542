"""What passes from one person to another: checking it, and making a copy of a run to pass on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..artifacts import Run
from .looking import OneRun
from .options import Debug, Fresh, Shared, Yes, allow_replacing, app, examples


@app.command(epilog=examples("dreamer verify artifacts/demo", "dreamer verify data/demo --json"))
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a data set or a run.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print the findings as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Check a data set or a run from end to end: every episode, checksum and weight. Exit code 1 where one is wrong."""
    console.set_quiet(as_json)
    if not path.is_dir():
        from ..errors import UsageError

        raise UsageError(f"There is no folder {path}")
    from ..stages.verify import verify

    verdict = verify(path)
    if as_json:
        sys.stdout.write(json.dumps(verdict.as_json(), indent=1) + "\n")
    else:
        for line in verdict.fine:
            console.say(line)
        for line in verdict.warnings:
            console.warn(line)
        for line in verdict.faults:
            console.fail(line)
        if verdict.sound:
            console.say(f"Sound: nothing is wrong with the {verdict.kind} {path}")
    if not verdict.sound:
        raise typer.Exit(1)


@app.command(epilog=examples("dreamer export demo --to shared", "dreamer export demo --to shared --fresh --yes"))
def export(
    run: OneRun,
    to: Annotated[
        str, typer.Option("--to", metavar="NAME", help="Name of the copy, a folder in artifacts/.", show_default=False)
    ],
    fresh: Fresh = False,
    yes: Yes = False,
    debug: Debug = False,
) -> None:
    """Copy a fitted run to pass on: half the size, with a model card, and without what is private."""
    copy = Run.named(to)
    from ..lineage import find_run

    found = find_run(run)
    allow_replacing(Shared(), fresh, yes, copy.root)
    from ..stages.export import export

    export(found, to, fresh=fresh)
