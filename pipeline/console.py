"""What a person sees while a command works: messages, tables, progress with the live metrics; and the metrics' log."""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from .errors import StageError
from .reading import parse_json, printable, read_text
from .trackers import Tracker

_PLAIN_EVERY = 10.0  # seconds between two progress lines where there is no terminal
_MAX_BYTES = 2**30  # of metrics: those of the most updates that the settings allow take 0.3 GB

_LARGEST = 1e100  # in metrics: beyond what any of them can be, and what can be drawn

_out = Console(highlight=False, soft_wrap=True)
_error = Console(stderr=True, highlight=False, soft_wrap=True)
_trackers: tuple[Callable[[Path], Tracker], ...] = ()


def set_quiet(quiet: bool) -> None:
    """Print nothing but warnings and errors from now on."""
    _out.quiet = quiet


def set_mute(mute: bool) -> None:
    """Print nothing at all from now on, or all of it again: of several processes, one speaks."""
    _out.quiet = _error.quiet = mute


def _plain(message: str) -> str:
    """For rich to print as it is: names and texts from files may hold markup, and commands to the terminal."""
    return escape(printable(message))


def say(message: str) -> None:
    """Print a line."""
    _out.print(_plain(message))


def warn(message: str) -> None:
    """Print a warning to standard error."""
    _error.print(f"[yellow]Warning:[/] {_plain(message)}")


def fail(message: str) -> None:
    """Print an error to standard error."""
    _error.print(f"[red]Error:[/] {_plain(message)}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers, flush right."""
    grid = Table(title=_plain(title), title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*map(_plain, row))
    _out.print(grid)


def say_json(tree: Any) -> None:
    """Print a tree of plain values as JSON, quiet or not: it is what was asked for."""
    sys.stdout.write(json.dumps(tree, indent=1) + "\n")


def track_with(*trackers: Callable[[Path], Tracker]) -> None:
    """From now on give the metrics to these services too, each made with the folder of a metrics file."""
    global _trackers
    _trackers = trackers


def short(value: float) -> str:
    """A number in about four digits."""
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2e}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as `1:02` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory() -> str:
    """What this process holds in memory, such as "1.2 GiB"; empty where the system does not say as Linux does."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return ""
    return f"{pages * mmap.PAGESIZE / 2**30:.1f} GiB"


class _Bar(Progress):
    """A bar and, below it, the live metrics: beside it they would push time and rate off a screen of 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `Progress`."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["metrics"]:
                yield Text("  " + task.fields["metrics"], no_wrap=True, overflow="ellipsis")


class Meter:
    """Progress of long work: a bar with rate, time left, memory and live metrics, or plain lines off a terminal.

    Args:
        title: what is being done.
        total: units of work in all.
        unit: name of a unit, plural.
        done: units finished before, by an earlier run of the command.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.first = self.done = done
        self.started = self.printed = time.monotonic()
        self.text = ""
        self.bar: _Bar | None = None
        if _out.is_terminal and not _out.quiet:
            self.bar = _Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None, table_column=Column(max_width=20)),  # which gives way first
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[memory]}"),
                console=_out,
            )
            self.task = self.bar.add_task(title, total=total, completed=done, rate="", memory="", metrics="")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif kind is None and self.done > self.first:
            self._print_plain()

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def advance_to(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        """Show that `done` units are finished, with the three metrics that matter most."""
        self.done = done
        if metrics is not None:
            self.text = "  ".join(f"{name} {short(value)}" for name, value in metrics.items())
        if self.bar is not None:
            rate = f"{short(self.rate)} {self.unit}/s"
            self.bar.update(self.task, completed=done, rate=rate, memory=memory(), metrics=self.text)
        elif time.monotonic() - self.printed >= _PLAIN_EVERY:
            self._print_plain()

    def _print_plain(self) -> None:
        self.printed = time.monotonic()
        left = duration((self.total - self.done) / self.rate) if self.rate > 0 else "?"
        pace = ", ".join(
            filter(None, (f"{self.done}/{self.total} {self.unit}", f"{short(self.rate)}/s", f"{left} left", memory()))
        )
        say(f"{self.title}: {pace}  {self.text}".rstrip())


class MetricsLog:
    """Appends metrics to a JSONL file, one object a line, each with its `step`; and to what `track_with` names.

    Args:
        path: the file.
        after: keep only lines up to this step, so that a resumed run writes neither gaps nor doubles.
    """

    def __init__(self, path: Path, after: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_lines(path) if line["step"] <= after]
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)  # a link of this name in somebody else's run would lead out of it
        with fresh.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in kept)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)  # a kill in between leaves the old file
        self.trackers = [tracker(path.parent) for tracker in _trackers]
        for line in kept:
            self._track(line)
        self.stream = path.open("a", encoding="utf-8")

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line. A number that is not finite becomes null, for JSON has no other word for it."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.stream.write(json.dumps({"step": step, **finite}) + "\n")
        self.stream.flush()
        self._track({"step": step, **finite})

    def _track(self, line: Mapping[str, float | None]) -> None:
        metrics = {name: value for name, value in line.items() if name != "step" and value is not None}
        for tracker in self.trackers:
            tracker.append(int(line["step"] or 0), metrics)

    def sync(self) -> None:
        """Have all lines on disk."""
        os.fsync(self.stream.fileno())

    def close(self) -> None:
        """Close the file, and the services' too."""
        self.stream.close()
        for tracker in self.trackers:
            tracker.close()


def read_lines(path: Path) -> list[dict[str, float]]:
    """Read a metrics file; none where it is missing. A last line cut short by a kill is left out.

    Raises StageError where any other line is not one that `MetricsLog` writes: to go on would lose what follows it.
    """
    if not path.exists():
        return []
    try:
        *whole, rest = read_text(path, _MAX_BYTES).split("\n")
    except (OSError, ValueError) as error:
        raise StageError(f"{path} cannot be read ({error}); move it away, and run the command again") from error
    lines = []
    for number, text in enumerate(whole, 1):
        try:
            lines.append(_parse_line(text))
        except ValueError as error:
            raise StageError(
                f"{path} is damaged in line {number} ({error}); move it away, and run the command again"
            ) from error
    try:
        return [*lines, _parse_line(rest)]
    except ValueError:
        return lines


def _parse_line(text: str) -> dict[str, float]:
    """A line of metrics. Raises ValueError."""
    line = parse_json(text)
    if not isinstance(line.get("step"), int):
        raise ValueError("it has no step")
    if not all(value is None or (isinstance(value, int | float) and abs(value) < _LARGEST) for value in line.values()):
        raise ValueError("a metric is not a number")  # NaN neither: null stands for what is not finite
    return line
