"""The losses of actor and critic: alignment, gradients, and values written out by hand, in all three conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config import PolicySettings
from pipeline.learning.encoding import Rows
from pipeline.learning.imagination import Dream, Outcomes, Trajectory, imagine
from pipeline.learning.policy_loss import (
    Critics,
    actor_loss,
    actor_objective,
    critic_loss,
    policy_loss,
    replay_loss,
    utility,
)
from pipeline.learning.returns import ReturnScale, present_lambda_return
from pipeline.models.actor_critic import Actor, Critic
from pipeline.models.distributions import UnitNormal
from pipeline.models.dynamics import Latent
from pipeline.models.world_model import WorldModel

NEUTRAL = torch.zeros(2), torch.full((2,), 0.5)
V1 = {"value": "present", "slow": "none", "critic": "normal", "normalise": False}
V2 = {**V1, "slow": "target"}


def policy_settings(**values: Any) -> PolicySettings:
    return PolicySettings.model_validate({"actor_layers": 1, "critic_layers": 1, "utility": "linear", **values})


def make_critics(model: WorldModel, settings: PolicySettings, rate: float = 1.0) -> Critics:
    return Critics(
        Critic(model.features, model.settings, settings),
        Critic(model.features, model.settings, settings),
        ReturnScale(rate),
    )


def outcomes_of(reward: Tensor, disagreement: float = 0.0, cost: float = 0.0) -> Outcomes:
    return Outcomes(
        reward, torch.ones_like(reward), torch.full_like(reward, disagreement), torch.full_like(reward, cost)
    )


def losses(model: WorldModel, settings: PolicySettings, reward: Tensor, disagreement: float = 0.0, cost: float = 0.0):
    torch.manual_seed(3)
    actor = Actor(model.features, model.settings, settings, *NEUTRAL)
    critics = make_critics(model, settings)
    trajectory = imagine(Dream(model), actor, model.dynamics.initial(4), 3)
    loss = policy_loss(actor, critics, trajectory, outcomes_of(reward, disagreement, cost), settings, settings.entropy)
    return actor, critics, trajectory, loss


class TestObjective:
    log_prob, advantage, credit = (torch.tensor(x, requires_grad=True) for x in (-1.0, 0.5, 2.0))

    def gradients(self, **values: Any) -> tuple[float, list[float | None]]:
        inputs = (self.log_prob, self.advantage, self.credit)
        objective = actor_objective(*inputs, policy_settings(**values))
        found = torch.autograd.grad(objective, inputs, allow_unused=True)
        return objective.item(), [None if g is None else g.item() for g in found]

    def test_reinforce_golden(self) -> None:
        """0.5 * -1; its gradient with respect to the log-probability is the advantage, a constant."""
        assert self.gradients(gradient="reinforce") == (-0.5, [0.5, None, None])

    def test_dynamics_golden(self) -> None:
        assert self.gradients(gradient="dynamics") == (2.0, [None, None, 1.0])

    def test_mixed_golden(self) -> None:
        """0.25 * (0.5 * -1) + 0.75 * 2 = 1.375."""
        value, found = self.gradients(gradient="mixed", mix=0.25)
        assert value == pytest.approx(1.375)
        assert found == [0.125, None, 0.75]

    def test_the_actors_loss_golden(self) -> None:
        """-2 (0.5 + 0.1 * 3) = -1.6; weights are constants."""
        weight = torch.tensor(2.0, requires_grad=True)
        entropy = torch.tensor(3.0, requires_grad=True)
        loss = actor_loss(torch.tensor(0.5), entropy, weight, 0.1)
        loss.backward()
        assert loss.item() == pytest.approx(-1.6)
        assert entropy.grad.item() == pytest.approx(-0.2)
        assert weight.grad is None


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics", "mixed"])
@pytest.mark.parametrize("convention", [{}, V1, V2, {"slow": "target"}], ids=["v3", "v1", "v2", "next-target"])
def test_losses_reach_their_own_network_only(model: WorldModel, gradient: str, convention: dict[str, Any]) -> None:
    settings = policy_settings(gradient=gradient, entropy=0.0, **convention)
    torch.manual_seed(3)
    actor, critics = Actor(model.features, model.settings, settings, *NEUTRAL), make_critics(model, settings)
    critics.slow.requires_grad_(False)
    for critic in critics[:2]:
        nn.init.normal_(critic.network.out.weight)
    dream = Dream(model)
    trajectory = imagine(dream, actor, model.dynamics.initial(4), 3)
    outcomes = dream.outcomes(trajectory.latents[0 if convention.get("value") else 1 :])
    if gradient == "reinforce":  # then they are constants already where they come from
        trajectory = Trajectory(trajectory.latents.detach(), trajectory.actions.detach())
        outcomes = Outcomes(*(part.detach() for part in outcomes))
    loss = policy_loss(actor, critics, trajectory, outcomes, settings, settings.entropy)
    loss.actor.backward()
    assert all(p.grad is not None and p.grad.any() for p in actor.network.out.parameters())
    assert all(p.grad is None for critic in critics[:2] for p in critic.parameters())
    before = [p.grad.clone() for p in actor.parameters()]
    loss.critic.backward()
    assert all(p.grad is not None for p in critics.critic.parameters()) and critics.critic.network.out.weight.grad.any()
    assert all(torch.equal(p.grad, b) for p, b in zip(actor.parameters(), before, strict=True))
    assert all(p.grad is None for network in (model, critics.slow) for p in network.parameters())


def test_all_reinforce_in_the_mixture_is_reinforce(model: WorldModel) -> None:
    """There too, actions are constants to their log-probabilities, although they were drawn with gradients."""
    gradients = []
    actor = Actor(model.features, model.settings, policy_settings(), *NEUTRAL)
    trajectory = imagine(Dream(model), actor, model.dynamics.initial(4), 3)
    constant = Trajectory(trajectory.latents.detach(), trajectory.actions.detach())
    outcomes = outcomes_of(torch.arange(12.0).reshape(3, 4))
    for gradient, imagined in (("mixed", trajectory), ("reinforce", constant)):
        settings = policy_settings(gradient=gradient, mix=1.0)
        loss = policy_loss(actor, make_critics(model, settings), imagined, outcomes, settings, settings.entropy).actor
        gradients.append(torch.autograd.grad(loss, list(actor.parameters())))
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))
    assert gradients[0][0].any()


def test_each_action_is_credited_with_the_reward_it_leads_to(model: WorldModel) -> None:
    """Without discounting, decisions up to the rewarded one get credit, at the states they are taken in."""
    reward = torch.zeros(3, 4)
    reward[1] = 1.0  # r_2, which arrives with s_2, the consequence of a_1
    settings = policy_settings(discount=1.0, lam=1.0, entropy=0.0, penalty=0.0)
    actor, _, trajectory, loss = losses(model, settings, reward)
    log_prob = actor(trajectory.latents.feature[:-1]).log_prob(trajectory.actions)
    expected = -(log_prob[0] + log_prob[1] + 0 * log_prob[2]).sum() / 12  # a fresh critic says 0, the scale is 1
    assert loss.actor.item() == pytest.approx(expected.item(), rel=1e-5)


def test_so_it_is_where_values_include_the_present_reward(model: WorldModel) -> None:
    """The same reward r_2 credits the same decisions a_0 and a_1; r_1 credits a_0 alone; r_0 credits nobody."""
    for rewarded, credited in ((2, (1.0, 1.0)), (1, (1.0, 0.0)), (0, (0.0, 0.0))):
        reward = torch.zeros(4, 4)
        reward[rewarded] = 1.0
        settings = policy_settings(discount=1.0, lam=1.0, entropy=0.0, penalty=0.0, **{**V2, "critic": "two-hot"})
        actor, _, trajectory, loss = losses(model, settings, reward)
        log_prob = actor(trajectory.latents.feature[:-1]).log_prob(trajectory.actions)
        expected = -(credited[0] * log_prob[0] + credited[1] * log_prob[1]).sum() / 8
        assert loss.actor.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_penalty_comes_off_the_reward_and_zero_changes_nothing(model: WorldModel) -> None:
    reward = torch.randn(3, 4)
    none = losses(model, policy_settings(penalty=0.0), reward, disagreement=0.7)[3]
    plain = losses(model, policy_settings(penalty=1.0), reward, disagreement=0.0)[3]
    taken = losses(model, policy_settings(penalty=2.0), reward, disagreement=0.5)[3]
    lower = losses(model, policy_settings(penalty=0.0), reward - 1.0)[3]
    assert torch.equal(none.actor, plain.actor)
    assert taken.parts["return"].item() == pytest.approx(lower.parts["return"].item())
    assert taken.parts["return"] < plain.parts["return"]


def test_the_cost_comes_off_the_reward_and_zero_changes_nothing(model: WorldModel) -> None:
    reward = torch.randn(3, 4)
    none = losses(model, policy_settings(cost=0.0, cost_ends=0.0), reward, cost=0.7)[3]
    plain = losses(model, policy_settings(cost=4.0, cost_ends=0.0), reward, cost=0.0)[3]
    taken = losses(model, policy_settings(cost=4.0, cost_ends=0.0), reward, cost=0.25)[3]
    lower = losses(model, policy_settings(cost=0.0, cost_ends=0.0), reward - 1.0)[3]
    assert torch.equal(none.actor, plain.actor)
    assert taken.parts["return"].item() == pytest.approx(lower.parts["return"].item())
    assert taken.parts["cost"].item() == 0.25 and taken.parts["return"] < plain.parts["return"]


def test_where_it_costs_all_may_end_and_zero_changes_nothing(model: WorldModel) -> None:
    """The dream's own end, 0.8 here, and that by the cost, 1 - 0.5 * 0.4, are the same to a return: 0.8 twice."""
    reward, settings = torch.ones(3, 4), {"penalty": 0.0, "discount": 0.9, "lam": 1.0}
    none = losses(model, policy_settings(cost_ends=0.0, **settings), reward, cost=0.4)[3]
    free = losses(model, policy_settings(cost_ends=0.5, **settings), reward, cost=0.0)[3]
    ends = losses(model, policy_settings(cost_ends=0.5, **settings), reward, cost=0.4)[3]
    assert torch.equal(none.actor, free.actor) and torch.equal(none.critic, free.critic)
    assert none.parts["return"].item() == pytest.approx(1 + 0.9 + 0.81)  # a fresh critic says 0
    assert ends.parts["return"].item() == pytest.approx(1 + 0.9 * 0.8 + 0.81 * 0.64)


