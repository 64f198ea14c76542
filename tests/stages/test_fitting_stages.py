"""fit-world and fit-policy on a small made-up data set: lineage, exact resume, and what they must not touch."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import console
from pipeline.artifacts import Run, Source, file_hash, load_weights
from pipeline.config import VARIANTS, Settings, resolve
from pipeline.envs.car_racing.actions import action_bounds
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.envs.car_racing.mirror import mirror
from pipeline.episodes.episode import Episode
from pipeline.episodes.metadata import DRIVEN, DrivingPolicy, Origin, View
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import DreamerError, InterruptedRunError, StageError, UsageError
from pipeline.learning import fitting, watching
from pipeline.learning.encoding import Rows
from pipeline.learning.policy_learner import PolicyLearner
from pipeline.learning.world_learner import WorldLearner
from pipeline.models.checkpoints import Interface, build_world, load_actor, load_critic, load_world
from pipeline.models.policies import BoundedNormal, OneHotAction, TanhNormal, TruncatedNormal, WideNormal
from pipeline.stages import fit_policy as fit_policy_stage
from pipeline.stages.fit_policy import fit_policy
from pipeline.stages.fit_world import fit_world

CPU = torch.device("cpu")
TINY = resolve("tiny").with_value("world.precision", "float32").with_value("policy.precision", "float32")


def write_data(path: Path, episodes: int = 6, *, continuous: bool = True, driven: bool = False) -> Path:
    rng = np.random.default_rng(0)
    low, high = action_bounds(continuous)
    view = View(action_repeat=4, size=64, continuous=continuous, action_low=low, action_high=high)
    origin = Origin(gymnasium="1.4.0", view=view, policy="mixture", patience=30, limit=250, seed=0)
    if driven:
        driver = DrivingPolicy(run="first", world="0" * 64, policy="1" * 64, actions="stochastic")
        origin = origin.model_copy(update={"policy": DRIVEN, "driver": driver, "patience": None, "limit": None})
    with EpisodeStore.create(path, origin) as writer:
        for number in range(episodes):
            steps = 25 + number
            last = np.arange(steps) == steps - 1
            numbers, choices = rng.uniform(0, 1, (steps, 3)).astype(np.float32), rng.integers(0, 5, steps)
            writer.append(
                Episode(
                    observations=rng.integers(0, 256, (steps + 1, 3, 64, 64), np.uint8),
                    actions=numbers if continuous else choices,
                    rewards=rng.normal(size=steps).astype(np.float32),
                    terminations=last & (number == 0),
                    truncations=last & (number != 0),
                    infos={name: np.zeros(steps, dtype) for name, dtype in CarRacing.info_types.items()},
                    seed=number,
                    policy="smooth",
                    track_tiles=300,
                )
            )
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of both stages, never interrupted. Shared: only read it."""
    run = Run(tmp_path_factory.mktemp("artifacts") / "whole")
    fit_world(TINY, run=run, data=data, device=CPU)
    fit_policy(TINY, run=run, data=data, device=CPU)
    return run


def same_state(one: Path, other: Path) -> bool:
    """Whether two checkpoints are bitwise equal."""

    def flat(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for key in value for leaf in (key, *flat(value[key]))]
        if isinstance(value, list | tuple):
            return [leaf for item in value for leaf in flat(item)]
        return [value]

    leaves = [flat(torch.load(path, weights_only=True)) for path in (one, other)]
    return len(leaves[0]) == len(leaves[1]) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in zip(*leaves, strict=True)
    )


