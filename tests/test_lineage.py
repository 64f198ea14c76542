from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import Run, Source
from pipeline.cli.options import Shared
from pipeline.config import STAGE_SECTIONS, resolve
from pipeline.envs.car_racing.actions import action_bounds
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.episodes.episode import Episode
from pipeline.episodes.joined import joint_fingerprint
from pipeline.episodes.metadata import Origin, View
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError
from pipeline.lineage import Link, commands, data_sets, find_run, options_for, read_score, run_names, trace

DATA_HASH = "d" * 64  # that `finished_run` was made from
DATA = {"demo": Link("ready", digest=DATA_HASH, size="5 decisions"), "other": Link("ready", digest="e" * 64)}


def states(run: Run, data: dict[str, Link] = DATA) -> dict[str, str]:
    return {name: link.state for name, link in trace(run, data).links.items()}


def test_a_finished_run_is_ready_and_its_report_comes_next(finished_run: Run) -> None:
    chain = trace(finished_run, DATA)
    assert set(states(finished_run).values()) == {"ready"}
    assert (chain.data_name, chain.links["world"].size) == ("demo", "1,000 updates")
    assert chain.links["policy"].inputs["world"] == chain.links["world"].digest
    assert chain.score is not None and (chain.score.mean, chain.score.tracks) == (450, 8)
    assert chain.next == "dreamer report demo"
    (finished_run.root / "report.html").touch()
    assert trace(finished_run, DATA).next == ""
    os.utime(finished_run.root / "report.html", (0, 0))  # older than the evaluation
    assert trace(finished_run, DATA).next == "dreamer report demo"


def test_what_follows_on_changed_data_is_stale(finished_run: Run) -> None:
    changed = {"demo": replace(DATA["demo"], digest="f" * 64)}
    chain = trace(finished_run, changed)
    assert states(finished_run, changed) == {
        "data": "ready",
        "world": "stale",
        "policy": "stale",
        "evaluation": "stale",
    }
    assert chain.links["world"].reason == "was made from another data than there is now"
    assert chain.links["evaluation"].reason == "was made from a world that is stale"
    assert chain.next == "dreamer fit-world --run demo --fresh"


def test_what_follows_on_a_changed_world_is_stale(finished_run: Run) -> None:
    manifest = finished_run.world.read_manifest()
    assert manifest is not None
    finished_run.world.write_manifest(replace(manifest, outputs={"model.safetensors": "1" * 64}))
    assert states(finished_run) == {"data": "ready", "world": "ready", "policy": "stale", "evaluation": "stale"}
    assert trace(finished_run, DATA).next == "dreamer fit-policy --run demo --fresh"


def test_what_is_unfinished_missing_or_damaged(finished_run: Run) -> None:
    manifest = finished_run.policy.read_manifest()
    assert manifest is not None
    finished_run.policy.write_manifest(replace(manifest, complete=False, done=20))
    chain = trace(finished_run, DATA)
    assert (chain.links["policy"].state, chain.next) == ("unfinished", "dreamer fit-policy --run demo")
    finished_run.policy.write_manifest(manifest)
    finished_run.policy.weights.unlink()
    assert trace(finished_run, DATA).links["policy"].reason == "lacks model.safetensors"
    settings = (finished_run.world.path / "settings.toml").read_text()
    (finished_run.world.path / "settings.toml").write_text("x = [")
    chain = trace(finished_run, DATA)
    assert (chain.links["world"].state, chain.next) == ("damaged", "dreamer fit-world --run demo --fresh")
    (finished_run.world.path / "settings.toml").write_text(settings)
    (finished_run.policy.path / "manifest.json").write_text("{")
    chain = trace(finished_run, DATA)
    assert (chain.links["policy"].state, chain.next) == ("damaged", "dreamer fit-policy --run demo --fresh")
    (finished_run.policy.path / "manifest.json").unlink()
    assert states(finished_run)["policy"] == "missing"
    (finished_run.evaluation.path / "evaluation.json").write_text('{"drives": 3}')
    chain = trace(finished_run, DATA)
    assert (chain.links["evaluation"].state, chain.score) == ("damaged", None)


def test_data_are_found_by_content_where_their_name_has_changed(finished_run: Run) -> None:
    assert trace(finished_run, {"renamed": DATA["demo"]}).data_name == "renamed"


