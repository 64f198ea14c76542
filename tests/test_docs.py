"""The docs: their commands and programs run, at the smallest size; links, equations' places and metrics are there.

`python tests/test_docs.py` mends the numbers of the lines that docs/maths.md links to.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import console_script
import h5py
import numpy as np
import pytest
import typer

from pipeline import cli, console
from pipeline.artifacts import Run
from pipeline.cli.options import OWNERS
from pipeline.config import setting_names

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")])
TRIED = ("laptop", "gpu", "data", "your-data", "change-one-part", "read-the-numbers", "python")
LONG = {"--minutes", "--variant", "--size", "world.compile=true"}
"""Commands with one of these take too long for a test even if all else is tiny: only their options are checked."""

pytestmark = pytest.mark.xdist_group("docs")  # one process makes the run that all pages use


class Block(NamedTuple):
    """A block of code, its language, and the paragraph before it."""

    language: str
    code: str
    before: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(one[1], one[2], text[: one.start()].rstrip().rpartition("\n\n")[2]) for one in found]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))


# Running


@functools.cache
def commands() -> Any:
    """All commands, as typer knows them."""
    return typer.main.get_command(cli.app)


def parse(words: list[str]) -> dict[str, Any]:
    """What `dreamer` understands by these words. Raises its own error where there is no such command or option."""
    context = commands().make_context("dreamer", list(words))
    name, command, rest = commands().resolve_command(context, list(words))
    with command.make_context(name, list(rest), parent=context) as parsed:
        for assignment in parsed.params.get("assignments") or ():
            assert assignment.partition("=")[0] in setting_names(), assignment
        return {"command": name, **parsed.params}


def smaller(words: list[str]) -> list[str]:
    """The same command at the smallest size. Filming is tested elsewhere."""
    words = [word for word in words if word != "--video"]
    command, has_preset = words[0], "--preset" in words
    if has_preset:
        words[words.index("--preset") + 1] = "tiny"
    elif command in ("collect", "run", "fit-world", "fit-policy"):
        words += ["--preset", "tiny"]
    if "--tracks" in words:
        words[words.index("--tracks") + 1] = "1"
    elif command in ("run", "evaluate"):
        words += ["--set", "evaluate.tracks=1"]
    return words + ["--workers", "1"] * (command in ("collect", "run", "evaluate"))


def dreamer(words: list[str]) -> int:
    """Run the console script in this process, give its exit code, and talk again afterwards."""
    try:
        return console_script.dreamer(*words)
    finally:
        console.set_mute(False)
        console.track_with()


class Page:
    """Follows a page in the present folder, as its reader does."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "page"}
        self.unmade: set[Any] = set()  # runs whose commands are only parsed

    def follow(self, block: Block) -> None:
        saved = re.search(r"Save this as `([\w.]+)`", block.before)
        if block.language == "python" and saved:
            Path(saved[1]).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.code, "docs", "exec"), self.names)  # our own docs
        elif block.language == "sh":
            for line in block.code.splitlines():
                if words := shlex.split(line, comments=True):
                    self.type(words)

    def type(self, words: list[str]) -> None:
        """Do what a line says."""
        if words[0] == "torchrun":
            parse(words[words.index("--") + 1 :])
        elif words[0] == "dreamer":
            asked = parse(words[1:])
            run = asked.get("run")
            if LONG & set(words) or run in self.unmade:
                self.unmade.add(run)
            elif asked["command"] == "run" and not asked["dry_run"]:
                self.copy_run(asked)
            else:
                assert dreamer(smaller(words[1:])) == 0, words
        else:
            assert words[0] == "python" and Path(words[1]).exists(), f"no way to try {words}"
            command = [sys.executable, words[1], *smaller(words[2:])]
            done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

    def copy_run(self, asked: dict[str, Any]) -> None:
        """`dreamer run` again under another name, without the time it takes: the run there is, and its data."""
        for old, new in (("data/demo", f"data/{asked['data']}"), ("artifacts/demo", f"artifacts/{asked['run']}")):
            if not Path(new).exists():
                shutil.copytree(old, new)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Made(NamedTuple):
    """A folder with a data set and a run `demo`, and what `dreamer run` said while it made them."""

    folder: Path
    said: str


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, said = tmp_path_factory.mktemp("docs"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        words = ["run", "--data", "demo", "--run", "demo", "--preset", "tiny", "--device", "cpu"]
        assert dreamer([*words, "--set", "evaluate.tracks=1", "--workers", "1"]) == 0
    return Made(folder, said.getvalue())


@pytest.fixture
def here(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder, to work in."""
    folder = tmp_path / "here"
    shutil.copytree(made.folder, folder)
    monkeypatch.chdir(folder)
    yield folder


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_a_page_does_what_it_says(name: str, here: Path) -> None:
    if name in ("data", "your-data"):
        pytest.importorskip("minari")
    shutil.copytree("data/demo", "data/drives")
    shutil.copytree("artifacts/demo", "artifacts/second")
    _record_with_minari(Path("minari/racing"))
    page, tried = Page(), 0
    for block in blocks(ROOT / "docs" / f"{name}.md"):
        page.follow(block)
        tried += block.language in ("python", "sh")
    assert tried >= 2
    if name == "your-data":
        assert dreamer(["verify", "artifacts/racing"]) == 0
    if name == "change-one-part":
        assert dreamer(["evaluate", "--run", "resize"]) == 3  # as the page says
        calm, demo = page.names["new"], page.names["old"]
        assert len(calm) == len(demo) and calm.origin.policy == "played"
    if name == "python":
        assert page.names["picture"].shape == (4, 3, 64, 64) and page.names["reward"].shape == (4,)


def _record_with_minari(path: Path) -> None:
    """Two drives as Minari's collector leaves them: stock pictures, an entry for each step of the environment."""
    tree = json.loads(Path("data/demo/metadata.json").read_text(encoding="utf-8"))
    del tree["dreamer"]
    box = {"type": "Box", "dtype": "uint8", "shape": [96, 96, 3]}
    numbers = {"low": np.zeros((96, 96, 3), int).tolist(), "high": np.full((96, 96, 3), 255).tolist()}
    tree |= {"total_episodes": 2, "total_steps": 80, "observation_space": json.dumps(box | numbers)}
    path.mkdir(parents=True)
    (path / "metadata.json").write_text(json.dumps(tree), encoding="utf-8")
    rng = np.random.default_rng(0)
    with h5py.File(path / "main_data.hdf5", "w") as file:
        for number in range(2):
            group = file.create_group(f"episode_{number}")
            group.attrs.update({"id": number, "total_steps": 40, "seed": number})
            last = np.arange(40) == 39
            group["observations"] = rng.integers(0, 256, (41, 96, 96, 3), np.uint8)
            group["actions"] = rng.uniform((-1, 0, 0), 1, (40, 3)).astype(np.float32)
            group["rewards"] = rng.normal(size=40)
            group["terminations"], group["truncations"] = last & (number == 1), last & (number == 0)


# Looking


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_named_is_one(page: Path) -> None:
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(page))]
    lines = [line for block in blocks(page) for line in block.code.splitlines()]
    for line in (*spans, *lines):
        _, _, ours = line.replace("-m pipeline -- ", "-m pipeline dreamer ").rpartition("-m pipeline ")
        if not ours.startswith("dreamer ") or re.search(r"\.\.\.|[<$\\|]|--help|^dreamer -", ours):
            continue
        words = shlex.split(ours, comments=True)[1:]
        try:
            parse(["1" if word == "N" else word for word in words])
        except Exception as error:
            raise AssertionError(f"{page.name}: `{ours}`: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_named_is_one(page: Path) -> None:
    named = set(re.findall(rf"`((?:{'|'.join(OWNERS)})\.[a-z_]+)[`= ]", prose(page))) - {"model.safetensors"}
    assert named <= set(setting_names()), named - set(setting_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if place and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert place in slugs, link


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in index]
    assert not missing


def place_of(module: Path, name: str) -> int:
    """The line in which a function, a class or a method, `Class.method`, is defined."""
    body: list[ast.stmt] = ast.parse(module.read_text(encoding="utf-8")).body
    line = 0
    for part in name.split("."):
        definition = next(
            node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        )
        body, line = definition.body, definition.lineno
    return line


def mended(page: Path) -> str:
    """The page with the numbers of the lines that are linked to as they are now."""

    def mend(match: re.Match[str]) -> str:
        name, path = match[1], match[2]
        try:
            return f"[`{name}`]({path}#L{place_of(page.parent / path, name)})"
        except (OSError, StopIteration):
            raise AssertionError(f"{page.name}: there is no {name} in {path}") from None

    return re.sub(r"\[`([\w.]+)`\]\(([\w./-]+\.py)#L\d+\)", mend, page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_that_are_linked_to_define_what_is_named(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count(".py#L") == len(re.findall(r"\[`[\w.]+`\]\([\w./-]+\.py#L\d+\)", text))
    assert mended(page) == text, "python tests/test_docs.py mends it"


def test_the_maths_page_names_all_that_is_computed() -> None:
    text = (ROOT / "docs" / "maths.md").read_text(encoding="utf-8")
    for name in ("world_loss", "balanced_kl", "lambda_return", "critic_loss", "actor_loss", "ReturnScale", "two_hot"):
        assert f"[`{name}`]" in text


@pytest.mark.slow
def test_every_metric_is_explained(made: Made) -> None:
    text = (ROOT / "docs" / "read-the-numbers.md").read_text(encoding="utf-8")
    world, policy = text.split("\n## ")[1:3]
    run = Run(made.folder / "artifacts" / "demo")
    for section, metrics, unseen in (
        (world, run.world.metrics, set()),
        (policy, run.policy.metrics, {"replay", "step"}),
    ):
        logged = {name for line in console.read_lines(metrics) for name in line}
        names = {
            name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
        }
        explained = names | {f"held_out/{name}" for name in names}
        assert logged <= explained | {"step"}, logged - explained
        assert names <= logged | unseen, names - logged


STAGES = {
    "Collecting": "decisions",
    "Fitting the world": "updates",
    "Fitting the policy": "updates",
    "Evaluating": "episodes",
}


@pytest.mark.slow
@pytest.mark.parametrize(("title", "unit"), STAGES.items())
def test_progress_of_a_stage_ends_with_three_numbers(title: str, unit: str, made: Made) -> None:
    (*_, last) = (line for line in made.said.splitlines() if line.startswith(f"{title}: "))
    progress, *numbers = last.split("  ")
    assert re.fullmatch(rf"{title}: (\d+)/\1 {unit}, [\d.e+]+/s, 0:00 left(, [\d.]+ GiB)?", progress)
    assert len(numbers) == 3 and all(re.fullmatch(r"\S.* [-\d.e+]+", number) for number in numbers)


if __name__ == "__main__":
    for one in PAGES:
        one.write_text(mended(one), encoding="utf-8")
