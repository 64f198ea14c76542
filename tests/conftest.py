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


def make_tiny_run(root: Path, seed: int = 0) -> Run:
    """Write `world/` and `policy/` as the fitting stages leave them, with weights that a seed gives."""
    import torch

    from pipeline.envs.view import ACTION_HIGH, ACTION_LOW
    from pipeline.models.actor_critic import Actor
    from pipeline.models.checkpoints import Interface, build_world, save_actor, save_world

    settings, run = resolve("tiny"), Run(root)
    interface = Interface(settings.view, tuple(ACTION_LOW.tolist()), tuple(ACTION_HIGH.tolist()))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        world = build_world(settings.model, interface)
        actor = Actor(world.features, settings.model, 1, torch.tensor([0.0, 0.2, -0.9]), torch.tensor([0.3, 0.3, 0.2]))
    save_world(run.world.weights, world, interface)
    _complete(run.world, settings, {"data": "0" * 64})
    world_hash = file_hash(run.world.weights)
    save_actor(run.policy.weights, actor, 1, world_hash)
    _complete(run.policy, settings, {"world": world_hash})
    return run


def _complete(folder: StageFolder, settings: Settings, inputs: dict[str, str]) -> None:
    folder.write_settings(settings)
    outputs = {folder.weights.name: file_hash(folder.weights)}
    folder.write_manifest(Manifest(folder.command.split()[1], inputs, outputs, done=1, complete=True))
