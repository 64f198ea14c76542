"""Which processor the networks run on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import console
from .errors import UsageError, did_you_mean

_PRESENT: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}
"""Whether each device is there; the fastest first."""


def pick_device(name: str) -> torch.device:
    """The device of this name; for "auto" the fastest there is. Says which, and why.

    Args:
        name: "auto", "cuda", "mps" or "cpu".

    Raises:
        UsageError: there is no such device, or not on this machine.
    """
    if name == "auto":
        chosen = next(device for device, present in _PRESENT.items() if present())
        console.say(f"Device: {_describe(chosen)}, the fastest that PyTorch {torch.__version__} can use here.")
        return torch.device(chosen)
    if name not in _PRESENT:
        raise UsageError(f"There is no device '{name}'{did_you_mean(name, ['auto', *_PRESENT])}")
    if not _PRESENT[name]():
        raise UsageError(f"PyTorch {torch.__version__} finds no {name} device on this machine; use --device auto")
    console.say(f"Device: {_describe(name)}, as asked.")
    return torch.device(name)


def _describe(device: str) -> str:
    """A device's name, with the model of a graphics card or the number of a processor's threads."""
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)" if device == "cpu" else device
