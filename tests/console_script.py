"""The console script, run in this process, or in one of its own to see what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline import cli

ROOT = Path(__file__).parents[1]
_SLOW = ("torch", "gymnasium", "pygame", "matplotlib", "h5py", "cv2", "scipy")


def dreamer(*words: str) -> int:
    """Run it with these words and give its exit code."""
    before, sys.argv = sys.argv, ["dreamer", *words]
    try:
        cli.main()
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    finally:
        sys.argv = before
    raise AssertionError("the console script did not exit")


def said_without_slow_imports(*words: str) -> str:
    """What it prints with these words; they shall import nothing that is slow to."""
    code = (
        f"import sys; sys.argv = ['dreamer', *{words!r}]\n"
        "from pipeline.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"slow = {set(_SLOW)!r} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
