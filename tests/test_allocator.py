"""The allocator's settings: done where they can be, and harmless where not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline import allocator

_FAULTS = """
import resource, sys
from pipeline.allocator import keep_memory
kept = keep_memory()
import torch
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    for _ in range(10): torch.ones(12_000_000)  # 48 MB: more than glibc ever learns to keep by itself
use()
before = faults(); use(); print(kept, faults() - before)
"""

_RELEASED = """
from pathlib import Path
from pipeline.allocator import keep_memory, release_memory
kept = keep_memory()
import torch
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024  # MiB, of pages of 4 KiB
first = [torch.ones(12_000_000) for _ in range(8)]
behind = torch.ones(12_000_000)  # so that what is freed is not the end of the heap
del first
before = resident(); release_memory(); print(kept, before - resident(), int(behind.sum()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    def run(**environment: str) -> tuple[str, int]:
        result = subprocess.run(
            [sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True, env=environment
        )
        kept, faults = result.stdout.split()
        return kept, int(faults)

    kept, few = run()
    system, many = run(DREAMER_ALLOCATOR="system")
    if kept == "False":
        pytest.skip("this Linux has another allocator than glibc's")
    assert system == "False"
    assert few < many / 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_what_is_kept_can_be_released() -> None:
    result = subprocess.run([sys.executable, "-c", _RELEASED], capture_output=True, text=True, check=True)
    kept, released, behind = result.stdout.split()
    if kept == "False":
        pytest.skip("this Linux has another allocator than glibc's")
    assert int(released) > 300  # of 366 MiB
    assert behind == "12000000"


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_memory() is False
    allocator.release_memory()