def test_utility_golden() -> None:
    """sign(r) ln(1 + k |r|)."""
    reward = torch.tensor([7.4, 3.7, -0.4, -100.0])
    symlog = policy_settings(utility="symlog", steepness=1.0)
    assert utility(reward, symlog).tolist() == pytest.approx([2.1282, 1.5476, -0.3365, -4.6151], abs=1e-4)
    steep = policy_settings(utility="symlog", steepness=15.0)
    assert utility(reward, steep).tolist() == pytest.approx([4.7185, 4.0342, -1.9459, -7.3139], abs=1e-4)
    assert torch.equal(utility(reward, policy_settings(steepness=15.0)), reward)


def test_what_counts_is_the_utility_less_the_penalty_and_what_is_shown_the_reward(model: WorldModel) -> None:
    reward, values = torch.tensor([[7.4, 3.7, -0.4, -100.0]] * 3), {"lam": 1.0, "discount": 1.0}
    concave = losses(model, policy_settings(utility="symlog", penalty=2.0, **values), reward, disagreement=0.5)[3]
    worth = utility(reward, policy_settings(utility="symlog"))
    linear = losses(model, policy_settings(penalty=0.0, **values), worth - 1.0)[3]
    assert concave.actor.item() == pytest.approx(linear.actor.item(), rel=1e-5)
    assert concave.critic.item() == pytest.approx(linear.critic.item(), rel=1e-5)
    assert concave.parts["return"].item() == pytest.approx(linear.parts["return"].item(), rel=1e-5)
    assert concave.parts["reward"].item() == pytest.approx(reward.mean().item())


