"""Returns and weights against brute force, closed forms and hand-made values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.learning.returns import (
    ReturnScale,
    lambda_return,
    present_lambda_return,
    replay_lambda_return,
    trajectory_weight,
)

LAM = st.floats(0, 1)


def brute_force(reward: np.ndarray, discount: np.ndarray, value: np.ndarray, lam: float) -> list[float]:
    """The mixture of n-step returns written out: (1 - lam) sum_n lam^(n-1) G_n + lam^(N-1) G_N."""
    horizon = len(reward)

    def n_step(t: int, n: int) -> float:
        total, product = 0.0, 1.0
        for k in range(t, t + n):
            total += product * reward[k]
            product *= discount[k]
        return total + product * value[t + n - 1]

    result = []
    for t in range(horizon):
        n_max = horizon - t
        mixed = sum((1 - lam) * lam ** (n - 1) * n_step(t, n) for n in range(1, n_max))
        result.append(mixed + lam ** (n_max - 1) * n_step(t, n_max))
    return result


@given(st.integers(1, 6), LAM, st.integers(0, 1000))
@settings(max_examples=50)
def test_lambda_return_is_the_mixture_of_n_step_returns(horizon: int, lam: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reward, discount, value = rng.normal(size=horizon), rng.uniform(0, 1, horizon), rng.normal(size=horizon)
    ours = lambda_return(*(torch.from_numpy(x) for x in (reward, discount, value)), lam)
    assert ours.tolist() == pytest.approx(brute_force(reward, discount, value, lam), rel=1e-9, abs=1e-9)


def test_golden_by_hand() -> None:
    """R_1 = 3 + .5 * 20 = 13;  R_0 = 1 + .5 (.5 * 10 + .5 * 13) = 6.75."""
    ours = lambda_return(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5]), torch.tensor([10.0, 20.0]), 0.5)
    assert ours.tolist() == [6.75, 13.0]


@given(LAM)
def test_constant_reward_is_a_fixed_point(lam: float) -> None:
    """v = 1 / (1 - g) excludes the present reward: every return equals it, at any lambda."""
    gamma = 0.9
    value = torch.full((15,), 1 / (1 - gamma), dtype=torch.float64)
    returns = lambda_return(torch.ones(15, dtype=torch.float64), torch.full_like(value, gamma), value, lam)
    assert returns.tolist() == pytest.approx([1 / (1 - gamma)] * 15)


def test_lambda_one_is_monte_carlo_and_zero_is_one_step() -> None:
    reward, value, discount = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 6.0, 7.0]), torch.full((3,), 0.9)
    monte_carlo = 1 + 0.9 * (2 + 0.9 * (3 + 0.9 * 7))
    assert lambda_return(reward, discount, value, 1.0)[0].item() == pytest.approx(monte_carlo)
    assert lambda_return(reward, discount, value, 0.0).tolist() == pytest.approx([5.5, 7.4, 9.3])


def test_an_end_cuts_off_everything_behind_it() -> None:
    def first_return(later: float) -> float:
        reward, value = torch.tensor([1.0, 2.0, later]), torch.tensor([3.0, later, later])
        return lambda_return(reward, torch.tensor([0.9, 0.0, 0.9]), value, 0.95)[0].item()

    assert first_return(0.0) == first_return(1e6)


def random_chain(horizon: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, discounts and values of states 0 .. H, in float64."""
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=horizon + 1), rng.uniform(0.2, 1, horizon + 1), rng.normal(size=horizon + 1)
    reward, discount, value = (torch.from_numpy(draw) for draw in draws)
    return reward, discount, value


