"""The world model as a whole: scales, shapes, and first predictions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ModelSettings, ViewSettings
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.world_model import ActionScale, WorldModel

SIZES = ModelSettings(deter=8, groups=2, classes=4, hidden=8, units=8, depth=2, ensemble=2, ensemble_units=4)


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    return build_world(SIZES, Interface(ViewSettings(), (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


def test_actions_golden() -> None:
    """Nothing pressed, straight on: (0, 0, 0) is (0, -1, -1) to the model."""
    scale = ActionScale((-1.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert scale.to_model(torch.tensor([0.0, 0.0, 0.0])).tolist() == [0.0, -1.0, -1.0]
    assert scale.to_environment(torch.tensor([2.0, 0.0, -3.0])).tolist() == [1.0, 0.5, 0.0]


@given(st.floats(-1, 1), st.floats(0, 1))
def test_action_scales_are_inverse(steer: float, gas: float) -> None:
    scale = ActionScale((-1.0, 0.0), (1.0, 1.0))
    action = torch.tensor([steer, gas])
    assert torch.allclose(scale.to_environment(scale.to_model(action)), action, atol=1e-6)


def test_shapes(model: WorldModel) -> None:
    observation = torch.randint(0, 256, (2, 5, 3, 64, 64), dtype=torch.uint8)
    states = model.observe(observation, torch.rand(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool))
    feature = states.feature
    assert feature.shape == (2, 5, model.features)
    assert model.decode(feature).mode.shape == (2, 5, 3, 64, 64)
    assert model.reward(feature).mean.shape == (2, 5)
    assert model.goes_on(feature).mean.shape == (2, 5)


def test_the_first_predicted_reward_is_exactly_zero(model: WorldModel) -> None:
    assert not model.reward(torch.randn(7, model.features)).mean.any()


def test_channels_last_frames_are_encoded_alike(model: WorldModel) -> None:
    observation = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    assert torch.allclose(model.encode(observation), model.encode(observation.contiguous()), atol=1e-5)
