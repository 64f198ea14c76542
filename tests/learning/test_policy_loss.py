"""Actor and critic in imagination: alignment, stop-gradients, and a policy that finds the best action."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config import ModelSettings, PolicySettings, ViewSettings
from pipeline.learning.imagination import Dream, Outcomes, imagine
from pipeline.learning.policy_learner import PolicyLearner
from pipeline.learning.policy_loss import policy_loss, reinforce
from pipeline.learning.returns import ReturnScale
from pipeline.models.actor_critic import Actor, Critic
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.dynamics import Latent
from pipeline.models.world_model import WorldModel

SIZES = ModelSettings(deter=8, groups=2, classes=4, hidden=8, units=16, depth=2, ensemble=2, ensemble_units=4)
NEUTRAL = torch.zeros(2), torch.full((2,), 0.5)


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    return build_world(SIZES, Interface(ViewSettings(), (-1.0, -1.0), (1.0, 1.0))).requires_grad_(False)


def test_imagination_starts_in_the_start_and_chains_states_and_actions(model: WorldModel) -> None:
    actor = Actor(model.features, SIZES, 1, *NEUTRAL)
    start = model.dynamics.initial(5)
    trajectory = imagine(Dream(model), actor, start, 3)
    assert trajectory.latents.deter.shape == (4, 5, 8)
    assert trajectory.actions.shape == (3, 5, 2)
    assert torch.equal(trajectory.latents.deter[0], start.deter)
    for t in range(3):
        following = model.dynamics.advance(trajectory.latents[t], trajectory.actions[t].clamp(-1, 1))
        assert torch.allclose(following, trajectory.latents.deter[t + 1], atol=1e-6)


def test_actions_out_of_bounds_have_the_effect_of_the_clipped_ones(model: WorldModel) -> None:
    dream, start = Dream(model), model.dynamics.initial(1)
    dream.reset(start)
    beyond = dream.step(torch.tensor([[3.0, -7.0]]))
    dream.reset(start)
    assert torch.equal(beyond.deter, dream.step(torch.tensor([[1.0, -1.0]])).deter)


def test_without_sampling_the_actions_are_determined(model: WorldModel) -> None:
    actor = Actor(model.features, SIZES, 1, *NEUTRAL)
    first = imagine(Dream(model), actor, model.dynamics.initial(2), 1, sample=False).actions
    assert torch.equal(first, imagine(Dream(model), actor, model.dynamics.initial(2), 1, sample=False).actions)


def test_the_actor_begins_like_the_recorded_drivers(model: WorldModel) -> None:
    mean, std = torch.tensor([0.3, -0.9]), torch.tensor([0.5, 0.2])
    policy = Actor(model.features, SIZES, 2, mean, std)(torch.randn(50, model.features))
    assert torch.allclose(policy.mean, mean.expand(50, 2), atol=0.05)
    assert torch.allclose(policy.std, std.expand(50, 2), atol=0.05)


def test_reinforce_golden() -> None:
    """-2 (0.5 * -1 + 0.1 * 3) = 0.4, and its gradient with respect to the log-probability is -w A."""
    log_prob = torch.tensor(-1.0, requires_grad=True)
    advantage = torch.tensor(0.5, requires_grad=True)
    loss = reinforce(log_prob, advantage, torch.tensor(3.0), torch.tensor(2.0), 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0.4)
    assert log_prob.grad.item() == pytest.approx(-1.0)
    assert advantage.grad is None


def outcomes_of(reward: Tensor, disagreement: float = 0.0) -> Outcomes:
    return Outcomes(reward, torch.ones_like(reward), torch.full_like(reward, disagreement))


def losses(model: WorldModel, settings: PolicySettings, reward: Tensor, disagreement: float = 0.0):
    torch.manual_seed(3)
    actor = Actor(model.features, SIZES, 1, *NEUTRAL)
    critic, slow = Critic(model.features, SIZES, 1), Critic(model.features, SIZES, 1)
    trajectory = imagine(Dream(model), actor, model.dynamics.initial(4), len(reward))
    loss = policy_loss(actor, critic, slow, ReturnScale(1.0), trajectory, outcomes_of(reward, disagreement), settings)
    return actor, critic, trajectory, loss


def test_losses_reach_their_own_network_only(model: WorldModel) -> None:
    actor, critic, _, loss = losses(model, PolicySettings(), torch.randn(3, 4))
    loss.actor.backward()
    assert any(p.grad is not None and p.grad.any() for p in actor.parameters())
    assert all(p.grad is None for p in critic.parameters())
    loss.critic.backward()
    assert any(p.grad is not None and p.grad.any() for p in critic.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_each_action_is_credited_with_the_reward_it_leads_to(model: WorldModel) -> None:
    """Without discounting, decisions up to the rewarded one get credit, at the states they are taken in."""
    reward = torch.zeros(3, 4)
    reward[1] = 1.0  # r_2, which arrives with s_2, the consequence of a_1
    settings = PolicySettings(discount=1.0, lam=1.0, entropy=0.0, penalty=0.0)
    actor, _, trajectory, loss = losses(model, settings, reward)
    log_prob = actor(trajectory.latents.feature[:-1]).log_prob(trajectory.actions)
    expected = -(log_prob[0] + log_prob[1] + 0 * log_prob[2]).sum() / 12  # a fresh critic says 0, the scale is 1
    assert loss.actor.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_penalty_comes_off_the_reward_and_zero_changes_nothing(model: WorldModel) -> None:
    reward = torch.randn(3, 4)
    none = losses(model, PolicySettings(penalty=0.0), reward, disagreement=0.7)[3]
    plain = losses(model, PolicySettings(penalty=1.0), reward, disagreement=0.0)[3]
    taken = losses(model, PolicySettings(penalty=2.0), reward, disagreement=0.5)[3]
    lower = losses(model, PolicySettings(penalty=0.0), reward - 1.0)[3]
    assert torch.equal(none.actor, plain.actor)
    assert taken.parts["return"].item() == pytest.approx(lower.parts["return"].item())
    assert taken.parts["return"] < plain.parts["return"]


def test_both_losses_golden(model: WorldModel) -> None:
    """Written out in loops, with values, continuation, scale, weights and slow critic that all differ from neutral."""
    torch.manual_seed(5)
    horizon, n = 4, 3
    actor = Actor(model.features, SIZES, 1, *NEUTRAL)
    critic, slow = Critic(model.features, SIZES, 1), Critic(model.features, SIZES, 1)
    for network in (critic, slow):
        torch.nn.init.normal_(network.network.out.weight, std=0.3)
    trajectory = imagine(Dream(model), actor, model.dynamics.initial(n), horizon)
    outcomes = Outcomes(20 * torch.randn(horizon, n), torch.rand(horizon, n), torch.rand(horizon, n))
    settings = PolicySettings(discount=0.9, lam=0.7, entropy=0.05, penalty=2.0, slow_scale=0.5)
    scale = ReturnScale(0.5)
    loss = policy_loss(actor, critic, slow, scale, trajectory, outcomes, settings)

    feature = trajectory.latents.feature
    with torch.no_grad():
        v, policy = critic(feature).mean, actor(feature[:-1])
        slow_v, log_prob, entropy = slow(feature).mean, policy.log_prob(trajectory.actions), policy.entropy()
        returns, weight = torch.zeros(horizon, n), torch.ones(horizon, n)
        for i in range(n):
            following = v[horizon, i]
            for t in reversed(range(horizon)):  # outcomes[t] is of state t + 1
                d = 0.9 * outcomes.goes_on[t, i]
                reward = outcomes.reward[t, i] - 2.0 * outcomes.disagreement[t, i]
                following = reward + d * (0.3 * v[t + 1, i] + 0.7 * following)
                returns[t, i] = following
            for t in range(1, horizon):
                weight[t, i] = weight[t - 1, i] * 0.9 * outcomes.goes_on[t - 1, i]
        flat = returns.flatten().sort().values.numpy()
        spread = max(1.0, 0.5 * float(np.quantile(flat, 0.95) - np.quantile(flat, 0.05)))
        assert spread > 1
        expected_actor = -(weight * ((returns - v[:-1]) / spread * log_prob + 0.05 * entropy)).mean()
        predicted = critic(feature[:-1])
        expected_critic = (weight * (predicted.loss(returns) + 0.5 * predicted.loss(slow_v[:-1]))).mean()
    assert loss.actor.item() == pytest.approx(expected_actor.item(), rel=1e-4)
    assert loss.critic.item() == pytest.approx(expected_critic.item(), rel=1e-4)


def make_learner(model: WorldModel, **settings: object) -> PolicyLearner:
    torch.manual_seed(0)
    values = {"starts": 8, "horizon": 3, "precision": "float32", **settings}
    chosen = PolicySettings.model_validate(values)
    actor = Actor(model.features, SIZES, chosen.layers, *NEUTRAL)
    return PolicyLearner(model, model.dynamics.initial(4), actor, chosen)


def test_an_update_asks_the_dream_about_the_states_that_actions_led_to(model: WorldModel) -> None:
    asked = []

    class Listening(Dream):
        def outcomes(self, latents: Latent) -> Outcomes:
            asked.append((latents.deter, self.latent))
            return super().outcomes(latents)

    learner = make_learner(model)
    learner.dream = Listening(model)
    learner.update(0)
    [(deter, last)] = asked
    assert deter.shape[:2] == (3, 8)
    assert last is not None and torch.equal(deter[-1], last.deter)
    assert deter[0].any()  # the start is zeros


def test_bfloat16_updates_reach_every_parameter(model: WorldModel) -> None:
    learner = make_learner(model, precision="bfloat16")
    learner.update(0)
    for network in (learner.actor, learner.critic):
        assert all(p.grad is not None for p in network.parameters())
    assert learner.actor.network.out.weight.grad.any()


def test_everything_that_changes_is_saved(model: WorldModel) -> None:
    learner, other = make_learner(model), make_learner(model)
    assert set(learner.state()) == {
        "actor", "acting", "critic", "slow_critic", "scale", "actor_optimizer", "critic_optimizer",
        "deter", "stoch", "carried",
    }  # fmt: skip
    learner.scale.update(torch.linspace(-500, 500, 11))
    learner.update(0)
    other.restore(learner.state())
    assert other.scale.scale.item() == learner.scale.scale.item() > 1
    assert torch.equal(other.ends.deter, learner.ends.deter) and learner.ends.deter.any()
    assert torch.equal(other.ends.stoch, learner.ends.stoch) and torch.equal(other.carried, learner.carried)


def starts_of(learner: PolicyLearner, updates: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each update: where its trajectories began, where those of the update before ended, which were carried on."""
    seen = []

    class Listening(Dream):
        def reset(self, start: Latent) -> Latent:
            seen.append((start.deter, learner.ends.deter, learner.carried))
            return super().reset(start)

    learner.dream = Listening(learner.model)
    for index in range(updates):
        learner.update(index)
    return seen