def interrupt_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Ask to stop, as Ctrl-C does, once so many updates are done."""

    def advance(meter: console.Meter, done: int, metrics: dict[str, float] | None = None) -> None:
        if meter.unit == "updates" and done == updates:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(console.Meter, "advance_to", advance)


def test_world_leaves_weights_settings_metrics_curves_and_a_manifest(run: Run) -> None:
    names = {path.name for path in run.world.path.iterdir()}
    assert names == {
        "model.safetensors",
        "last.safetensors",
        "training_state.pt",
        "settings.toml",
        "metrics.jsonl",
        "manifest.json",
        "curves.png",
    }
    assert [line["step"] for line in console.read_lines(run.world.metrics)] == [3, 6]
    manifest = run.world.require({})
    assert manifest.done == 6
    assert manifest.outputs["model.safetensors"] == file_hash(run.world.weights)


@pytest.mark.parametrize("stage", ["world", "policy"])
def test_interrupted_and_resumed_is_bitwise_the_uninterrupted_run(
    stage: str, run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Run(tmp_path / "artifacts" / "cut")
    fit_stage = {"world": fit_world, "policy": fit_policy}[stage]
    if stage == "policy":
        fit_world(TINY, run=other, data=data, device=CPU)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(InterruptedRunError, match=r"after 3 updates of .*, all saved; the same command goes on"):
            fit_stage(TINY, run=other, data=data, device=CPU)
    one, two = (getattr(r, stage) for r in (run, other))
    manifest = two.read_manifest()
    assert manifest is not None and manifest.done == 3 and not manifest.complete
    fit_stage(TINY, run=other, data=data, device=CPU)
    assert same_state(one.path / "training_state.pt", two.path / "training_state.pt")
    assert file_hash(one.weights) == file_hash(two.weights)
    assert console.read_lines(one.metrics) == console.read_lines(two.metrics)


def test_a_data_set_larger_than_memory_is_read_from_disk_with_the_same_result(
    run: Run, data: Path, tmp_path: Path
) -> None:
    other = Run(tmp_path / "small")
    fit_world(TINY.with_value("world.memory_gib", 1e-6), run=other, data=data, device=CPU)
    assert console.read_lines(other.world.metrics) == console.read_lines(run.world.metrics)
    assert file_hash(other.world.weights) == file_hash(run.world.weights)


@pytest.mark.parametrize("wanted", [True, False])
def test_both_stages_see_the_data_in_a_mirror_where_that_is_asked_for(
    wanted: bool, run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(observation: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(observation))
        return mirror(observation, action)

    monkeypatch.setattr("pipeline.envs.car_racing.adapter.mirror", watched)
    other, settings = Run(tmp_path / "other"), TINY.with_value("model.mirror", wanted)
    fit_world(settings, run=other, data=data, device=CPU)
    by_world = len(seen)
    fit_policy(settings, run=other, data=data, device=CPU)
    assert (len(seen) > by_world > 0) == bool(seen) == wanted
    assert (console.read_lines(other.world.metrics) == console.read_lines(run.world.metrics)) == (
        TINY.model.mirror == wanted
    )


def test_data_on_the_device_give_the_same_result(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.stages.fit_world.room_for_data", lambda device: 2**30)
    other = Run(tmp_path / "placed")
    fit_world(TINY, run=other, data=data, device=CPU)
    assert "The data set lies on cpu" in capsys.readouterr().out
    assert console.read_lines(other.world.metrics) == console.read_lines(run.world.metrics)
    assert file_hash(other.world.weights) == file_hash(run.world.weights)


def test_where_not_all_states_fit_the_policy_starts_from_some_episodes_and_says_so(
    run: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.world.path, tmp_path / "small" / "world")
    rows_of_three_episodes, bytes_of_a_state = 3 * 31, 4 * 16 + 4 * 4
    settings = TINY.with_value("policy.states_gib", rows_of_three_episodes * bytes_of_a_state / 2**30)
    with EpisodeStore.open(data) as store:
        encoded = fit_policy_stage.encode_data(load_world(run.world.weights), store, settings)
        assert 2 * 25 < len(encoded.states.deter) <= rows_of_three_episodes < store.steps
    assert fit_policy(settings, run=Run(tmp_path / "small"), data=data, device=CPU).complete
    assert "start from 3 of 6 episodes, drawn at random: policy.states_gib" in capsys.readouterr().out


def test_seeds_differ(run: Run, data: Path, tmp_path: Path) -> None:
    other = Run(tmp_path / "other")
    fit_world(TINY.with_value("seed", 1), run=other, data=data, device=CPU)
    assert file_hash(other.world.weights) != file_hash(run.world.weights)


def test_a_finished_stage_is_left_alone_and_more_updates_extend_it(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    short = TINY.with_value("world.updates", 4)
    first = fit_world(short, run=run, data=data, device=CPU)
    before = file_hash(run.world.weights)
    assert fit_world(short, run=run, data=data, device=CPU) == first
    assert file_hash(run.world.weights) == before
    assert fit_world(TINY, run=run, data=data, device=CPU).done == 6


def test_other_settings_are_refused_and_fresh_starts_anew(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    fit_world(TINY, run=run, data=data, device=CPU)
    other = TINY.with_value("world.batch", 3)
    with pytest.raises(UsageError, match=r"world\.batch = 2, not 3.*--fresh"):
        fit_world(other, run=run, data=data, device=CPU)
    assert fit_world(other, run=run, data=data, device=CPU, fresh=True).complete


def test_policy_leaves_the_world_model_as_it_is_and_acts_by_the_averaged_actor(run: Run, data: Path) -> None:
    world = run.world.require({})
    assert file_hash(run.world.weights) == world.outputs["model.safetensors"]
    state = torch.load(run.policy.path / "training_state.pt", weights_only=True)["learner"]
    kept = torch.cat([t.flatten() for t in state["acting"].values()])
    raw = torch.cat([t.flatten() for t in state["actor"].values()])
    assert not torch.equal(kept, raw)
    tensors, header = load_weights(run.policy.weights)
    assert torch.equal(torch.cat([tensors[name].flatten() for name in state["acting"]]), kept)
    assert header["world"] == file_hash(run.world.weights)


def test_the_critic_is_kept_beside_the_actor_with_what_its_values_mean(
    run: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run fitted before there was such a file gets it by the same command, and nothing else changes."""
    old = Run(Path(shutil.copytree(run.root, tmp_path / "old")))
    state = torch.load(old.policy.state, weights_only=True)["learner"]
    critic = load_critic(old.policy.critic, load_world(old.world.weights))
    weights, kept, manifest = critic.critic.state_dict(), old.policy.critic.read_bytes(), old.policy.require({})
    assert state["critic"].keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in state["critic"].items())
    asked, meaning = TINY.policy, critic.settings
    assert (meaning.value, meaning.utility, meaning.penalty) == (asked.value, asked.utility, asked.penalty)
    assert set(manifest.outputs) == {"model.safetensors", "critic.safetensors"}
    lacking = {name: digest for name, digest in manifest.outputs.items() if name != "critic.safetensors"}
    old.policy.write_manifest(replace(manifest, outputs=lacking))
    old.policy.critic.unlink()
    metrics = old.policy.metrics.read_bytes()
    fit_policy(TINY, run=old, data=data, device=CPU)
    assert "step sizes" not in capsys.readouterr().err
    assert old.policy.require({}) == manifest and old.policy.critic.read_bytes() == kept
    assert old.policy.metrics.read_bytes() == metrics
    old.policy.write_manifest(replace(manifest, outputs=lacking))
    old.policy.state.unlink()  # a run that was passed on
    fit_policy(TINY, run=old, data=data, device=CPU)
    assert "already fitted" in capsys.readouterr().out


