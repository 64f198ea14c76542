"""Returns, weights and the scale of returns: pure functions on imagined rewards and values.

state       s_0        s_1        s_2   ...   s_H         s_0 is a posterior state of the recorded data
action         a_0        a_1        ...                  a_t ~ pi(s_t), it leads to s_{t+1}
reward                 r_1        r_2   ...   r_H         r_t arrives with s_t: the consequence of a_{t-1}
continue               c_1        c_2   ...   c_H         probability that the episode goes on after s_t
value       v_0        v_1        v_2   ...   v_H         v_t excludes r_t
return      R_0        R_1        ...                     R_t is what v_t is to predict, and what credits a_t
weight      1          g c_1      g^2 c_1 c_2  ...        probability of ever being in s_t, discounted
"""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_return(reward: Tensor, discount: Tensor, value: Tensor, lam: float) -> Tensor:
    """Lambda-return (DreamerV3, section "Critic learning").

    R_t = r_{t+1} + d_{t+1} [(1 - lam) v_{t+1} + lam R_{t+1}],  R_H = v_H.

    Args:
        reward: (H, ...), r_1 .. r_H.
        discount: (H, ...), d_t = gamma c_t, for t = 1 .. H.
        value: (H, ...), v_1 .. v_H.
        lam: 0 for one step, 1 for the whole trajectory.

    Returns:
        (H, ...), R_0 .. R_{H-1}.
    """
    assert reward.shape == discount.shape == value.shape, (reward.shape, discount.shape, value.shape)
    following = value[-1]
    returns: list[Tensor] = []
    for t in reversed(range(len(reward))):
        following = reward[t] + discount[t] * ((1 - lam) * value[t] + lam * following)
        returns.append(following)
    return torch.stack(returns[::-1])


def trajectory_weight(discount: Tensor) -> Tensor:
    """Weight of each state a decision is taken in: 1, d_1, d_1 d_2, ... (DreamerV2's cumulative discount).

    Args:
        discount: (H, ...), d_t = gamma c_t, for t = 1 .. H.

    Returns:
        (H, ...), for s_0 .. s_{H-1}. The start weighs 1: it comes from data in which the episode went on.
    """
    return torch.cumprod(torch.cat([torch.ones_like(discount[:1]), discount[:-1]]), 0)


class ReturnScale(torch.nn.Module):
    """Range of the returns, 5th to 95th percentile, averaged over time (DreamerV3, section "Actor learning").

    Advantages are divided by max(1, range): large returns are brought down, small ones are not blown up. The average
    starts at 0, without correction, as in the official code. A module, so that it is saved with the rest.

    Args:
        rate: share of the new percentiles in the average.
    """

    low: Tensor
    high: Tensor
    levels: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("levels", torch.tensor([0.05, 0.95]), persistent=False)

    def update(self, returns: Tensor) -> Tensor:
        """Take in new returns (any shape) and give the scale, (), at least 1."""
        ends = torch.quantile(returns.detach().float().flatten(), self.levels)
        self.low.lerp_(ends[0], self.rate)
        self.high.lerp_(ends[1], self.rate)
        return self.scale

    @property
    def scale(self) -> Tensor:
        """max(1, P95 - P5), ()."""
        return (self.high - self.low).clamp_min(1.0)
