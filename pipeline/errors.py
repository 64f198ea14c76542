"""The errors a user meets. Each is one sentence: what is wrong, where, and the command that mends it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DreamerError(Exception):
    """Something failed. The command prints the message alone and exits with `exit_code`."""

    exit_code = 1


class UsageError(DreamerError):
    """The command line or the settings ask for something that does not exist or is out of bounds."""

    exit_code = 2


class StageError(DreamerError):
    """What an earlier stage should have left is missing, of another version, or changed since."""

    exit_code = 3


class InterruptedRunError(DreamerError):
    """Ctrl-C or SIGTERM: everything up to here is saved, and the same command goes on from it."""

    exit_code = 130


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the valid name nearest to `name`, or else all the valid names."""
    names = sorted(valid)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else f"; valid: {', '.join(names)}"
