from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import console, distributed
from pipeline.artifacts import Run, file_hash
from pipeline.config import Settings, resolve
from pipeline.driving import PLANNER, POLICY, RANDOM, Drive, Garage, Job, drive, one_thread, read_report
from pipeline.envs.car_racing.scores import DriveScore
from pipeline.envs.car_racing.view import CarRacingView
from pipeline.errors import InterruptedRunError, StageError, UsageError
from pipeline.models.actor_critic import Critic
from pipeline.models.checkpoints import load_world, save_critic
from pipeline.scores import Promise, Report
from pipeline.stages import evaluate as stage
from pipeline.stages.evaluate import evaluate, keep_earlier, make_report, show


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(tiny_run.root, tmp_path / "tiny")))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drives that take no time, see `short_drive`."""

    def drive_all(garage: Garage, jobs: list[Job], workers: int, stopped: Callable[[], bool]) -> Iterator[Drive]:
        return (short_drive(job, garage) for job in jobs)

    monkeypatch.setattr(stage, "drive_all", drive_all)


def short_drive(job: Job, garage: Garage) -> Drive:
    """A drive that scores as many points as its track's seed, all of them with the one decision that was dreamt of."""
    score = job.track + 0.5 * garage.stochastic
    episode = DriveScore(job.track, score, 14, 3, 300, lap_finished=False, left_field=False, truncated=True)
    return (
        Drive(episode, (0.0,) * 13 + (score,), 13, (1.0,) * 250) if job.driver == POLICY else Drive(episode, (score,))
    )


def settings(tracks: int = 2, **values: object) -> Settings:
    return resolve("tiny", None, [("evaluate.tracks", tracks), *values.items()])


def content(run: Run, name: str = "evaluation.json") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run.evaluation.path / name).read_text())
    return loaded


@pytest.mark.slow
def test_scores_do_not_depend_on_the_number_of_workers(run: Run) -> None:
    evaluate(settings(tracks=1), run=run, workers=1)
    first = content(run)
    evaluate(settings(tracks=1), run=run, workers=3)
    second = content(run)
    assert (first["facts"].pop("workers"), second["facts"].pop("workers")) == (1, 3)
    assert first.pop("facts").keys() == second.pop("facts").keys()
    assert first == second
    assert not list(run.evaluation.path.glob("evaluation-*"))  # the same again is kept once
    scores = [[one["score"] for one in first["drives"][driver]["episodes"]] for driver in (POLICY, RANDOM, "straight")]
    assert len({score for row in scores for score in row}) == 3