def test_a_soft_head_holds_the_discount_already(model: WorldModel) -> None:
    """Discount g inside the head's mean gives what g outside of a hard head gives; it never counts twice."""
    for convention, states in (({}, 3), (V2, 4)):
        settings = policy_settings(discount=0.8, **convention)
        torch.manual_seed(3)
        actor, critics = (
            Actor(model.features, model.settings, settings, *NEUTRAL),
            make_critics(model, settings, rate=0.5),
        )
        trajectory = imagine(Dream(model), actor, model.dynamics.initial(4), 3)
        reward, goes_on = torch.randn(states, 4), torch.rand(states, 4)
        found = []
        for soft, mean in ((False, goes_on), (True, 0.8 * goes_on)):
            critics = critics._replace(scale=ReturnScale(0.5))
            outcomes = Outcomes(reward, mean, torch.zeros_like(reward), torch.zeros_like(reward))
            loss = policy_loss(actor, critics, trajectory, outcomes, settings, settings.entropy, soft=soft)
            found.append([loss.actor.item(), loss.critic.item(), loss.parts["return"].item()])
        assert found[0] == pytest.approx(found[1], rel=1e-5)


@dataclass
class Golden:
    """Everything that the losses depend on, with values that all differ from neutral, and what they came to."""

    actor: Actor
    critics: Critics
    trajectory: Trajectory
    outcomes: Outcomes
    settings: PolicySettings

    @property
    def goes_on(self) -> Tensor:
        """What is left of the probability after a quarter of the cost."""
        return self.outcomes.goes_on * (1 - 0.25 * self.outcomes.cost)

    @classmethod
    def make(cls, model: WorldModel, states: int, horizon: int = 4, n: int = 3, **values: Any) -> Golden:
        torch.manual_seed(5)
        caution = {"penalty": 2.0, "cost": 3.0, "cost_ends": 0.25}
        settings = policy_settings(discount=0.9, lam=0.7, entropy=0.05, slow_scale=0.5, **caution, **values)
        actor, critics = (
            Actor(model.features, model.settings, settings, *NEUTRAL),
            make_critics(model, settings, rate=0.5),
        )
        for network in critics[:2]:
            nn.init.normal_(network.network.out.weight, std=0.3)
        trajectory = imagine(Dream(model), actor, model.dynamics.initial(n), horizon)
        outcomes = Outcomes(20 * torch.randn(states, n), *torch.rand(3, states, n))
        trajectory = Trajectory(trajectory.latents.detach(), trajectory.actions.detach())
        return cls(actor, critics, trajectory, outcomes, settings)

    def losses(self, rows: Rows | None = None) -> tuple[float, float]:
        loss = policy_loss(
            self.actor, self.critics, self.trajectory, self.outcomes, self.settings, self.settings.entropy, rows=rows
        )
        return loss.actor.item(), loss.critic.item()


