"""A world model to imagine with, small and not fitted."""

from __future__ import annotations

import pytest
import torch

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