class TestPresent:
    """The convention of V1 and V2, in which values include the state's own reward."""

    @given(st.integers(1, 6), LAM, st.integers(0, 1000))
    @settings(max_examples=50)
    def test_is_the_mixture_of_n_step_returns(self, horizon: int, lam: float, seed: int) -> None:
        reward, discount, value = random_chain(horizon, seed)
        ours = present_lambda_return(reward, discount, value, lam)
        expected = brute_force(reward[:-1].numpy(), discount[:-1].numpy(), value[1:].numpy(), lam)
        assert ours.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)

    def test_golden_by_hand(self) -> None:
        """T_1 = 3 + .5 * 20 = 13;  T_0 = 1 + .5 (.5 * 10 + .5 * 13) = 6.75; r_2, d_2 and v_0 count nowhere."""
        reward, discount = torch.tensor([1.0, 3.0, 99.0]), torch.tensor([0.5, 0.5, 99.0])
        ours = present_lambda_return(reward, discount, torch.tensor([99.0, 10.0, 20.0]), 0.5)
        assert ours.tolist() == [6.75, 13.0]

    @given(LAM)
    def test_constant_reward_is_a_fixed_point(self, lam: float) -> None:
        """v = 1 / (1 - g) includes the present reward and is the same number, for the sum goes on for ever."""
        ones = torch.ones(16, dtype=torch.float64)
        returns = present_lambda_return(ones, 0.9 * ones, 10 * ones, lam)
        assert returns.tolist() == pytest.approx([10.0] * 15)

    def test_lambda_one_is_monte_carlo_and_zero_is_one_step(self) -> None:
        reward, value, discount = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([5.0, 6.0, 7.0]), torch.full((3,), 0.9)
        monte_carlo = 1 + 0.9 * (2 + 0.9 * 7)
        assert present_lambda_return(reward, discount, value, 1.0)[0].item() == pytest.approx(monte_carlo)
        assert present_lambda_return(reward, discount, value, 0.0).tolist() == pytest.approx([6.4, 8.3])

    def test_an_end_cuts_off_everything_behind_it_but_not_its_own_reward(self) -> None:
        def first_return(own: float, later: float) -> float:
            reward, value = torch.tensor([1.0, own, later, later]), torch.tensor([3.0, 4.0, later, later])
            return present_lambda_return(reward, torch.tensor([0.9, 0.0, 0.9, 0.9]), value, 1.0)[0].item()

        assert first_return(2.0, 0.0) == first_return(2.0, 1e6) != first_return(3.0, 0.0)