def test_policy_is_fitted_without_any_environment(run: Run, data: Path, tmp_path: Path) -> None:
    """The stage runs in a process in which gymnasium, Box2D and pygame cannot be imported."""
    script = f"""
import sys
for name in ("gymnasium", "Box2D", "pygame"):
    sys.modules[name] = None
import shutil
from pathlib import Path
import torch
from pipeline.artifacts import Run
from pipeline.config import VARIANTS, Settings, resolve
from pipeline.envs.car_racing.actions import action_bounds
from pipeline.stages.fit_policy import fit_policy
shutil.copytree({str(run.world.path)!r}, {str(tmp_path / "run" / "world")!r})
run = Run(Path({str(tmp_path / "run")!r}))
fit_policy(resolve("tiny"), run=run, data=Path({str(data)!r}), device=torch.device("cpu"))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert Run(tmp_path / "run").policy.require({}).complete


def test_missing_and_stale_inputs_name_the_command(run: Run, data: Path, tmp_path: Path) -> None:
    empty = Run(tmp_path / "empty")
    with pytest.raises(StageError, match=r"nowhere.*dreamer collect --data nowhere"):
        fit_world(TINY, run=empty, data=tmp_path / "nowhere", device=CPU)
    with pytest.raises(StageError, match=r"world is missing; run `dreamer fit-world --run empty`"):
        fit_policy(TINY, run=empty, data=data, device=CPU)
    more = write_data(tmp_path / "more", episodes=7)
    with pytest.raises(StageError, match=r"another data.*fit-world --run whole --fresh"):
        fit_policy(TINY, run=run, data=more, device=CPU)


def test_a_changed_world_model_is_noticed(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    fit_world(TINY, run=run, data=data, device=CPU)
    content = bytearray(run.world.weights.read_bytes())
    content[-1] ^= 1
    run.world.weights.write_bytes(content)
    with pytest.raises(StageError, match="changed since it was made"):
        fit_policy(TINY, run=run, data=data, device=CPU)


def test_minutes_plan_the_updates(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stages.fit_world.planned_updates", lambda learner, minutes, seed: int(minutes * 10))
    run = Run(tmp_path / "run")
    assert fit_world(TINY, run=run, data=data, device=CPU, minutes=0.5).done == 5
    assert run.world.read_settings().world.updates == 5
    again = fit_world(TINY.with_value("world.updates", 90), run=run, data=data, device=CPU, minutes=0.5)
    assert again.done == 5 and run.world.read_settings().world.updates == 5


def test_planned_updates_are_those_of_the_time_whatever_stalls_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    class Learner:
        def begin(self, first: int, last: int) -> None: ...

        def update(self, index: int) -> dict[str, torch.Tensor]:
            clock[0] += 30 if index % 4 == 0 else 0.5
            return {"loss": torch.zeros(())}

    clock = [0.0]
    monkeypatch.setattr(fitting.time, "perf_counter", lambda: clock[0])
    assert fitting.planned_updates(Learner(), 2.0, 0) == 240  # type: ignore[arg-type]


@pytest.mark.parametrize(("what", "at"), [("kl", 3), ("gradient", 3), ("held_out/kl", 3), ("kl", 4)])
def test_what_is_not_finite_stops_with_its_name_and_the_last_good_checkpoint(
    what: str, at: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out data are looked at after 3 updates, and after 4 there would be a checkpoint."""
    update, check = WorldLearner.update, WorldLearner.check

    def spoilt_update(learner: WorldLearner, index: int) -> dict[str, torch.Tensor]:
        metrics = {**update(learner, index)}
        if index == at - 1 and what == "kl":
            metrics["kl"] = torch.tensor(math.nan)
        if index == at - 1 and what == "gradient":
            learner.gradients[1], metrics["gradient"] = math.inf, torch.tensor(math.inf)
        return metrics

    def spoilt_check(learner: WorldLearner, done: int, final: bool) -> dict[str, float]:
        found = {**check(learner, done, final)}
        return found | {"held_out/kl": math.inf} if found and what == "held_out/kl" else found

    monkeypatch.setattr(WorldLearner, "update", spoilt_update)
    monkeypatch.setattr(WorldLearner, "check", spoilt_check)
    run = Run(tmp_path / "run")
    with pytest.raises(DreamerError) as caught:
        fit_world(TINY, run=run, data=data, device=CPU)
    said, value = str(caught.value), "nan" if what == "kl" else "inf"
    second = [*build_world(TINY.model, Interface(TINY.view, *action_bounds(True))).state_dict()][1]
    name = f"gradient of {second}" if what == "gradient" else what
    assert said.startswith(f"'{name}' became {value} at update {at}; the last good checkpoint, ")
    assert "training_state.pt, is of update 2; run `dreamer fit-world --run run --fresh`" in said
    assert torch.load(run.world.state, weights_only=True)["done"] == 2
    assert [line["step"] for line in console.read_lines(run.world.metrics)] == list(range(3, at, 3))


