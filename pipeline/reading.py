"""Small files that somebody else may have written: looked at before they are read, and refused in one way."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path
from typing import Any

_MAX_DOTS = 50
"""Of a line of TOML. A dotted key nests as deeply as it has dots, and takes the square of that to read."""


def require_file(path: Path, limit: int | None = None) -> int:
    """The size of a file in bytes.

    Raises:
        OSError: it cannot be read, or is none: a pipe or a device may never end.
        ValueError: it is larger than `limit`.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(f"{path} is not a file")
    if limit is not None and facts.st_size > limit:
        raise ValueError(f"larger than {limit} bytes")
    return facts.st_size


def read_text(path: Path, limit: int) -> str:
    """Read a text file of at most `limit` bytes. Raises OSError or ValueError."""
    require_file(path, limit)
    return path.read_text(encoding="utf-8")


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes. Raises OSError or ValueError."""
    return parse_json(read_text(path, limit))


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError."""
    try:
        tree = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(tree, dict):
        raise ValueError("not a JSON object")
    return tree


def read_toml(path: Path, limit: int) -> dict[str, Any]:
    """Read TOML of at most `limit` bytes. Raises OSError or ValueError."""
    text = read_text(path, limit)
    if any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
        raise ValueError("nested too deeply")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def printable(text: str) -> str:
    """The text with every character that is not printed, but moves or hides what is, in its escaped form."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
