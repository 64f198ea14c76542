"""Worker processes, and stopping them: a request to stop is heard by one process, and obeyed where nothing is lost."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .errors import DreamerError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

PATIENCE = 30 * 60.0
"""Seconds without any result after which workers are taken to hang. A drive of the largest model takes minutes."""

_MOMENT = 0.01  # seconds
_AHEAD = 2  # items under way for each worker, so that none waits for another
Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Interruption:
    """Within it, Ctrl-C and SIGTERM only ask: `asked` says that it is time to save and stop. A second Ctrl-C insists.

    Who obeys leaves by an exception. What was asked too late for that is asked again outside, of whoever listens there.

    Outside the main thread, where Python takes no signals, nothing is ever asked.
    """

    def __enter__(self) -> Self:
        self.asked = False
        self._last = signal.SIGINT
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.asked and kind is None:
            signal.raise_signal(self._last)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked, self._last = True, signal.Signals(number)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within it, SIGTERM raises KeyboardInterrupt too, so that it leaves nothing half written either.

    What comes amid code that lets no exception out, such as a destructor, comes again a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, signal.default_int_handler), sys.unraisablehook

    def hear_again(unraisable: UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)
            return
        timer = threading.Timer(_MOMENT, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hear_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    prepare: Callable[[], object] = bool,
    stopped: Callable[[], bool] = bool,
) -> Generator[Result]:
    """Apply a function to each item in worker processes. Close it (`contextlib.closing`) to end them.

    Args:
        function: from the top of a module, as are its arguments' and result's types: they cross by pickle.
        items: may have no end; taken a few ahead of the results.
        workers: processes.
        prepare: called once in each.
        stopped: asked between results. Once True, no further item is begun; those under way still come out.

    Yields:
        The results in the order of the items.

    Raises:
        DreamerError: a worker was killed, or none has answered for `PATIENCE`. What the function itself raises comes
            out as it is.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (prepare,))
    waiting, queue = deque[Future[Result]](), iter(items)
    others = {process.pid for process in multiprocessing.active_children()}
    try:
        while not stopped():
            with _ctrl_c_held_back():
                for item in itertools.islice(queue, _AHEAD * workers - len(waiting)):
                    waiting.append(pool.submit(function, item))
            if not waiting:
                return
            yield waiting.popleft().result(PATIENCE)
        for future in reversed(waiting):
            future.cancel()  # where it has not begun
        while waiting and not waiting[0].cancelled():
            yield waiting.popleft().result(PATIENCE)
    except TimeoutError as error:
        _kill_workers(others)
        raise DreamerError(
            f"No worker process has answered for {PATIENCE / 60:.0f} minutes, and they were ended; what was finished "
            "before is kept, and the same command goes on from it"
        ) from error
    except KeyboardInterrupt:
        _kill_workers(others)  # they are not waited for a second time
        raise
    except BrokenProcessPool as error:
        if stopped():  # a SIGTERM for the whole group has reached the workers too
            return
        raise DreamerError(
            "A worker process was killed, perhaps for want of memory; run the command again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _kill_workers(others: Collection[int | None]) -> None:
    for process in multiprocessing.active_children():
        if process.pid not in others:
            process.kill()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Have processes that start here deaf to Ctrl-C from their first moment: they inherit what is blocked."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(prepare: Callable[[], object]) -> None:
    """Begin a worker: this process alone does not decide to stop, and does not outlive the one it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
