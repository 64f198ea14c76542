from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from console_script import dreamer, said_without_slow_imports

from pipeline.artifacts import Run
from pipeline.playing import play as playing
from pipeline.playing.script import read_script
from pipeline.stages import probe as probing
from pipeline.stages import show_futures as futures

COMMANDS = ("show-futures", "probe", "play")
Screen = pytest.CaptureFixture[str]
FINDING = probing.Finding("speed", "units/s", 9, 1.0, 0.5, 0.75, float("nan"), 0.5)
Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every call of what the commands do, none of which does anything."""
    kept: Calls = []
    monkeypatch.setattr(futures, "show_futures", lambda settings, **options: kept.append(("show-futures", options)))
    monkeypatch.setattr(probing, "probe", lambda settings, **options: kept.append(("probe", options)) or [FINDING])
    monkeypatch.setattr(playing, "play", lambda settings, **options: kept.append(("play", options)))
    return kept


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_imports_nothing_slow(command: str) -> None:
    assert f"$ dreamer {command} --run mine" in said_without_slow_imports(command, "--help")


def test_show_futures(calls: Calls) -> None:
    assert dreamer("show-futures", "--run", "mine", "--episode", "3", "--decision", "20", "--device", "cpu") == 0
    ((_, options),) = calls
    assert str(options.pop("device")) == "cpu"
    where = {"run": Run(Path("artifacts/mine")), "data": [Path("data/carracing")]}
    assert options == {**where, "episode": 3, "decision": 20}


def test_probe_prints_a_table_or_json_and_nothing_else(calls: Calls, capsys: Screen) -> None:
    assert dreamer("probe", "--run", "mine", "--data", "truth", "--device", "cpu") == 0
    assert "0.750" in capsys.readouterr().out
    assert dreamer("probe", "--run", "mine", "--data", "truth", "--device", "cpu", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told == {**asdict(FINDING), "h": None}
    assert [options["data"] for _, options in calls] == [[Path("data/truth")]] * 2


def test_play(calls: Calls) -> None:
    words = ["--real", "--track", "7", "--speed", "2", "--record", "mine", "--film", "drive.mp4"]
    assert dreamer("play", *words, "--headless", "--script", "gas*3", "--device", "cpu") == 0
    ((_, options),) = calls
    assert str(options.pop("device")) == "cpu"
    where = {"run": Run(Path("artifacts/carracing")), "data": [Path("data/carracing")]}
    given = {"real": True, "track": 7, "speed": 2.0, "record": Path("data/mine"), "film": Path("drive.mp4")}
    assert options == {**where, **given, "script": read_script("gas*3")}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["play", "--headless"], "go together"),
        (["play", "--script", "gas"], "go together"),
        (["play", "--headless", "--script", "fly"], "'fly'"),
        (["play", "--record", "../mine"], "cannot name a data set"),
        (["play", "--dry-run"], "leave --dry-run out"),
        (["probe", "--dry-run"], "leave --dry-run out"),
        (["show-futures", "--set", "world.updates=3"], "belongs to `dreamer fit-world`"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], hint: str, calls: Calls, capsys: Screen) -> None:
    assert dreamer(*words) == 2
    assert hint in capsys.readouterr().err
    assert calls == []


def test_without_a_run_the_command_to_make_one_is_named(capsys: Screen) -> None:
    for words in (["play", "--headless", "--script", "gas"], ["probe"], ["show-futures"]):
        assert dreamer(*words, "--device", "cpu") == 3
        assert "run `dreamer fit-world --run carracing`" in capsys.readouterr().err
