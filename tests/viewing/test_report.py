from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import browser

from pipeline.artifacts import Run
from pipeline.config import resolve
from pipeline.errors import StageError
from pipeline.lineage import Link, trace
from pipeline.scores import EpisodeScore, Promise, Report, mean_interval
from pipeline.viewing import report
from pipeline.viewing.film import write_film
from pipeline.viewing.report import read_evaluation, render, write_report

HOSTILE = '<img src="https://example.com/x.png" onerror="alert(1)"><script>alert(2)</script>'
DATA = {"demo": Link("ready", digest="d" * 64, size="5 decisions")}


@pytest.fixture
def whole_run(finished_run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """With films and figures, and a data set of which only the figure is there."""
    frames = [np.full((64, 96, 3), 5 * shade, np.uint8) for shade in range(50)]
    for folder, film in ((finished_run.evaluation, "drive.mp4"), (finished_run.encodings, "dream.mp4")):
        write_film(folder.path / film, frames, 25)
    data = finished_run.root.parents[1] / "data"
    for path in (finished_run.encodings.path / "encodings.png", data / "demo" / "coverage.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((40, 900, 3), 200, np.uint8))
    monkeypatch.setattr(report, "data_sets", lambda root: DATA)
    return finished_run


def data_of(run: Run) -> Path:
    return run.root.parents[1] / "data"


def test_a_report_is_read_in_a_browser_without_a_network(whole_run: Run, tmp_path: Path) -> None:
    page = write_report(whole_run, data_of(whole_run))
    assert page == whole_run.root / "report.html"
    with browser(tmp_path) as chromium:
        chromium.open(page)
        low, high = mean_interval([100.0 * n for n in range(1, 9)])
        interval = f"{low:.0f} to {high:.0f}"
        assert chromium.run("document.title") == "demo – dreamer"
        text = chromium.run("document.body.innerText")
        for part in (
            "450",
            interval,
            "The dream flatters",
            "seed 1007, score 800",
            "dreamer fit-world --run demo",
            "world: seed 0",
        ):
            assert part in text, part
        broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
        assert chromium.run("document.images.length") >= 6 and chromium.run(broken) == 0
        for number in (0, 1):
            chromium.run(f"window.film = document.querySelectorAll('video')[{number}], film.play()")
            moved = "film.addEventListener('timeupdate', () => film.currentTime > 0.2 && done(film.currentTime))"
            assert chromium.run(f"new Promise(done => {moved})") > 0.2
        light = chromium.run("getComputedStyle(document.body).backgroundColor")
        chromium.open(page, width=390, height=800, dark=True)
        assert chromium.run("getComputedStyle(document.body).backgroundColor") != light
        assert chromium.run("document.documentElement.scrollWidth") == 390  # nothing to be scrolled sideways
        asked = {address.split(":")[0] for address in chromium.requests}
        assert asked == {"file", "data"}
        assert sum(address.startswith("file:") for address in chromium.requests) == 2  # the page, twice
        assert chromium.console == []


def test_what_comes_from_files_is_text(whole_run: Run, tmp_path: Path) -> None:
    path = whole_run.evaluation.path / "evaluation.json"
    tree = json.loads(path.read_text())
    tree["question"]["list"] = tree["question"]["actions"] = HOSTILE
    tree["facts"] = {HOSTILE: HOSTILE}
    path.write_text(json.dumps(tree))
    settings = whole_run.policy.path / "settings.toml"
    settings.write_text(f"# {HOSTILE}\n" + settings.read_text())
    named = Run(whole_run.root.rename(whole_run.root.with_name("<b>run <script>alert(3)<")))
    manifest = named.world.read_manifest()
    assert manifest is not None
    manifest.inputs[HOSTILE] = HOSTILE
    manifest.facts["data"] = HOSTILE
    named.world.write_manifest(manifest)
    page = tmp_path / "page.html"
    page.write_text(render(trace(named, {}), data_of(named)), encoding="utf-8")
    with browser(tmp_path) as chromium:
        chromium.open(page)
        assert chromium.run("document.querySelectorAll('script, b > script, [onerror]').length") == 0
        assert chromium.run("document.querySelector('h1').innerText") == named.root.name
        assert chromium.run("document.body.textContent.split('<script>alert(2)</script>').length - 1") == 6
        assert {address.split(":")[0] for address in chromium.requests} == {"file", "data"}
        assert chromium.console == []


def test_a_run_that_has_just_begun_says_what_comes_next(finished_run: Run) -> None:
    for folder in (finished_run.policy, finished_run.evaluation):
        for path in folder.path.iterdir():
            path.unlink()
    page = render(trace(finished_run, DATA), Path("data"))
    assert "This run has not been evaluated yet." in page and "dreamer fit-policy --run demo" in page
    assert page.count("data:image/svg+xml") == 2 and "<video" not in page


def test_a_changed_data_set_is_told_at_the_top(finished_run: Run) -> None:
    page = render(trace(finished_run, {"demo": Link("ready", digest="e" * 64)}), Path("data"))
    assert "was made from another data than there is now" in page
    assert "dreamer fit-world --run demo --fresh" in page


def test_the_name_of_a_data_set_leads_nowhere_else(finished_run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    cv2.imwrite(str(secret / "coverage.png"), np.zeros((4, 4, 3), np.uint8))
    manifest = finished_run.world.read_manifest()
    assert manifest is not None
    manifest.facts["data"] = "../secret"
    finished_run.world.write_manifest(manifest)
    page = render(trace(finished_run, {}), tmp_path / "data")
    assert "../secret" not in page
    assert "data:image/png" not in page and "The data set is not here" in page


def test_a_page_holds_nothing_from_beyond_the_run(finished_run: Run, tmp_path: Path) -> None:
    """A page is made to be passed on, and a run may come from somebody else."""
    secret, picture = tmp_path / "id_rsa", finished_run.encodings.path / "encodings.png"
    secret.write_text("secret")
    picture.parent.mkdir()
    picture.symlink_to(secret)
    with pytest.raises(StageError, match=r"encodings\.png is a link that leads out of .*; remove it"):
        render(trace(finished_run, DATA), Path("data"))
    picture.unlink()
    os.mkfifo(picture)
    with pytest.raises(StageError, match=r"encodings\.png cannot be shown .*is not a file"):
        render(trace(finished_run, DATA), Path("data"))
    picture.unlink()
    with picture.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(StageError, match=r"encodings\.png cannot be shown .*larger than"):
        render(trace(finished_run, DATA), Path("data"))


@pytest.mark.parametrize(
    "damage", ["{", '{"question": {}, "drives": {"policy": {"episodes": ["x"]}}, "dream": {}}', "[]"]
)
def test_a_damaged_evaluation_is_refused(finished_run: Run, damage: str) -> None:
    chain = trace(finished_run, DATA)
    (finished_run.evaluation.path / "evaluation.json").write_text(damage)
    with pytest.raises(StageError, match=r"evaluation\.json is damaged .*dreamer evaluate --run demo"):
        render(chain, Path("data"))


@pytest.mark.parametrize("part", ["list", "tracks", "actions"])
def test_an_evaluation_without_its_question_is_refused(finished_run: Run, part: str) -> None:
    path = finished_run.evaluation.path / "evaluation.json"
    tree = json.loads(path.read_text())
    del tree["question"][part]
    path.write_text(json.dumps(tree))
    with pytest.raises(StageError, match=r"evaluation\.json is damaged .*a question without"):
        read_evaluation(finished_run)


def test_damaged_metrics_are_refused(finished_run: Run) -> None:
    finished_run.world.metrics.write_text('{"step": 1, "picture": "much"}\n')
    with pytest.raises(StageError, match=r"metrics\.jsonl is damaged"):
        render(trace(finished_run, DATA), Path("data"))


def test_the_page_of_another_environment_knows_no_tracks(finished_run: Run) -> None:
    settings = resolve("tiny", values=[("view.env", "Pendulum-v1")])
    finished_run.world.write_settings(settings)
    scores = {
        driver: [EpisodeScore(1000 + k, -100.0 * k, 200, truncated=k > 0) for k in range(3)]
        for driver in ("policy", "random")
    }
    promises = [Promise(1000 + k, 15, -30.0, -20.0) for k in range(3)]
    question = {"env": "Pendulum-v1", "tracks": [1000, 1001, 1002], "list": "report", "actions": "deterministic"}
    tree = {**Report(question, scores, {15: promises}).as_json(), "facts": {}}
    (finished_run.evaluation.path / "evaluation.json").write_text(json.dumps(tree))
    page = render(trace(finished_run, DATA), Path("data"))
    text = re.sub(r"<style>.*?</style>|<pre>.*?</pre>|<[^>]+>", " ", page, flags=re.S)
    assert "A world model of Pendulum-v1" in text and "All 3 seeds" in text and "the end" in text
    for word in ("track", "tiles", "lap", "CarRacing", "drive", "field"):
        assert not re.search(rf"\b{word}s?\b", text.replace("drive.mp4", "")), word
    assert "--data demo --env Pendulum-v1 --preset tiny" in page
