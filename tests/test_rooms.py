"""The house: a room imports from the rooms below it, never from above or beside its own floor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline"
FLOORS = (
    ("__main__",),
    ("cli",),
    ("doctor", "stages"),
    ("viewing",),
    ("driving", "lineage"),
    ("agent",),
    ("learning",),
    ("models",),
    ("episodes",),
    ("envs",),
    ("artifacts",),
    ("devices",),
    ("config", "console", "distributed", "processes"),
    ("allocator", "randomness", "scores", "trackers"),
    ("errors",),
)
"""From the roof to the cellar. What shares a floor may not import each other, but within a room all may."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported(path: Path) -> set[str]:
    """The rooms that a module of the package imports from at any place."""
    depth = len(path.relative_to(PACKAGE).parts)
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            rooms |= {name.split(".")[0] for name in names}
    return rooms & set(FLOOR)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    assert room in FLOOR, f"{room} has no floor yet"
    wrong = {other for other in imported(path) if other != room and FLOOR[other] <= FLOOR[room]}
    assert not wrong


def test_stages_do_not_import_each_other() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level == 1), path
