"""What several test modules need."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pipeline.artifacts import Manifest, Run, StageFolder, file_hash
from pipeline.config import CAR_RACING, Settings, resolve
from pipeline.envs.car_racing.scores import DriveScore
from pipeline.scores import Promise, Report

hypothesis.settings.register_profile("project", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("project")

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background does not hear it


@pytest.fixture
def no_waiting() -> Callable[[], AbstractContextManager[object]]:
    """Within it, nothing may make the host wait for a GPU: no numbers read from tensors, no shapes that need them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    class NoWaiting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = function.__name__.split(".")[0]
            given = args[1] if name.startswith("index") and len(args) > 1 else []
            masked = any(str(getattr(mask, "dtype", "")) in ("torch.bool", "torch.uint8") for mask in given)
            if name in waiting or (masked and name in ("index", "index_put", "index_put_")):
                raise AssertionError(f"{name} waits for the device")
            return function(*args, **(kwargs or {}))

    return NoWaiting


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose world model and policy are complete but untrained. Shared by all tests: copy it to change it."""
    return make_tiny_run(tmp_path_factory.mktemp("artifacts") / "tiny")


@pytest.fixture(scope="session")
def discrete_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same, for discrete actions."""
    return make_tiny_run(tmp_path_factory.mktemp("artifacts") / "discrete", continuous=False)


@pytest.fixture(scope="session", params=["Pendulum-v1", "LunarLander-v3"])
def other_env(request: pytest.FixtureRequest) -> str:
    """Environments that are not CarRacing, of numbers and of actions to choose from."""
    return str(request.param)


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory, other_env: str) -> Run:
    """The same as `tiny_run`, of `other_env`."""
    return make_tiny_run(tmp_path_factory.mktemp("artifacts") / "other", env=other_env)


@pytest.fixture(scope="session")
def other_data(tmp_path_factory: pytest.TempPathFactory, other_env: str) -> Path:
    """The same as `tiny_data`, of `other_env`."""
    return make_data(tmp_path_factory.mktemp("data") / "other", env=other_env)


def make_tiny_run(root: Path, seed: int = 0, *, continuous: bool = True, env: str = CAR_RACING) -> Run:
    """Write `world/` and `policy/` as the fitting stages leave them, with weights that a seed gives."""
    import torch

    from pipeline.envs import adapter_of
    from pipeline.models.actor_critic import Actor
    from pipeline.models.checkpoints import Interface, build_world, save_actor, save_world

    settings = resolve("tiny", values=[("view.env", env), ("view.continuous", continuous)])
    described, run = adapter_of(env).describe(settings.view), Run(root)
    settings = settings.model_copy(update={"view": described.view})
    interface = Interface(described.view, described.actions.low, described.actions.high)
    mean = torch.tensor([0.0, 0.2, -0.9] if continuous else [0.1, 0.1, 0.1, 0.6, 0.1])
    if env != CAR_RACING:
        mean = torch.full((len(described.actions),), 1 / len(described.actions))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        world = build_world(settings.model, interface)
        std = torch.full_like(mean, 0.3)
        actor = Actor(world.features, settings.model, settings.policy, mean, std, interface.discrete)
    save_world(run.world.weights, world, interface)
    _complete(run.world, settings, {"data": "0" * 64})
    world_hash = file_hash(run.world.weights)
    save_actor(run.policy.weights, actor, settings.policy, world_hash)
    _complete(run.policy, settings, {"world": world_hash})
    return run


def _complete(folder: StageFolder, settings: Settings, inputs: dict[str, str]) -> None:
    folder.write_settings(settings)
    outputs = {folder.weights.name: file_hash(folder.weights)}
    folder.write_manifest(Manifest(folder.command.split()[1], inputs, outputs, done=1, complete=True))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of four made-up drives, of which the last one terminates, seen as `tiny_run` sees."""
    return make_data(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def discrete_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for discrete actions."""
    return make_data(tmp_path_factory.mktemp("data") / "discrete", continuous=False)


