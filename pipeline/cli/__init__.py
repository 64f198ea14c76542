"""The command line: a command reads its options and calls one stage.

What is slow to import is imported inside the commands, after the options are checked: help and mistakes answer at once.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, NoReturn

import typer

from .. import __version__, console, distributed
from ..errors import DreamerError, InterruptedRunError, chain, of_the_machine
from ..processes import sigterm_as_ctrl_c
from . import checking, looking, playing, stages
from .options import app

app.registered_commands.sort(key=lambda one: getattr(one.callback, "__module__", "") != stages.__name__)  # these first

__all__ = ["app", "checking", "looking", "main", "playing", "stages"]


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


def _explained(error: Exception) -> Exception:
    """What has really happened, where a library has put its own error over it."""
    if isinstance(error, InterruptedRunError):
        return error
    if any(isinstance(link, KeyboardInterrupt) for link in chain(error)):  # such as amid an import
        return InterruptedRunError()
    return error if isinstance(error, DreamerError) else of_the_machine(error) or error


def main() -> NoReturn:
    """The console script. An error is one sentence and an exit code; `--debug` shows its traceback first."""
    sys.path.append("")  # as `python -m` has it: an environment may come from a module in the working folder
    try:
        with sigterm_as_ctrl_c(), distributed.joined():
            app(prog_name="dreamer")
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        error = _explained(error)
        console.set_mute(not distributed.first_to_say(str(error)))
        if isinstance(error, DreamerError):
            (console.warn if isinstance(error, InterruptedRunError) else console.fail)(str(error))
            sys.exit(error.exit_code)
        console.fail(f"{type(error).__name__}: {error} (run again with --debug to see where)")
        sys.exit(1)
    raise AssertionError("typer ends by SystemExit")
