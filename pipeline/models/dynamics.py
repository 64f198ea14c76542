"""The recurrent state-space model (PlaNet, arXiv 1811.04551; with categorical latents: DreamerV2, equation 1).

h_t = f(h_{t-1}, z_{t-1}, a_{t-1})      recurrent state
z_t ~ p(z_t | h_t)                      prior: imagines without looking
z_t ~ q(z_t | h_t, o_t)                 posterior: looks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelSettings
from .distributions import OneHot
from .networks import Mlp, Norm


@dataclass(frozen=True)
class Latent:
    """The state of the world as the model sees it.

    Attributes:
        deter: (..., D), the recurrent state h.
        stoch: (..., G * C), the one-hot samples z, flattened.
    """

    deter: Tensor
    stoch: Tensor

    @property
    def feature(self) -> Tensor:
        """[h, z], (..., D + G * C): what decoder, heads, actor and critic read."""
        return torch.cat([self.deter, self.stoch.to(self.deter.dtype)], -1)

    def detach(self) -> Latent:
        """The same state as constants: the papers' sg(.)."""
        return Latent(self.deter.detach(), self.stoch.detach())

    def where(self, chosen: Tensor, other: Latent) -> Latent:
        """This state where `chosen` (N,) is true, else the other; both (N, ...)."""
        mask = chosen[:, None]
        return Latent(torch.where(mask, self.deter, other.deter), torch.where(mask, self.stoch, other.stoch))

    def __getitem__(self, index: Any) -> Latent:
        """Index the leading axes of every part."""
        return Latent(self.deter[index], self.stoch[index])


def stack(states: Sequence[Latent], axis: int) -> Latent:
    """Put states side by side along a new axis."""
    return Latent(torch.stack([s.deter for s in states], axis), torch.stack([s.stoch for s in states], axis))


