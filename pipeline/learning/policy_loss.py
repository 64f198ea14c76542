"""The losses of actor and critic on imagined trajectories, in the forms of all three papers.

`returns` draws the timeline. What is predicted and who is credited with what, each term with its weight:

convention     critic: v(s_t) -> target, weight             actor: a_t ~ pi(s_t), credited with, weight
DreamerV3      R_t,  w_t         t = 0 .. H-1               R_t,      w_t         t = 0 .. H-1
DreamerV2      T_t,  w_t         t = 0 .. H-1               T_{t+1},  w_t         t = 0 .. H-2
DreamerV1      T_t,  w_t         t = 1 .. H-1               T_{t+1},  w_{t+1}     t = 0 .. H-2

In V1 and V2 a state's value includes its own reward, which a_t has no part in: hence T_{t+1}. There the last action
leads to a state that has a value, but no return. To V1 the start is only where a_0 is chosen: its weights begin at s_1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from .. import distributed
from ..config import PolicySettings
from ..models.actor_critic import Actor, Critic
from ..models.distributions import SymexpTwoHot, UnitNormal, symlog
from .encoding import Rows
from .imagination import Outcomes, Trajectory
from .returns import ReturnScale, lambda_return, present_lambda_return, replay_lambda_return, trajectory_weight


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


class Critics(NamedTuple):
    """The critic and what goes with it.

    Attributes:
        critic: trained.
        slow: its slow copy, which its predictions are drawn towards, or which makes the returns, or which is not used.
        scale: of the returns; updated where advantages are normalised.
    """

    critic: Critic
    slow: Critic
    scale: ReturnScale


class Credit(NamedTuple):
    """What returns there are, and what they mean to the critic and the actor: the table above.

    Attributes:
        returns: (H, N), of states 0 .. H - 1.
        first: the state from which on the critic learns them.
        weight: (H - first, N), of those states.
        credit: (K, N), of decisions 0 .. K - 1.
        credit_weight: (K, N), of those decisions.
    """

    returns: Tensor
    first: int
    weight: Tensor
    credit: Tensor
    credit_weight: Tensor


def credit_next(reward: Tensor, discount: Tensor, value: Tensor, lam: float, start: Tensor | None = None) -> Credit:
    """DreamerV3's: values exclude the state's own reward.

    Args:
        reward, discount: (H, N), of states 1 .. H.
        value: (H + 1, N), of states 0 .. H.
        lam: of the lambda-return.
        start: (N,), weight of the start, 1 where not given.
    """
    returns, weight = lambda_return(reward, discount, value[1:], lam), trajectory_weight(discount, start)
    return Credit(returns, 0, weight, returns, weight)


def credit_present(reward: Tensor, discount: Tensor, value: Tensor, lam: float, *, with_start: bool) -> Credit:
    """DreamerV2's, or without the start DreamerV1's: values include the state's own reward.

    Args:
        reward, discount, value: (H + 1, N), of states 0 .. H.
        lam: of the lambda-return.
        with_start: whether the critic learns the value of the start, and weights begin there.
    """
    returns = present_lambda_return(reward, discount, value, lam)
    weight = trajectory_weight(discount[:-1] if with_start else discount[1:-1])
    if with_start:
        return Credit(returns, 0, weight, returns[1:], weight[:-1])
    return Credit(returns, 1, weight, returns[1:], weight)


def utility(reward: Tensor, settings: PolicySettings) -> Tensor:
    """What a reward (...) is worth to actor and critic: itself where `utility` is 'linear', or symlog(k r).

    In a dream, which is discounted and has no finish, twice the speed is twice the return, and worth a risk; on a track
    there are only so many tiles, and all that a faster lap gains is a little time. A concave utility takes that back:
    the larger k, `steepness`, the more it counts that there is a reward, and the less how large it is.

    Args:
        reward: (...).
        settings: `utility`, `steepness`.
    """
    return symlog(settings.steepness * reward) if settings.utility == "symlog" else reward


def actor_objective(log_prob: Tensor, advantage: Tensor, credit: Tensor, settings: PolicySettings) -> Tensor:
    """What the actor is to raise, (...), by the setting `gradient` (DreamerV2, equation 6).

    reinforce   sg(advantage) ln pi(sg(a) | s)
    dynamics    credit, with its gradient back through the imagined trajectory
    mixed       mix of the first, 1 - mix of the second. (In the official code `actor_grad_mix` is the second's share.)

    Args:
        log_prob: of the actions, (...).
        advantage: credit less value, (...).
        credit: the return that an action is credited with, (...).
        settings: `gradient`, `mix`.
    """
    if settings.gradient == "dynamics":
        return credit
    by_score = advantage.detach() * log_prob
    if settings.gradient == "reinforce":
        return by_score
    return settings.mix * by_score + (1 - settings.mix) * credit


def actor_loss(objective: Tensor, entropy: Tensor, weight: Tensor, entropy_scale: Tensor | float) -> Tensor:
    """Actor loss (DreamerV3, "Actor learning"; DreamerV2, eq. 6): -sg(w) (objective + eta H[pi(. | s)]), (...)."""
    return -weight.detach() * (objective + entropy_scale * entropy)


def critic_loss(
    predicted: SymexpTwoHot | UnitNormal, returns: Tensor, slow: Critic, feature: Tensor, settings: PolicySettings
) -> Tensor:
    """Critic loss: -ln p(sg(R)), and where the slow copy regularises, towards its values, (...).

    Args:
        predicted: the critic's distributions of the returns (...).
        returns: (...).
        slow: the critic's slow copy.
        feature: (..., F), what the distributions are of.
        settings: `slow`, `slow_scale`.
    """
    loss = predicted.loss(returns.detach())
    if settings.slow != "regulariser":
        return loss
    with torch.no_grad():
        slow_value = slow(feature).mean
    return loss + settings.slow_scale * predicted.loss(slow_value)


def replay_loss(critics: Critics, feature: Tensor, rows: Rows, imagined: Tensor, settings: PolicySettings) -> Tensor:
    """Critic loss on recorded states and rewards (DreamerV3, "Critic learning"), of all but the last row, (L - 1, W).

    The last row of an episode has no return, for what follows it was not recorded.

    Args:
        critics: of which the critic is trained.
        feature: (L, W, F), constants: W windows of L recorded states.
        rows: (L, W), what was recorded with them.
        imagined: (L, W), the imagined return from each.
        settings: `discount`, `lam`, and see `utility` and `critic_loss`.
    """
    discount = settings.discount * (~rows.is_terminal).float()
    reward = utility(rows.reward[1:], settings)
    returns = replay_lambda_return(reward, discount[1:], rows.is_last[1:], imagined[1:], settings.lam)
    loss = critic_loss(critics.critic(feature[:-1]), returns, critics.slow, feature[:-1], settings)
    return (~rows.is_last[:-1]).float() * loss


def policy_loss(
    actor: Actor,
    critics: Critics,
    trajectory: Trajectory,
    outcomes: Outcomes,
    settings: PolicySettings,
    entropy_scale: Tensor | float,
    *,
    soft: bool = False,
    rows: Rows | None = None,
) -> PolicyLoss:
    """Losses of imagined trajectories. The actor's reaches the actor alone, the critic's the critic alone.

    With REINFORCE, states and outcomes are constants. With the gradient through the dynamics, they are functions of
    the actions, and so are the values, whose networks are held constant there.

    Args:
        actor, critics: trained.
        trajectory: states (H + 1, N, ...) and actions (H, N, A).
        outcomes: where values begin with the next reward, of states 1 .. H, each (H, N); with the present, of 0 .. H.
        settings: see `PolicySettings`.
        entropy_scale: weight of the actor's entropy in this update, see `schedule.entropy_weight`.
        soft: the discount is in `outcomes.goes_on` already.
        rows: (L, W) with L W = N, what was recorded with the starts, for the critic to learn from too.
    """
    features = trajectory.latents.feature  # (H + 1, N, F)
    feature = features.detach()
    predicted = critics.critic(feature[:-1])
    with torch.set_grad_enabled(settings.gradient != "reinforce"):
        value = _value(critics, predicted, features, settings)  # (H + 1, N)
        found = assign_credit(outcomes, value, settings, soft, rows)
        returns = distributed.gathered(found.returns)  # the range is that of all processes together
        scale = critics.scale.update(returns) if settings.normalise else critics.scale.scale
        decisions = len(found.credit)
        advantage = (found.credit - value[:decisions]) / scale
        credit = found.credit / scale
    policy = actor(feature[:decisions])
    log_prob = policy.log_prob(trajectory.actions[:decisions].detach())
    with torch.set_grad_enabled(settings.entropy > 0):  # else it is only watched, and of some costly to differentiate
        entropy = policy.entropy()
    objective = actor_objective(log_prob, advantage, credit, settings)
    actor_losses = actor_loss(objective, entropy, found.credit_weight, entropy_scale)
    critic_losses = critic_loss(predicted, found.returns, critics.slow, feature[:-1], settings)[found.first :]
    critic_losses = found.weight.detach() * critic_losses
    assert actor_losses.shape == found.credit.shape, (actor_losses.shape, found.credit.shape)
    assert critic_losses.shape == found.weight.shape, (critic_losses.shape, found.weight.shape)
    parts = {
        "actor": actor_losses.mean(),
        "critic": critic_losses.mean(),
        "return": found.returns[0].mean(),
        "reward": outcomes.reward.mean(),
        "value": value.mean(),
        "entropy": entropy.mean(),
        "disagreement": outcomes.disagreement.mean(),
        "cost": outcomes.cost.mean(),
        "goes_on": outcomes.goes_on.mean(),
        "scale": scale,
        "advantage": advantage.abs().mean(),
    }
    critic = parts["critic"]
    if rows is not None:
        starts, imagined = (x[0].detach().unflatten(0, rows.reward.shape) for x in (feature, found.returns))  # (L, W)
        parts["replay"] = replay_loss(critics, starts, rows, imagined, settings).mean()
        critic = critic + settings.replay_scale * parts["replay"]
    return PolicyLoss(parts["actor"], critic, {name: part.detach() for name, part in parts.items()})


def _value(
    critics: Critics, predicted: SymexpTwoHot | UnitNormal, features: Tensor, settings: PolicySettings
) -> Tensor:
    """Values of all states (H + 1, N), of which `predicted` are the first H; never a gradient for the critics."""
    if settings.slow == "target":
        slow: Tensor = critics.slow(features).mean
        return slow
    if settings.gradient == "reinforce":
        return torch.cat([predicted.mean, critics.critic(features[-1:]).mean])
    constants = {name: weight.detach() for name, weight in critics.critic.named_parameters()}
    distribution: SymexpTwoHot | UnitNormal = functional_call(critics.critic, constants, (features,))
    return distribution.mean


def survival(outcomes: Outcomes, settings: PolicySettings, soft: bool) -> Tensor:
    """Probability that imagination goes on from each state that counts, the shape of `outcomes.goes_on`.

    Where a state costs, all may end (`cost_ends`; Chane-Sane et al. 2024, Constraints as Terminations, arXiv
    2403.18765).

    Args:
        outcomes, settings: see `policy_loss`.
        soft: `outcomes.goes_on` holds the discount too, which ends nothing.
    """
    goes_on = outcomes.goes_on / settings.discount if soft else outcomes.goes_on
    return goes_on * (1 - settings.cost_ends * outcomes.cost)


def assign_credit(
    outcomes: Outcomes, value: Tensor, settings: PolicySettings, soft: bool, rows: Rows | None = None
) -> Credit:
    """Penalised rewards and values as credit, in the convention that the settings name.

    A cost that is taken off each reward (`cost`) makes returns ever lower, and these the range that all advantages are
    divided by. To lose what would have followed (see `survival`) is reason enough to keep off.

    Args:
        outcomes, settings, soft, rows: see `policy_loss`.
        value: (H + 1, N), of states 0 .. H.
    """
    reward = utility(outcomes.reward, settings)
    reward = reward - settings.penalty * outcomes.disagreement - settings.cost * outcomes.cost
    discount = settings.discount * survival(outcomes, settings, soft)
    if settings.value == "next":
        start = None if rows is None else (~rows.is_terminal).flatten().float()  # what has ended cannot be acted in
        return credit_next(reward, discount, value, settings.lam, start)
    known = torch.full_like(discount[:1], settings.discount)  # what is started from, has gone on
    discount = torch.cat([known, discount[1:]])
    return credit_present(reward, discount, value, settings.lam, with_start=settings.slow == "target")
