"""The world model's loss (DreamerV3, section "World model learning")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import WorldSettings
from ..episodes.windows import Batch
from ..models.distributions import OneHot
from ..models.dynamics import Latent
from ..models.networks import to_picture
from ..models.world_model import WorldModel


@dataclass(frozen=True)
class WorldLoss:
    """A loss and what it is made of.

    Attributes:
        total: (), to be minimised.
        parts: its terms and what is worth watching, each ().
    """

    total: Tensor
    parts: Mapping[str, Tensor]


def balanced_kl(posterior: OneHot, prior: OneHot, free_nats: float) -> tuple[Tensor, Tensor]:
    """The two halves of the KL, each with the other side held constant (DreamerV3, "World model learning").

    Args:
        posterior, prior: distributions (..., G, C).
        free_nats: what lies below is not reduced further; compared at each step, summed over the variables.

    Returns:
        The dynamics loss max(free, KL(sg(posterior) || prior)) and the representation loss
        max(free, KL(posterior || sg(prior))), each (...) in nats.
    """
    dynamics = posterior.detach().kl(prior).clamp_min(free_nats)
    representation = posterior.kl(prior.detach()).clamp_min(free_nats)
    return dynamics, representation


def world_loss(model: WorldModel, batch: Batch, settings: WorldSettings) -> WorldLoss:
    """Loss of a batch of windows (B, T, ...): everything at state t is about row t, which a_{t-1} led to."""
    action = model.scale.to_model(batch.action)
    states, logits = model.dynamics.observe(model.encode(batch.observation), action, batch.is_first)
    posterior = model.dynamics.distribution(logits)
    prior = model.dynamics.distribution(model.dynamics.prior(states.deter))
    feature = states.feature  # (B, T, F)
    dynamics, representation = balanced_kl(posterior, prior, settings.free_nats)
    losses = {
        "picture": picture_loss(model, states, batch.observation, settings.decode_share),
        "reward": model.reward(feature).loss(batch.reward),
        "continue": model.goes_on(feature).loss(~batch.is_terminal),
        "dynamics": settings.dynamics_scale * dynamics,
        "representation": settings.representation_scale * representation,
    }
    if model.settings.ensemble:
        losses["ensemble"] = model.ensemble.loss(states.deter.detach(), posterior.detach())
    for name, loss in losses.items():
        assert loss.shape == batch.reward.shape or name == "picture", (name, loss.shape)
    means = {name: loss.mean() for name, loss in losses.items()}
    with torch.no_grad():
        watched = {"kl": posterior.kl(prior).mean(), "posterior_entropy": posterior.entropy().mean()}
    return WorldLoss(torch.stack(list(means.values())).sum(), {**means, **watched})


def picture_loss(model: WorldModel, states: Latent, observation: Tensor, share: float) -> Tensor:
    """Reconstruction loss of a random share of the frames: its mean estimates the mean over all of them.

    Args:
        states: (B, T, ...).
        observation: (B, T, 3, S, S) uint8.
        share: of the frames to decode, 0 .. 1.

    Returns:
        (N,) of the frames decoded.
    """
    feature, target = states.feature.flatten(0, 1), observation.flatten(0, 1)
    if share < 1:
        chosen = torch.randperm(len(feature), device=feature.device)[: max(1, round(share * len(feature)))]
        feature, target = feature[chosen], target[chosen]
    return model.decode(feature).loss(to_picture(target))