def test_several_data_sets_are_one_step_as_good_as_the_worst(finished_run: Run) -> None:
    digests = {"demo": DATA_HASH, "two": "e" * 64}
    data = {name: Link("ready", digest=digest, size="5 decisions") for name, digest in digests.items()}
    joint = joint_fingerprint(list(digests.values()))
    manifest = finished_run.world.read_manifest()
    assert manifest is not None
    sources = [Source("demo", DATA_HASH, 5, "random"), Source("two", "e" * 64, 7, "driven", "first", 3)]
    finished_run.world.write_manifest(replace(manifest.with_sources(sources), inputs={"data": joint}))
    policy = finished_run.policy.read_manifest()
    assert policy is not None
    finished_run.policy.write_manifest(replace(policy, inputs=policy.inputs | {"data": joint}))
    chain = trace(finished_run, data)
    assert {link.state for link in chain.links.values()} == {"ready"}
    assert (chain.data_name, chain.links["data"].size) == ("demo + two", "5 decisions + 5 decisions")
    assert chain.learned_from == "random data and 7 decisions driven by a policy"
    assert trace(finished_run, {"demo": data["demo"], "new": data["two"]}).data_name == "demo + new"
    settings = finished_run.world.read_settings().with_value("collect.decisions", 12)
    finished_run.world.write_settings(settings)
    first, second, fitting, *_ = commands(chain)
    assert first.startswith("dreamer collect --data demo --preset tiny") and "collect.decisions=5" in first
    assert second.startswith("dreamer collect --data two --policy artifacts/first ") and "decisions=7" in second
    assert "--seed" not in first and "--seed 3" in second  # as each was collected
    assert fitting.startswith("dreamer fit-world --run demo --data demo --data two")
    changed = trace(finished_run, data | {"two": replace(data["two"], digest="f" * 64)})
    assert changed.links["world"].state == "stale"
    gone = trace(finished_run, {"demo": data["demo"]}).links["data"]
    assert (gone.state, gone.cure) == ("missing", "dreamer collect --data two --policy artifacts/first")


def test_what_an_old_run_learned_from_is_not_told(finished_run: Run) -> None:
    assert trace(finished_run, DATA).learned_from is None


def test_data_that_are_gone_matter_only_where_they_are_needed(finished_run: Run) -> None:
    assert states(finished_run, {})["world"] == "ready"
    assert trace(finished_run, {}).next == "dreamer report demo"
    (finished_run.policy.path / "manifest.json").unlink()
    settings = finished_run.world.path / "settings.toml"
    assert trace(finished_run, {}).next == f"dreamer collect --data demo --config {settings}"


def test_runs_are_found_by_name(finished_run: Run) -> None:
    root = finished_run.root.parent
    (root / "no-run").mkdir()
    assert run_names(root) == ["demo"] and run_names(root / "nowhere") == []
    assert find_run("demo", root) == finished_run
    with pytest.raises(StageError, match="did you mean 'demo'"):
        find_run("dmeo", root)
    with pytest.raises(StageError, match="dreamer run --run dmeo"):
        find_run("dmeo", root / "nowhere")


@pytest.mark.parametrize(
    "content", ["[" * 10**5, '{"a":' * 10**5, "[]", '{"drives": {"policy": {"summary": []}}}', "\xff", None]
)
def test_an_evaluation_from_a_stranger_is_refused_in_a_sentence(finished_run: Run, content: str | None) -> None:
    path = finished_run.evaluation.path / "evaluation.json"
    if content is None:
        path.unlink()
        os.mkfifo(path)  # which would be waited for
    else:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(StageError, match=r"^[^\n]*evaluation\.json is damaged [^\n]*dreamer evaluate --run demo`$"):
        read_score(finished_run)
    assert trace(finished_run, DATA).links["evaluation"].state == "damaged"


@pytest.mark.parametrize("mean", [1e999, -1e999, float("nan"), 10**400, "x", None])
def test_a_score_is_a_finite_number(finished_run: Run, mean: object) -> None:
    path = finished_run.evaluation.path / "evaluation.json"
    tree = json.loads(path.read_text())
    tree["drives"]["policy"]["summary"]["mean"] = mean
    path.write_text(json.dumps(tree))
    with pytest.raises(StageError, match=r"evaluation\.json is damaged"):
        read_score(finished_run)


def test_folders_that_no_command_can_name_are_passed_over(finished_run: Run) -> None:
    """Their names would stand in commands to type."""
    root = finished_run.root.parent
    for name in ("$(touch owned)", "\x1b[2J", "my run"):
        shutil.copytree(finished_run.root, root / name)
        (root.parent / "data" / name).mkdir(parents=True)
        (root.parent / "data" / name / "metadata.json").write_text("{}")
    assert run_names(root) == ["demo"] and data_sets(root.parent / "data") == {}


def test_a_score_of_one_track_has_no_interval(finished_run: Run) -> None:
    path = finished_run.evaluation.path / "evaluation.json"
    tree = json.loads(path.read_text())
    tree["drives"]["policy"]["summary"] |= {"low": None, "high": None}
    path.write_text(json.dumps(tree))
    score = read_score(finished_run)
    assert score is not None and (score.mean, score.low, score.high) == (450, None, None)


