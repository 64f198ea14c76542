"""Returns and weights against brute force, closed forms and hand-made values (DreamerV3, equations 7 and 13)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.learning.returns import ReturnScale, lambda_return, trajectory_weight

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


def both_conventions(
    reward: Tensor, continues: Tensor, value: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Credit of a_0 on a chain by DreamerV3's return and by that of V1 and V2, whose value includes the reward."""
    v3 = lambda_return(reward, gamma * continues, value, lam)[0]
    # T_t = r_t + g c_t [(1 - lam) u_{t+1} + lam T_{t+1}] with u_t = r_t + g c_t v_t; a_0 is credited with T_1.
    following = included = reward + gamma * continues * value
    following = included[-1]
    for t in reversed(range(len(reward) - 1)):
        following = reward[t] + gamma * continues[t] * ((1 - lam) * included[t + 1] + lam * following)
    return v3, following


def test_both_conventions_credit_an_action_alike_where_values_are_exact() -> None:
    reward, continues = torch.tensor([1.0, -2.0, 4.0]), torch.tensor([1.0, 0.5, 1.0])
    gamma = 0.9
    value = torch.zeros(3)  # exact values on the chain, nothing behind it
    for t in (1, 0):
        value[t] = reward[t + 1] + gamma * continues[t + 1] * value[t + 1]
    v3, v2 = both_conventions(reward, continues, value, gamma, 0.7)
    assert v3.item() == pytest.approx(v2.item())


def test_weights_golden() -> None:
    assert trajectory_weight(torch.tensor([0.9, 0.5, 0.1])).tolist() == pytest.approx([1.0, 0.9, 0.45])


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
