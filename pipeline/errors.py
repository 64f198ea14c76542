"""The errors a user meets. Each is one sentence: what is wrong, where, and the command that mends it."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path


class DreamerError(Exception):
    """Something failed. The command prints the message alone and exits with `exit_code`."""

    exit_code = 1


class UsageError(DreamerError):
    """The command line or the settings ask for something that does not exist or is out of bounds."""

    exit_code = 2


class StageError(DreamerError):
    """What an earlier stage should have left is missing, of another version, or changed since."""

    exit_code = 3


class BusyError(StageError):
    """Another command is at work on what this one needs."""


class InterruptedRunError(DreamerError):
    """Ctrl-C or SIGTERM: everything up to here is saved, and the same command goes on from it."""

    exit_code = 130

    def __init__(
        self, message: str = "Stopped; what was saved before is as it was, and the same command goes on from it"
    ) -> None:
        super().__init__(message)


_REFUSED = {
    errno.ENOSPC: "cannot be written, for the disk is full",
    errno.EDQUOT: "cannot be written, for this user's share of the disk is used up",
    errno.EFBIG: "cannot be written, for it becomes larger than a file may be here",
    errno.EROFS: "cannot be written, for the disk is read-only",
    errno.EACCES: "is not for this user to read or write",
    errno.EPERM: "is not for this user to read or write",
    errno.EISDIR: "cannot be written, for a folder has this name",
    errno.EEXIST: "cannot be made, for something else has this name",
    errno.ENOTDIR: "cannot be found, for what should be a folder on the way is none",
    errno.EIO: "cannot be read or written, for the disk fails",
}
_TOO_LARGE = re.compile(r"can't allocate memory|out of memory")  # torch's ways, on a CPU and on others
_ERROR_NUMBER = re.compile(r"\((?:os error|errno =) (\d+)")  # safetensors' way to say it


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, one after the other."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def of_the_machine(error: BaseException, path: Path | None = None) -> DreamerError | None:
    """What an error says where it is the machine that lacks something: room on the disk, a permission, memory.

    Args:
        error: as a library raised it. What has really happened may stand behind it, as its context.
        path: that was being written, where that is known.
    """
    for link in chain(error):
        number = link.errno if isinstance(link, OSError) else None
        if number is None and (match := _ERROR_NUMBER.search(str(link))):
            number = int(match[1])
        if number in _REFUSED:
            name = path or getattr(link, "filename", None) or "A file"
            return DreamerError(
                f"{name} {_REFUSED[number]}; what was saved before is as it was, and the same command goes on from it "
                "once that is mended"
            )
        if isinstance(link, MemoryError) or number == errno.ENOMEM or _TOO_LARGE.search(str(link)):
            return DreamerError(
                f"There is not enough memory ({_first_line(link)}); what was saved before is as it was. Close other "
                "programs, or take fewer --workers, or a lower world.memory_gib or policy.states_gib; if that does not "
                "do, a smaller world.batch, policy.starts or model, with --fresh"
            )
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the valid name nearest to `name`, or else all the valid names."""
    names = sorted(valid)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else f"; valid: {', '.join(names)}"
