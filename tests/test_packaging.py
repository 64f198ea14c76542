"""What is published: the sdist, the wheel built from it, and a run from nothing but that wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pipeline

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"

pytestmark = pytest.mark.xdist_group("packaging")


class Built(NamedTuple):
    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and as `python -m build` does it, the wheel made from what is in it."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    _build(ROOT, "sdist", out)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    _build(out / sdist.name.removesuffix(".tar.gz"), "wheel", out)
    (wheel,) = out.glob("*.whl")
    return Built(sdist, wheel)


def _build(folder: Path, target: str, out: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    information = f"dreamer_carracing-{pipeline.__version__}.dist-info/"
    package = {path for path in (ROOT / "pipeline").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in names if not name.startswith(information)} == {
        path.relative_to(ROOT).as_posix() for path in package
    }
    assert {"pipeline/py.typed", "pipeline/viewing/report.html"} <= names
    assert information + "licenses/LICENSE" in names


def test_the_sdist_holds_what_is_needed_to_test_and_to_read_but_no_data(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "README.md", "docs/maths.md", "tests/conftest.py", "LICENSE"} <= names
    kept = {name for name in names if name.startswith(("data/", "artifacts/"))}
    assert kept <= {"data/README.md", "artifacts/README.md"}


@pytest.mark.slow
def test_a_run_from_the_wheel_alone(built: Built, tmp_path: Path) -> None:
    """In an environment of its own, which has the packages that are installed here, but not this clone."""
    environment, empty = tmp_path / "venv", tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=empty, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    empty.mkdir()
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (own / "installed-here.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files do not count
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(built.wheel)]
    run(sys.executable, "-m", "pip", "--python", python, *install)
    assert Path(run(python, "-c", "import pipeline; print(pipeline.__file__)")).is_relative_to(own)
    said = run(python.with_name("dreamer"), "run", "--preset", "tiny", "--set", "evaluate.tracks=1", "--workers", "1")
    assert said.endswith("Report: artifacts/carracing/report.html")
    assert {path.name for path in empty.iterdir()} == {"data", "artifacts"}
    assert (empty / "artifacts" / "carracing" / "report.html").stat().st_size > 10_000
    assert (empty / "data" / "carracing" / "main_data.hdf5").exists()


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["version"] == pipeline.__version__
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [pipeline.__version__]
    assert re.search(rf"^## .*{re.escape(pipeline.__version__)}", changes, re.MULTILINE)


def test_what_is_tested_is_what_is_promised() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    tested = re.findall(r'"([\d.]+)"', re.findall(r"^ +python: \[(.*)\]$", text, re.MULTILINE)[0])
    named = "Programming Language :: Python :: 3."
    assert tested == ["3." + name.removeprefix(named) for name in PROJECT["classifiers"] if name.startswith(named)]
    assert PROJECT["requires-python"] == f">={tested[0]}"
    assert "- run: .ci/run\n" in text and "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_workflow_and_the_issue_template_are_what_github_reads() -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert set(workflow) == {"name", True, "permissions", "jobs"}  # `on` is true to YAML
    assert set(workflow[True]) == {"push", "pull_request"}
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert set(step) <= {"uses", "run", "with"}
    setup = next(step["with"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    (name,) = re.findall(r"matrix\.(\w+)", setup["python-version"])
    assert all(isinstance(version, str) for version in job["strategy"]["matrix"][name])  # 3.10 would be 3.1

    bug = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(bug)
    fields = {field["id"]: field for field in bug["body"] if field["type"] != "markdown"}
    assert fields["doctor"]["attributes"]["label"] == "dreamer doctor"
    assert fields["doctor"]["validations"]["required"] is True


def test_the_licence_is_there() -> None:
    (name,) = PROJECT["license-files"]
    assert (PROJECT["license"], (ROOT / name).read_text(encoding="utf-8").startswith("MIT License")) == ("MIT", True)
