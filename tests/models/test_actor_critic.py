"""The actor's and the critic's networks: what they begin with, and the distributions that settings choose."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.config import ModelSettings, PolicySettings
from pipeline.models.actor_critic import Actor, Critic, move_towards
from pipeline.models.distributions import SymexpTwoHot, UnitNormal
from pipeline.models.policies import OneHotAction, TanhNormal

SIZES = ModelSettings(units=16, bins=15)
MEAN, STD = torch.tensor([0.3, -0.9]), torch.tensor([0.5, 0.2])


def test_the_actor_begins_like_the_recorded_drivers() -> None:
    policy = Actor(12, SIZES, PolicySettings(), MEAN, STD)(torch.randn(50, 12))
    assert torch.allclose(policy.mean, MEAN.expand(50, 2), atol=0.05)
    assert torch.allclose(policy.std, STD.expand(50, 2), atol=0.05)


@pytest.mark.parametrize("distribution", ["tanh-normal", "truncated-normal"])
def test_so_it_does_with_other_distributions(distribution: str) -> None:
    mean, std = torch.tensor([0.1, -0.7]), torch.tensor([0.4, 0.15])
    actor = Actor(12, SIZES, PolicySettings(distribution=distribution), mean, std)
    found = actor(torch.randn(50, 12)).moments()
    assert torch.allclose(found[0], mean.expand(50, 2), atol=0.05)
    assert torch.allclose(found[1], std.expand(50, 2), atol=0.05)


def test_discrete_actions_begin_as_frequent_as_recorded() -> None:
    actor = Actor(12, SIZES, PolicySettings(), torch.tensor([0.5, 0.3, 0.2]), torch.zeros(3), discrete=True)
    policy = actor(torch.randn(50, 12))
    assert isinstance(policy, OneHotAction)
    assert torch.allclose(policy.choice.probs[:, 0], torch.tensor([0.5, 0.3, 0.2]).expand(50, 3), atol=0.02)


@pytest.mark.parametrize(
    ("distribution", "discrete", "low", "high"),
    [
        ("bounded-normal", False, 2 * (math.log(0.1) + 1.4189), 2 * 1.4189),
        ("wide-normal", False, 2 * (math.log(0.1) + 1.4189), 2 * 1.4189),
        ("truncated-normal", False, 2 * (math.log(0.1) + 1.4189), 2 * math.log(2)),
        ("tanh-normal", False, 2 * (math.log(1.003e-4) + 1.4189), 2 * math.log(2)),
        ("bounded-normal", True, 0.0, math.log(2)),
    ],
)
def test_the_entropy_lies_within_its_bounds(distribution: str, discrete: bool, low: float, high: float) -> None:
    actor = Actor(12, SIZES, PolicySettings(distribution=distribution), MEAN.abs(), STD, discrete)
    found = actor.entropy_bounds()
    assert found[0] == pytest.approx(low, abs=5e-3)
    assert found[1] == pytest.approx(high, abs=0.06)
    assert found[0] < actor(torch.randn(50, 12)).entropy().mean() <= found[1]


def test_a_two_hot_critic_begins_with_exactly_zero_and_learns_a_distribution() -> None:
    value = Critic(12, SIZES, PolicySettings(critic="two-hot"))(torch.randn(3, 4, 12))
    assert isinstance(value, SymexpTwoHot) and value.logits.shape == (3, 4, 15)
    assert not value.mean.any()


def test_a_normal_critic_gives_a_mean() -> None:
    value = Critic(12, SIZES, PolicySettings(critic="normal"))(torch.randn(3, 4, 12))
    assert isinstance(value, UnitNormal) and value.mean.shape == (3, 4)
    assert value.mean.std() > 0


def hidden_layers(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.Linear) for layer in module.modules()) - 1


def test_layers_norm_and_activation_are_those_of_the_settings() -> None:
    sizes = SIZES.model_copy(update={"norm": "none", "activation": "elu"})
    policy = PolicySettings(distribution="tanh-normal", actor_layers=4, critic_layers=3)
    actor, critic = Actor(12, sizes, policy, MEAN, STD), Critic(12, sizes, policy)
    assert isinstance(actor(torch.zeros(1, 12)), TanhNormal)
    assert (hidden_layers(actor), hidden_layers(critic)) == (4, 3)
    for network in (actor, critic):
        kinds = {type(layer) for layer in network.modules()}
        assert nn.ELU in kinds and nn.SiLU not in kinds and not any(issubclass(kind, nn.LayerNorm) for kind in kinds)


def test_moving_all_the_way_is_copying() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    half = (one.weight + other.weight) / 2
    move_towards(one, other, 0.5)
    assert torch.allclose(one.weight, half)
    move_towards(one, other, 1.0)
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
