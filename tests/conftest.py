"""What several test modules need."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from pipeline.artifacts import Manifest, Run, StageFolder, file_hash
from pipeline.config import Settings, resolve

hypothesis.settings.register_profile("project", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose world model and policy are complete but untrained. Shared by all tests: copy it to change it."""
    return make_tiny_run(tmp_path_factory.mktemp("artifacts") / "tiny")


@pytest.fixture(scope="session")
def discrete_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same, for discrete actions."""
    return make_tiny_run(tmp_path_factory.mktemp("artifacts") / "discrete", continuous=False)


def make_tiny_run(root: Path, seed: int = 0, *, continuous: bool = True) -> Run:
    """Write `world/` and `policy/` as the fitting stages leave them, with weights that a seed gives."""
    import torch

    from pipeline.envs.car_racing.actions import action_bounds
    from pipeline.models.actor_critic import Actor
    from pipeline.models.checkpoints import Interface, build_world, save_actor, save_world

    settings, run = resolve("tiny", values=[("view.continuous", continuous)]), Run(root)
    interface = Interface(settings.view, *action_bounds(continuous))
    mean = torch.tensor([0.0, 0.2, -0.9] if continuous else [0.1, 0.1, 0.1, 0.6, 0.1])
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
