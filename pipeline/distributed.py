"""Several processes that do one job together, started by `torchrun`: who this one is, and what they agree on.

Each works on its share of a batch, and gradients are averaged, so that all together take the step that one process
would take with the whole batch. The first process alone writes files and speaks. Without torchrun there is one process,
which is the first, and nothing here does anything.

Tensors on a GPU travel by NCCL; everything else by gloo, which does not wait for a GPU.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .errors import DreamerError, UsageError, of_the_machine

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.distributed_c10d import Store

PATIENCE = timedelta(minutes=10)
"""How long a process waits for another one that does not answer."""

P = ParamSpec("P")
T = TypeVar("T")

_rank, _size = 0, 1
_store: Store | None = None
_lost = False


class LostProcessError(DreamerError):
    """Another process of the job has ended or hangs."""


def launched() -> bool:
    """Whether torchrun, or what sets its variables, has started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Number of this process, 0 .. size - 1."""
    return _rank


def size() -> int:
    """How many processes there are."""
    return _size


def neighbours() -> int:
    """How many processes of the job share this machine, this one included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _size > 1 else 1


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return _rank == 0


@contextmanager
def joined() -> Iterator[None]:
    """Within it, this process is one of those that torchrun has started.

    Raises:
        LostProcessError: the others did not come.
    """
    global _rank, _size, _store
    if not launched():
        yield
        return
    import torch
    import torch.distributed as dist
    import torch.distributed.nn.functional  # while there is no group: as a default argument here, it would never end

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except RuntimeError as error:
        raise LostProcessError(f"The processes of this job did not find each other: {_first_line(error)}") from error
    _rank, _size = dist.get_rank(), dist.get_world_size()
    _store = dist.distributed_c10d._get_default_store()
    signal.signal(signal.SIGTERM, _end_unless_lost)
    try:
        yield
    finally:
        _rank, _size = 0, 1
        dist.destroy_process_group()


def _end_unless_lost(number: int, frame: FrameType | None) -> None:
    """SIGTERM is how torchrun ends what is left of a job: a process that knows it already is on its way to say so."""
    if not _lost:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def first_to_say(message: str) -> bool:
    """Whether no other process has said this yet: what all of them notice is said once."""
    if _store is None:
        return True
    try:
        return int(_store.add(f"dreamer/{message}", 1)) == 1
    except RuntimeError:  # its keeper has ended
        return True


def rows(count: int, name: str) -> slice:
    """This process' share of `count` rows: number r of R has the rows r count / R to (r + 1) count / R.

    Raises UsageError, with the name of the setting, where they cannot be shared out evenly.
    """
    if count % _size:
        raise UsageError(
            f"{name} = {count} cannot be shared out among {_size} processes; choose a multiple of {_size}, "
            "or another number of processes"
        )
    share = count // _size
    return slice(_rank * share, (_rank + 1) * share)


def own_random_numbers() -> None:
    """Have torch draw other numbers in each process from now on; in the first, those that it would have drawn."""
    if _rank:
        import numpy as np
        import torch

        sequence = np.random.SeedSequence(torch.initial_seed(), spawn_key=(_rank,))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _collective(function: Callable[P, T]) -> Callable[P, T]:
    """Have the function, which all processes call, raise LostProcessError where another one is gone."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        global _lost
        try:
            return function(*args, **options)
        except RuntimeError as error:
            if of_the_machine(error) is not None:  # it is this process that lacks something
                raise
            _lost = True
            raise LostProcessError(
                f"Another process of this job ended, or did not answer for {PATIENCE.seconds // 60} minutes; what it "
                "said is above, and the same command goes on from what is saved"
            ) from error

    return call


def once(function: Callable[[], T]) -> T:
    """Call the function in the first process, once all are there, and give all of them its result, or its error."""
    if _size == 1:
        return function()
    _all_of(None)
    found: tuple[T | None, DreamerError | None] = (None, None)
    if is_first():
        try:
            found = (function(), None)
        except DreamerError as error:
            found = (None, error)
    result, failure = _of_first(found)
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]


def everyone(value: T) -> list[T]:
    """The values of all processes, in their order."""
    return [value] if _size == 1 else _all_of(value)


@_collective
def _of_first(value: T) -> T:
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


@_collective
def _all_of(value: T) -> list[T]:
    import torch.distributed as dist

    values: list[Any] = [None] * _size
    dist.all_gather_object(values, value)
    return values


@_collective
def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if _size == 1:
        return flag
    import torch
    import torch.distributed as dist

    flags = torch.tensor(flag, dtype=torch.int32)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


@_collective
def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes. Its gradient goes to this process' own part, not divided.

    That is what goes with gradients that are averaged afterwards: d mean / dw = mean of d value / dw.
    """
    if _size == 1:
        return value
    import torch.distributed as dist

    whole = value.detach().clone()
    dist.all_reduce(whole)
    whole /= _size
    return value + (whole - value.detach()) if value.requires_grad else whole


@_collective
def gathered(part: Tensor) -> Tensor:
    """The parts of all processes, one behind the other along the first axis; a constant. All are of one shape."""
    if _size == 1:
        return part
    import torch
    import torch.distributed as dist

    own = part.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(_size)]
    dist.all_gather(parts, own)
    return torch.cat(parts)


@_collective
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes: one sum of all numbers, after the backward pass.

    All processes get bitwise the same, so that their weights stay the same without being sent.
    """
    if _size == 1:
        return
    import torch
    import torch.distributed as dist

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= _size
    averaged: Sequence[Tensor] = flat.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [a.view_as(g) for a, g in zip(averaged, gradients, strict=True)])


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
