"""Weights files: they come back as they were, and what does not fit is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.artifacts import load_weights, save_weights
from pipeline.config import ModelSettings, ViewSettings
from pipeline.errors import StageError
from pipeline.models.actor_critic import Actor
from pipeline.models.checkpoints import Interface, build_world, load_actor, load_world, save_actor, save_world

SIZES = ModelSettings(deter=8, groups=2, classes=4, hidden=8, units=8, depth=2, ensemble=2, ensemble_units=4)
INTERFACE = Interface(ViewSettings(action_repeat=3), (-1.0, 0.0), (1.0, 2.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "demo" / "world" / "model.safetensors"
    save_world(path, build_world(SIZES, INTERFACE), INTERFACE)
    return path


def test_a_world_comes_back_with_all_that_is_needed_to_use_it(path: Path) -> None:
    world = load_world(path)
    assert world.settings == SIZES
    assert world.interface == INTERFACE
    tensors, _ = load_weights(path)
    assert all(torch.equal(tensors[name], value) for name, value in world.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in world.model.parameters())


def test_an_actor_comes_back(path: Path, tmp_path: Path) -> None:
    world = load_world(path)
    actor = Actor(world.model.features, SIZES, 3, torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4]))
    save_actor(tmp_path / "actor.safetensors", actor, 3, "hash")
    loaded = load_actor(tmp_path / "actor.safetensors", world)
    feature = torch.randn(4, world.model.features)
    assert torch.equal(loaded(feature).mean, actor(feature).mean)


def test_half_precision_is_read(path: Path) -> None:
    tensors, header = load_weights(path)
    save_weights(path, {name: tensor.half() for name, tensor in tensors.items()}, header)
    assert next(load_world(path).model.parameters()).dtype == torch.float32


Harm = Callable[[dict[str, Tensor], dict[str, Any]], object]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda tensors, header: header.update(format=99), "'world' of format 99"),
        (lambda tensors, header: header.update(kind="policy"), "holds 'policy' of format"),
        (lambda tensors, header: header.pop("model"), "damaged header"),
        (lambda tensors, header: header["model"].update(deter=10**9), r"damaged header .*model\.deter"),
        (lambda tensors, header: header["model"].update(surprise=1), "damaged header"),
        (lambda tensors, header: header.update(low="ab"), "damaged header"),
        (lambda tensors, header: header["model"].update(deter=16), "does not fit its own settings"),
        (lambda tensors, header: tensors.pop("scale.low"), r"in the tensor scale\.low"),
        (lambda tensors, header: tensors.update(extra=torch.ones(1)), "in the tensor extra"),
        (lambda tensors, header: tensors.update({"scale.low": torch.ones(2).int()}), r"in the tensor scale\.low"),
        (lambda tensors, header: tensors["scale.low"].fill_(float("nan")), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, harm: Harm, message: str) -> None:
    tensors, header = load_weights(path)
    harm(tensors, header)
    save_weights(path, tensors, header)
    with pytest.raises(StageError, match=rf"model\.safetensors .*{message}.*dreamer fit-world --run demo --fresh"):
        load_world(path)


@pytest.mark.parametrize("layers", [0, 9, "2", None])
def test_an_actor_with_odd_layers_is_refused(path: Path, tmp_path: Path, layers: object) -> None:
    save_weights(tmp_path / "actor.safetensors", {}, {"format": 1, "kind": "policy", "layers": layers})
    with pytest.raises(StageError, match="damaged header"):
        load_actor(tmp_path / "actor.safetensors", load_world(path))