def test_carried_trajectories_go_on_where_they_ended(model: WorldModel) -> None:
    learner = make_learner(model, starts=400, carry=0.75)  # the recorded states are zeros
    first, *later = starts_of(learner, 3)
    assert not first[2].any() and not first[0].any()
    for start, ends, carried in later:
        assert torch.equal(start[carried], ends[carried]) and start[carried].any(-1).all()
        assert not start[~carried].any()
        assert carried.any() and not carried.all()


@pytest.mark.parametrize(("carry", "goes_on", "share"), [(0.0, 1.0, 0.0), (0.75, 1.0, 0.75), (0.75, 0.0, 0.0)])
def test_what_has_ended_is_not_carried_on(model: WorldModel, carry: float, goes_on: float, share: float) -> None:
    learner = make_learner(model, starts=2000, carry=carry)

    class Ending(Dream):
        def outcomes(self, latents: Latent) -> Outcomes:
            found = super().outcomes(latents)
            ended = torch.ones_like(found.goes_on)
            ended[1] = goes_on  # within the trajectory, not at its end
            return found._replace(goes_on=ended)

    learner.dream = Ending(model)
    learner.update(0)
    assert learner.carried.float().mean().item() == pytest.approx(share, abs=0.05 if share else 0)


def test_the_acting_copy_is_a_running_mean_at_first_and_the_slow_critic_lags(model: WorldModel) -> None:
    learner = make_learner(model, average_rate=0.05, slow_rate=0.25, actor_rate=0.1, critic_rate=0.1)
    seen, slow = [], torch.cat([p.flatten() for p in learner.slow_critic.parameters()])
    for index in range(3):
        learner.update(index)
        seen.append(torch.cat([p.detach().flatten() for p in learner.actor.parameters()]))
        slow = slow + 0.25 * (torch.cat([p.detach().flatten() for p in learner.critic.parameters()]) - slow)
    acting = torch.cat([p.flatten() for p in learner.acting.parameters()])
    assert torch.allclose(acting, torch.stack(seen).mean(0), atol=1e-6)
    assert torch.allclose(torch.cat([p.flatten() for p in learner.slow_critic.parameters()]), slow, atol=1e-6)