@torch.no_grad()
def test_both_losses_golden_with_the_next_reward(model: WorldModel) -> None:
    """DreamerV3's, in loops: values, continuation, scale, weights, slow critic."""
    golden = Golden.make(model, states=4)
    ours = golden.losses()
    feature, outcomes = golden.trajectory.latents.feature, golden.outcomes
    v, slow_v = golden.critics.critic(feature).mean, golden.critics.slow(feature).mean
    policy = golden.actor(feature[:-1])
    log_prob, entropy = policy.log_prob(golden.trajectory.actions), policy.entropy()
    returns, weight = torch.zeros(4, 3), torch.ones(4, 3)
    for i in range(3):
        following = v[4, i]
        for t in reversed(range(4)):  # outcomes[t] is of state t + 1
            d = 0.9 * golden.goes_on[t, i]
            reward = outcomes.reward[t, i] - 2.0 * outcomes.disagreement[t, i] - 3.0 * outcomes.cost[t, i]
            following = reward + d * (0.3 * v[t + 1, i] + 0.7 * following)
            returns[t, i] = following
        for t in range(1, 4):
            weight[t, i] = weight[t - 1, i] * 0.9 * golden.goes_on[t - 1, i]
    flat = returns.flatten().sort().values.numpy()
    spread = max(1.0, 0.5 * float(np.quantile(flat, 0.95) - np.quantile(flat, 0.05)))
    assert spread > 1
    expected_actor = -(weight * ((returns - v[:-1]) / spread * log_prob + 0.05 * entropy)).mean()
    predicted = golden.critics.critic(feature[:-1])
    expected_critic = (weight * (predicted.loss(returns) + 0.5 * predicted.loss(slow_v[:-1]))).mean()
    assert ours == (pytest.approx(expected_actor.item(), rel=1e-4), pytest.approx(expected_critic.item(), rel=1e-4))


