"""Distributions of actions, all behind one interface, and which of them a setting names.

Continuous actions lie within -1 .. 1, discrete ones are one-hot. All is computed in float32, whatever the networks use.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributions import OneHot

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class ActionDistribution(Protocol):
    """pi(a | s), from the outputs of a network (..., 2 A), or (..., A) for discrete actions."""

    def __init__(self, raw: Tensor) -> None:
        """Take the network's outputs."""

    @classmethod
    def raw(cls, mean: Tensor, std: Tensor) -> Tensor:
        """Network outputs whose actions have about this mean and deviation, (A,) each."""

    @property
    def executed_mean(self) -> Tensor:
        """How to act where none is drawn: the expected action as it is executed, (..., A)."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw actions (..., A) from torch's own generator or the one given."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density or log-probability of actions (..., A), summed over the dimensions, (...)."""

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the dimensions, (...)."""


class BoundedNormal:
    """Independent normals, means within -1 .. 1, deviations within 0.1 .. 1 (DreamerV3's `bounded_normal`).

    mean = M tanh(m / M) with M = 1, std = (1 - 0.1) sigmoid(s + 2) + 0.1. Samples may leave -1 .. 1; whoever acts clips
    them, and log-probabilities are those of the sample before clipping.

    Args:
        raw: (..., 2 A), the m and then the s of each action dimension.
    """

    min_std, max_std = 0.1, 1.0
    max_mean = 1.0

    def __init__(self, raw: Tensor) -> None:
        mean, std = raw.float().chunk(2, -1)
        self.mean = self.max_mean * torch.tanh(mean / self.max_mean)
        self.std = (self.max_std - self.min_std) * torch.sigmoid(std + 2.0) + self.min_std

    @classmethod
    def raw(cls, mean: Tensor, std: Tensor) -> Tensor:
        """The inverse: network outputs (..., 2 A) that give this mean and deviation, as nearly as the bounds allow."""
        inside = ((std - cls.min_std) / (cls.max_std - cls.min_std)).clamp(0.02, 0.98)
        m = cls.max_mean * torch.atanh((mean / cls.max_mean).clamp(-0.98, 0.98))
        return torch.cat([m, torch.logit(inside) - 2.0], -1)

    @property
    def executed_mean(self) -> Tensor:
        """Expected action once samples are clipped to -1 .. 1, (..., A): how to act without drawing.

        The mode is not: an actor that brakes little has its mean near the bound and half of its samples clipped at
        it, so that what it does on average, and was credited for, lies inside. With X ~ N(m, s), a = (-1 - m) / s and
        b = (1 - m) / s, E[clip(X)] = m (F(b) - F(a)) - s (f(b) - f(a)) - F(a) + 1 - F(b).
        """
        a, b = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        below, within = torch.special.ndtr(a), torch.special.ndtr(b)
        density = (torch.exp(-0.5 * b.square()) - torch.exp(-0.5 * a.square())) / math.sqrt(2 * math.pi)
        mean: Tensor = self.mean * (within - below) - self.std * density - below + 1 - within
        return mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw actions (..., A) with the reparameterised gradient, from torch's own generator or the one given."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.std * noise

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of actions (..., A), summed over the dimensions, (...)."""
        return _normal_log_density(action, self.mean, self.std).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the dimensions, (...)."""
        return (torch.log(self.std) + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class WideNormal(BoundedNormal):
    """The same with means within -2 .. 2: an action at its bound needs no small deviation.

    Where the mean stops at the bound, half of all samples lie inside: the brake is never off, and full gas is what is
    left of it, unless the deviation shrinks, which the entropy's weight is against.
    """

    max_mean = 2.0


class TanhNormal:
    """Independent normals x, and tanh(x) as the action (DreamerV1's `tanh_normal`).

    x ~ N(mean, std) with mean = 5 tanh(m / 5), std = softplus(s + softplus^-1(5)) + 1e-4.

    Attributes:
        mean, std: (..., A), of x.

    Args:
        raw: (..., 2 A), the m and then the s of each action dimension.
    """

    mean_scale, start_std, min_std = 5.0, 5.0, 1e-4
    largest_mean = 4.5  # to begin with
    _shift = math.log(math.expm1(start_std))  # softplus^-1
    _nearest_to_1 = 1 - 2.0**-24  # in float32; beyond it, tanh has rounded x away

    def __init__(self, raw: Tensor) -> None:
        mean, std = raw.float().chunk(2, -1)
        self.mean = self.mean_scale * torch.tanh(mean / self.mean_scale)
        self.std = F.softplus(std + self._shift) + self.min_std

    @classmethod
    def raw(cls, mean: Tensor, std: Tensor) -> Tensor:
        """Network outputs (..., 2 A) whose actions have this mean and deviation, as nearly as the bounds allow."""
        return _match(cls, mean, std)

    @classmethod
    def raw_of(cls, mean: Tensor, std: Tensor) -> Tensor:
        """Network outputs (..., 2 A) that give x this mean and deviation, as nearly as the bounds allow."""
        m = cls.mean_scale * torch.atanh(mean.clamp(-cls.largest_mean, cls.largest_mean) / cls.mean_scale)
        s = torch.log(torch.expm1(std.clamp(0.01, cls.start_std) - cls.min_std)) - cls._shift
        return torch.cat([m, s], -1)

    @property
    def executed_mean(self) -> Tensor:
        """E[tanh(x)], (..., A)."""
        return self.moments()[0]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the action, (..., A) each."""
        x, weight = self._points()
        action = torch.tanh(x)
        mean = (weight * action).sum(-1)
        return mean, (weight * (action - mean[..., None]).square()).sum(-1).sqrt()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw actions (..., A) with the reparameterised gradient, from torch's own generator or the one given."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return torch.tanh(self.mean + self.std * noise)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of actions (..., A), summed over the dimensions, (...): ln N(x) - ln(1 - tanh(x)^2) at tanh(x).

        Actions that float32 has rounded to +-1 count as the number next to it, as in the official code.
        """
        x = torch.atanh(action.float().clamp(-self._nearest_to_1, self._nearest_to_1))
        return (_normal_log_density(x, self.mean, self.std) - _log_slope_of_tanh(x)).sum(-1)

    def entropy(self) -> Tensor:
        """H[N] + E[ln(1 - tanh(x)^2)] in nats, summed over the dimensions, (...).

        There is no closed form for the second term, nor is a draw needed (the official code takes 100): see `_points`.
        """
        x, weight = self._points()
        slope = (weight * _log_slope_of_tanh(x)).sum(-1)
        return (torch.log(self.std) + 0.5 + _HALF_LOG_2PI + slope).sum(-1)

    def _points(self) -> tuple[Tensor, Tensor]:
        """Points x (..., A, 41) and weights (41,) with which any expectation over x is a sum.

        The trapezoid rule, which for smooth functions is exact but for about exp(-40 / std): 4e-4 at a deviation of 5.
        """
        z = torch.linspace(-5, 5, 41, device=self.mean.device)
        return self.mean[..., None] + self.std[..., None] * z, F.softmax(-0.5 * z.square(), -1)


class TruncatedNormal:
    """Independent normals cut off at -1 and 1 (DreamerV2's `trunc_normal`).

    Before the cut, mean = tanh(m), std = 2 sigmoid(s / 2) + 0.1. With a = (-1 - mean) / std, b = (1 - mean) / std and
    Z = F(b) - F(a) of the unit normal's distribution function F and density f:

        density      f((x - mean) / std) / (std Z)
        mean         mean - std (f(b) - f(a)) / Z
        variance     std^2 (1 - (b f(b) - a f(a)) / Z - ((f(b) - f(a)) / Z)^2)
        entropy      ln(sqrt(2 pi e) std Z) - (b f(b) - a f(a)) / (2 Z)

    Z is never below 0.3, for the mean lies between the bounds.

    Attributes:
        mean, std: (..., A), of the normal before the cut.

    Args:
        raw: (..., 2 A), the m and then the s of each action dimension.
    """

    min_std = 0.1
    largest_mean = 0.95  # to begin with
    margin = 1e-6  # between samples and bounds

    def __init__(self, raw: Tensor) -> None:
        mean, std = raw.float().chunk(2, -1)
        self.mean = torch.tanh(mean)
        self.std = 2 * torch.sigmoid(std / 2) + self.min_std

    @classmethod
    def raw(cls, mean: Tensor, std: Tensor) -> Tensor:
        """Network outputs (..., 2 A) whose actions have this mean and deviation, as nearly as the bounds allow."""
        return _match(cls, mean, std)

    @classmethod
    def raw_of(cls, mean: Tensor, std: Tensor) -> Tensor:
        """Network outputs (..., 2 A) with this mean and deviation before the cut, as nearly as the bounds allow."""
        inside = ((std - cls.min_std) / 2).clamp(0.005, 0.995)
        return torch.cat([torch.atanh(mean.clamp(-cls.largest_mean, cls.largest_mean)), 2 * torch.logit(inside)], -1)

    @property
    def executed_mean(self) -> Tensor:
        """Expected action, (..., A)."""
        return self.moments()[0]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the action, (..., A) each."""
        a, b, inside = self._cut()
        shift = (_density(b) - _density(a)) / inside
        shrink = (b * _density(b) - a * _density(a)) / inside
        return self.mean - self.std * shift, self.std * (1 - shrink - shift.square()).clamp_min(1e-12).sqrt()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw actions (..., A) by the inverse of the distribution function, which gives the reparameterised gradient.

        They are clipped a little inside the bounds, the gradient going through the clip as if it were not there.
        """
        a, _, inside = self._cut()
        noise = torch.empty_like(self.mean).uniform_(generator=generator)
        share = torch.special.ndtr(a) + inside * noise  # of the uncut normal, below the action
        x: Tensor = self.mean + self.std * torch.special.ndtri(share.clamp(1e-7, 1 - 1e-7))
        return x + (x.clamp(self.margin - 1, 1 - self.margin) - x).detach()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of actions (..., A) within the bounds, summed over the dimensions, (...)."""
        return (_normal_log_density(action, self.mean, self.std) - torch.log(self._cut()[2])).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the dimensions, (...)."""
        a, b, inside = self._cut()
        shrink = (b * _density(b) - a * _density(a)) / (2 * inside)
        return (torch.log(self.std * inside) + 0.5 + _HALF_LOG_2PI - shrink).sum(-1)

    def _cut(self) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and Z, (..., A) each."""
        a, b = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        inside: Tensor = torch.special.ndtr(b) - torch.special.ndtr(a)
        return a, b, inside


class OneHotAction:
    """One of A discrete actions, as a one-hot vector.

    Its probabilities are the softmax alone, without a share of the uniform: so in DreamerV2, and in V3's code, if not
    in its paper. Samples are constants: only REINFORCE trains it.

    Args:
        raw: logits (..., A).
    """

    def __init__(self, raw: Tensor) -> None:
        self.choice = OneHot(raw[..., None, :])

    @classmethod
    def raw(cls, mean: Tensor, std: Tensor) -> Tensor:
        """Logits (..., A) of these frequencies, the mean of one-hot actions; none below a hundredth, for a start."""
        return torch.log(mean.clamp_min(0.01))

    @property
    def executed_mean(self) -> Tensor:
        """The likeliest action, (..., A): a mixture of actions cannot be executed."""
        return self.choice.mode[..., 0, :]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw actions (..., A), from torch's own generator or the one given."""
        return self.choice.sample(generator=generator)[..., 0, :].detach()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of one-hot actions (..., A), (...)."""
        return self.choice.log_prob(action[..., None, :])

    def entropy(self) -> Tensor:
        """Entropy in nats, (...)."""
        return self.choice.entropy()


_CONTINUOUS: dict[str, type[ActionDistribution]] = {
    "bounded-normal": BoundedNormal,
    "wide-normal": WideNormal,
    "tanh-normal": TanhNormal,
    "truncated-normal": TruncatedNormal,
}


def action_distribution(name: str, discrete: bool = False) -> type[ActionDistribution]:
    """The distribution with the name of the setting `policy.distribution`; the categorical one for discrete actions."""
    return OneHotAction if discrete else _CONTINUOUS[name]


def _match(family: type[TanhNormal] | type[TruncatedNormal], mean: Tensor, std: Tensor) -> Tensor:
    """Network outputs (..., 2 A) whose actions have this mean and deviation, as nearly as the family's bounds allow.

    What shapes an action, by the tanh or the cut, draws it inwards: the mean and the deviation before it are corrected
    by what is missing after it until nothing is. Where the mean before it can go no further out, the deviation gives
    way: to brake as rarely as recorded matters more than to do so as variedly.
    """
    before, spread = mean, std
    for _ in range(200):
        found, deviation = family(family.raw_of(before, spread)).moments()
        at_bound = before.abs() >= family.largest_mean
        missing = torch.where(at_bound, (1 - mean.abs()) / (1 - found.abs()), std / deviation)
        spread = spread * missing.clamp(0.9, 1.1)
        before = before + (mean - found)
    return family.raw_of(before, spread)


def _normal_log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The normal's ln N(x; mean, std), elementwise."""
    z = (x - mean) / std
    return -0.5 * z.square() - torch.log(std) - _HALF_LOG_2PI


def _density(x: Tensor) -> Tensor:
    """Density of the unit normal."""
    return torch.exp(-0.5 * x.square() - _HALF_LOG_2PI)


def _log_slope_of_tanh(x: Tensor) -> Tensor:
    """The logarithm ln(1 - tanh(x)^2) = 2 (ln 2 - x - softplus(-2 x)), never that of 0."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))
