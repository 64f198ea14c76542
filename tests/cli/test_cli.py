from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from console_script import dreamer, said_without_slow_imports

from pipeline import __version__, cli, console, distributed, trackers
from pipeline.artifacts import Run
from pipeline.cli import options as shared_options
from pipeline.config import resolve
from pipeline.envs.car_racing.scores import DriveScore
from pipeline.episodes.shards import Shard
from pipeline.errors import InterruptedRunError, StageError
from pipeline.scores import Report

COMMANDS = ("collect", "fit-world", "show-encodings", "fit-policy", "evaluate", "run")
STAGES = ("collect", "fit_world", "show_encodings", "fit_policy", "evaluate")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Every call of a stage, none of which does anything."""
    kept: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def stand_in(name: str) -> Callable[..., Report | None]:
        def stage(*args: Any, **options: Any) -> Report | None:
            kept.append((name, args, options))
            return _report() if name == "evaluate" else None

        return stage

    for name in STAGES:
        _replace_stage(monkeypatch, name, stand_in(name))
    monkeypatch.setattr("pipeline.viewing.report.write_report", lambda run: run.root / "report.html")
    return kept


def _report() -> Report:
    """Two drives of the policy, whose mean score is 700."""
    scores = [
        DriveScore(track, score, 250, 280, 300, False, False, truncated=True)
        for track, score in ((1, 600.0), (2, 800.0))
    ]
    return Report({"tracks": [1, 2], "list": "report"}, {"policy": scores}, {})


@pytest.fixture
def foreseen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Every call of a forecast; each stage would take a minute and 2 GiB."""
    from pipeline.stages import forecast

    kept: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def stand_in(name: str) -> Callable[..., Any]:
        def foresee(*args: Any, **options: Any) -> Any:
            kept.append((name, args, options))
            named = [forecast.Forecast(stage, {"seed": 0}, f"all of {stage}", 60.0, 2.0) for stage in STAGES]
            return named if name == "whole_run" else named[STAGES.index(name)]

        return foresee

    for name in (*STAGES, "whole_run"):
        monkeypatch.setattr(forecast, name, stand_in(name))
    return kept


def _replace_stage(monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., Any]) -> None:
    module = ModuleType(name)
    setattr(module, name, function)
    monkeypatch.setitem(sys.modules, f"pipeline.stages.{name}", module)


Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]
Screen = pytest.CaptureFixture[str]


def _refusal(capsys: Screen) -> str:
    """What was refused, in one line, without a traceback."""
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    lines = output.err.strip().splitlines()
    assert len(lines) == 1, output.err
    return lines[0]


# Help


def test_help_names_all_commands(capsys: Screen) -> None:
    assert dreamer("--help") == 0
    output = capsys.readouterr().out
    listed = [words[1] for line in output.splitlines() if len(words := line.split()) > 2 and words[0] == "│"]
    assert [name for name in listed if not name.startswith("-")][: len(COMMANDS)] == list(COMMANDS)
    assert "dreamer run --preset demo --video" in output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_the_shared_options(command: str, capsys: Screen) -> None:
    assert dreamer(command, "--help") == 0
    output = capsys.readouterr().out
    assert f"$ dreamer {command}" in output
    shared = (
        "--preset",
        "--variant",
        "--size",
        "--config",
        "--set",
        "--seed",
        "--device",
        "--quiet",
        "--debug",
        "--dry-run",
    )
    assert all(option in output for option in shared)


def test_no_command_is_without_examples_of_itself() -> None:
    commands: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert set(COMMANDS) < set(commands)
    for name, command in commands.items():
        assert f"$ dreamer {name}" in (command.epilog or ""), name
        for example in command.epilog.split("$ dreamer ")[1:]:
            own, *words = shlex.split(example)
            with command.make_context(own, words) as parsed:
                assert (own, bool(parsed.params)) == (name, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_valid(command: str, capsys: Screen, calls: Calls) -> None:
    dreamer(command, "--help")
    examples = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("$ dreamer")]
    for example in examples:
        assert dreamer(*example.split()[2:]) == 0, example
    assert len(calls) >= len(examples) > 0


