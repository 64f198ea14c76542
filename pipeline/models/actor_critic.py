"""The actor and the critic, which read the features of the world model's state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelSettings
from .distributions import BoundedNormal, SymexpTwoHot
from .networks import Mlp, initialise


class Actor(nn.Module):
    """pi(a | s): a bounded normal over the model's actions.

    At the start it acts like the recorded drivers on average, whatever the state: a car whose gas and brake both begin
    half pressed would stand still, and imagination would begin far from anything the world model has seen.

    Args:
        features: width of the features.
        settings: `units` wide.
        layers: hidden layers.
        mean, std: (A,), of the recorded actions in the model's scale.
    """

    def __init__(self, features: int, settings: ModelSettings, layers: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = Mlp(features, settings.units, layers, 2 * len(mean))
        initialise(self)
        with torch.no_grad():
            self.network.out.weight.mul_(0.01)
            self.network.out.bias.copy_(BoundedNormal.raw(mean, std))

    def forward(self, feature: Tensor) -> BoundedNormal:
        """(..., F) to a distribution over actions (..., A)."""
        return BoundedNormal(self.network(feature))


class Critic(nn.Module):
    """v(s): the expected lambda-return from a state, that state's own reward excluded (DreamerV3).

    Args:
        features: width of the features.
        settings: `units` wide, `bins`.
        layers: hidden layers.
    """

    def __init__(self, features: int, settings: ModelSettings, layers: int) -> None:
        super().__init__()
        self.network = Mlp(features, settings.units, layers, settings.bins)
        initialise(self)
        nn.init.zeros_(self.network.out.weight)

    def forward(self, feature: Tensor) -> SymexpTwoHot:
        """(..., F) to a distribution over returns (...)."""
        return SymexpTwoHot(self.network(feature))


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Exponential moving average of weights: target += rate (source - target)."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, rate)