@torch.no_grad()
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("gradient", ["reinforce", "dynamics", "mixed"])
def test_both_losses_golden_with_the_present_reward(model: WorldModel, version: int, gradient: str) -> None:
    """DreamerV1's and V2's, in loops. V1 has weights 1, d_1, d_1 d_2 of s_1, s_2, s_3; V2 1, d_0, d_0 d_1 of s_0 ..."""
    golden = Golden.make(model, states=5, **{1: V1, 2: V2}[version], gradient=gradient, mix=0.3)
    ours = golden.losses()
    feature, outcomes = golden.trajectory.latents.feature, golden.outcomes
    v = (golden.critics.slow if version == 2 else golden.critics.critic)(feature).mean
    policy = golden.actor(feature[:-1])
    log_prob, entropy = policy.log_prob(golden.trajectory.actions), policy.entropy()
    actor_terms, critic_terms = [], []
    for i in range(3):
        d = [0.9, *(0.9 * golden.goes_on[t, i].item() for t in range(1, 5))]  # the start goes on for certain
        targets, following = [0.0] * 4, v[4, i].item()
        for t in reversed(range(4)):
            reward = (outcomes.reward[t, i] - 2.0 * outcomes.disagreement[t, i] - 3.0 * outcomes.cost[t, i]).item()
            following = reward + d[t] * (0.3 * v[t + 1, i].item() + 0.7 * following)
            targets[t] = following
        first = 1 if version == 1 else 0
        weight = [float(np.prod(d[first:t])) for t in range(4)]  # of s_t
        for t in range(first, 4):
            error = targets[t] - golden.critics.critic(feature[t, i]).mean.item()
            critic_terms.append(weight[t] * (0.5 * error**2 + 0.5 * np.log(2 * np.pi)))
        for t in range(3):  # a_t is credited with the target of the state it leads to
            by_score = (targets[t + 1] - v[t, i].item()) * log_prob[t, i].item()
            share = {"reinforce": 1.0, "dynamics": 0.0, "mixed": 0.3}[gradient]
            objective = share * by_score + (1 - share) * targets[t + 1]
            actor_terms.append(weight[t + first] * (objective + 0.05 * entropy[t, i].item()))
    assert len(actor_terms) == 9 and len(critic_terms) == (9 if version == 1 else 12)
    assert ours == (
        pytest.approx(-np.mean(actor_terms), rel=1e-4),
        pytest.approx(np.mean(critic_terms), rel=1e-4),
    )


def test_without_normalising_the_scale_stays_as_it_is(model: WorldModel) -> None:
    golden = Golden.make(model, states=4, normalise=False)
    golden.losses()
    assert golden.critics.scale.scale.item() == 1 and not golden.critics.scale.high.any()


@pytest.mark.parametrize("slow", ["regulariser", "target", "none"])
def test_the_slow_copy_regularises_only_where_it_is_to(model: WorldModel, slow: str) -> None:
    settings = policy_settings(critic="normal", slow=slow, slow_scale=0.5)
    critics = make_critics(model, settings)
    feature, returns = torch.randn(6, model.features), torch.randn(6)
    predicted = critics.critic(feature)
    loss = critic_loss(predicted, returns, critics.slow, feature, settings)
    expected = predicted.loss(returns)
    if slow == "regulariser":
        expected = expected + 0.5 * predicted.loss(critics.slow(feature).mean)
    assert torch.allclose(loss, expected)


