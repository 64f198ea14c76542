"""Weights files that explain themselves: the header holds what is needed to build the networks anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..artifacts import FORMAT, load_weights, save_weights
from ..config import ModelSettings, PolicySettings, ViewSettings, validate
from ..errors import StageError, UsageError
from .actor_critic import Actor
from .world_model import WorldModel


@dataclass(frozen=True)
class Interface:
    """What joins a model to its environment.

    Attributes:
        view: action repeat, picture size, kind of actions.
        low, high: bounds of the environment's actions; of one-hot vectors, where these are discrete.
    """

    view: ViewSettings
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def discrete(self) -> bool:
        """Whether actions are one-hot vectors."""
        return not self.view.continuous


@dataclass(frozen=True)
class LoadedWorld:
    """A world model read from disk, frozen, with its settings."""

    model: WorldModel
    settings: ModelSettings
    interface: Interface


def build_world(settings: ModelSettings, interface: Interface) -> WorldModel:
    """A world model with fresh weights."""
    return WorldModel(settings, interface.view.size, interface.low, interface.high, interface.discrete)


def save_world(path: Path, model: WorldModel, interface: Interface) -> None:
    """Write the world model's weights atomically."""
    header = {
        "format": FORMAT,
        "kind": "world",
        "model": model.settings.model_dump(),
        "view": interface.view.model_dump(),
        "low": interface.low,
        "high": interface.high,
    }
    save_weights(path, model.state_dict(), header)


def load_world(path: Path, device: torch.device | str = "cpu") -> LoadedWorld:
    """Read a world model; its parameters need no gradient. Raises StageError on any mismatch."""
    tensors, header = load_weights(path)
    check_header(path, header, "world")
    try:
        known = {"model": header["model"], "view": header["view"]}
        settings = validate({**known, "policy": {"penalty": 0.0}})  # which goes with a model without an ensemble too
        low, high = (tuple(map(float, header[name])) for name in ("low", "high"))
        interface = Interface(settings.view, low, high)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise StageError(f"{path} has a damaged header ({error}); {_cure(path, 'world')}") from error
    model = build_world(settings.model, interface)
    fill(path, model, tensors, "world")
    return LoadedWorld(model.to(device).requires_grad_(False).eval(), settings.model, interface)


def save_actor(path: Path, actor: Actor, policy: PolicySettings, world_hash: str) -> None:
    """Write the acting copy of the actor atomically; it names the world model whose states it reads."""
    header = {
        "format": FORMAT,
        "kind": "policy",
        "actor_layers": policy.actor_layers,
        "distribution": policy.distribution,
        "world": world_hash,
    }
    save_weights(path, actor.state_dict(), header)


def load_actor(path: Path, world: LoadedWorld) -> Actor:
    """Read an actor for this world model, without gradients. Raises StageError on any mismatch."""
    tensors, header = load_weights(path)
    check_header(path, header, "policy")
    try:
        settings = validate({"policy": {name: header[name] for name in ("actor_layers", "distribution")}})
    except (KeyError, ValueError, UsageError) as error:
        raise StageError(f"{path} has a damaged header ({error}); {_cure(path, 'policy')}") from error
    neutral = torch.zeros(len(world.interface.low))
    actor = Actor(
        world.model.features, world.settings, settings.policy, neutral, neutral + 0.5, world.interface.discrete
    )
    fill(path, actor, tensors, "policy")
    return actor.to(world.model.device).requires_grad_(False).eval()


def check_header(path: Path, header: Mapping[str, Any], kind: str) -> None:
    """Raise StageError where a weights file is of another kind or version."""
    if header.get("format") != FORMAT or header.get("kind") != kind:
        found = f"{header.get('kind')!r} of format {header.get('format')!r}"
        raise StageError(f"{path} holds {found}, not '{kind}' of format {FORMAT}; {_cure(path, kind)}")


def fill(path: Path, module: nn.Module, tensors: Mapping[str, Tensor], kind: str) -> None:
    """Load weights after checking every name, shape and type, and that all are finite. Raises StageError."""
    expected = module.state_dict()
    odd = sorted(set(expected) ^ set(tensors))
    for name, tensor in tensors.items():
        if name in expected and (tensor.shape != expected[name].shape or not tensor.is_floating_point()):
            odd.append(f"{name} of shape {list(tensor.shape)}")
    if odd:
        reason = f"does not fit its own settings, in the tensor {odd[0]}"
    elif not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        reason = "holds numbers that are not finite"
    else:
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return
    raise StageError(f"{path} {reason}; {_cure(path, kind)}")


def _cure(path: Path, kind: str) -> str:
    """What makes the weights at `<run>/<kind>/model.safetensors` anew."""
    return f"run `dreamer fit-{kind} --run {path.parent.parent.name} --fresh`"