class TestChain:
    """Three states in a row, s_0 -> s_1 -> s_2, with two decisions, whose rewards depend on the actions."""

    gamma, lam = 0.9, 0.7
    goes_on = torch.tensor([1.0, 0.8, 0.5], dtype=torch.float64)

    def exact_values(self, reward: Tensor) -> tuple[Tensor, Tensor]:
        """Of each state, without and with its own reward; behind s_2 comes nothing."""
        without = torch.zeros(3, dtype=torch.float64)
        for t in (1, 0):
            without[t] = reward[t + 1] + self.gamma * self.goes_on[t + 1] * without[t + 1]
        return without, reward + self.gamma * self.goes_on * without

    def policy_gradients(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Of the credits of both decisions, in V3's and in V2's convention, with respect to the actions."""
        gradients = []
        for convention in ("next", "present"):
            chosen = action.clone().requires_grad_()
            reward = torch.cat([chosen.new_tensor([0.3]), torch.sin(chosen) + chosen.cumsum(0)])  # r_0 is given
            without, including = self.exact_values(reward.detach())
            discount = self.gamma * self.goes_on
            if convention == "next":
                credit = lambda_return(reward[1:], discount[1:], without[1:], self.lam)  # R_0, R_1
                objective = (trajectory_weight(discount[1:]) * credit)[0]
            else:
                # One state more, in which nothing happens any more, so that a_1 has a target T_2 too.
                more = [torch.cat([x, x.new_zeros(1)]) for x in (reward, discount, including)]
                credit = present_lambda_return(*more, self.lam)[1:]  # T_1, T_2
                objective = (trajectory_weight(more[1][:-1])[:-1] * credit)[0]
            gradients.append(torch.autograd.grad(objective, chosen)[0])
        return gradients[0], gradients[1]

    def test_both_conventions_give_the_same_policy_gradient(self) -> None:
        ours, other = self.policy_gradients(torch.tensor([0.4, -1.1], dtype=torch.float64))
        assert torch.allclose(ours, other, atol=1e-12)
        assert ours.abs().min() > 0.1

    def test_both_conventions_credit_actions_alike(self) -> None:
        reward = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
        without, including = self.exact_values(reward)
        discount = self.gamma * self.goes_on
        v3 = lambda_return(reward[1:], discount[1:], without[1:], self.lam)
        v2 = present_lambda_return(reward, discount, including, self.lam)
        assert v3[0].item() == pytest.approx(v2[1].item())
        assert v2[0].item() == pytest.approx((reward[0] + discount[0] * v3[0]).item())  # T_t = r_t + d_t R_t


class TestReplay:
    """Returns along recorded rows."""

    reward = torch.tensor([9.0, 1.0, 2.0, 3.0])
    value = torch.tensor([9.0, 10.0, 20.0, 30.0])

    def returns(self, terminal: list[int], last: list[int], lam: float = 0.5) -> list[float]:
        discount = 0.5 * (1 - torch.tensor(terminal, dtype=torch.float32))
        is_last = torch.tensor(last, dtype=torch.bool)
        parts = (self.reward[1:], discount[1:], is_last[1:], self.value[1:])
        return replay_lambda_return(*parts, lam).tolist()

    def test_golden_by_hand(self) -> None:
        """R_2 = 3 + .5 * 30 = 18;  R_1 = 2 + .5 (10 + 9) = 11.5;  R_0 = 1 + .5 (5 + 5.75) = 6.375."""
        assert self.returns([0, 0, 0, 0], [0, 0, 0, 0]) == [6.375, 11.5, 18.0]

    def test_an_episode_cut_short_goes_on_with_the_value_alone(self) -> None:
        """Row 2 is the last: R_1 = 2 + .5 * 20 = 12;  R_0 = 1 + .5 (5 + 6) = 6.5. R_2 leads to another episode."""
        assert self.returns([0, 0, 0, 0], [0, 0, 1, 0])[:2] == [6.5, 12.0]

    def test_after_an_episode_that_ended_for_good_comes_nothing(self) -> None:
        """Row 2 is terminal: R_1 = 2;  R_0 = 1 + .5 (5 + 1) = 4."""
        assert self.returns([0, 0, 1, 0], [0, 0, 1, 0])[:2] == [4.0, 2.0]

    def test_within_an_episode_it_is_the_imagined_ones_return(self) -> None:
        reward, discount, value = random_chain(6)
        inside = torch.zeros(7, dtype=torch.bool)
        ours = replay_lambda_return(reward[1:], discount[1:], inside[1:], value[1:], 0.8)
        assert torch.allclose(ours, lambda_return(reward[1:], discount[1:], value[1:], 0.8), rtol=1e-12)


def test_weights_golden() -> None:
    discount = torch.tensor([0.9, 0.5, 0.1])
    assert trajectory_weight(discount).tolist() == pytest.approx([1.0, 0.9, 0.45])
    assert trajectory_weight(discount[:, None], torch.tensor([0.0]))[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert trajectory_weight(discount[:, None], torch.tensor([0.5]))[:, 0].tolist() == pytest.approx([0.5, 0.45, 0.225])


def test_gamma_counts_once() -> None:
    """The weighted sum of one-step rewards is the discounted return of the trajectory, by brute force."""
    rng = np.random.default_rng(0)
    gamma, continues, reward = 0.97, rng.uniform(0.5, 1, 6), rng.normal(size=6)
    weight = trajectory_weight(torch.from_numpy(gamma * continues)).numpy()
    expected = sum(gamma**t * np.prod(continues[:t]) * reward[t] for t in range(6))
    assert float((weight * reward).sum()) == pytest.approx(expected)


class TestReturnScale:
    def test_constant_batches_approach_the_range_without_bias_correction(self) -> None:
        scale = ReturnScale(0.01)
        returns = torch.linspace(0, 100, 101)  # 5th percentile 5, 95th 95
        for _ in range(30):
            scale.update(returns)
        assert scale.scale.item() == pytest.approx((1 - 0.99**30) * 90, rel=1e-4)

    def test_is_never_below_one(self) -> None:
        assert ReturnScale(0.5).update(torch.tensor([0.1, 0.2, 0.3])).item() == 1.0

    def test_survives_saving(self) -> None:
        scale, other = ReturnScale(0.5), ReturnScale(0.5)
        scale.update(torch.linspace(-50, 50, 11))
        other.load_state_dict(scale.state_dict())
        assert other.scale.item() == scale.scale.item() > 1
