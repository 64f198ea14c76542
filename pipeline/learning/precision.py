"""Which arithmetic the large layers run in."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn 'auto' into 'bfloat16' where a convolution like the encoder's is faster in it here, else 'float32'.

    Measured, not looked up: processors that list the instructions are not all faster with them. What is measured may
    differ from one time to another, so that where all shall be deterministic it is float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu" or torch.are_deterministic_algorithms_enabled():
        return "float32"
    return "bfloat16" if _seconds(torch.bfloat16) < 0.9 * _seconds(torch.float32) else "float32"


def _seconds(dtype: torch.dtype) -> float:
    pictures = torch.zeros(128, 16, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.zeros(32, 16, 4, 4, dtype=dtype).to(memory_format=torch.channels_last)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        F.conv2d(pictures, weight, stride=2, padding=1)
        times.append(time.perf_counter() - started)
    return min(times)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the networks run: matrix products and convolutions in `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