class Reads(nn.Module):
    """A critic whose value is a number of the feature, times a weight."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.weight = number, nn.Parameter(torch.ones(()))

    def forward(self, feature: Tensor) -> UnitNormal:
        return UnitNormal(self.weight * feature[..., self.number])


class TestReplay:
    """Four recorded rows of two windows; the second one has an episode's end for good in row 1."""

    # value, slow value
    feature = torch.tensor([[[1.0, 2.0]] * 2, [[3.0, 4.0]] * 2, [[5.0, 6.0]] * 2, [[7.0, 8.0]] * 2])
    imagined = torch.tensor([[9.0] * 2, [10.0] * 2, [20.0] * 2, [30.0] * 2])
    rows = Rows(
        torch.tensor([[9.0] * 2, [1.0] * 2, [2.0] * 2, [3.0] * 2]),
        torch.tensor([[False, False], [False, True], [False, False], [False, False]]),
        torch.tensor([[False, False], [False, True], [False, False], [False, False]]),
    )
    # By hand, g = lam = 0.5: R_2 = 3 + .5 * 30, R_1 = 2 + .5 (10 + 9), R_0 = 1 + .5 (5 + 5.75); cut: R_0 = 1
    returns = torch.tensor([[6.375, 1.0], [11.5, 0.0], [18.0, 18.0]])

    def critics(self) -> Critics:
        networks: list[Any] = [Reads(0), Reads(1)]
        return Critics(*networks, ReturnScale(1.0))

    def test_recorded_rewards_are_worth_what_imagined_ones_are(self) -> None:
        worth = self.rows._replace(reward=torch.log1p(4 * self.rows.reward))
        symlog, linear = policy_settings(utility="symlog", steepness=4.0), policy_settings()
        concave = replay_loss(self.critics(), self.feature, self.rows, self.imagined, symlog)
        expected = replay_loss(self.critics(), self.feature, worth, self.imagined, linear)
        assert torch.allclose(concave, expected)
        assert not torch.allclose(concave, replay_loss(self.critics(), self.feature, self.rows, self.imagined, linear))

    @pytest.mark.parametrize("slow", ["regulariser", "none"])
    def test_golden(self, slow: str) -> None:
        settings = policy_settings(discount=0.5, lam=0.5, slow=slow, slow_scale=2.0)
        critics = self.critics()
        loss = replay_loss(critics, self.feature, self.rows, self.imagined, settings)
        half_log = 0.5 * np.log(2 * np.pi)
        expected = 0.5 * (self.returns - self.feature[:-1, :, 0]) ** 2 + half_log
        if slow == "regulariser":
            expected = expected + 2.0 * (0.5 * 1.0**2 + half_log)
        expected[1, 1] = 0.0  # the last row of an episode has no return
        assert torch.allclose(loss, expected)
        loss.sum().backward()
        assert critics.critic.weight.grad is not None and critics.slow.weight.grad is None

    def test_it_is_added_to_the_critics_loss_with_its_weight(self, model: WorldModel) -> None:
        """The bootstrap is the imagined return from each recorded state; what has ended is not acted in."""
        golden = Golden.make(model, states=4, n=4, replay_scale=0.3, replay_length=2)
        ended = torch.tensor([[False, True], [False, False]])
        rows = Rows(torch.randn(2, 2), ended, ended)
        with torch.no_grad():
            actor, critic = golden.losses(rows)
            goes_on = golden.goes_on
            feature = golden.trajectory.latents.feature
            v = golden.critics.critic(feature).mean
            reward = golden.outcomes.reward - 2.0 * golden.outcomes.disagreement - 3.0 * golden.outcomes.cost
            returns, following = [], v[4]
            for t in reversed(range(4)):
                following = reward[t] + 0.9 * goes_on[t] * (0.3 * v[t + 1] + 0.7 * following)
                returns.insert(0, following)
            # Windows of two rows: row 0 is followed by row 1, whose value alone counts.
            boot = returns[0].reshape(2, 2)
            target = rows.reward[1] + 0.9 * boot[1]
            start = golden.critics.critic(feature[0].reshape(2, 2, -1)[0])
            slow = golden.critics.slow(feature[0].reshape(2, 2, -1)[0]).mean
            replay = (torch.tensor([1.0, 0.0]) * (start.loss(target) + 0.5 * start.loss(slow))).mean()
            weight = torch.cat([(~ended).float().reshape(1, 4), 0.9 * goes_on[:-1]]).cumprod(0)
            predicted, returns = golden.critics.critic(feature[:-1]), torch.stack(returns)
            slow = golden.critics.slow(feature[:-1]).mean
            imagined = (weight * (predicted.loss(returns) + 0.5 * predicted.loss(slow))).mean()
            assert critic == pytest.approx((imagined + 0.3 * replay).item(), rel=1e-5)
            policy = golden.actor(feature[:-1])
            advantage = (returns - v[:-1]) / golden.critics.scale.scale
            objective = advantage * policy.log_prob(golden.trajectory.actions) + 0.05 * policy.entropy()
            assert actor == pytest.approx(-(weight * objective).mean().item(), rel=1e-5)


