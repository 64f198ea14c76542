"""The losses of actor and critic on imagined trajectories (DreamerV3, sections "Critic" and "Actor learning")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import PolicySettings
from ..models.actor_critic import Actor, Critic
from .imagination import Outcomes, Trajectory
from .returns import ReturnScale, lambda_return, trajectory_weight


@dataclass(frozen=True)
class PolicyLoss:
    """The losses of an update.

    Attributes:
        actor, critic: (), to be minimised, each by its own optimizer.
        parts: what is worth watching, each ().
    """

    actor: Tensor
    critic: Tensor
    parts: Mapping[str, Tensor]


def reinforce(log_prob: Tensor, advantage: Tensor, entropy: Tensor, weight: Tensor, entropy_scale: float) -> Tensor:
    """Actor loss (DreamerV3, "Actor learning"): -w (sg(advantage) log pi(a | s) + eta H[pi(. | s)]), (...)."""
    return -weight.detach() * (advantage.detach() * log_prob + entropy_scale * entropy)


def policy_loss(
    actor: Actor,
    critic: Critic,
    slow_critic: Critic,
    scale: ReturnScale,
    trajectory: Trajectory,
    outcomes: Outcomes,
    settings: PolicySettings,
) -> PolicyLoss:
    """Losses of trajectories, whose states and outcomes are constants here: no gradient reaches the world model.

    Args:
        actor, critic: trained.
        slow_critic: the critic's slow copy, which its predictions are drawn towards.
        scale: of the returns; updated.
        trajectory: states (H + 1, N, ...) and actions (H, N, A).
        outcomes: of states 1 .. H, each (H, N).
        settings: weights and discount.
    """
    feature = trajectory.latents.feature.detach()  # (H + 1, N, F)
    reward = outcomes.reward - settings.penalty * outcomes.disagreement
    discount = settings.discount * outcomes.goes_on
    predicted = critic(feature[:-1])
    with torch.no_grad():
        value = torch.cat([predicted.mean, critic(feature[-1:]).mean])  # (H + 1, N)
        returns = lambda_return(reward, discount, value[1:], settings.lam)  # (H, N)
        weight = trajectory_weight(discount)
        advantage = (returns - value[:-1]) / scale.update(returns)
        slow_value = slow_critic(feature[:-1]).mean
    policy = actor(feature[:-1])
    log_prob, entropy = policy.log_prob(trajectory.actions.detach()), policy.entropy()
    actor_loss = reinforce(log_prob, advantage, entropy, weight, settings.entropy)
    critic_loss = weight * (predicted.loss(returns) + settings.slow_scale * predicted.loss(slow_value))
    assert actor_loss.shape == critic_loss.shape == returns.shape, (actor_loss.shape, critic_loss.shape)
    parts = {
        "actor": actor_loss.mean(),
        "critic": critic_loss.mean(),
        "return": returns[0].mean(),
        "reward": outcomes.reward.mean(),
        "value": value.mean(),
        "entropy": entropy.mean(),
        "disagreement": outcomes.disagreement.mean(),
        "goes_on": outcomes.goes_on.mean(),
        "scale": scale.scale,
        "advantage": advantage.abs().mean(),
    }
    return PolicyLoss(actor_loss.mean(), critic_loss.mean(), {name: part.detach() for name, part in parts.items()})