@pytest.fixture(scope="session")
def truth_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as `tiny_data`, with the truth."""
    return make_data(tmp_path_factory.mktemp("data") / "truth", truth=True)


def make_data(path: Path, *, continuous: bool = True, truth: bool = False, env: str = CAR_RACING) -> Path:
    """Write drives of random pictures, whose speed is in the brightness of their pictures."""
    import numpy as np

    from pipeline.episodes.episode import Episode
    from pipeline.episodes.metadata import Origin
    from pipeline.episodes.store import EpisodeStore

    steps, values = 12, [("view.env", env), ("view.continuous", continuous), ("collect.truth", truth)]
    origin = Origin.of(resolve("tiny", values=values))
    count, discrete = len(origin.view.action_low), not origin.view.continuous
    with EpisodeStore.create(path, origin) as writer:
        for number in range(4):
            rng, last = np.random.default_rng(number), np.arange(steps) == steps - 1
            observations = rng.integers(0, 56, (steps + 1, 3, 64, 64), np.uint8)
            speed = rng.integers(0, 200, steps)
            observations[1:] += speed[:, None, None, None].astype(np.uint8)
            chosen = rng.integers(0, count, steps) if discrete else rng.uniform(0, 1, (steps, count))
            actions = chosen if discrete else chosen.astype(np.float32)
            rewards = rng.normal(size=steps).astype(np.float32)
            infos = {name: rng.integers(0, 2, steps).astype(dtype) for name, dtype in origin.infos.items()}
            infos |= {"speed": speed.astype(np.float32)} if "speed" in infos else {}
            writer.append(
                Episode(
                    observations=observations,
                    actions=actions,
                    rewards=rewards,
                    terminations=last & (number == 3),
                    truncations=last & (number < 3),
                    infos=infos,
                    seed=2**24 + number,
                    policy="smooth",
                    track_tiles=300 if env == CAR_RACING else 0,
                )
            )
    return path


DATA_HASH = "d" * 64


@pytest.fixture
def finished_run(tmp_path: Path) -> Run:
    """`artifacts/demo` with all stages complete and evaluated, made from `DATA_HASH`; its weights are mere words."""
    run, settings = Run(tmp_path / "artifacts" / "demo"), resolve("tiny")
    hashes: dict[str, str] = {"data": DATA_HASH}
    for name, folder in (("world", run.world), ("policy", run.policy)):
        folder.write_settings(settings)
        folder.weights.write_text(name, encoding="utf-8")
        outputs = {folder.weights.name: file_hash(folder.weights)}
        facts = {"data": "demo"} if name == "world" else {}
        folder.write_manifest(Manifest(f"fit-{name}", dict(hashes), outputs, 1000, complete=True, facts=facts))
        hashes[name] = outputs[folder.weights.name]
        lines = [{"step": s, "picture": 1 / s, "held_out/kl": s, "return": s, "entropy": -s} for s in range(1, 9)]
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    del hashes["data"]
    tree = {**_evaluation(hashes).as_json(), "facts": {"seconds": 12.5, "versions": {"torch": "2.9"}}}
    (run.evaluation.path / "evaluation.json").parent.mkdir()
    (run.evaluation.path / "evaluation.json").write_text(json.dumps(tree), encoding="utf-8")
    run.evaluation.write_settings(settings)
    outputs = {"evaluation.json": file_hash(run.evaluation.path / "evaluation.json")}
    run.evaluation.write_manifest(Manifest("evaluate", hashes, outputs, 8, complete=True))
    return run


def _evaluation(hashes: dict[str, str]) -> Report:
    """Eight tracks, on which the policy has 100, 200, ... and a baseline -10; the dream promises twice as much."""

    def score(track: int, value: float) -> DriveScore:
        end = {"lap_finished": False, "left_field": value < 0, "truncated": value > 0}
        return DriveScore(track, value, 250, tiles=100, track_tiles=300, **end)

    tracks = range(1000, 1008)
    policy = [score(track, 100.0 * (track - 999)) for track in tracks]
    promises = [Promise(one.track, 15, 2 * one.score, one.score) for one in policy]
    question = {"list": "report", "tracks": [*tracks], "actions": "deterministic", "seed": 0, **hashes}
    return Report(question, {"policy": policy, "random": [score(track, -10.0) for track in tracks]}, {15: promises})
