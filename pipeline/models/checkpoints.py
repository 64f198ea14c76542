"""Weights files that explain themselves: the header holds what is needed to build the networks anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..artifacts import FORMAT, load_weights, save_weights
from ..config import FORMER, ModelSettings, PolicySettings, ViewSettings, validate
from ..devices import machine_memory
from ..envs import adapter_of, cost_of
from ..errors import StageError, UsageError
from .actor_critic import Actor, Critic
from .world_model import WorldModel

_Module = TypeVar("_Module", bound=nn.Module)
_OF_VALUES = ("critic", "critic_layers", "value", "utility", "steepness", "discount", "penalty", "cost", "cost_ends")
"""The settings that say what a critic's values are."""
_TYPES = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
"""Of weights that can be read; written are the first."""
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.randn}
"""What networks are made with; their first arguments are the shape."""
_SHARE, _SPARE = 2, 2**20
"""Numbers that a network may take while it is built, for each one in the file, and beside those."""


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


def build_world(settings: ModelSettings, interface: Interface, *, to_fit: bool = True) -> WorldModel:
    """A world model with fresh weights.

    Raises UsageError where these alone take more memory than there is, or, if it is to be fitted, nothing is known
    for its cost head to learn.
    """
    cost, memory = cost_of(interface.view, wanted=settings.cost and to_fit), machine_memory()
    ration = _Ration(memory // 4)
    try:
        with ration:
            return WorldModel(settings, interface.view.size, interface.low, interface.high, interface.discrete, cost)
    except _SpentError as error:
        if ration.left >= 0:  # it was another one that is spent
            raise
        raise UsageError(
            f"The weights of this world model take more than the {memory / 2**30:.0f} GiB of this machine; choose a "
            "smaller --size, or smaller model settings"
        ) from error


def save_world(path: Path, model: WorldModel, interface: Interface) -> None:
    """Write the world model's weights atomically."""
    view = interface.view
    always = {name: getattr(view, name) for name in ("action_repeat", "size", "continuous")}
    header = {
        "format": FORMAT,
        "kind": "world",
        "model": model.settings.model_dump(),
        "view": always | view.model_dump(exclude_defaults=True),  # of CarRacing as it comes, what there always was
        "low": interface.low,
        "high": interface.high,
    }
    save_weights(path, model.state_dict(), header)


def load_world(path: Path, device: torch.device | str = "cpu") -> LoadedWorld:
    """Read a world model; its parameters need no gradient. Raises StageError on any mismatch."""
    tensors, header = load_weights(path)
    check_header(path, header, "world")
    try:
        known = {"model": FORMER["model"] | header["model"], "view": header["view"]}
        settings = validate({**known, "policy": {"penalty": 0.0, "cost_ends": 0.0}})  # which go with any model
        low, high = (tuple(map(float, header[name])) for name in ("low", "high"))
        adapter_of(settings.view.env).check_bounds(low, high, discrete=not settings.view.continuous)
        interface = Interface(settings.view, low, high)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise StageError(f"{path} has a damaged header ({error}); {_cure(path, 'world')}") from error
    model = _filled(path, tensors, "world", lambda: build_world(settings.model, interface, to_fit=False))
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

    def build() -> Actor:
        neutral = torch.zeros(len(world.interface.low))
        features, discrete = world.model.features, world.interface.discrete
        return Actor(features, world.settings, settings.policy, neutral, neutral + 0.5, discrete)

    actor = _filled(path, tensors, "policy", build)
    return actor.to(world.model.device).requires_grad_(False).eval()


@dataclass(frozen=True)
class LoadedCritic:
    """A critic read from disk, frozen.

    Attributes:
        critic: the network.
        settings: what its values mean, see `_OF_VALUES`; all others are the defaults.
    """

    critic: Critic
    settings: PolicySettings


def save_critic(path: Path, critic: Critic, policy: PolicySettings, world_hash: str) -> None:
    """Write the critic atomically, with what its values mean and the world model whose states it reads."""
    meaning = {name: getattr(policy, name) for name in _OF_VALUES}
    header = {"format": FORMAT, "kind": "critic", **meaning, "world": world_hash}
    save_weights(path, critic.state_dict(), header)


def load_critic(path: Path, world: LoadedWorld) -> LoadedCritic:
    """Read a critic for this world model, without gradients. Raises StageError on any mismatch."""
    tensors, header = load_weights(path)
    check_header(path, header, "critic")
    try:
        told = FORMER["policy"] | header
        settings = validate({"policy": {name: told[name] for name in _OF_VALUES}}).policy
    except (KeyError, ValueError, UsageError) as error:
        raise StageError(f"{path} has a damaged header ({error}); {_cure(path, 'policy')}") from error
    critic = _filled(path, tensors, "policy", lambda: Critic(world.model.features, world.settings, settings))
    return LoadedCritic(critic.to(world.model.device).requires_grad_(False).eval(), settings)


def world_of(path: Path) -> str | None:
    """Content hash of the world model that an actor was fitted in, by its own header. Raises StageError."""
    named = load_weights(path)[1].get("world")
    return str(named) if named is not None else None


def check_header(path: Path, header: Mapping[str, Any], kind: str) -> None:
    """Raise StageError where a weights file is of another kind or version."""
    if header.get("format") != FORMAT or header.get("kind") != kind:
        found = f"{header.get('kind')!r} of format {header.get('format')!r}"
        cure = _cure(path, "policy" if kind == "critic" else kind)
        raise StageError(f"{path} holds {found}, not '{kind}' of format {FORMAT}; {cure}")


def _filled(path: Path, tensors: Mapping[str, Tensor], kind: str, build: Callable[[], _Module]) -> _Module:
    """Build a network and load its weights.

    A header of a kilobyte can ask for a network of 46 GiB, so while it is built memory is given out by what the file
    holds.

    Raises:
        StageError: a name, shape or type is another than the network's, or a weight is not finite.
    """
    try:
        with _Ration(_SPARE + _SHARE * sum(tensor.numel() for tensor in tensors.values())):
            module = build()
    except _SpentError as error:
        raise StageError(f"{path} describes a larger network than it holds; {_cure(path, kind)}") from error
    expected = module.state_dict()
    odd = sorted(set(expected) ^ set(tensors))
    for name, tensor in tensors.items():
        if name in expected and (tensor.shape != expected[name].shape or tensor.dtype not in _TYPES):
            odd.append(f"{name} of shape {list(tensor.shape)} and type {tensor.dtype}")
    if odd:
        reason = f"does not fit its own settings, in the tensor {odd[0]}"
    elif not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        reason = "holds numbers that are not finite"
    else:
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return module
    raise StageError(f"{path} {reason}; {_cure(path, kind)}")


class _SpentError(Exception):
    """More memory was asked for than there was to be."""


class _Ration(TorchFunctionMode):
    """Within this context new tensors have at most so many numbers in all; raises _SpentError before there are more."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.left = numbers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called in place of every function of torch."""
        if func in _FACTORIES:
            self.left -= math.prod(args if isinstance(args[0], int) else args[0])
            if self.left < 0:
                raise _SpentError
        return func(*args, **(kwargs or {}))


def _cure(path: Path, kind: str) -> str:
    """What makes the weights at `<run>/<kind>/model.safetensors` anew."""
    return f"run `dreamer fit-{kind} --run {path.parent.parent.name} --fresh`"
