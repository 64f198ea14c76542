"""The run that comes with the code: it is whole and small, it drives, and README says what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

from pipeline import load_agent
from pipeline.driving import decisions
from pipeline.envs import adapter_of
from pipeline.envs.tracks import SELECTION_TRACKS
from pipeline.stages.verify import verify

ROOT = Path(__file__).parents[1]
RUN = ROOT / "artifacts" / "pretrained"


def test_it_is_whole_small_and_of_random_data_only(tmp_path: Path) -> None:
    assert verify(RUN, tmp_path).faults == []
    files = [path for path in RUN.rglob("*") if path.is_file() and path != RUN / "report.html"]  # which git ignores
    assert sum(path.stat().st_size for path in files) < 15e6
    assert not [path for path in files if path.suffix == ".pt"]
    for stage in ("world", "policy"):
        manifest = json.loads((RUN / stage / "manifest.json").read_text())
        assert {source["kind"] for source in manifest["facts"]["data"]} == {"random"}


def test_it_drives() -> None:
    agent, scores = load_agent(RUN), []
    view_settings = agent.world.interface.view
    with adapter_of(view_settings.env).open(view_settings) as view:
        for track in SELECTION_TRACKS[12:15]:
            agent.reset()
            scores.append(sum(decision.step.reward for decision in decisions(view, agent.act, track)))
    assert mean(scores) > 600, scores  # random drives have about -50


def test_readme_has_the_score_that_was_measured() -> None:
    summary = json.loads((RUN / "evaluation" / "evaluation.json").read_text())["drives"]["policy"]["summary"]
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = (line for line in lines if line.startswith("|") and "artifacts/pretrained" in line)
    expected = (
        "{mean:.0f}",
        "{low:.0f} .. {high:.0f}",
        "{std:.0f}",
        "{minimum:.0f} .. {maximum:.0f}",
        "{tile_share:.0%}",
        "{laps} of {episodes}",
    )
    said = [cell.strip(" *").replace(" %", "%") for cell in row.split("|")[2:-1]]
    assert said == [cell.format(**summary) for cell in expected]
