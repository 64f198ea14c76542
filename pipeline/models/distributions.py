"""The distributions of the papers behind one interface: `mode`, `mean`, `sample`, `log_prob`, `entropy`, `loss`.

Each has those of them that make sense for it. `loss(target)` is what is minimised to fit the distribution to a target:
the negative log-likelihood, or the error that the papers use in its place. All is computed in float32, whatever the
networks use, except for the pixels, of which there are too many.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """Squash: sign(x) ln(|x| + 1) (DreamerV3, "Robust predictions"). The inverse of `symexp`."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Stretch: sign(x) (exp(|x|) - 1) (DreamerV3, "Robust predictions"). The inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


class OneHot:
    """Independent categorical variables as one-hot vectors, mixed with a little of the uniform.

    p = (1 - unimix) softmax(logits) + unimix / C; samples, log-probabilities and divergences all use this p, which
    keeps every one of them finite (DreamerV3, section "Robust predictions"). Samples carry the straight-through
    gradient of p (DreamerV2, algorithm 1).

    Args:
        logits: (..., G, C), for G variables of C classes.
        unimix: share of the uniform distribution.
    """

    def __init__(self, logits: Tensor, unimix: float = 0.0) -> None:
        probs = F.softmax(logits.float(), -1)
        self.probs = (1 - unimix) * probs + unimix / logits.shape[-1]

    @property
    def log_probs(self) -> Tensor:
        """(..., G, C)."""
        return torch.log(self.probs.clamp_min(1e-30))

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
        below = self.probs.detach().cumsum(-1) <= noise[..., None]
        one_hot = self._one_hot(below.sum(-1, keepdim=True).clamp_max(self.probs.shape[-1] - 1))
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
        copy.probs = self.probs.detach()
        return copy

    def _one_hot(self, index: Tensor) -> Tensor:
        return torch.zeros_like(self.probs).scatter_(-1, index, 1.0)


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
        """Cross-entropy to `target` in 0 .. 1, (...) in nats."""
        return F.binary_cross_entropy_with_logits(self.logits, target.float(), reduction="none")


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


class BoundedNormal:
    """Independent normals, means within -1 .. 1, deviations within 0.1 .. 1 (DreamerV3's `bounded_normal`).

    mean = tanh(m), std = (1 - 0.1) sigmoid(s + 2) + 0.1. Samples may leave -1 .. 1; whoever acts clips them, and
    log-probabilities are those of the sample before clipping.

    Args:
        raw: (..., 2 A), the m and then the s of each action dimension.
    """

    min_std, max_std = 0.1, 1.0

    def __init__(self, raw: Tensor) -> None:
        mean, std = raw.float().chunk(2, -1)
        self.mean = torch.tanh(mean)
        self.std = (self.max_std - self.min_std) * torch.sigmoid(std + 2.0) + self.min_std

    @classmethod
    def raw(cls, mean: Tensor, std: Tensor) -> Tensor:
        """The inverse: network outputs (..., 2 A) that give this mean and deviation, as nearly as the bounds allow."""
        inside = ((std - cls.min_std) / (cls.max_std - cls.min_std)).clamp(0.02, 0.98)
        return torch.cat([torch.atanh(mean.clamp(-0.98, 0.98)), torch.logit(inside) - 2.0], -1)

    @property
    def mode(self) -> Tensor:
        """(..., A)."""
        return self.mean

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
        z = (action - self.mean) / self.std
        return (-0.5 * z.square() - torch.log(self.std) - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the dimensions, (...)."""
        return (torch.log(self.std) + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
