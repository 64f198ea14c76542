"""The world model as a whole: scales, the parts of every variant, sizes, and first predictions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SIZES as PUBLISHED
from pipeline.config import VARIANTS, ModelSettings, ViewSettings, resolve
from pipeline.models.actor_critic import Actor, Critic
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.distributions import Always, Bernoulli, NormalPixels, Pixels, SymexpTwoHot, UnitNormal
from pipeline.models.world_model import ActionScale, WorldModel

SIZES = ModelSettings(deter=8, groups=2, classes=4, hidden=8, units=8, depth=2, ensemble=2, ensemble_units=4)


def make(settings: ModelSettings) -> WorldModel:
    torch.manual_seed(0)
    return build_world(settings, Interface(ViewSettings(), (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


@pytest.fixture
def model() -> WorldModel:
    return make(SIZES)


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


def test_one_hot_actions_are_left_as_they_are() -> None:
    scale = ActionScale((0.0,) * 5, (1.0,) * 5, discrete=True)
    action = torch.eye(5)
    assert torch.equal(scale.to_model(action), action)
    assert torch.equal(scale.to_environment(action), action)


HEADS = {  # picture, reward, continue
    "laptop": (Pixels, SymexpTwoHot, Bernoulli),
    "memoryless": (NormalPixels, UnitNormal, Always),
    "v1": (NormalPixels, UnitNormal, Always),
    "v2": (NormalPixels, UnitNormal, Bernoulli),
    "v3": (Pixels, SymexpTwoHot, Bernoulli),
}


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("actions", ["continuous", "discrete"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_its_parts_and_shapes(variant: str, actions: str, size: int) -> None:
    discrete, width = actions == "discrete", 5 if actions == "discrete" else 3
    view = ViewSettings(size=size, continuous=not discrete)
    interface = Interface(view, (0.0,) * width, (1.0,) * width)
    model = build_world(resolve("tiny", variant=variant).model, interface)
    assert model.discrete == discrete
    observation = torch.randint(0, 256, (2, 3, 3, size, size), dtype=torch.uint8)
    action = torch.eye(width)[torch.randint(width, (2, 3))]
    feature = model.observe(observation, action, torch.zeros(2, 3, dtype=torch.bool)).feature
    assert feature.shape == (2, 3, model.features)
    picture, reward, goes_on = model.decode(feature), model.reward(feature), model.goes_on(feature)
    assert (type(picture), type(reward), type(goes_on)) == HEADS[variant]
    assert picture.mode.shape == (2, 3, 3, size, size)
    assert picture.mode.min() >= 0 and picture.mode.max() <= 1
    assert picture.loss(observation / 255).shape == (2, 3)
    assert reward.mean.shape == goes_on.mean.shape == (2, 3)
    assert goes_on.mean.min() >= 0 and goes_on.mean.max() <= 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_have_the_layers_that_the_variant_has(variant: str) -> None:
    settings = resolve("tiny", variant=variant).model
    model = make(settings)
    for head in [model.reward_head, *([model.continue_head] if settings.goes_on != "none" else [])]:
        assert sum(isinstance(layer, torch.nn.Linear) for layer in head.modules()) == settings.layers + 1


def test_what_is_not_asked_for_is_not_there() -> None:
    names = {name.split(".")[0] for name in make(resolve("tiny", variant="v1").model).state_dict()}
    assert names == {"encoder", "dynamics", "decoder", "reward_head", "scale"}


PARAMETERS = {"1m": 0.69, "12m": 10.5, "25m": 23.5, "50m": 41.7, "100m": 93.5, "200m": 166, "400m": 373}


@pytest.mark.parametrize("size", PUBLISHED)
def test_v3_has_the_published_number_of_parameters(size: str) -> None:
    """Millions, of all that is trained, for pictures of 64 and three numbers an action."""
    settings = resolve(variant="v3", size=size)
    with torch.device("meta"):
        world = WorldModel(settings.model, 64, (-1.0,) * 3, (1.0,) * 3)
        neutral = torch.zeros(3)
        actor = Actor(world.features, settings.model, settings.policy, neutral, neutral + 0.5)
        critic = Critic(world.features, settings.model, settings.policy)
    count = sum(parameter.numel() for part in (world, actor, critic) for parameter in part.parameters())
    assert count / 1e6 == pytest.approx(PARAMETERS[size], rel=0.01)


@pytest.mark.parametrize("variant", ["laptop", "v3"])
def test_the_first_predicted_reward_is_exactly_zero(variant: str) -> None:
    model = make(resolve("tiny", variant=variant).model)
    assert not model.reward(torch.randn(7, model.features)).mean.any()


def test_channels_last_frames_are_encoded_alike(model: WorldModel) -> None:
    observation = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    assert torch.allclose(model.encode(observation), model.encode(observation.contiguous()), atol=1e-5)