class RecurrentDynamics(nn.Module):
    """The recurrent state-space model with categorical latents.

    Args:
        settings: sizes.
        actions: width of an action.
        embedding: width of an encoded observation.
    """

    def __init__(self, settings: ModelSettings, actions: int, embedding: int) -> None:
        super().__init__()
        self.settings = settings
        deter, hidden = settings.deter, settings.hidden
        latent = settings.groups * settings.classes
        self.input = nn.Sequential(nn.Linear(latent + actions, hidden, bias=False), Norm(hidden), nn.SiLU())
        self.gates = nn.Sequential(nn.Linear(hidden + deter, 3 * deter, bias=False), Norm(3 * deter))
        self.prior_logits = Mlp(deter, hidden, 1, latent)
        self.from_embedding = nn.Linear(embedding, hidden, bias=False)
        self.from_deter = nn.Linear(deter, hidden, bias=False)
        self.posterior_logits = nn.Sequential(Norm(hidden), nn.SiLU(), nn.Linear(hidden, latent))

    def initial(self, *batch: int, device: torch.device | None = None) -> Latent:
        """The state before the first observation: zeros, with leading axes `batch`."""
        s = self.settings
        return Latent(
            torch.zeros(*batch, s.deter, device=device), torch.zeros(*batch, s.groups * s.classes, device=device)
        )

    def distribution(self, logits: Tensor) -> OneHot:
        """The distribution of z with these logits, (..., G, C)."""
        return OneHot(logits, self.settings.unimix)

    def advance(self, latent: Latent, action: Tensor) -> Tensor:
        """h_t from the state and the action before it.

        A gated recurrent unit in the form of DreamerV2 and V3: normalised gates, the reset inside the candidate's
        tanh, the update gate biased by -1 towards remembering.

        Args:
            latent: (N, ...).
            action: (N, A), -1 .. 1.
        """
        x = self.input(torch.cat([latent.stoch, action], -1))
        reset, candidate, update = self.gates(torch.cat([x, latent.deter], -1)).float().chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * latent.deter

    def prior(self, deter: Tensor) -> Tensor:
        """Logits (..., G, C) of p(z | h)."""
        return self._shape(self.prior_logits(deter))

    def posterior(self, deter: Tensor, projected: Tensor) -> Tensor:
        """Logits (..., G, C) of q(z | h, o), from h and the projected embedding of o (`project`)."""
        return self._shape(self.posterior_logits(self.from_deter(deter) + projected))

    def project(self, embedding: Tensor) -> Tensor:
        """The part of the posterior that does not wait for h: one matrix product for all steps at once."""
        projected: Tensor = self.from_embedding(embedding)
        return projected

    def observe_step(
        self,
        latent: Latent,
        action: Tensor,
        projected: Tensor,
        is_first: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Latent, Tensor]:
        """One step with an observation: the posterior state, and the logits (N, G, C) it was drawn from.

        Args:
            latent: the state before, (N, ...).
            action: the action that led to the observation, (N, A).
            projected: `project` of its embedding, (N, hidden).
            is_first: (N,) bool; there, neither the state nor the action before counts.
            noise, generator: see `OneHot.sample`.
        """
        keep = (~is_first)[:, None].to(action.dtype)
        deter = self.advance(Latent(latent.deter * keep, latent.stoch * keep), action * keep)
        logits = self.posterior(deter, projected)
        return Latent(deter, self._draw(logits, noise, generator)), logits

    def observe(self, embedding: Tensor, action: Tensor, is_first: Tensor) -> tuple[Latent, Tensor]:
        """Posterior states of a sequence.

        Args:
            embedding: (B, T, E), encoded observations.
            action: (B, T, A), the action that led to each.
            is_first: (B, T) bool.

        Returns:
            States (B, T, ...), and the logits (B, T, G, C) they were drawn from.
        """
        b, t = is_first.shape
        projected = self.project(embedding)  # (B, T, hidden)
        latent = self.initial(b, device=embedding.device)
        noise = torch.rand(t, b, self.settings.groups, device=embedding.device)
        states: list[Latent] = []
        logits: list[Tensor] = []
        for i in range(t):
            latent, step = self.observe_step(latent, action[:, i], projected[:, i], is_first[:, i], noise[i])
            states.append(latent)
            logits.append(step)
        return stack(states, 1), torch.stack(logits, 1)

    def imagine_step(self, latent: Latent, action: Tensor) -> Latent:
        """One step without an observation: the prior state after `action` (N, A)."""
        deter = self.advance(latent, action)
        return Latent(deter, self._draw(self.prior(deter)))

    def _draw(self, logits: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return self.distribution(logits).sample(noise, generator).flatten(-2)

    def _shape(self, logits: Tensor) -> Tensor:
        shaped: Tensor = logits.float().unflatten(-1, (self.settings.groups, self.settings.classes))
        return shaped


class PriorEnsemble(nn.Module):
    """Further prior heads, cheap ones, each from its own random start; where they disagree, the model is guessing.

    The disagreement is the variance of the class probabilities over the heads (Plan2Explore, arXiv 2005.05960, for a
    categorical latent), summed over variables and classes: 0 where the heads agree.

    Args:
        settings: sizes; `ensemble` heads of `ensemble_units`.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.shape = (settings.groups, settings.classes)
        heads, units, latent = settings.ensemble, settings.ensemble_units, settings.groups * settings.classes
        self.hidden = nn.Linear(settings.deter, heads * units)  # all the heads' first layers in one product
        self.out = nn.Parameter(torch.randn(heads, units, latent) / units**0.5)
        self.bias = nn.Parameter(torch.zeros(heads, 1, latent))

    def forward(self, deter: Tensor) -> Tensor:
        """(..., D) to logits (K, ..., G, C)."""
        rows = deter.flatten(0, -2)
        x = F.silu(self.hidden(rows)).unflatten(-1, (self.out.shape[0], -1)).transpose(0, 1)  # (K, N, units)
        logits = torch.baddbmm(self.bias.to(x.dtype), x, self.out.to(x.dtype))
        return logits.float().reshape(-1, *deter.shape[:-1], *self.shape)

    def disagreement(self, deter: Tensor) -> Tensor:
        """Variance of the probabilities over the heads, summed over variables and classes, (...)."""
        probs = F.softmax(self(deter), -1)  # (K, ..., G, C)
        return (probs - probs.mean(0)).square().sum((-2, -1)).mean(0)

    def loss(self, deter: Tensor, target: OneHot) -> Tensor:
        """Cross-entropy of each head to the posterior, mean over the heads, (...) in nats."""
        log_probs = F.log_softmax(self(deter), -1)
        return -(target.probs * log_probs).sum((-2, -1)).mean(0)