def test_version(capsys: Screen) -> None:
    assert dreamer("--version") == 0
    assert capsys.readouterr().out == f"dreamer {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["fit-world", "--help"], ["collect", "--set", "nonsense=1"]])
def test_help_and_mistakes_import_nothing_slow(words: list[str]) -> None:
    said_without_slow_imports(*words)


def test_python_m_pipeline_is_dreamer() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"dreamer {__version__}\n")


# Usage errors


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["fit-wrold"], "'fit-world'"),
        (["statsu"], "'status'"),
        (["show-future"], "'show-futures'"),
        (["curves", "a", "--ot", "b.png"], "--out"),
        (["fit-world", "--update", "3"], "--updates"),
        (["fit-world", "--updates", "many"], "--updates"),
        (["collect", "--workers", "0"], "--workers"),
    ],
)
def test_mistyped_commands_and_options_are_refused_with_a_hint(words: list[str], hint: str, capsys: Screen) -> None:
    assert dreamer(*words) == 2
    error = capsys.readouterr().err
    assert hint in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["fit-world", "--set", "world.update=3"], "did you mean 'world.updates'?"),
        (["fit-world", "--set", "world.updates"], "section.key=value"),
        (["fit-world", "--set", "world.updates=0"], "world.updates = 0"),
        (["fit-world", "--updates", "0"], "world.updates = 0"),
        (["collect", "--policy", "clever"], "'mixture'"),
        (["collect", "--preset", "dmeo"], "did you mean 'demo'?"),
        (["collect", "--config", "missing.toml"], "missing.toml"),
        (["collect", "--env", "CarRacing"], "did you mean 'CarRacing-v3'?"),
        (["collect", "--data", "../elsewhere"], "cannot name a data set"),
        (["fit-world", "--run", "a/b"], "cannot name a run"),
        (["fit-world", "--device", "gpu"], "There is no device 'gpu'"),
        (["evaluate", "--list", "easy"], "'report'"),
        (["evaluate", "--json", "--dry-run"], "leave --json or --dry-run out"),
        (["fit-world", "--updates", "3", "--minutes", "1"], "leave one out"),
        (["fit-policy", "--updates", "3", "--minutes", "1"], "leave one out"),
        (["fit-world", "--updates", "3", "--set", "world.updates=5"], "world.updates is given with --set and by"),
        (["fit-world", "--set", "world.updates=true"], "world.updates = True is not valid: input should be a number"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(words: list[str], hint: str, capsys: Screen, calls: Calls) -> None:
    assert dreamer(*words) == 2
    assert hint in _refusal(capsys)
    assert calls == []


@pytest.mark.parametrize(
    ("command", "assignment", "owner"),
    [
        ("collect", "world.updates=3", "fit-world"),
        ("fit-world", "collect.decisions=3", "collect"),
        ("fit-world", "view.size=96", "collect"),
        ("show-encodings", "model.deter=16", "fit-world"),
        ("fit-policy", "evaluate.tracks=3", "evaluate"),
        ("evaluate", "policy.horizon=3", "fit-policy"),
    ],
)
def test_a_setting_of_another_command_is_refused(
    command: str, assignment: str, owner: str, capsys: Screen, calls: Calls
) -> None:
    assert dreamer(command, "--set", assignment) == 2
    assert f"belongs to `dreamer {owner}`, not to `dreamer {command}`" in _refusal(capsys)
    assert calls == []


def test_what_goes_together_in_world_and_policy_can_be_said_at_once(calls: Calls) -> None:
    assert dreamer("fit-world", "--set", "model.ensemble=0", "--set", "policy.penalty=0") == 0
    ((_, (settings,), _),) = calls
    assert (settings.model.ensemble, settings.policy.penalty) == (0, 0)


def test_every_section_of_the_settings_has_an_owner() -> None:
    assert {"seed", "deterministic", *shared_options.OWNERS} == set(resolve().model_dump())
    assert set(shared_options.OWNERS.values()) <= set(COMMANDS)


# What the stages are called with


def test_collect(calls: Calls) -> None:
    words = ["--preset", "tiny", "--data", "mine", "--policy", "smooth", "--decisions", "50", "--seed", "7"]
    assert dreamer("collect", *words, "--workers", "1") == 0
    ((name, (settings,), options),) = calls
    values = [("seed", 7), ("collect.policy", "smooth"), ("collect.decisions", 50)]
    assert (name, settings) == ("collect", resolve("tiny", values=values))
    where = {"name": "mine", "root": Path("data"), "workers": 1, "fresh": False}
    assert options == {**where, "shard": None, "merge": 0, "driver": None}


def test_collecting_by_a_policy_takes_the_view_of_its_world_model(calls: Calls, tiny_run: Run) -> None:
    settings = tiny_run.world.read_settings().with_value("view.size", 96).with_value("view.time_limit", 40)
    run = Run(Path("artifacts/mine"))
    run.world.write_settings(settings)
    for place in ("artifacts/mine", f"{Path('artifacts/mine').absolute()}/"):
        assert dreamer("collect", "--policy", place) == 0
        _, (asked,), options = calls.pop()
        assert asked == resolve(values=[("view.size", 96), ("view.time_limit", 40)])
        assert options["driver"].root.absolute() == run.root.absolute()
    assert dreamer("collect", "--policy", "artifacts/..") == 2


def test_the_environment_is_an_option_and_the_data_set_and_the_run_remember_it(calls: Calls) -> None:
    kwargs = {"view.env": "ALE/Boxing-v5", "view.env_kwargs": '{"mode": 1}'}
    expected = resolve(values=list(kwargs.items()))
    assert (expected.policy.cost_ends, resolve().policy.cost_ends) == (0.0, 0.3)
    assert dreamer("collect", "--env", "ALE/Boxing-v5", "--env-kwargs", '{ "mode": 1 }') == 0
    assert calls[0][1][0] == expected
    data = Path("data/carracing/metadata.json")
    data.parent.mkdir(parents=True)
    data.write_text('{"dreamer": {"environment": "ALE/Boxing-v5", "view": {"env_kwargs": "{\\"mode\\": 1}"}}}')
    for command in ("collect", "fit-world", "run"):
        calls.clear()
        assert dreamer(command) == 0
        assert {settings for _, (settings,), _ in calls} == {expected}
    calls.clear()
    assert dreamer("collect", "--fresh", "--yes") == 0
    assert calls[0][1][0] == resolve()
    Run(Path("artifacts/carracing")).world.write_settings(expected)
    assert dreamer("fit-policy", "--preset", "demo") == 0
    assert calls[1][1][0] == resolve("demo", values=list(kwargs.items()))


@pytest.mark.parametrize("kwargs", ["speed=1", "[1]", "{"])
def test_arguments_that_are_no_json_object_are_refused(kwargs: str, calls: Calls, capsys: Screen) -> None:
    assert dreamer("collect", "--env-kwargs", kwargs) == 2
    assert "view.env_kwargs" in _refusal(capsys)
    assert calls == []


def test_collecting_in_parts(calls: Calls, capsys: Screen) -> None:
    assert dreamer("collect", "--shard", "2/8") == 0
    assert dreamer("collect", "--merge", "8") == 0
    assert [(options["shard"], options["merge"]) for _, _, options in calls] == [(Shard(2, 8), 0), (None, 8)]
    calls.clear()
    for words in (["--shard", "9/8"], ["--shard", "2/8", "--merge", "8"], ["--shard", "2/8", "--dry-run"]):
        assert dreamer("collect", *words) == 2
        assert "--shard" in _refusal(capsys)
    assert calls == []


def test_of_several_processes_each_collects_a_part_with_its_share_of_the_cores(
    calls: Calls, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_size", 4)
    monkeypatch.setattr(distributed, "_rank", 2)
    monkeypatch.setattr(shared_options, "cores", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert dreamer("collect") == 0
    assert (calls[0][2]["shard"], calls[0][2]["workers"]) == (Shard(3, 4), 3)
    assert dreamer("evaluate", "--device", "cpu") == 0
    assert calls[1][2]["workers"] == 3
    assert capsys.readouterr().out == ""  # the first one speaks
    for words in (["run"], ["show-encodings"], ["fit-world", "--dry-run"]):
        assert dreamer(*words) == 2
        assert f"`dreamer {words[0]}` is for one process" in _refusal(capsys)


@pytest.mark.parametrize("command", ["fit-world", "fit-policy"])
def test_fitting(command: str, calls: Calls) -> None:
    words = ["--run", "mine", "--data", "some", "--device", "cpu"]
    assert dreamer(command, *words, "--updates", "9") == 0
    ((name, (settings,), options),) = calls
    section = command.removeprefix("fit-")
    assert (name, settings) == (f"fit_{section}", resolve(values=[(f"{section}.updates", 9)]))
    assert str(options.pop("device")) == "cpu"
    run = Run(Path("artifacts/mine"))
    assert options == {"run": run, "data": [Path("data/some")], "minutes": None, "fresh": False}
    assert dreamer(command, *words, "--minutes", "2.5") == 0
    assert calls[1][2]["minutes"] == 2.5
    assert dreamer(command, "--data", "some", "--data", "more") == 0
    assert calls[2][2]["data"] == [Path("data/some"), Path("data/more")]


def test_show_encodings(calls: Calls) -> None:
    assert dreamer("show-encodings", "--seed", "3", "--device", "cpu") == 0
    ((name, (settings,), options),) = calls
    assert (name, settings.seed, str(options.pop("device"))) == ("show_encodings", 3, "cpu")
    assert options == {"run": Run(Path("artifacts/carracing")), "data": [Path("data/carracing")]}


def test_evaluate(calls: Calls) -> None:
    words = ["--tracks", "5", "--list", "selection", "--video", "--stochastic", "--workers", "2", "--device", "cpu"]
    assert dreamer("evaluate", *words) == 0
    ((name, (settings,), options),) = calls
    values = [("evaluate.tracks", 5), ("evaluate.list", "selection")]
    assert (name, settings) == ("evaluate", resolve(values=values))
    assert str(options.pop("device")) == "cpu"
    flags = {"video": True, "stochastic": True, "workers": 2}
    assert options == {"run": Run(Path("artifacts/carracing")), **flags}


def test_run_calls_all_stages_in_order_with_the_same_settings(calls: Calls) -> None:
    words = ["--preset", "tiny", "--data", "some", "--run", "mine", "--video", "--minutes", "3", "--device", "cpu"]
    assert dreamer("run", *words, "--set", "world.batch=3", "--set", "evaluate.tracks=1") == 0
    assert [name for name, _, _ in calls] == list(STAGES)
    expected = resolve("tiny", values=[("world.batch", 3), ("evaluate.tracks", 1)])
    assert {settings for _, (settings,), _ in calls} == {expected}
    options = {name: options for name, _, options in calls}
    assert all(options[name]["run"] == Run(Path("artifacts/mine")) for name in STAGES[1:])
    assert all(options[name]["data"] == Path("data/some") for name in STAGES[1:4])
    assert options["fit_world"]["minutes"] == options["fit_policy"]["minutes"] == 3
    assert options["evaluate"]["video"]


def test_run_ends_with_the_score_and_where_all_is(capsys: Screen, calls: Calls) -> None:
    film = Path("artifacts/mine/evaluation/drive.webm")
    film.parent.mkdir(parents=True)
    film.touch()
    assert dreamer("run", "--run", "mine", "--device", "cpu") == 0
    score, *where = capsys.readouterr().out.splitlines()[-5:]
    assert score.startswith("Score: 700 (95 % interval 6") and score.endswith("mean over 2 report tracks")
    assert where == [
        "Figure: artifacts/mine/encodings/encodings.png",
        "Video: artifacts/mine/evaluation/drive.webm",
        "Run folder: artifacts/mine",
        "Report: artifacts/mine/report.html",
    ]


def test_the_planner_is_an_option_and_its_settings_are_evaluates(calls: Calls, capsys: Screen) -> None:
    words = ["--planner", "--set", "planner.horizon=5", "--device", "cpu"]
    assert dreamer("evaluate", *words) == 0
    assert calls[0][1][0] == resolve(values=[("evaluate.planner", True), ("planner.horizon", 5)])
    assert dreamer("evaluate", "--planner", "--set", "planner.elites=100") == 2
    assert "planner.elites cannot be more than planner.sequences" in _refusal(capsys)
    assert dreamer("fit-policy", "--set", "planner.horizon=5") == 2
    assert "planner.horizon belongs to `dreamer evaluate`" in _refusal(capsys)


def test_evaluate_ends_with_the_report_or_as_json(capsys: Screen, calls: Calls) -> None:
    assert dreamer("evaluate", "--run", "mine", "--device", "cpu") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Report: artifacts/mine/report.html"
    assert dreamer("evaluate", "--run", "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out) == _report().as_json()


@pytest.mark.parametrize("command", ["fit-world", "fit-policy", "run"])
def test_metrics_go_to_the_services_that_are_asked_for(
    command: str, calls: Calls, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked: list[tuple[object, ...]] = []
    monkeypatch.setattr(console, "track_with", lambda *trackers: tracked.append(trackers))
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: object())
    assert dreamer(command) == 0
    assert dreamer(command, "--tensorboard", "--wandb") == 0
    assert tracked == [(), (trackers.TensorBoard, trackers.WandB)]
    calls.clear()
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    capsys.readouterr()
    assert dreamer(command, "--wandb", "--quiet") == 2
    assert "pip install wandb" in _refusal(capsys)
    assert calls == []


def test_set_overrides_file_and_file_overrides_preset(tmp_path: Path, calls: Calls) -> None:
    file = tmp_path / "my.toml"
    file.write_text("seed = 4\n[collect]\nlimit = 9\npatience = 8\n[world]\nupdates = 5\n", encoding="utf-8")
    words = ["--preset", "tiny", "--config", str(file), "--set", "collect.patience=7"]
    assert dreamer("collect", *words) == 0
    settings = calls[0][1][0]
    assert (settings.seed, settings.collect.limit, settings.collect.patience) == (4, 9, 7)
    assert (settings.collect.decisions, settings.world.updates) == (300, 5)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_run_foresees_and_does_nothing(command: str, calls: Calls, foreseen: Calls, capsys: Screen) -> None:
    words = ["--preset", "tiny"] + ["--device", "cpu"] * (command != "collect")
    assert dreamer(command, *words, "--dry-run") == 0
    ((name, (settings,), _),) = foreseen
    assert (name, settings) == ("whole_run" if command == "run" else command.replace("-", "_"), resolve("tiny"))
    output = capsys.readouterr().out
    for stage in STAGES if command == "run" else [name]:
        assert f"{stage} would use" in output
        assert f"all of {stage}; about 1:00 and 2.0 GiB of memory; nothing written" in output
    assert ("5:00" in output) == (command == "run")
    assert calls == [] and list(Path().iterdir()) == []


def test_forecasts_hear_of_the_options_that_matter(foreseen: Calls) -> None:
    run, data = Run(Path("artifacts/mine")), Path("data/some")
    place, fitting = ["--run", "mine", "--data", "some"], ["--minutes", "2.5", "--fresh"]
    assert dreamer("collect", "--data", "some", "--workers", "3", "--fresh", "--dry-run") == 0
    assert dreamer("fit-world", *place, *fitting, "--dry-run") == 0
    assert dreamer("fit-policy", *place, *fitting, "--dry-run") == 0
    assert dreamer("evaluate", "--run", "mine", "--video", "--workers", "3", "--dry-run") == 0
    assert dreamer("run", *place, *fitting, "--video", "--workers", "3", "--dry-run") == 0
    for _, _, options in foreseen:
        options.pop("device", None)
    driving = {"video": True, "workers": 3}
    fit = {"run": run, "data": [data], "minutes": 2.5, "fresh": True}
    assert [(name, options) for name, _, options in foreseen] == [
        ("collect", {"data": data, "workers": 3, "fresh": True, "driver": None}),
        ("fit_world", fit),
        ("fit_policy", fit),
        ("evaluate", {"run": run, **driving}),
        ("whole_run", fit | driving | {"data": data}),
    ]


def test_what_a_dry_run_foresees_is_never_kept_quiet(foreseen: Calls, capsys: Screen) -> None:
    assert dreamer("collect", "--quiet", "--dry-run") == 0
    assert "collect would use" in capsys.readouterr().out


def test_evaluating_a_stale_run_is_warned_of(calls: Calls, finished_run: Run, capsys: Screen) -> None:
    finished_run.root.parent.rename("artifacts")
    run = Run(Path("artifacts/demo"))
    assert dreamer("evaluate", "--run", "demo") == 0
    assert "made from another" not in capsys.readouterr().err
    manifest = run.world.read_manifest()
    assert manifest is not None
    run.world.write_manifest(replace(manifest, outputs={"model.safetensors": "1" * 64}))
    assert dreamer("evaluate", "--run", "demo") == 0
    assert "The policy of artifacts/demo was made from another world than there is now" in capsys.readouterr().err


def test_quiet_prints_nothing(capsys: Screen, calls: Calls) -> None:
    assert dreamer("show-encodings", "--quiet") == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "")


# Replacing


@pytest.fixture
def there() -> Path:
    """A data set and a run that --fresh would replace."""
    for folder in ("data/carracing", "artifacts/carracing/world", "artifacts/carracing/policy"):
        Path(folder).mkdir(parents=True)
    return Path("data/carracing")


FRESH = ("collect", "fit-world", "fit-policy", "run")


@pytest.mark.parametrize("command", FRESH)
def test_fresh_is_refused_where_nobody_can_be_asked(
    command: str, there: Path, capsys: Screen, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert dreamer(command, "--fresh", "--quiet") == 2
    assert "add --yes" in _refusal(capsys)
    assert calls == []
    assert dreamer(command, "--fresh", "--yes") == 0
    assert all(options["fresh"] for name, _, options in calls if name in ("collect", "fit_world", "fit_policy"))


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 1)])
def test_fresh_asks_and_does_what_is_answered(
    answer: bool, code: int, there: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def confirm(question: str, *, abort: bool) -> None:
        asked.append(question)
        if not answer:
            raise typer.Abort

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", confirm)
    assert dreamer("collect", "--fresh") == code
    assert asked == [f"Replace {there}?"]
    assert len(calls) == answer


@pytest.mark.parametrize("words", [["--fresh", "--dry-run"], []])
def test_nothing_is_asked_where_nothing_is_replaced(
    words: list[str], there: Path, calls: Calls, foreseen: Calls
) -> None:
    assert dreamer("collect", *words) == 0
    assert len(calls + foreseen) == 1


def test_fresh_asks_nothing_where_there_is_nothing(calls: Calls) -> None:
    assert dreamer("run", "--fresh", "--device", "cpu") == 0
    assert len(calls) == len(STAGES)


@pytest.mark.parametrize("command", ["fit-world", "fit-policy", "run"])
def test_fresh_needs_no_settings_of_what_it_replaces(command: str, there: Path, calls: Calls, capsys: Screen) -> None:
    for folder in ("world", "policy") if command != "fit-policy" else ("policy",):
        Path("artifacts/carracing", folder, "settings.toml").write_text("[world]\nupdates = -1\n")
    assert dreamer(command, "--quiet") == 3
    assert "settings.toml cannot be read" in _refusal(capsys)
    assert dreamer(command, "--fresh", "--yes") == 0
    assert calls[-1][1][0] == resolve("full")


@pytest.mark.parametrize("command", ["fit-world", "run"])
def test_fresh_asks_for_the_data_that_a_damaged_world_model_cannot_name(
    command: str, there: Path, calls: Calls, capsys: Screen
) -> None:
    Path("artifacts/carracing/world/manifest.json").write_text("nonsense")
    assert dreamer(command, "--quiet") == 3
    assert "manifest.json is damaged" in _refusal(capsys)
    assert dreamer(command, "--fresh", "--yes", "--quiet") == 2
    assert "name them, `dreamer fit-world --run carracing --data NAME --fresh`" in _refusal(capsys)
    assert dreamer(command, "--fresh", "--yes", "--data", "carracing") == 0


# Failing


def _failing(error: BaseException) -> Callable[..., None]:
    def stage(*_: object, **__: object) -> None:
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StageError("data/x is missing; run `dreamer collect`"), 3, "Error: data/x is missing; run `dreamer collect`"),
        (InterruptedRunError("Stopped, all saved"), 130, "Warning: Stopped, all saved"),
        (KeyError("x"), 1, "Error: KeyError: 'x' (run again with --debug to see where)"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(
    error: Exception, code: int, message: str, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace_stage(monkeypatch, "show_encodings", _failing(error))
    assert dreamer("show-encodings") == code
    assert _refusal(capsys) == message


@pytest.mark.parametrize(("error", "code"), [(StageError("gone"), 3), (ZeroDivisionError("by zero"), 1)])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(
    error: Exception, code: int, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace_stage(monkeypatch, "show_encodings", _failing(error))
    assert dreamer("show-encodings", "--debug") == code
    output = capsys.readouterr().err
    assert "Traceback" in output and type(error).__name__ in output


def test_ctrl_c_ends_with_130(capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_stage(monkeypatch, "show_encodings", _failing(KeyboardInterrupt()))
    assert dreamer("show-encodings") == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["collect", "fit_world", "show_encodings", "fit_policy", "evaluate"])
def test_a_run_that_is_told_to_stop_begins_no_other_stage(
    stage: str, number: signal.Signals, capsys: Screen, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(9)

    _replace_stage(monkeypatch, stage, told)
    assert dreamer("run") == 130
    captured = capsys.readouterr()
    assert "the same command goes on from it" in " ".join(captured.err.split())
    assert "Traceback" not in captured.err and stage not in {name for name, _, _ in calls}


@pytest.mark.parametrize("words", [["verify", "artifacts"], ["status"], ["report", "x"], ["curves", "x"], ["doctor"]])
def test_ctrl_c_ends_what_only_looks_with_130_too(
    words: list[str], capsys: Screen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").mkdir()
    for name in ("stages.verify.verify", "lineage.run_names", "lineage.find_run", "doctor.examine"):
        monkeypatch.setattr(f"pipeline.{name}", _failing(KeyboardInterrupt()))
    assert dreamer(*words) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_amid_an_import_ends_with_130_too(capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("Error calling __set_name__")
    error.__cause__ = KeyboardInterrupt()
    _replace_stage(monkeypatch, "show_encodings", _failing(error))
    assert dreamer("show-encodings") == 130
    assert "Stopped; what was saved before is as it was" in capsys.readouterr().err


def test_what_the_machine_lacks_is_one_sentence(capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_stage(monkeypatch, "show_encodings", _failing(OSError(28, "No space left on device", "a/b")))
    assert dreamer("show-encodings") == 1
    assert _refusal(capsys).startswith("Error: a/b cannot be written, for the disk is full; ")


def test_run_stops_at_the_stage_that_fails(capsys: Screen, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_stage(monkeypatch, "fit_world", _failing(StageError("too little data")))
    assert dreamer("run") == 3
    assert _refusal(capsys) == "Error: too little data"
    assert [name for name, _, _ in calls] == ["collect"]
