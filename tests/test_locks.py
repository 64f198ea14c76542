"""Two commands on one folder: the second is refused, and hears who the first is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import BusyError, StageError
from pipeline.locks import Lock, reading

pytest.importorskip("fcntl")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_who_writes_is_alone(path: Path) -> None:
    what = path.parent / "data"
    said = rf"data is in use by `dreamer collect` \(process {os.getpid()}, since 2\d\d\d-.*\); wait for it to end"
    with Lock(path, what, "dreamer collect"):
        for to_read in (False, True):
            with pytest.raises(BusyError, match=said):
                Lock(path, what, "dreamer evaluate", to_read=to_read)
    Lock(path, what, "dreamer evaluate").close()


def test_many_read_and_keep_writers_out(path: Path) -> None:
    place = (path, path.parent)
    with reading("dreamer evaluate", place), reading("dreamer show-encodings", place), pytest.raises(BusyError) as busy:
        Lock(path, path.parent, "dreamer fit-world")
    assert "in use by `dreamer evaluate`" in str(busy.value)
    with Lock(path, path.parent, "dreamer fit-world"), pytest.raises(BusyError, match="in use by `dreamer fit-world`"):
        Lock(path, path.parent, "dreamer evaluate", to_read=True)


def test_to_read_what_is_missing_takes_nothing(tmp_path: Path) -> None:
    with reading("dreamer evaluate", (tmp_path / "missing" / ".lock", tmp_path / "missing")):
        assert not list(tmp_path.iterdir())


HOLDER = """
import sys, time
from pathlib import Path
from pipeline.locks import Lock
lock = Lock(Path(sys.argv[1]), Path("x"), "dreamer collect", to_read=sys.argv[2] == "read")
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_dead_process_holds_nothing(path: Path, kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    words = [sys.executable, "-c", HOLDER, str(path), kind]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=rf"\(process {holder.pid}, "):
            Lock(path, path, "dreamer collect")
        holder.kill()
    with Lock(path, path, "dreamer fit-world", to_read=True), pytest.raises(BusyError) as busy:
        Lock(path, path, "dreamer collect")
    assert "in use by `dreamer fit-world`" in str(busy.value)  # not by the dead one, which may stand there too
    Lock(path, path, "dreamer collect").close()


@pytest.mark.parametrize("to_read", [False, True])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_what_came_with_somebody_elses_folder_is_not_written_to(path: Path, kind: str, to_read: bool) -> None:
    """A link would have another file of this user's emptied, and a pipe be waited for."""
    own = path.with_name("precious")
    if kind == "link":
        own.write_text("kept")
    if kind.startswith("link"):
        path.symlink_to(own)
    else:
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(StageError, match=r"\.lock is no file to lock, .*; remove it"):
        Lock(path, path, "dreamer evaluate", to_read=to_read)
    assert (own.read_text() == "kept") if kind == "link" else not own.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "12",
        "[]",
        "{}",
        "\udcff\x00",
        "x" * 10**6,
        json.dumps({"command": "\x1b[2J", "process": 1, "machine": "m", "since": "s"}),
        json.dumps({"command": "c", "process": -1, "machine": "m", "since": "s"}),
        json.dumps({"command": "c", "process": "1", "machine": "m", "since": "s"}),
    ],
)
def test_what_stands_in_the_file_may_be_anything(path: Path, content: str) -> None:
    with Lock(path, path, "dreamer collect"):
        path.write_text(content, errors="surrogateescape")
        with pytest.raises(BusyError, match="in use by another command; wait"):
            Lock(path, path, "dreamer evaluate", to_read=True)


def test_a_process_of_another_machine_is_named_with_it(path: Path) -> None:
    holder = {"command": "dreamer collect", "process": 2**40, "machine": "elsewhere", "since": "2026"}
    with Lock(path, path, "dreamer collect"):
        path.write_text(json.dumps(holder))
        with pytest.raises(BusyError, match=rf"`dreamer collect` \(process {2**40} on elsewhere, since 2026\)"):
            Lock(path, path, "dreamer evaluate", to_read=True)


def test_a_file_system_without_locks_lets_all_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with Lock(path, path, "dreamer collect"):
        Lock(path, path, "dreamer collect").close()


def test_where_there_is_no_such_module_it_does_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with Lock(path, path, "dreamer collect"):
        Lock(path, path, "dreamer collect").close()
