"""Metrics on disk, numbers on screen, and progress without a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import console
from pipeline.console import Meter, MetricsLog, duration, read_lines, short
from pipeline.errors import StageError


def test_metrics_resume_without_gaps_or_doubles(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (10, 20, 30):
        log.append(step, {"loss": step / 10})
    log.close()
    with path.open("a") as stream:
        stream.write('{"step": 40, "lo')  # cut short by a kill
    log = MetricsLog(path, after=20)
    log.append(30, {"loss": 9.0})
    log.close()
    assert read_lines(path) == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}, {"step": 30, "loss": 9.0}]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[1]",
        "{}",
        '{"step": "2"}',
        '{"step": 2, "loss": "low"}',
        "[" * 10**5,
        '{"step": 2, "loss": [[]]}',
        "\0" * 9,
        '{"step": 2, "loss": NaN}',
        '{"step": 2, "loss": 1e999}',
        f'{{"step": {10**400}}}',
    ],
    ids=range(11),
)
def test_a_line_within_that_is_damaged_loses_no_other(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    content = f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n'
    path.write_text(content)
    with pytest.raises(StageError, match=r"metrics\.jsonl is damaged in line 2 .*move it away"):
        MetricsLog(path, after=3)
    assert path.read_text() == content


def test_metrics_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(StageError, match=r"metrics\.jsonl cannot be read"):
        read_lines(tmp_path / "metrics.jsonl")


def test_a_link_in_somebody_elses_run_is_not_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".metrics.jsonl.new").symlink_to(precious)
    MetricsLog(tmp_path / "metrics.jsonl").close()
    assert precious.read_text() == "mine"


def test_commands_to_the_terminal_are_printed_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (console.say, console.warn, console.fail):
        show("a\x1b[2Jb\x07[red]c")
    console.table("[blink]title\x1b[2J", ["name"], [["\x1b]0;owned\x07 <script>"]])
    captured = capsys.readouterr()
    assert captured.out.startswith("a\\x1b[2Jb\\x07[red]c\n")
    assert captured.err == "Warning: a\\x1b[2Jb\\x07[red]c\nError: a\\x1b[2Jb\\x07[red]c\n"
    assert "\x1b" not in captured.out and "\x07" not in captured.out and "<script>" in captured.out
    assert "[blink]title" in captured.out


def test_a_new_log_begins_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).append(1, {"loss": 1.0})
    MetricsLog(path).close()
    assert read_lines(path) == []
    assert read_lines(tmp_path / "none.jsonl") == []


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, {"loss": float("nan"), "kl": float("inf"), "fine": 1.0})
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "kl": None, "fine": 1.0}]


def test_services_are_given_every_line_those_of_an_earlier_start_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, object]] = []

    class Service:
        def __init__(self, folder: Path) -> None:
            given.append(("folder", folder))

        def append(self, step: int, metrics: Mapping[str, float]) -> None:
            given.append(("line", (step, dict(metrics))))

        def close(self) -> None:
            given.append(("close", None))

    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(10, {"loss": 1.0})
    log.append(20, {"loss": 2.0})
    log.close()
    monkeypatch.setattr(console, "_trackers", ())
    console.track_with(Service)
    log = MetricsLog(tmp_path / "metrics.jsonl", after=10)
    log.append(20, {"loss": 3.0, "kl": float("nan")})
    log.close()
    lines = [("line", (10, {"loss": 1.0})), ("line", (20, {"loss": 3.0}))]
    assert given == [("folder", tmp_path), *lines, ("close", None)]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux alone says it")
def test_memory_is_what_the_process_holds() -> None:
    number, unit = console.memory().split()
    assert 0.01 < float(number) < 100 and unit == "GiB"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (3.14159, "3.142"), (123456.0, "1.23e+05"), (0.00012345, "1.23e-04"), (-2.0, "-2")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (62, "1:02"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_off_a_terminal_progress_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "memory", lambda: "1.5 GiB")
    with Meter("Fitting", 100, "updates", done=20) as meter:
        for done in range(21, 61):
            now[0] += 0.5
            meter.advance_to(done, {"loss": 1.5})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Fitting: 40/100 updates, 2/s, 0:30 left, 1.5 GiB  loss 1.5"
    assert lines[-1].startswith("Fitting: 60/100 updates")
    assert len(lines) == 3


@pytest.mark.parametrize("width", [80, 200])
def test_on_a_terminal_of_80_columns_everything_is_to_be_seen(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, get_time=lambda: now[0])
    monkeypatch.setattr(console, "_out", screen)
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "memory", lambda: "12.5 GiB")
    meter = Meter("Collecting", 100_000, "decisions", done=10_000)  # not begun: nothing draws beside the test
    assert meter.bar is not None
    for done in (20_000, 40_000):
        now[0] += 10
        meter.advance_to(done, {"held_out/open_loop_15": 0.00746, "kl": 5.4, "picture": 15.6})
    with screen.capture() as shown:
        screen.print(meter.bar.get_renderable())
    bar, metrics = re.sub(r"\x1b\[[\d;]*m", "", shown.get()).splitlines()
    assert re.fullmatch(r"Collecting [━╸╺ ]+ +40000/100000 1500 decisions/s 0:00:30 12\.5 GiB *", bar)
    assert metrics.rstrip() == "  held_out/open_loop_15 0.00746  kl 5.4  picture 15.6"


def test_progress_says_nothing_of_what_failed_and_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Meter("Fitting", 10, "updates") as meter:
        meter.advance_to(1 // 0)
    console.say("[red]name[/red]")
    assert capsys.readouterr().out == "[red]name[/red]\n"


def test_quiet_leaves_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_quiet(True)
    try:
        console.say("one")
        console.table("two", ["a"], [["b"]])
        console.warn("three")
        console.fail("four")
    finally:
        console.set_quiet(False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Warning: three\nError: four\n"
