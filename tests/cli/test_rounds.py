"""A further round as a user types it: a policy drives, and the next one learns from its drives too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from console_script import dreamer

from pipeline.artifacts import Run

Screen = pytest.CaptureFixture[str]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.slow
def test_from_random_data_to_a_policy_and_on_from_its_drives(capsys: Screen) -> None:
    tiny = ("--preset", "tiny", "--device", "cpu")
    assert dreamer("collect", "--data", "one", "--preset", "tiny") == 0
    for stage in ("fit-world", "fit-policy"):
        assert dreamer(stage, "--run", "first", "--data", "one", *tiny) == 0
    assert dreamer("evaluate", "--run", "first", "--tracks", "1", *tiny) == 0
    assert "learned from random data only" in words(capsys.readouterr().out)
    assert read(Path("artifacts/first/evaluation/evaluation.json"))["question"]["data"] == "random data only"

    driven = ("collect", "--data", "two", "--decisions", "100", "--policy", "artifacts/first", "--preset", "tiny")
    assert dreamer(*driven, "--dry-run") == 0 and not Path("data/two").exists()
    assert dreamer(*driven) == 0
    assert "policy of the run first (" in words(capsys.readouterr().out)
    steps = read(Path("data/two/metadata.json"))["total_steps"]
    told = f"random data and {steps:,} decisions driven by a policy"

    both = ("--data", "one", "--data", "two")
    assert dreamer("fit-world", "--run", "second", *both, *tiny) == 0
    assert dreamer("fit-policy", "--run", "second", *tiny) == 0  # the data are the run's own
    assert dreamer("show-encodings", "--run", "second", "--device", "cpu") == 0
    assert dreamer("evaluate", "--run", "second", "--tracks", "1", *tiny) == 0
    assert f"learned from {told}" in words(capsys.readouterr().out)
    assert read(Path("artifacts/second/evaluation/evaluation.json"))["question"]["data"] == told
    assert f"learned from {told}" in words(Path("artifacts/second/report.html").read_text())
    for folder in (Run.named("second").world, Run.named("second").policy):
        sources = folder.require({}).sources
        assert [(one.name, one.kind, one.driver) for one in sources] == [
            ("one", "random", None),
            ("two", "driven", "first"),
        ]

    assert dreamer("status", "second") == 0
    assert f"second: learned from {told}" in words(capsys.readouterr().out)
    assert dreamer("status", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["learned_from"], second["data"], second["learned_from"]) == ("random data only", "one + two", told)
    assert {link["state"] for chain in (first, second) for link in chain["links"].values()} == {"ready"}
    assert dreamer("verify", "artifacts/second") == 0 and dreamer("verify", "data/two") == 0

    assert dreamer("collect", "--data", "two", "--decisions", "600", "--preset", "tiny") == 3
    assert "policy 'driven', not 'mixture'" in words(capsys.readouterr().err)
    assert dreamer("run", "--run", "second", *tiny) == 2
    assert "was fitted to several data sets" in words(capsys.readouterr().err)
    assert dreamer(*driven[:4], "900", *driven[5:]) == 0
    assert dreamer("fit-policy", "--run", "second", *tiny) == 3
    assert "dreamer fit-world --run second --fresh" in words(capsys.readouterr().err)
    assert dreamer("status", "second") == 0
    assert "its world is stale: was made from another data than there is now" in words(capsys.readouterr().out)
