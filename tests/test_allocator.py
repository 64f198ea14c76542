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


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_memory() is False