def test_a_collapse_is_said_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "_FIRST", 2)
    monkeypatch.setattr(fitting, "LOG_EVERY", 1)
    update = WorldLearner.update
    monkeypatch.setattr(WorldLearner, "update", lambda self, index: {**update(self, index), "kl": torch.tensor(1e-3)})
    fit_world(TINY.with_value("world.updates", 20), run=Run(tmp_path / "run"), data=data, device=CPU)
    error = " ".join(capsys.readouterr().err.split())
    assert error.count("'kl' is 0.001 at update 6") == error.count("'kl' is") == 1 and "world.free_nats" in error


def test_a_damaged_checkpoint_is_told(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    fit_world(TINY.with_value("world.updates", 2), run=run, data=data, device=CPU)
    (run.world.path / "training_state.pt").write_bytes(b"nonsense")
    with pytest.raises(StageError, match=r"training_state\.pt is damaged.*--fresh"):
        fit_world(TINY, run=run, data=data, device=CPU)


def test_without_its_checkpoint_a_run_is_not_begun_anew_unasked(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    fit_world(TINY.with_value("world.updates", 2), run=run, data=data, device=CPU)
    (run.world.path / "training_state.pt").unlink()
    before = file_hash(run.world.weights)
    with pytest.raises(StageError, match=r"training_state\.pt is missing.*fit-world --run run --fresh"):
        fit_world(TINY, run=run, data=data, device=CPU)
    assert file_hash(run.world.weights) == before


def test_settings_on_disk_are_those_it_was_made_with(run: Run, data: Path) -> None:
    """How the data were collected comes from the data, the world model's sizes from the world model."""
    asked = TINY.with_value("collect.policy", "uniform").with_value("model.deter", 32)
    fit_policy(asked, run=run, data=data, device=CPU)
    world, policy = run.world.read_settings(), run.policy.read_settings()
    assert (world.collect.policy, world.collect.patience, world.collect.limit) == ("mixture", 30, 250)
    assert policy.model == world.model == TINY.model
    assert policy.collect == world.collect
    with EpisodeStore.open(data) as store:
        source = Source(data.name, store.fingerprint, store.steps, "random", seed=store.origin.seed)
    for folder in (run.world, run.policy):
        assert folder.require({}).sources == (source,) and folder.require({}).inputs["data"] == source.sha256


def test_several_data_sets_are_learned_from_as_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = write_data(tmp_path / "more", episodes=3, driven=True)
    both = [data, more]
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "interrupted")
    for fit_stage in (fit_world, fit_policy):
        fit_stage(TINY, run=whole, data=both, device=CPU)
        assert "random data and 78 decisions driven by a policy" in capsys.readouterr().out.replace("\n", " ")
        with monkeypatch.context() as patched:
            interrupt_after(patched, 3)
            with pytest.raises(InterruptedRunError):
                fit_stage(TINY, run=run, data=both, device=CPU)
        fit_stage(TINY.with_value("world.memory_gib", 1e-6), run=run, data=both, device=CPU)  # pictures read from disk
    for one, other in ((whole.world, run.world), (whole.policy, run.policy)):
        manifest = one.require({})
        assert [(source.name, source.decisions, source.kind) for source in manifest.sources] == [
            (data.name, 165, "random"),
            ("more", 78, "driven"),
        ]
        assert manifest.outputs["model.safetensors"] == other.require({}).outputs["model.safetensors"]
    world = whole.world.read_settings()
    assert (world.collect.policy, world.collect.patience, world.collect.decisions) == ("mixture", 30, 165 + 78)
    with pytest.raises(StageError, match="another data than there is now"):
        fit_world(TINY, run=whole, data=data, device=CPU)
    with pytest.raises(StageError, match="another data than there is now"):
        fit_policy(TINY, run=whole, data=[more, data], device=CPU)


def tiny(variant: str, *values: tuple[str, object]) -> Settings:
    precise = ("world.precision", "float32"), ("policy.precision", "float32")
    return resolve("tiny", values=[*precise, *values], variant=variant)


@pytest.fixture(scope="module")
def worlds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Run]:
    """Gives a run with a variant's world model, fitted once, in a folder of one's own."""
    root = tmp_path_factory.mktemp("worlds")

    def world(variant: str, path: Path) -> Run:
        if not (root / variant).exists():
            fit_world(tiny(variant), run=Run(root / variant), data=data, device=CPU)
        shutil.copytree(root / variant, path)
        return Run(path)

    return world


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_stages_fit_every_variant_and_leave_an_actor_that_acts(
    variant: str, worlds: Callable[[str, Path], Run], data: Path, tmp_path: Path
) -> None:
    run = worlds(variant, tmp_path / "run")
    assert fit_policy(tiny(variant), run=run, data=data, device=CPU).complete
    world = load_world(run.world.weights)
    policy = load_actor(run.policy.weights, world)(torch.zeros(2, world.model.features))
    kinds = {"v1": TanhNormal, "memoryless": TanhNormal, "v2": TruncatedNormal, "v3": BoundedNormal}
    assert type(policy) is kinds.get(variant, WideNormal)
    assert policy.executed_mean.shape == (2, 3) and (policy.executed_mean.abs() <= 1).all()
    assert ("replay" in console.read_lines(run.policy.metrics)[-1]) == (variant == "v3")


