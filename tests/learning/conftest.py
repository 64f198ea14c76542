"""A world model to imagine with, small and not fitted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config import ModelSettings, ViewSettings
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.world_model import WorldModel


@pytest.fixture
def sizes() -> ModelSettings:
    return ModelSettings(deter=8, groups=2, classes=4, hidden=8, units=16, depth=2, ensemble=2, ensemble_units=4)


@pytest.fixture
def model(sizes: ModelSettings) -> WorldModel:
    torch.manual_seed(0)
    return build_world(sizes, Interface(ViewSettings(), (-1.0, -1.0), (1.0, 1.0))).requires_grad_(False)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: numbers read from tensors, and shapes that depend on numbers."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        masks = [index for index in args[1] if index is not None] if name.startswith("index") and len(args) > 1 else []
        masked = any(getattr(mask, "dtype", None) in (torch.bool, torch.uint8) for mask in masks)
        if name in self.WAITING or (masked and name in ("index", "index_put", "index_put_")):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def no_waiting() -> Callable[[], AbstractContextManager[object]]:
    """Within it, nothing may make the host wait for the device."""
    return NoWaiting
