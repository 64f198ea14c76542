"""Keeping commands apart: one that writes a folder is alone with it, one that reads it keeps writers out.

The lock is the operating system's, on a file. It ends with the process that holds it, however that one ends, so that
none is ever left over. In the file stands who holds it, for those that are refused to read.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Self

from .errors import BusyError, StageError

_LONGEST = 200  # characters of a command that is named; the file may come from somebody else


class Lock:
    """Held from when it is made until it is closed, or this process ends. A context manager.

    Nothing is held on Windows, on a file system without locks, nor to read what is missing or cannot be written by
    this user and never was.

    Args:
        path: the lock's file, in a folder that exists or, to read, may not.
        what: is kept, for the message.
        command: that keeps it, as a person would type it.
        to_read: many may read at a time.

    Raises:
        BusyError: another process holds it.
        StageError: what is there is no file, but a link or a pipe: to write to it could harm what is elsewhere.
    """

    def __init__(self, path: Path, what: Path, command: str, *, to_read: bool = False) -> None:
        self._stream = _open(path, to_read)
        if self._stream is None:
            return
        try:
            _lock(self._stream, to_read)
        except BlockingIOError as error:
            holder = _holder(self._stream)
            self._stream.close()
            raise BusyError(f"{what} is in use by {holder}; wait for it to end") from error
        if self._stream.writable():
            _sign(self._stream, command, anew=not to_read)

    def close(self) -> None:
        """Let others have it."""
        if self._stream is None:
            return
        with self._stream, suppress(OSError):
            if self._stream.writable():
                _lock(self._stream, to_read=False)  # as long as others read, what stands there stays
                self._stream.truncate(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def reading(command: str, *locks: tuple[Path, Path]) -> Iterator[None]:
    """Keep writers out. Raises BusyError where there is one.

    Args:
        command: that reads.
        locks: the lock's file, and what it keeps.
    """
    with ExitStack() as held:
        for path, what in locks:
            held.enter_context(Lock(path, what, command, to_read=True))
        yield


def _open(path: Path, to_read: bool) -> IO[str] | None:
    if path.is_symlink() or (path.exists() and not path.is_file()):  # it may have come with somebody else's folder
        raise StageError(f"{path} is no file to lock, but a link, a pipe or a folder; remove it")
    try:
        return path.open("a+", encoding="utf-8", errors="replace")
    except OSError:
        if not to_read:
            raise
    try:
        return path.open(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _lock(stream: IO[str], to_read: bool) -> None:
    """Raises BlockingIOError where another process holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if to_read else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system that has no locks
        return


def _sign(stream: IO[str], command: str, *, anew: bool) -> None:
    """Write down who holds the lock: behind the other readers, or alone. It is held even where the disk is full."""
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"command": command, "process": os.getpid(), "machine": platform.node(), "since": since}
    with suppress(OSError):
        if anew:
            stream.truncate(0)
        os.write(stream.fileno(), f"{json.dumps(holder)}\n".encode())


def _holder(stream: IO[str]) -> str:
    """Who holds the lock, as far as its file tells."""
    stream.seek(0)
    for line in stream.read(2**20).splitlines():
        try:
            holder = json.loads(line)
            command, process, machine, since = (holder[key] for key in ("command", "process", "machine", "since"))
            here = machine == platform.node()
            if not (isinstance(process, int) and process > 0 and f"{command}{machine}{since}".isprintable()):
                continue
        except (ValueError, TypeError, KeyError):
            continue
        if not here or _lives(process):
            where = "" if here else f" on {str(machine)[:_LONGEST]}"
            return f"`{str(command)[:_LONGEST]}` (process {process}{where}, since {str(since)[:_LONGEST]})"
    return "another command"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True
