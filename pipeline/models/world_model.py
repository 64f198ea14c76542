"""The world model: encoder, dynamics, decoder, reward and continue heads, ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import ModelSettings
from .distributions import Bernoulli, Pixels, SymexpTwoHot
from .dynamics import Latent, PriorEnsemble, RecurrentDynamics
from .networks import Decoder, Encoder, Mlp, initialise


class ActionScale(nn.Module):
    """Between the environment's actions, each within its bounds, and the model's, all within -1 .. 1.

    Args:
        low, high: the environment's bounds, one number an action dimension.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32))

    def to_model(self, action: Tensor) -> Tensor:
        """(..., A) environment to model."""
        return 2 * (action - self.low) / (self.high - self.low) - 1

    def to_environment(self, action: Tensor) -> Tensor:
        """(..., A) model to environment; clipped to the bounds."""
        return self.low + (action.clamp(-1, 1) + 1) / 2 * (self.high - self.low)


class WorldModel(nn.Module):
    """All that is learned about the world.

    Args:
        settings: sizes.
        size: height and width of an observation.
        low, high: bounds of the environment's actions.
    """

    def __init__(self, settings: ModelSettings, size: int, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(size, settings.depth, settings.patch)
        self.dynamics = RecurrentDynamics(settings, len(low), self.encoder.outputs)
        self.features = settings.deter + settings.groups * settings.classes
        self.decoder = Decoder(self.features, size, settings.depth, settings.patch)
        self.reward_head = Mlp(self.features, settings.units, 1, settings.bins)
        self.continue_head = Mlp(self.features, settings.units, 1, 1)
        initialise(self)
        nn.init.zeros_(self.reward_head.out.weight)  # the first prediction is exactly 0 (DreamerV3)
        self.ensemble = PriorEnsemble(settings)
        self.scale = ActionScale(low, high)

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

    def decode(self, feature: Tensor) -> Pixels:
        """(..., F) to pictures (..., 3, S, S)."""
        pictures: Tensor = self.decoder(feature.flatten(0, -2))
        return Pixels(pictures.unflatten(0, feature.shape[:-1]))

    def reward(self, feature: Tensor) -> SymexpTwoHot:
        """The reward that arrives with the state, (...)."""
        return SymexpTwoHot(self.reward_head(feature))

    def goes_on(self, feature: Tensor) -> Bernoulli:
        """Whether the episode goes on after the state, (...)."""
        return Bernoulli(self.continue_head(feature)[..., 0])
