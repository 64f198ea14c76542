"""The actor and the critic, which read the features of the world model's state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelSettings, PolicySettings
from .distributions import SymexpTwoHot, UnitNormal
from .networks import Mlp, initialise
from .policies import ActionDistribution, OneHotAction, action_distribution


class Actor(nn.Module):
    """pi(a | s): a distribution over the model's actions.

    At the start it acts like the recorded drivers on average, whatever the state: a car whose gas and brake both begin
    half pressed would stand still, and imagination would begin far from anything the world model has seen.

    Args:
        features: width of the features.
        settings: `units` wide, with its `norm` and `activation`.
        policy: `actor_layers`, `distribution`.
        mean, std: (A,), of the recorded actions in the model's scale.
        discrete: actions are one-hot.
    """

    def __init__(
        self,
        features: int,
        settings: ModelSettings,
        policy: PolicySettings,
        mean: Tensor,
        std: Tensor,
        discrete: bool = False,
    ) -> None:
        super().__init__()
        self.distribution = action_distribution(policy.distribution, discrete)
        start = self.distribution.raw(mean, std)
        layers, norm, activation = policy.actor_layers, settings.norm, settings.activation
        self.network = Mlp(features, settings.units, layers, len(start), norm, activation)
        initialise(self)
        with torch.no_grad():
            self.network.out.weight.mul_(0.01)
            self.network.out.bias.copy_(start)

    def forward(self, feature: Tensor) -> ActionDistribution:
        """(..., F) to a distribution over actions (..., A)."""
        return self.distribution(self.network(feature))

    @torch.no_grad()
    def entropy_bounds(self) -> tuple[float, float]:
        """The least and the largest entropy that its distribution has around a neutral action, nats."""
        outputs = len(self.network.out.bias)
        discrete = self.distribution is OneHotAction
        swept = torch.arange(outputs) < 1 if discrete else torch.arange(outputs) >= outputs // 2  # logit, deviations
        raw = torch.linspace(-20, 20, 161)[:, None] * swept
        entropy = self.distribution(raw).entropy()
        # A wide normal under a tanh has little entropy too, being at both bounds at once: that is not meant.
        return float(entropy.min() if discrete else entropy[0]), float(entropy.max())


class Critic(nn.Module):
    """v(s): the expected lambda-return from a state, with or without its own reward (see `learning.returns`).

    Args:
        features: width of the features.
        settings: `units` wide, with its `norm` and `activation`; `bins`.
        policy: `critic_layers`, and `critic`, the distribution of the return.
    """

    def __init__(self, features: int, settings: ModelSettings, policy: PolicySettings) -> None:
        super().__init__()
        self.two_hot = policy.critic == "two-hot"
        outputs = settings.bins if self.two_hot else 1
        layers, norm, activation = policy.critic_layers, settings.norm, settings.activation
        self.network = Mlp(features, settings.units, layers, outputs, norm, activation)
        initialise(self)
        if self.two_hot:
            nn.init.zeros_(self.network.out.weight)  # the first value is exactly 0 (DreamerV3)

    def forward(self, feature: Tensor) -> SymexpTwoHot | UnitNormal:
        """(..., F) to a distribution over returns (...)."""
        outputs = self.network(feature)
        return SymexpTwoHot(outputs) if self.two_hot else UnitNormal(outputs[..., 0])


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Exponential moving average of weights: target += rate (source - target)."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, rate)
