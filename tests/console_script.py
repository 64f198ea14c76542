"""The console script, run in this process."""

from __future__ import annotations

import sys

from pipeline import cli


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