@pytest.mark.parametrize("variant", ["laptop", "v1"])
def test_discrete_actions_are_fitted_too(variant: str, tmp_path: Path) -> None:
    data, run = write_data(tmp_path / "discrete", continuous=False), Run(tmp_path / "run")
    settings = tiny(variant, ("view.continuous", False), ("policy.gradient", "reinforce"))
    fit_world(settings, run=run, data=data, device=CPU)
    fit_policy(settings, run=run, data=data, device=CPU)
    world = load_world(run.world.weights)
    policy = load_actor(run.policy.weights, world)(torch.zeros(2, world.model.features))
    assert isinstance(policy, OneHotAction)
    assert policy.executed_mean.sum(-1).tolist() == [1.0, 1.0]


def test_what_the_learner_of_version_3_is_given(
    worlds: Callable[[str, Path], Run], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The discount that the soft continue head has learned, and the rows of whole episodes one after the other."""
    given = []

    class Listening(PolicyLearner):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            given.append((self.settings.discount, self.rows))

    monkeypatch.setattr(fit_policy_stage, "PolicyLearner", Listening)
    settings, run = tiny("v3"), worlds("v3", tmp_path / "run")
    fit_policy(settings, run=run, data=data, device=CPU)
    [(discount, rows)] = given
    assert discount == settings.world.discount == 1 - 1 / 333 != settings.policy.discount
    assert isinstance(rows, Rows)
    with EpisodeStore.open(data) as store:
        rewards = [np.concatenate([[0], store.read(index).rewards]) for index in range(len(store))]
    rewards.sort(key=len, reverse=True)
    assert rows.reward.tolist() == pytest.approx(np.concatenate(rewards).tolist())
    ends = torch.cumsum(torch.tensor([len(reward) for reward in rewards]), 0) - 1
    assert rows.is_last.nonzero()[:, 0].tolist() == ends.tolist()
    assert rows.is_terminal.nonzero()[:, 0].tolist() == [ends[-1].item()]


def test_windows_longer_than_the_record_are_refused(
    worlds: Callable[[str, Path], Run], data: Path, tmp_path: Path
) -> None:
    settings, run = tiny("v3", ("policy.replay_length", 1000), ("policy.starts", 1000)), worlds("v3", tmp_path / "run")
    with pytest.raises(StageError, match=r"fewer than the 1000 of a window"):
        fit_policy(settings, run=run, data=data, device=CPU)