def test_data_sets_say_what_they_hold(tmp_path: Path) -> None:
    low, high = action_bounds(True)
    view = View(action_repeat=4, size=8, action_low=low, action_high=high)
    origin = Origin(gymnasium="1.4.0", view=view, policy="mixture", patience=30, limit=250, seed=0)
    episode = Episode(
        observations=np.zeros((4, 3, 8, 8), np.uint8),
        actions=np.zeros((3, 3), np.float32),
        rewards=np.zeros(3, np.float32),
        terminations=np.zeros(3, bool),
        truncations=np.arange(3) == 2,
        infos={name: np.zeros(3, dtype) for name, dtype in CarRacing.info_types.items()},
        seed=2**24,
        policy="smooth",
        track_tiles=300,
    )
    with EpisodeStore.create(tmp_path / "good", origin) as writer:
        writer.append(episode)
    with EpisodeStore.create(tmp_path / "begun", origin):
        pass
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "main_data.hdf5").write_text("no HDF5")
    (tmp_path / "nothing").mkdir()
    found = data_sets(tmp_path)
    assert {name: link.state for name, link in found.items()} == {
        "bad": "damaged",
        "begun": "unfinished",
        "good": "ready",
    }
    assert found["good"].size == "3 decisions"
    with EpisodeStore.open(tmp_path / "good") as store:
        assert found["good"].digest == store.fingerprint
    assert found["good"].made is not None and found["good"].made <= datetime.now(UTC)
    assert found["bad"].cure == "dreamer collect --data bad --fresh"


@pytest.mark.parametrize(
    ("variant", "preset", "size", "values"),
    [
        ("laptop", "demo", None, []),
        ("v3", "full", "12m", [("seed", 7), ("world.batch", 8), ("world.precision", "float32")]),
        ("laptop", "tiny", None, [("view.continuous", False), ("collect.policy", "smooth"), ("policy.horizon", 9)]),
        ("laptop", "demo", None, [("view.env", "Pendulum-v1"), ("view.env_kwargs", '{"g": 9.0}'), ("world.batch", 9)]),
    ],
)
@pytest.mark.parametrize("stage", ["collect", "evaluate", "fit-policy", "fit-world", "show-encodings"])
def test_the_options_give_the_settings_back(
    stage: str, variant: str, preset: str, size: str | None, values: list[tuple[str, object]]
) -> None:
    wanted = resolve(preset, variant=variant, size=size, values=values)
    sections = [name for name in STAGE_SECTIONS[stage] if name != "view" or stage == "collect"]
    given = shlex.split(options_for(wanted, sections))
    words = dict(zip(given[::2], given[1::2], strict=True))
    environment = {"view.env": words.pop("--env", None), "view.env_kwargs": words.pop("--env-kwargs", None)}
    known = {} if stage == "collect" else {"view.env": wanted.view.env, "view.env_kwargs": wanted.view.env_kwargs}
    names = {option.removeprefix("--") for option in words if option != "--set"}
    shared = Shared(
        **{name: int(words["--seed"]) if name == "seed" else words[f"--{name}"] for name in names},  # type: ignore[arg-type]
        assignments=[text for option, text in zip(given[::2], given[1::2], strict=True) if option == "--set"],
    )
    got = shared.settings(stage, environment, environment=known)
    measured = {"world.precision", "policy.precision"}
    pairs = zip(got.section_values(sections).items(), wanted.section_values(sections).items(), strict=True)
    assert [(a, b) for a, b in pairs if a != b and a[0] not in measured] == []


def test_the_commands_that_make_a_run_again(finished_run: Run) -> None:
    (finished_run.evaluation.path / "drive.mp4").touch()
    finished_run.encodings.write_settings(resolve("tiny", values=[("seed", 3)]))
    assert commands(trace(finished_run, DATA)) == [
        "dreamer collect --data demo --preset tiny",
        "dreamer fit-world --run demo --data demo --preset tiny",
        "dreamer show-encodings --run demo --seed 3",
        "dreamer fit-policy --run demo --preset tiny",
        "dreamer evaluate --run demo --video --preset tiny",
    ]
    path = finished_run.evaluation.path / "evaluation.json"
    asked = json.loads(path.read_text())
    path.write_text(json.dumps(asked | {"question": asked["question"] | {"actions": "stochastic"}}))
    assert commands(trace(finished_run, DATA))[-1] == "dreamer evaluate --run demo --video --stochastic --preset tiny"


def test_seeds_are_tracks_in_carracing_alone(finished_run: Run) -> None:
    assert trace(finished_run, DATA).links["evaluation"].size == "8 tracks"
    finished_run.world.write_settings(resolve("tiny", values=[("view.env", "Pendulum-v1")]))
    chain = trace(finished_run, DATA)
    assert chain.links["evaluation"].size == "8 seeds"
    assert commands(chain)[0] == "dreamer collect --data demo --env Pendulum-v1 --preset tiny"
