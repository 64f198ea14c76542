"""The distributions of states and heads behind one interface: `mode`, `mean`, `sample`, `log_prob`, `entropy`, `loss`.

Each has those of them that make sense for it. `loss(target)` is what is minimised to fit the distribution to a target:
the negative log-likelihood, or the error that the papers use in its place. All is computed in float32, whatever the
networks use, except for the pixels, of which there are too many.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def symlog(x: Tensor) -> Tensor:
    """Squash: sign(x) ln(|x| + 1) (DreamerV3, "Robust predictions"). The inverse of `symexp`."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Stretch: sign(x) (exp(|x|) - 1) (DreamerV3, "Robust predictions"). The inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


class StateDistribution(Protocol):
    """The distribution of a state z: `OneHot` or `DiagonalNormal`."""

    @property
    def mode(self) -> Tensor:
        """The likeliest z."""

    def sample(self, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw a z, with a gradient."""

    def entropy(self) -> Tensor:
        """Entropy in nats, (...)."""

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) in nats, (...)."""

    def detach(self) -> Self:
        """The same distribution as a constant."""


class OneHot:
    """Independent categorical variables as one-hot vectors, mixed with a little of the uniform.

    p = (1 - unimix) softmax(logits / temperature) + unimix / C; samples, log-probabilities and divergences all use
    this p, which keeps every one of them finite (DreamerV3, section "World model learning"). Samples carry the
    straight-through gradient of p (DreamerV2, algorithm 1).

    Args:
        logits: (..., G, C), for G variables of C classes.
        unimix: share of the uniform distribution.
        temperature: what logits are divided by.
    """

    def __init__(self, logits: Tensor, unimix: float = 0.0, temperature: float = 1.0) -> None:
        probs = F.softmax(logits.float() / temperature, -1)
        self.probs = (1 - unimix) * probs + unimix / logits.shape[-1]
        self._log_probs: Tensor | None = None

    @property
    def log_probs(self) -> Tensor:
        """(..., G, C)."""
        if self._log_probs is None:
            self._log_probs = torch.log(self.probs.clamp_min(1e-30))
        return self._log_probs

    @property
    def mode(self) -> Tensor:
        """The likeliest classes, exactly one-hot, (..., G, C)."""
        return self._one_hot(self.probs.argmax(-1, keepdim=True))

    def sample(self, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw classes, (..., G, C): exactly one-hot, with the gradient of the probabilities.

        Args:
            noise: uniform in 0 .. 1, (..., G), drawn here where not given. The class drawn is the first at which the
                cumulative probability exceeds it: one random number a variable, where Gumbel noise takes one a class.
            generator: of the noise drawn here; torch's own where not given.
        """
        if noise is None:
            noise = torch.empty_like(self.probs[..., 0]).uniform_(generator=generator)
        index = torch.searchsorted(self.probs.detach().cumsum(-1), noise[..., None].contiguous(), right=True)
        one_hot = self._one_hot(index.clamp_max_(self.probs.shape[-1] - 1))
        return one_hot + (self.probs - self.probs.detach())

    def log_prob(self, one_hot: Tensor) -> Tensor:
        """Log-probability of classes (..., G, C), summed over the variables, (...)."""
        return (one_hot * self.log_probs).sum((-2, -1))

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the variables, (...)."""
        return -(self.probs * self.log_probs).sum((-2, -1))

    def kl(self, other: OneHot) -> Tensor:
        """KL(self || other) in nats, summed over the variables, (...)."""
        return (self.probs * (self.log_probs - other.log_probs)).sum((-2, -1))

    def detach(self) -> OneHot:
        """The same distribution as a constant: the papers' sg(.)."""
        copy = object.__new__(OneHot)
        copy.probs, copy._log_probs = self.probs.detach(), self.log_probs.detach()
        return copy

    def _one_hot(self, index: Tensor) -> Tensor:
        return torch.zeros_like(self.probs).scatter_(-1, index, 1.0)


class DiagonalNormal:
    """Independent normals, none narrower than 0.1 (DreamerV1's latent; PlaNet, arXiv 1811.04551).

    std = softplus(s) + 0.1. Samples carry the reparameterised gradient.

    Args:
        raw: (..., 2 C), the means and then the s of C variables.
        temperature: of the density p^(1 / temperature), whose variance is that many times as large.
    """

    min_std = 0.1

    def __init__(self, raw: Tensor, temperature: float = 1.0) -> None:
        self.mean, std = raw.float().chunk(2, -1)
        self.std = math.sqrt(temperature) * (F.softplus(std) + self.min_std)

    @classmethod
    def raw(cls, mean: Tensor, std: Tensor) -> Tensor:
        """The inverse: network outputs (..., 2 C) that give this mean and deviation; each deviation above 0.1."""
        return torch.cat([mean, torch.log(torch.expm1(std - cls.min_std))], -1)

    @property
    def mode(self) -> Tensor:
        """(..., C)."""
        return self.mean

    def sample(self, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw numbers, (..., C).

        Args:
            noise: standard normal, (..., C), drawn here where not given.
            generator: of the noise drawn here; torch's own where not given.
        """
        if noise is None:
            noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of numbers (..., C), summed over the variables, (...)."""
        z = (x - self.mean) / self.std
        return -(0.5 * z.square() + torch.log(self.std) + _HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the variables, (...)."""
        return (torch.log(self.std) + 0.5 + _HALF_LOG_2PI).sum(-1)

    def kl(self, other: DiagonalNormal) -> Tensor:
        """KL(self || other) in nats, summed over the variables, (...).

        With the ratio of the deviations k = s / s', it is (k^2 + ((m - m') / s')^2 - 1) / 2 - ln k for each.
        """
        ratio = self.std / other.std
        distance = (self.mean - other.mean) / other.std
        return (0.5 * (ratio.square() + distance.square() - 1) - torch.log(ratio)).sum(-1)

    def detach(self) -> DiagonalNormal:
        """The same distribution as a constant: the papers' sg(.)."""
        copy = object.__new__(DiagonalNormal)
        copy.mean, copy.std = self.mean.detach(), self.std.detach()
        return copy


@cache
def symexp_bins(count: int, device: torch.device | None = None) -> Tensor:
    """Bin positions symexp(-20 .. 20), (count,), exactly symmetric around 0 (DreamerV3, "Robust predictions")."""
    half = symexp(torch.linspace(-20, 0, count // 2 + 1, dtype=torch.float64)).float()
    return torch.cat([half[:-1], torch.zeros(1), -half[:-1].flip(0)]).to(device)


class SymexpTwoHot:
    """A number as a categorical distribution over exponentially spaced bins (DreamerV3, "Robust predictions").

    Args:
        logits: (..., bins), an odd number of bins.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()
        self.bins = symexp_bins(logits.shape[-1], logits.device)

    @property
    def mean(self) -> Tensor:
        """Expected value, (...). The two halves are summed from 0 outwards, so that equal logits give exactly 0."""
        probs = F.softmax(self.logits, -1)
        half = self.bins.shape[0] // 2
        weighted = probs * self.bins
        return (weighted[..., half + 1 :] + weighted[..., :half].flip(-1)).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The prediction is the mean, as in the paper."""
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy to the two bins next to `target` (...), weighted by nearness; (...) in nats.

        Targets beyond the outermost bins, +-4.85e8, count as those.
        """
        upper, weight = two_hot(target, self.bins)
        log_probs = F.log_softmax(self.logits, -1)
        low = log_probs.gather(-1, (upper - 1)[..., None])[..., 0]
        high = log_probs.gather(-1, upper[..., None])[..., 0]
        return -((1 - weight) * low + weight * high)


def two_hot(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Place numbers between neighbouring bins, linearly (DreamerV3, "Robust predictions").

    Args:
        target: (...), any real numbers; clamped to the bins.
        bins: (K,), rising.

    Returns:
        Index of the upper of the two neighbours, 1 .. K-1, and its weight, 0 .. 1; the lower one has the rest.
    """
    target = target.float().clamp(bins[0], bins[-1])
    upper = torch.searchsorted(bins, target.contiguous()).clamp(1, bins.shape[0] - 1)
    low, high = bins[upper - 1], bins[upper]
    return upper, (target - low) / (high - low)


class UnitNormal:
    """A number as the mean of a normal of deviation 1 (DreamerV1 and V2's rewards and values).

    Args:
        mean: (...).
    """

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean.float()

    @property
    def mode(self) -> Tensor:
        """(...)."""
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        """-ln N(target; mean, 1), its constant included, (...) in nats."""
        return 0.5 * (target.float() - self.mean).square() + _HALF_LOG_2PI


class Bernoulli:
    """A yes or no, such as "the episode goes on".

    Args:
        logits: (...).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()

    @property
    def mean(self) -> Tensor:
        """Probability of yes, (...)."""
        return torch.sigmoid(self.logits)

    @property
    def mode(self) -> Tensor:
        """1 where yes is likelier, (...)."""
        return (self.logits > 0).float()

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy to `target` in 0 .. 1, (...) in nats; a soft target, between the two, is learned as a mean."""
        return F.binary_cross_entropy_with_logits(self.logits, target.float(), reduction="none")


class Always:
    """A yes that is certain, and not learned: "the episode goes on", where there is no continue head.

    Args:
        feature: (..., F), of which the leading axes count.
    """

    def __init__(self, feature: Tensor) -> None:
        self.mean = torch.ones(feature.shape[:-1], device=feature.device)

    @property
    def mode(self) -> Tensor:
        """Ones, (...)."""
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        """Nothing, (...)."""
        return torch.zeros_like(self.mean)


class Pixels:
    """A predicted picture; its loss is the squared error (DreamerV3: the sum over pixels, no half, no constant).

    Args:
        mean: (..., 3, S, S), 0 .. 1.
    """

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    @property
    def mode(self) -> Tensor:
        """The picture, (..., 3, S, S), 0 .. 1."""
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        """Squared error to `target` (..., 3, S, S) in 0 .. 1, summed over the picture, (...)."""
        return (self.mean - target).square().sum((-3, -2, -1))


class NormalPixels:
    """A predicted picture as means of normals of deviation 1 (DreamerV1 and V2).

    The constant of a picture of 64 x 64 alone is 12288 / 2 ln 2 pi, about 11292 nats.

    Args:
        mean: (..., 3, S, S), about -0.5 .. 0.5, without bounds.
    """

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    @property
    def mode(self) -> Tensor:
        """The picture, (..., 3, S, S), cut to 0 .. 1."""
        return (self.mean + 0.5).clamp(0, 1)

    def loss(self, target: Tensor) -> Tensor:
        """-ln N(target - 0.5; mean, 1) of `target` (..., 3, S, S) in 0 .. 1, summed over the picture, (...)."""
        pixels = math.prod(self.mean.shape[-3:])
        return 0.5 * (self.mean - (target - 0.5)).square().sum((-3, -2, -1)) + pixels * _HALF_LOG_2PI
