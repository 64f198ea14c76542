"""Which processor the networks run on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from . import console, distributed
from .errors import UsageError, did_you_mean

_PRESENT: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}
"""Whether each device is there; the fastest first."""


def pick_device(name: str) -> torch.device:
    """The device of this name; for "auto" the fastest there is. Says which, and why.

    Of several processes on a machine with GPUs, each has one of its own, by the number that torchrun gives it there.

    Args:
        name: "auto", "cuda", "mps" or "cpu".

    Raises:
        UsageError: there is no such device, or not on this machine, or not one for each process.
    """
    if name == "auto":
        chosen = fastest()
        chosen = "cpu" if chosen == "mps" and distributed.size() > 1 else chosen
        console.say(f"Device: {describe(chosen)}, the fastest that PyTorch {torch.__version__} can use here.")
        return _own(chosen)
    if name not in _PRESENT:
        raise UsageError(f"There is no device '{name}'{did_you_mean(name, ['auto', *_PRESENT])}")
    if not _PRESENT[name]():
        raise UsageError(f"PyTorch {torch.__version__} finds no {name} device on this machine; use --device auto")
    console.say(f"Device: {describe(name)}, as asked.")
    return _own(name)


def named_device(name: str) -> torch.device:
    """The device of this name, such as "cuda:1". Raises UsageError where there is no such thing on this machine."""
    with suppress(RuntimeError):
        device = torch.device(name)
        if device.type in _PRESENT and _PRESENT[device.type]():
            return device
    raise UsageError(f"There is no device '{name:.80}' on this machine{did_you_mean(name, _PRESENT)}")


def _own(name: str) -> torch.device:
    """The one of these devices that is this process'. Raises UsageError where there are not enough."""
    if distributed.size() == 1 or name == "cpu":
        return torch.device(name)
    if name == "mps":
        raise UsageError("Several processes cannot share the mps device; use --device cpu, or one process")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise UsageError(f"This machine has {there} GPUs; start at most {there} processes on it, or use --device cpu")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


@contextmanager
def deterministic(asked: bool, minutes: float | None = None) -> Iterator[None]:
    """Within it, where asked, PyTorch computes by algorithms alone that give bitwise the same on the same machine.

    On a CPU they do so anyhow, with as many threads. An operation that has none on this device raises RuntimeError.

    Args:
        asked: whether.
        minutes: of the updates that were asked for by time.

    Raises:
        UsageError: both are.
    """
    if not asked:
        yield
        return
    if minutes is not None:
        raise UsageError(
            "--minutes goes by the clock, which is never twice the same; with --deterministic give --updates"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the GPU's products are first used
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def room_for_data(device: torch.device) -> int:
    """Bytes of the device that a data set may take: a half of what is free on a GPU, none elsewhere.

    On the CPU the data are where they are needed anyway. The other half is the model's and its activations'.
    """
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return free // 2


def machine_memory() -> int:
    """Bytes of memory that this machine has; where it does not tell, more than any has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return sys.maxsize


def fastest() -> str:
    """Name of the fastest device that is there."""
    return next(device for device, present in _PRESENT.items() if present())


def describe(device: str) -> str:
    """A device's name, with the model of a graphics card or the number of a processor's threads."""
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)" if device == "cpu" else device
