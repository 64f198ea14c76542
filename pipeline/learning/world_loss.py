"""The world model's loss (DreamerV3, section "World model learning"; its forms in V1 and V2 by the settings)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import distributed
from ..config import WorldSettings
from ..episodes.windows import Batch
from ..models.distributions import StateDistribution
from ..models.dynamics import Latent
from ..models.pictures import to_picture
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


def balanced_kl(
    posterior: StateDistribution, prior: StateDistribution, free_nats: float, free: str = "step"
) -> tuple[Tensor, Tensor]:
    """The two halves of the KL, each with the other side held constant.

    Weighted 1 and 0.1 these are DreamerV3's ("World model learning"), 0.8 and 0.2 DreamerV2's (algorithm 2), and 1 and
    1 have DreamerV1's gradient: the sum over both sides.

    Args:
        posterior, prior: distributions (..., Z).
        free_nats: what lies below is not reduced further.
        free: what is compared with it, summed over the variables: each 'step' (V3), or the 'mean' of all (V1, V2).

    Returns:
        The dynamics loss max(free, KL(sg(posterior) || prior)) and the representation loss
        max(free, KL(posterior || sg(prior))), in nats: each (...), or () with 'mean'.
    """
    dynamics, representation = posterior.detach().kl(prior), posterior.kl(prior.detach())
    if free == "mean":
        dynamics, representation = distributed.mean(dynamics.mean()), distributed.mean(representation.mean())
    return dynamics.clamp_min(free_nats), representation.clamp_min(free_nats)


def continue_target(model: WorldModel, is_terminal: Tensor, discount: float) -> Tensor:
    """What the continue head is to say, (...): 1 - terminal, or where it is soft, that times the discount.

    A soft head predicts the discount along with the end (DreamerV2's discount head; DreamerV3's code).

    Args:
        model: whose head it is.
        is_terminal: (...) bool.
        discount: of a decision.
    """
    goes_on = (~is_terminal).float()
    return discount * goes_on if model.settings.goes_on == "soft" else goes_on


def world_loss(model: WorldModel, batch: Batch, settings: WorldSettings) -> WorldLoss:
    """Loss of a batch of windows (B, T, ...): everything at state t is about row t, which a_{t-1} led to."""
    dynamics, action = model.dynamics, model.scale.to_model(batch.action)
    states, logits = dynamics.observe(model.encode(batch.observation), action, batch.is_first)
    posterior = dynamics.distribution(logits)
    prior = dynamics.distribution(dynamics.priors(states, action, batch.is_first))
    feature = states.feature  # (B, T, F)
    moves_prior, moves_posterior = balanced_kl(posterior, prior, settings.free_nats, settings.free)
    target = continue_target(model, batch.is_terminal, settings.discount)
    losses = {
        "picture": picture_loss(model, states, batch.observation, settings.decode_share),
        "reward": model.reward(feature).loss(batch.reward),
        "continue": settings.continue_scale * model.goes_on(feature).loss(target),
        "dynamics": settings.dynamics_scale * moves_prior,
        "representation": settings.representation_scale * moves_posterior,
    }
    if model.settings.cost:
        assert model.cost_of is not None, "a cost head learns what pictures cost"
        losses["cost"] = model.cost(feature).loss(model.cost_of(batch.observation))
    if model.settings.ensemble:
        losses["ensemble"] = model.ensemble.loss(states.deter.detach(), posterior.detach())
    for name, loss in losses.items():
        whole = name == "picture" or (settings.free == "mean" and loss.ndim == 0)
        assert whole or loss.shape == batch.reward.shape, (name, loss.shape)
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
