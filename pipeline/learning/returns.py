"""Returns, weights and the scale of returns: pure functions on rewards and values.

state       s_0        s_1        s_2   ...   s_H         s_0 is recorded, or where one imagined before ended
action         a_0        a_1        ...                  a_t ~ pi(s_t), it leads to s_{t+1}
reward      r_0        r_1        r_2   ...   r_H         r_t arrives with s_t: the consequence of a_{t-1}
continue    c_0        c_1        c_2   ...   c_H         probability that the episode goes on after s_t; c_0 = 1
discount    d_0        d_1        d_2   ...   d_H         d_t = g c_t, g counted once

There are two conventions of what the value of a state begins with, and each has its lambda-return:

v_t excludes r_t (DreamerV3)       lambda_return           R_t = r_{t+1} + d_{t+1} [...], credits a_t
v_t includes r_t (DreamerV1, V2)   present_lambda_return   T_t = r_t + d_t [...], T_{t+1} credits a_t
"""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_return(reward: Tensor, discount: Tensor, value: Tensor, lam: float) -> Tensor:
    """Lambda-return where values exclude the state's own reward (DreamerV3, section "Critic learning").

    R_t = r_{t+1} + d_{t+1} [(1 - lam) v_{t+1} + lam R_{t+1}],  R_H = v_H.

    state       s_0        s_1        s_2   ...   s_H
    action         a_0        a_1        ...
    reward                [r_1]      [r_2]  ...  [r_H]
    discount              [d_1]      [d_2]  ...  [d_H]
    value        v_0      [v_1]      [v_2]  ...  [v_H]        [in]
    return      (R_0)     (R_1)      (R_2)  ...               (out): what v_t is to predict, and what credits a_t

    Args:
        reward: (H, ...), r_1 .. r_H.
        discount: (H, ...), d_1 .. d_H.
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


def present_lambda_return(reward: Tensor, discount: Tensor, value: Tensor, lam: float) -> Tensor:
    """Lambda-return where values include the state's own reward (DreamerV1, equation 6; DreamerV2, equation 4).

    T_t = r_t + d_t [(1 - lam) v_{t+1} + lam T_{t+1}],  T_H = v_H.

    It is the other one's recursion with the reward and the discount that came before instead of those that come next.

    state       s_0        s_1        s_2   ...   s_H
    action         a_0        a_1        ...
    reward     [r_0]      [r_1]      [r_2]  ...   r_H
    discount   [d_0]      [d_1]      [d_2]  ...   d_H
    value       v_0       [v_1]      [v_2]  ...  [v_H]        [in]
    return     (T_0)      (T_1)      (T_2)  ...               (out): what v_t is to predict; T_{t+1} credits a_t

    Args:
        reward: (H + 1, ...), r_0 .. r_H.
        discount: (H + 1, ...), d_0 .. d_H.
        value: (H + 1, ...), v_0 .. v_H.
        lam: 0 for one step, 1 for the whole trajectory.

    Returns:
        (H, ...), T_0 .. T_{H-1}.
    """
    return lambda_return(reward[:-1], discount[:-1], value[1:], lam)


def replay_lambda_return(reward: Tensor, discount: Tensor, is_last: Tensor, value: Tensor, lam: float) -> Tensor:
    """Lambda-return along recorded rows, whose values exclude the row's own reward (DreamerV3, "Critic learning").

    R_t = r_{t+1} + d_{t+1} [(1 - lam_{t+1}) v_{t+1} + lam_{t+1} R_{t+1}],  R_T = v_T,  lam_t = lam (1 - is_last_t).

    The last row of an episode has nothing recorded behind it but another episode, so there the value alone counts; and
    where the episode ended for good, d = 0, not even that.

    row          0          1          2    ...    T          as recorded, one after the other
    reward                [r_1]      [r_2]  ...  [r_T]
    discount              [d_1]      [d_2]  ...  [d_T]        d_t = g (1 - is_terminal_t)
    is_last               [l_1]      [l_2]  ...  [l_T]
    value        v_0      [v_1]      [v_2]  ...  [v_T]        the imagined return from there
    return      (R_0)     (R_1)      (R_2)  ...               (out): what v_t is to predict, unless l_t

    Args:
        reward, discount, is_last, value: (T, ...) of rows 1 .. T; `is_last` bool.
        lam: 0 for one step, 1 for all that is recorded.

    Returns:
        (T, ...), R_0 .. R_{T-1}.
    """
    following = value[-1]
    returns: list[Tensor] = []
    for t in reversed(range(len(reward))):
        following = torch.where(is_last[t], value[t], (1 - lam) * value[t] + lam * following)
        following = reward[t] + discount[t] * following
        returns.append(following)
    return torch.stack(returns[::-1])


def trajectory_weight(discount: Tensor, start: Tensor | None = None) -> Tensor:
    """Weight of each of K states: 1, then what lies between it and the first, multiplied up (DreamerV2's `weight`).

    convention           discount            weight of           weights
    DreamerV3            d_1 .. d_H          s_0 .. s_{H-1}      1, d_1, d_1 d_2, ...
    DreamerV2            d_0 .. d_{H-1}      s_0 .. s_{H-1}      1, d_0, d_0 d_1, ...
    DreamerV1            d_1 .. d_{H-1}      s_1 .. s_{H-1}      1, d_1, d_1 d_2, ...

    Both are as published: in V3, that the episode goes on after s_1 counts for s_1 already, in the others for s_2.

    Args:
        discount: (K, ...), of which the last one counts for no state here.
        start: (...), weight of the first state; 1 where not given, for data in which the episode went on.

    Returns:
        (K, ...).
    """
    first = torch.ones_like(discount[:1]) if start is None else start[None]
    return torch.cumprod(torch.cat([first, discount[:-1]]), 0)


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