def test_several_processes_share_the_tracks_and_the_first_reports(
    run: Run, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(settings(tracks=5), run=run)
    alone = content(run)
    shutil.rmtree(run.evaluation.path)
    kept: dict[int, Any] = {}
    monkeypatch.setattr(distributed, "_size", 3)
    monkeypatch.setattr(distributed, "once", lambda function: function())
    for rank in (1, 2, 0):  # the first one last, when the others have driven
        monkeypatch.setattr(distributed, "_rank", rank)
        monkeypatch.setattr(distributed, "everyone", lambda own, rank=rank: kept.update({rank: own}) or _all(kept))
        report = evaluate(settings(tracks=5), run=run)
        assert run.evaluation.path.exists() == (rank == 0)
    assert [len(part[POLICY]) for part in _all(kept)] == [2, 2, 1]
    together = content(run)
    assert {**together, "facts": None} == {**alone, "facts": None}
    assert [one.track for one in report.scores[RANDOM]] == alone["question"]["tracks"]
    with pytest.raises(UsageError, match=r"evaluate\.tracks = 2 are not enough for 3 processes"):
        evaluate(settings(tracks=2), run=run)


def _all(kept: dict[int, Any]) -> list[Any]:
    return [kept.get(rank, dict.fromkeys((POLICY, RANDOM, "straight"), ())) for rank in range(3)]


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drives are driven in this process."""

    def drive_all(garage: Garage, jobs: list[Job], workers: int, stopped: Callable[[], bool]) -> Iterator[Drive]:
        with one_thread():
            yield from (drive(garage, job) for job in jobs)

    monkeypatch.setattr(stage, "drive_all", drive_all)


@pytest.fixture
def short_drives(one_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are cut off after 60 steps."""
    monkeypatch.setattr("pipeline.envs.car_racing.view.TIME_LIMIT", 60)
    monkeypatch.setattr(
        "pipeline.driving.kept_view", lambda view, pictures=True: CarRacingView(view, pictures=pictures)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_the_film_shows_the_drive_that_was_scored(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(settings(tracks=1), run=run, video=True)
    printed = capsys.readouterr()
    assert not printed.err  # no warning that it came out otherwise
    assert "drive.mp4" in printed.out and "PyAV (libx264)" in printed.out
    film = run.evaluation.path / "drive.mp4"
    decisions = report.scores[POLICY][0].decisions
    with av.open(str(film)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (864, 528)
        assert container.streams.video[0].frames == pytest.approx(65 + 2 * decisions, abs=2)  # two cards
    assert run.evaluation.require({}).outputs["drive.mp4"] == file_hash(film)


@pytest.mark.usefixtures("short_drives")
def test_a_run_with_discrete_actions_is_evaluated_and_filmed(
    discrete_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(Path(shutil.copytree(discrete_run.root, tmp_path / "discrete")))
    report = evaluate(settings(tracks=1), run=run, video=True)
    assert not capsys.readouterr().err  # filmed, it came out the same
    assert {driver: len(scores) for driver, scores in report.scores.items()} == {POLICY: 1, RANDOM: 1, "straight": 1}
    assert report.scores[POLICY][0].decisions == 15
    assert (
        report.scores[POLICY][0].score == report.scores["straight"][0].score
    )  # untrained, it gives gas and nothing else
    assert (run.evaluation.path / "drive.mp4").exists()


def test_everything_is_written(run: Run, here: None, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(settings(seed=3), run=run)
    found = content(run)
    assert found["question"] == {
        "list": "report",
        "tracks": [1000, 1001],
        "actions": "deterministic",
        "seed": 3,
        "world": file_hash(run.world.weights),
        "policy": file_hash(run.policy.weights),
        "particles": 8,
    }
    assert {name: found[name] for name in report.as_json()} == report.as_json()
    assert found["drives"]["policy"]["summary"]["mean"] == 1000.5
    assert found["dream"]["250"]["tracks"][0] == {"track": 1000, "decisions": 1, "dreamt": 1.0, "real": 1000.0}
    assert {"dreamer", "gymnasium", "torch"} <= found["facts"]["versions"].keys()
    manifest = run.evaluation.require({"world": file_hash(run.world.weights), "policy": file_hash(run.policy.weights)})
    assert (manifest.done, manifest.stage) == (2, "evaluate")
    assert run.evaluation.read_settings() == settings(seed=3)
    lines = console.read_lines(run.evaluation.metrics)
    assert [(line["step"], line["track"], line["policy"]) for line in lines] == [(1, 1000, 1000), (2, 1001, 1001)]
    printed = " ".join(capsys.readouterr().out.split())
    assert "Score on 2 report tracks, deterministic actions" in printed
    assert all(name in printed for name in ("policy", "random", "straight", "Does the dream tell the truth?"))


@pytest.mark.usefixtures("short_drives")
def test_the_planner_drives_beside_the_policy(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """On the same tracks, with its time, and the same again by the same seed; nothing else changes."""
    without = evaluate(settings(), run=run)
    assert "processor time" not in capsys.readouterr().out
    asked = {"evaluate.planner": True, "planner.sequences": 8, "planner.elites": 4, "planner.horizon": 3}
    with pytest.raises(StageError, match="before critics were kept"):
        evaluate(settings(**asked), run=run)
    _add_critic(run)
    report = evaluate(settings(**asked), run=run)
    assert list(report.scores) == [POLICY, PLANNER, RANDOM, "straight"]
    assert {driver: report.scores[driver] for driver in without.scores} == without.scores
    assert report.scores[PLANNER] != report.scores[POLICY]
    found = content(run)
    assert found["question"]["planner"] == settings(**asked).planner.model_dump()
    assert found["facts"]["milliseconds a decision"].keys() == {POLICY, PLANNER}
    assert found["differences"][PLANNER].keys() == {"mean", "low", "high"}
    printed = " ".join(capsys.readouterr().out.split())
    ahead = report.differences[PLANNER].mean
    assert f"The policy is {'behind' if ahead < 0 else 'ahead of'} 'planner' by {abs(ahead):.1f} on" in printed
    assert "processor time of a decision" in printed
    assert evaluate(settings(**asked), run=run) == report
    assert read_report(found) == report


def _add_critic(run: Run) -> None:
    """As a policy's fitting leaves one."""
    world, manifest = load_world(run.world.weights), run.policy.read_manifest()
    assert manifest is not None
    policy = run.policy.read_settings().policy
    critic = Critic(world.model.features, world.settings, policy)
    save_critic(run.policy.critic, critic, policy, manifest.inputs["world"])
    outputs = {**manifest.outputs, run.policy.critic.name: file_hash(run.policy.critic)}
    run.policy.write_manifest(replace(manifest, outputs=outputs))


def test_the_selection_list_is_another_one(run: Run, here: None) -> None:
    evaluate(settings(**{"evaluate.list": "selection"}), run=run)
    assert content(run)["question"]["tracks"] == [2000, 2001]


def test_the_number_of_states_side_by_side_is_part_of_the_question(run: Run, here: None) -> None:
    evaluate(settings(), run=run)
    assert content(run)["question"]["particles"] == 8
    evaluate(settings(**{"evaluate.particles": 3}), run=run)
    assert content(run)["question"]["particles"] == 3
    evaluate(settings(**{"evaluate.particles": 1}), run=run)
    assert "particles" not in content(run)["question"]  # as there was always one before


def test_an_earlier_report_is_kept(run: Run, here: None, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(settings(), run=run)
    first = content(run)
    (run.evaluation.path / "drive.mp4").write_text("film of the first")
    evaluate(settings(), run=run, stochastic=True)
    assert "evaluation-1.json" in capsys.readouterr().out
    assert content(run, "evaluation-1.json") == first
    assert (run.evaluation.path / "drive-1.mp4").read_text() == "film of the first"
    assert not (run.evaluation.path / "drive.mp4").exists()
    assert content(run)["question"]["actions"] == "stochastic"
    evaluate(settings(tracks=1), run=run)
    assert content(run, "evaluation-1.json") == first
    assert content(run, "evaluation-2.json")["question"]["actions"] == "stochastic"


def test_keeping_that_was_cut_short_is_done_again(run: Run, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(settings(), run=run)
    (run.evaluation.path / "drive.mp4").write_text("film of the first")
    rename = Path.rename

    def cut_short(old: Path, new: Path) -> Path:
        rename(old, new)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_short)
        with pytest.raises(KeyboardInterrupt):
            evaluate(settings(), run=run, stochastic=True)
    evaluate(settings(), run=run, stochastic=True)
    assert content(run, "evaluation-1.json")["question"]["actions"] == "deterministic"
    assert (run.evaluation.path / "drive-1.mp4").read_text() == "film of the first"
    assert not (run.evaluation.path / "drive.mp4").exists()


def test_the_same_report_replaces_itself_and_keeps_its_film(run: Run, here: None) -> None:
    for _ in range(2):
        evaluate(settings(), run=run)
        (run.evaluation.path / "drive.mp4").write_text("film")
    names = {path.name for path in run.evaluation.path.iterdir()}
    assert names == {"evaluation.json", "drive.mp4", "manifest.json", "metrics.jsonl", "settings.toml"}


def test_a_damaged_report_is_kept_too(run: Run, here: None) -> None:
    run.evaluation.path.mkdir()
    (run.evaluation.path / "evaluation.json").write_text("[1, 2")
    evaluate(settings(), run=run)
    assert (run.evaluation.path / "evaluation-1.json").read_text() == "[1, 2"


@pytest.mark.parametrize("content", ["[" * 10**5, "\xff", None])
def test_a_report_from_a_stranger_is_kept_too(run: Run, content: str | None) -> None:
    path = run.evaluation.path / "evaluation.json"
    path.parent.mkdir()
    os.mkfifo(path) if content is None else path.write_text(content, encoding="latin-1")
    keep_earlier(run.evaluation, {"question": {}})
    assert [kept.name for kept in path.parent.iterdir()] == ["evaluation-1.json"]


@pytest.mark.parametrize("name", ["world", "policy"])
def test_a_missing_or_changed_stage_is_refused(run: Run, here: None, name: str) -> None:
    evaluate(settings(), run=run)
    shutil.rmtree(run.evaluation.path)
    weights = run.root / name / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(StageError, match="changed since"):
        evaluate(settings(), run=run)
    shutil.rmtree(run.root / name)
    with pytest.raises(StageError, match=f"dreamer fit-{name} --run tiny"):
        evaluate(settings(), run=run)
    assert not run.evaluation.path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_writes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    closed: list[bool] = []

    def drive_all(garage: Garage, jobs: list[Job], workers: int, stopped: Callable[[], bool]) -> Iterator[Drive]:
        try:
            for job in jobs:
                assert not stopped()
                os.kill(os.getpid(), number)
                yield short_drive(job, garage)
                if stopped():
                    return
        finally:
            closed.append(True)

    monkeypatch.setattr(stage, "drive_all", drive_all)
    with pytest.raises(InterruptedRunError):
        evaluate(settings(), run=run)
    assert closed == [True]  # the workers are not left behind
    assert not run.evaluation.path.exists()


def test_an_interruption_while_filming_leaves_the_report(run: Run, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def film_drive(garage: Garage, pick: object) -> Iterator[NDArray[np.uint8]]:
        yield np.zeros((16, 16, 3), np.uint8)
        os.kill(os.getpid(), signal.SIGINT)
        yield np.zeros((16, 16, 3), np.uint8)

    monkeypatch.setattr(stage, "film_drive", film_drive)
    with pytest.raises(InterruptedRunError, match="report is written"):
        evaluate(settings(), run=run, video=True)
    assert run.evaluation.require({}).complete
    assert not list(run.evaluation.path.glob("*drive*"))


def test_drives_too_short_to_dream_of_are_left_out() -> None:
    job, garage = Job(POLICY, 1000), Garage(Path(), "", "", "uniform")
    long, short = short_drive(job, garage), Drive(short_drive(job, garage).score, (1.0,))
    assert [len(many) for many in make_report({}, {POLICY: [long, short]}).promises.values()] == [1, 1, 1]
    assert make_report({}, {POLICY: [long, short]}).trust_horizon == 0
    assert make_report({}, {POLICY: [short]}).trusts == {}
    assert make_report({}, {POLICY: [short]}).trust_horizon is None


@pytest.mark.parametrize(("dreamt", "warned"), [(200.0, True), (90.0, False)])
def test_a_flattering_dream_is_told(capsys: pytest.CaptureFixture[str], dreamt: float, warned: bool) -> None:
    episode = DriveScore(1000, 100.0, 250, 30, 300, lap_finished=False, left_field=False, truncated=True)
    promises = [Promise(track, 50, dreamt + track, 100.0 + track) for track in range(3)]
    question = {"list": "report", "tracks": [1000], "actions": "deterministic"}
    show(Report(question, {POLICY: [episode]}, {50: promises}, 31))
    said, error = capsys.readouterr()
    assert "Trust horizon: 31 decisions" in said
    assert ("The dream flatters: over 50 decisions it promises 201 where 101 comes" in error) is warned
    assert bool(error) is warned