class Slope(WorldModel):
    """A world whose reward is highest where the action is (0.5, -0.5), and whose state shows the last action."""

    def __init__(self) -> None:
        super().__init__(SIZES, 64, (-1.0, -1.0), (1.0, 1.0))
        self.requires_grad_(False)


class SlopeDream(Dream):
    def step(self, action: Tensor) -> Latent:
        assert self.latent is not None
        deter = torch.zeros_like(self.latent.deter)
        deter[:, :2] = action.clamp(-1, 1)
        self.latent = Latent(deter, self.latent.stoch)
        return self.latent

    def outcomes(self, latents: Latent) -> Outcomes:
        best = torch.tensor([0.5, -0.5])
        return outcomes_of(-5 * (latents.deter[..., :2] - best).square().sum(-1))


@pytest.mark.slow
def test_the_policy_finds_the_best_action_in_imagination() -> None:
    torch.manual_seed(0)
    model = Slope()
    settings = PolicySettings(
        starts=64, horizon=5, carry=0.0, actor_rate=3e-3, critic_rate=3e-3, penalty=0.0, precision="float32"
    )
    learner = PolicyLearner(model, model.dynamics.initial(16), Actor(model.features, SIZES, 1, *NEUTRAL), settings)
    learner.dream = SlopeDream(model)
    for index in range(250):
        learner.update(index)
    mode = learner.acting(model.dynamics.initial(1).feature).mode[0]
    assert mode.tolist() == pytest.approx([0.5, -0.5], abs=0.15)
