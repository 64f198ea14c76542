from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from console_script import dreamer

from pipeline import doctor
from pipeline.artifacts import Run
from pipeline.doctor import Finding

COMMANDS = ("status", "report", "curves", "doctor")
ROOT = Path(__file__).parents[2]
Screen = pytest.CaptureFixture[str]


@pytest.fixture
def run(finished_run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The finished run `demo`, in the present folder."""
    monkeypatch.chdir(finished_run.root.parents[1])
    monkeypatch.setenv("COLUMNS", "100")
    return finished_run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(command: str, capsys: Screen) -> None:
    assert dreamer(command, "--help") == 0
    assert f"$ dreamer {command}" in capsys.readouterr().out


def test_status_shows_the_chain_and_the_next_command(run: Run, capsys: Screen) -> None:
    assert dreamer("status") == 0
    output = capsys.readouterr().out
    for part in ("demo", "8 tracks", "450", str(run.world.read_manifest().outputs["model.safetensors"])[:8]):  # type: ignore[union-attr]
        assert part in output, part
    assert output.splitlines()[-1] == "demo: next: dreamer report demo"


def test_status_tells_what_is_stale(run: Run, capsys: Screen) -> None:
    manifest = run.world.read_manifest()
    assert manifest is not None
    run.world.write_manifest(replace(manifest, outputs={"model.safetensors": "1" * 64}))
    run.world.weights.touch()
    assert dreamer("status", "demo") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("STALE" in line for line in lines)
    assert lines[-3:] == [
        "demo: its policy is stale: was made from another world than there is now",
        "demo: its evaluation is stale: was made from another world than there is now",
        "demo: next: dreamer collect --data demo --config artifacts/demo/world/settings.toml",  # the data are gone
    ]


def test_status_as_json(run: Run, capsys: Screen) -> None:
    assert dreamer("status", "--json") == 0
    (chain,) = json.loads(capsys.readouterr().out)
    assert (chain["run"], chain["data"], chain["score"]["mean"]) == ("demo", "demo", 450)
    assert {name: link["state"] for name, link in chain["links"].items()} == {
        "data": "missing",
        "world": "ready",
        "policy": "ready",
        "evaluation": "ready",
    }


def test_status_hides_no_run_behind_a_bad_one(run: Run, capsys: Screen) -> None:
    Path("elsewhere").mkdir()
    bad = run.root.with_name("bad")
    (bad / "policy").mkdir(parents=True)
    (bad / "policy" / "manifest.json").write_text("{}")
    (bad / "world").symlink_to(Path("elsewhere").resolve())
    assert dreamer("status") == 3
    output = capsys.readouterr()
    assert "450" in output.out and "bad/world is a link to a folder beyond the runs" in output.err
    assert dreamer("status", "demo", "dmeo") == 3
    output = capsys.readouterr()
    assert "450" in output.out and "did you mean 'demo'?" in output.err


@pytest.mark.parametrize("command", COMMANDS)
def test_debug_is_an_option_of_all(command: str, capsys: Screen) -> None:
    assert dreamer(command, "--help") == 0
    assert "--debug" in capsys.readouterr().out


def test_status_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen) -> None:
    monkeypatch.chdir(tmp_path)
    assert dreamer("status") == 0
    assert "dreamer run --preset demo --video" in capsys.readouterr().out
    assert dreamer("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("words", [["status", "dmeo"], ["report", "dmeo"], ["curves", "demo", "dmeo"]])
def test_a_mistyped_run_is_refused_with_the_nearest(words: list[str], run: Run, capsys: Screen) -> None:
    assert dreamer(*words) == 3
    assert "did you mean 'demo'?" in capsys.readouterr().err


def test_report_says_where_it_is(run: Run, capsys: Screen) -> None:
    assert dreamer("report", "demo") == 0
    assert capsys.readouterr().out == "Report: artifacts/demo/report.html\n"
    assert (run.root / "report.html").stat().st_size > 10_000


def test_curves_go_where_they_are_asked_to(run: Run, capsys: Screen) -> None:
    assert dreamer("curves", "demo", "demo") == 0
    assert capsys.readouterr().out == "Figure: artifacts/curves.png\n"
    assert cv2.imread("artifacts/curves.png") is not None
    assert dreamer("curves", "demo", "--out", "compared.png") == 0
    assert Path("compared.png").exists()
    assert dreamer("curves", "demo", "--out", "compared.pdf") == 2
    assert "ends in .png" in capsys.readouterr().err
    assert dreamer("curves", "demo", "--out", "compared.png") == 2
    assert "compared.png exists; give --out another name" in capsys.readouterr().err


def test_curves_of_more_runs_than_colours_are_refused(run: Run, capsys: Screen) -> None:
    for number in range(10):
        run.root.with_name(f"run{number}").symlink_to(run.root)
    assert dreamer("curves", "demo", *(f"run{number}" for number in range(10))) == 2
    assert "At most 10 runs" in capsys.readouterr().err


def test_doctor_fails_only_where_something_will_not_work(monkeypatch: pytest.MonkeyPatch, capsys: Screen) -> None:
    fine, odd = Finding("python", "3.12"), Finding("video", "VP8", "install av")
    monkeypatch.setattr(doctor, "examine", lambda: iter([fine, odd]))
    assert dreamer("doctor") == 0
    output = capsys.readouterr()
    assert output.out == "python:        3.12\nvideo:         VP8\n"
    assert output.err == "Warning: video: install av\n"
    monkeypatch.setattr(doctor, "examine", lambda: iter([fine, replace(odd, fatal=True)]))
    assert dreamer("doctor", "--json") == 1
    output = capsys.readouterr()
    assert [finding["fatal"] for finding in json.loads(output.out)] == [False, True]
    assert output.err == "Error: video: install av\n"
    monkeypatch.setattr(doctor, "examine", lambda: iter([fine]))
    assert dreamer("doctor") == 0
    assert capsys.readouterr().out.endswith("No trouble found.\n")


def complete(typed: str, folder: Path) -> list[str]:
    """What bash would offer after what was typed."""
    words = typed.split(" ")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "_DREAMER_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-m", "pipeline"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dreamer fit-", ["fit-world", "fit-policy"]),
        ("dreamer fit-world --tens", ["--tensorboard"]),
        ("dreamer fit-world --preset d", ["demo"]),
        ("dreamer fit-world --run ", ["demo"]),
        ("dreamer report de", ["demo"]),
        ("dreamer fit-world --set world.bat", ["world.batch="]),
    ],
)
def test_the_shell_completes(typed: str, offered: list[str], run: Run) -> None:
    assert complete(typed, run.root.parents[1]) == offered
