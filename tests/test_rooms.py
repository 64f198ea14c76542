"""The house: a room imports from the rooms below it, never from above or beside its own floor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline"
FLOORS = (
    ("__main__",),
    ("cli",),
    ("doctor", "playing", "stages"),
    ("viewing",),
    ("driving", "lineage"),
    ("agent", "dream_env"),
    ("planning",),
    ("learning",),
    ("models",),
    ("episodes",),
    ("envs",),
    ("artifacts",),
    ("devices",),
    ("config", "console", "distributed", "locks", "processes"),
    ("allocator", "randomness", "reading", "scores", "trackers"),
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


def test_nothing_that_runs_code_reads_a_file() -> None:
    """Pickle crosses between processes of one command and nowhere else; the resume state is read by weights alone."""
    loads = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {name.name for name in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve", "yaml"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__"), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                loads.append((path.name, {word.arg: ast.unparse(word.value) for word in node.keywords}))
    assert [name for name, _ in loads] == ["fitting.py"] and loads[0][1]["weights_only"] == "True"
