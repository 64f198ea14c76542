"""The memory allocator's settings, which matter to the speed on a processor as much as the code does.

By default glibc hands every large tensor back to the system when it is freed and asks for it anew a moment later, and
the system clears its pages each time. Keeping the memory makes updates several tenths faster.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's names for them, from <malloc.h>


def keep_memory() -> bool:
    """Tell glibc to keep freed memory for the process. Call it before the first large tensor is made.

    Returns:
        Whether it was done: not elsewhere than with glibc on Linux, nor where DREAMER_ALLOCATOR=system is set.
    """
    if not sys.platform.startswith("linux") or os.environ.get("DREAMER_ALLOCATOR") == "system":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    kept = (mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, 2**28))
    return all(kept)


def release_memory() -> None:
    """Hand back what was freed, where `keep_memory` keeps it: after a step that took much and does not come again."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
