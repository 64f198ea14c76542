from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Run, Source
from pipeline.lineage import trace
from pipeline.viewing import card
from pipeline.viewing.card import model_card
from pipeline.viewing.report import read_evaluation


@pytest.fixture
def run(finished_run: Run) -> Run:
    """Fitted with seeds of its own, to two data sets."""
    for folder, seed, seconds in ((finished_run.world, 5, 5400.0), (finished_run.policy, 6, "long")):
        manifest = folder.read_manifest()
        assert manifest is not None
        sources = [Source("demo", "d" * 64, 1200, "random"), Source("two", "e" * 64, 34, "driven", "first")]
        folder.write_manifest(replace(manifest, facts={"seconds": seconds}).with_sources(sources))
        folder.write_settings(folder.read_settings().with_value("seed", seed))
    return finished_run


def test_it_tells_what_made_it(run: Run) -> None:
    text = model_card(trace(run, {}), "shared", *read_evaluation(run))
    for part in (
        "# shared\n",
        "(random data and 34 decisions driven by a policy)",
        f"| data | `demo`, 1,200 decisions, random; SHA-256 `{'d' * 64}` |",
        "| data | `two`, 34 decisions, driven by `first`;",
        "| world model | 1,000 updates in 90.0 minutes, seed 5;",
        "| policy | 1,000 updates, seed 6;",
        "\ndreamer fit-world --run demo --data demo --data two --preset tiny --seed 5\n",
        "\ndreamer fit-policy --run demo --preset tiny --seed 6\n",
        "\ndreamer export demo --to shared\n",
        "| world.updates | `6` | `36000` |",
        "float16",
        "of which none runs code",
        "neither was ever in the environment while it was fitted",
        "dreamer evaluate --run shared --tracks 100 --video",
        "Licence: MIT.\n",
    ):
        assert part in text, part
    assert re.search(r"^dreamer collect --data demo --preset tiny --seed 5 --set collect.decisions=1200$", text, re.M)
    assert "| seed |" not in text and "evaluate.tracks |" not in text
    assert not re.search(r"[{}%]{2}|\n\n\n", text), "nothing of the template is left"


def test_the_score_is_that_of_the_run(run: Run) -> None:
    evaluation, facts = read_evaluation(run)
    text = model_card(trace(run, {}), "shared", evaluation, facts)
    assert "before they were rounded to half precision: 8 report tracks, each once, deterministic actions" in text
    table = [
        line
        for line in text.splitlines()
        if line.startswith(("| driver", "| policy | 4", "| random", "|---|---|---|---"))
    ]
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert re.match(r"\| policy \| 450 \| \d+ to \d+ \| 245 \| 100 \| 800 \| 33% \| 0 ", table[2])
    assert "The dream flatters" in text and "\nWith torch 2.9.\n" in text
    assert evaluation is not None
    alone = replace(evaluation, scores={driver: scores[:1] for driver, scores in evaluation.scores.items()})
    assert "| policy | 100 | – to – | – | 100 | 100 |" in model_card(trace(run, {}), "shared", alone, facts)
    without = model_card(trace(run, {}), "shared", None, {})
    assert "450" not in without and "had not been evaluated" in without


def test_what_is_not_recorded_is_not_told(run: Run) -> None:
    for folder in (run.world, run.policy):
        manifest = folder.read_manifest()
        assert manifest is not None
        folder.write_manifest(replace(manifest, facts={}))
    text = model_card(trace(run, {}), "shared", None, {})
    assert "(by whom is not recorded)" in text and "| data |" not in text and "None" not in text


def test_names_from_strangers_stay_names() -> None:
    assert card._code("a`b|c\n# d\x1b[2J") == r"`a'b\|c # d\x1b[2J`"
    assert "\n" not in card._line("a\n```\nb")


def test_the_template_is_part_of_the_package() -> None:
    assert Path(card.__file__).with_name("card.md").is_file()
