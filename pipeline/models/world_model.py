"""The world model: encoder, dynamics, decoder, reward, continue and cost heads, ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..config import ModelSettings
from .distributions import Always, Bernoulli, NormalPixels, Pixels, SymexpTwoHot, UnitNormal
from .dynamics import Latent, PriorEnsemble, make_dynamics
from .networks import Mlp, initialise
from .pictures import make_decoder, make_encoder


class ActionScale(nn.Module):
    """Between the environment's actions, each within its bounds, and the model's, all within -1 .. 1.

    Discrete actions are one-hot vectors for both, and left as they are.

    Args:
        low, high: the environment's bounds, one number an action dimension.
        discrete: whether actions are one-hot.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float], discrete: bool = False) -> None:
        super().__init__()
        self.discrete = discrete
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32))

    def to_model(self, action: Tensor) -> Tensor:
        """(..., A) environment to model."""
        if self.discrete:
            return action
        return 2 * (action - self.low) / (self.high - self.low) - 1

    def to_environment(self, action: Tensor) -> Tensor:
        """(..., A) model to environment; clipped to the bounds."""
        if self.discrete:
            return action
        return self.low + (action.clamp(-1, 1) + 1) / 2 * (self.high - self.low)


class WorldModel(nn.Module):
    """All that is learned about the world.

    Attributes:
        features: width of [h, z].
        continue_head, cost_head, ensemble: only where the settings ask for them.
        cost_of: what a picture costs, which the cost head learns; see `envs.adapter.Cost`.

    Args:
        settings: sizes and parts.
        size: height and width of an observation.
        low, high: bounds of the environment's actions.
        discrete: whether these are one-hot vectors.
        cost_of: see above; needed where the settings ask for a cost head.
    """

    continue_head: Mlp
    cost_head: Mlp
    ensemble: PriorEnsemble

    def __init__(
        self,
        settings: ModelSettings,
        size: int,
        low: Sequence[float],
        high: Sequence[float],
        discrete: bool = False,
        cost_of: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.discrete, self.cost_of = settings, discrete, cost_of
        self.encoder = make_encoder(settings, size)
        self.dynamics = make_dynamics(settings, len(low), self.encoder.outputs)
        deter, stoch = self.dynamics.deter_width, self.dynamics.stoch_width
        self.features = deter + stoch
        self.decoder = make_decoder(settings, size, deter, stoch)
        two_hot = settings.reward == "two-hot"
        self.reward_head = self._head(settings.bins if two_hot else 1)
        if settings.goes_on != "none":
            self.continue_head = self._head(1)
        if settings.cost:
            self.cost_head = self._head(1)
        initialise(self)
        if two_hot:
            nn.init.zeros_(self.reward_head.out.weight)  # the first prediction is exactly 0 (DreamerV3)
        if settings.ensemble:
            self.ensemble = PriorEnsemble(settings)
        self.scale = ActionScale(low, high, discrete)

    def _head(self, outputs: int) -> Mlp:
        s = self.settings
        return Mlp(self.features, s.units, s.layers, outputs, s.norm, s.activation)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.scale.low.device

    def encode(self, observation: Tensor) -> Tensor:
        """(..., 3, S, S) uint8 to embeddings (..., E)."""
        leading = observation.shape[:-3]
        embedding: Tensor = self.encoder(observation.flatten(0, -4))
        return embedding.reshape(*leading, -1)

    def observe(self, observation: Tensor, action: Tensor, is_first: Tensor) -> Latent:
        """Posterior states of recorded sequences.

        Args:
            observation: (B, T, 3, S, S) uint8.
            action: (B, T, A), the environment's own action that led to each observation.
            is_first: (B, T) bool.

        Returns:
            States (B, T, ...).
        """
        states, _ = self.dynamics.observe(self.encode(observation), self.scale.to_model(action), is_first)
        return states

    def decode(self, feature: Tensor) -> Pixels | NormalPixels:
        """(..., F) to pictures (..., 3, S, S)."""
        pictures: Tensor = self.decoder(feature.flatten(0, -2))
        pictures = pictures.unflatten(0, feature.shape[:-1])
        return Pixels(pictures) if self.settings.picture == "squared" else NormalPixels(pictures)

    def pictures(self, feature: Tensor) -> Tensor:
        """(..., F) to pictures to look at, (..., 3, S, S) uint8."""
        return (self.decode(feature).mode.float().clamp(0, 1) * 255).round().to(torch.uint8)

    def reward(self, feature: Tensor) -> SymexpTwoHot | UnitNormal:
        """The reward that arrives with the state, (...)."""
        raw: Tensor = self.reward_head(feature)
        return SymexpTwoHot(raw) if self.settings.reward == "two-hot" else UnitNormal(raw[..., 0])

    def goes_on(self, feature: Tensor) -> Bernoulli | Always:
        """Whether the episode goes on after the state, (...); times the discount, where the target is soft."""
        if self.settings.goes_on == "none":
            return Always(feature)
        return Bernoulli(self.continue_head(feature)[..., 0])

    def cost(self, feature: Tensor) -> Bernoulli:
        """How much of what is to be avoided the state shows, (...): the mean counts; where the settings ask for it."""
        return Bernoulli(self.cost_head(feature)[..., 0])
