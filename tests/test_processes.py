from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import pipeline
from pipeline import processes
from pipeline.errors import DreamerError, InterruptedRunError
from pipeline.processes import Interruption, cores, in_order, sigterm_as_ctrl_c

WORK = """
import os, time

def late_if_even(number):
    time.sleep(0.02 * (number % 2 == 0))
    return number, os.getpid()

def fail_at_3(number):
    if number == 3:
        raise KeyError("three")
    return number

def die_at_3(number):
    if number == 3:
        os._exit(1)
    return number

def hang_at_3(number):
    time.sleep(1000 * (number == 3))
    return number

def wait(number):
    time.sleep(0.05)
    return number
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Callable[[int], object]]:
    """Functions that worker processes can import."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "work_for_processes.py").write_text(WORK)
    sys.path.insert(0, str(folder))  # which spawned processes take over
    import work_for_processes

    return lambda name: getattr(work_for_processes, name)


def test_results_come_in_the_order_of_the_items(work: Callable[[str], Callable[[int], object]]) -> None:
    results = list(in_order(work("late_if_even"), range(12), 2))
    assert [number for number, _ in results] == list(range(12))
    assert len({process for _, process in results} - {os.getpid()}) == 2


def test_items_without_end_are_taken_a_few_ahead(work: Callable[[str], Callable[[int], object]]) -> None:
    numbers = itertools.count()
    with closing(in_order(work("wait"), numbers, 1)) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert next(numbers) < 10


def test_an_exception_comes_out_as_it_is(work: Callable[[str], Callable[[int], object]]) -> None:
    results = in_order(work("fail_at_3"), range(9), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)


def test_a_dead_worker_is_named(work: Callable[[str], Callable[[int], object]]) -> None:
    with pytest.raises(DreamerError, match="fewer --workers"):
        list(in_order(work("die_at_3"), range(9), 1))


def test_a_worker_that_hangs_is_told_and_ended(
    work: Callable[[str], Callable[[int], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = in_order(work("hang_at_3"), range(9), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]  # which takes as long as it takes to begin
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    with pytest.raises(DreamerError, match="No worker process has answered"):
        next(results)
    assert not multiprocessing.active_children()


def test_once_stopped_what_is_under_way_still_comes(work: Callable[[str], Callable[[int], object]]) -> None:
    results: list[object] = []
    for number in in_order(work("wait"), itertools.count(), 1, stopped=lambda: len(results) >= 3):
        results.append(number)  # noqa: PERF402
    assert 3 <= len(results) <= 6 and results == list(range(len(results)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with contextlib.suppress(InterruptedRunError), Interruption() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        raise InterruptedRunError
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_asked_too_late_is_asked_again_outside(number: signal.Signals) -> None:
    with contextlib.suppress(InterruptedRunError), Interruption() as outer:
        with Interruption():
            os.kill(os.getpid(), number)
        assert outer.asked
        outer.asked = False
        with pytest.raises(ValueError, match="other"), Interruption():
            os.kill(os.getpid(), number)
            raise ValueError("other")
        assert not outer.asked


def test_sigterm_ends_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_as_ctrl_c():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), Interruption() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_comes_amid_a_destructor_comes_again(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    """Python lets no exception out of one, and would print it and go on."""

    class Ends:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        ends = Ends()
        del ends
        time.sleep(9)
    assert sys.unraisablehook == hook and "Traceback" not in capsys.readouterr().err


def test_outside_the_main_thread_nothing_is_asked() -> None:
    asked = []

    def look() -> None:
        with Interruption() as stop:
            asked.append(stop.asked)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert asked == [False]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for the worker in /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(
        "import itertools, os\n"
        "from pipeline.processes import in_order\n"
        "def say(number):\n"
        "    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    for process in in_order(say, itertools.count(), 1):\n"
        "        print(process, flush=True)\n"
    )
    root = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, tmp_path / "killed.py"], stdout=subprocess.PIPE, text=True, env=root)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _lives(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(worker)


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