class SmoothDream(Dream):
    """A world of two numbers that actions push about, with a reward and an end that are smooth functions of them."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        generator = torch.Generator().manual_seed(8)
        self.push, self.drift = (torch.randn(2, 8, generator=generator), torch.randn(8, 8, generator=generator) / 4)

    def step(self, action: Tensor) -> Latent:
        assert self.latent is not None
        deter = torch.tanh(self.latent.deter @ self.drift + action @ self.push)
        self.latent = Latent(deter, self.latent.stoch)
        return self.latent

    def outcomes(self, latents: Latent) -> Outcomes:
        reward = torch.sin(2 * latents.deter).sum(-1)
        nothing = torch.zeros_like(reward)
        return Outcomes(reward, torch.sigmoid(latents.deter[..., 0]), nothing, nothing)


class Blinkered:
    """The actor, but what it sees is given: how returns change with its parameters alone, its inputs held constant."""

    def __init__(self, actor: Actor, features: Tensor) -> None:
        self.actor, self.features = actor, iter(features)

    def __call__(self, feature: Tensor):
        return self.actor(next(self.features))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("distribution", ["tanh-normal", "truncated-normal"])
def test_the_dynamics_gradient_is_that_of_finite_differences(
    model: WorldModel, version: int, distribution: str
) -> None:
    """Of the weighted returns through rewards, ends and values; weights and what the policy sees are constants."""
    torch.manual_seed(0)
    settings = policy_settings(
        **{1: V1, 2: V2}[version],
        gradient="dynamics",
        distribution=distribution,
        entropy=0.0,
        penalty=0.0,
        discount=0.9,
    )
    actor, critics = Actor(model.features, model.settings, settings, *NEUTRAL), make_critics(model, settings)
    nn.init.normal_(actor.network.out.weight, std=0.3)
    dream, start = SmoothDream(model), Latent(torch.randn(4, 8), torch.zeros(4, 8))

    def imagined(policy: Any) -> tuple[Trajectory, Outcomes]:
        torch.manual_seed(1)
        trajectory = imagine(dream, policy, start, 4)
        return trajectory, dream.outcomes(trajectory.latents)

    trajectory, outcomes = imagined(actor)
    policy_loss(actor, critics, trajectory, outcomes, settings, settings.entropy).actor.backward()
    gradient = [p.grad.clone() for p in actor.parameters()]
    size = torch.stack([g.square().sum() for g in gradient]).sum().sqrt()
    seen = trajectory.latents.feature.detach()
    first, d = (1 if version == 1 else 0), 0.9 * outcomes.goes_on.detach()
    d[0] = 0.9
    weight = torch.stack([d[first : t + first].prod(0) for t in range(3)])

    @torch.no_grad()
    def loss_at(distance: float) -> float:
        for parameter, direction in zip(actor.parameters(), gradient, strict=True):
            parameter.add_(distance / size * direction)
        changed, found = imagined(Blinkered(actor, seen))
        for parameter, direction in zip(actor.parameters(), gradient, strict=True):
            parameter.sub_(distance / size * direction)
        value = (critics.slow if version == 2 else critics.critic)(changed.latents.feature).mean
        discount = torch.cat([torch.full((1, 4), 0.9), 0.9 * found.goes_on[1:]])
        target = present_lambda_return(found.reward, discount, value, settings.lam)
        return -(weight * target[1:]).double().mean().item()

    slope = (loss_at(5e-3) - loss_at(-5e-3)) / 1e-2
    assert slope == pytest.approx(size.item(), rel=5e-3)
    assert size > 0.05
