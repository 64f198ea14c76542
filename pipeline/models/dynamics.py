"""How the state of the world moves: the recurrent state-space model, its three cells, and a model without memory.

h_t = f(h_{t-1}, z_{t-1}, a_{t-1})      recurrent state (PlaNet, arXiv 1811.04551)
z_t ~ p(z_t | h_t)                      prior: imagines without looking
z_t ~ q(z_t | h_t, o_t)                 posterior: looks

z is Gaussian (DreamerV1) or made of categorical variables (DreamerV2, equation 1). Without memory there is no h, and
z_t ~ p(z_t | z_{t-1}, a_{t-1}), z_t ~ q(z_t | o_t).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelSettings
from . import fused
from .distributions import DiagonalNormal, OneHot, StateDistribution
from .networks import BlockLinear, LayerNorm, Mlp, dense, has_bias, make_activation, make_norm, product_dtype


@dataclass(frozen=True)
class Latent:
    """The state of the world as the model sees it.

    Attributes:
        deter: (..., H), the recurrent state h; without memory H is 0.
        stoch: (..., Z), the sample z: one-hot vectors side by side, or real numbers.
    """

    deter: Tensor
    stoch: Tensor

    @property
    def feature(self) -> Tensor:
        """[h, z], (..., H + Z): what decoder, heads, actor and critic read."""
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


class Dynamics(nn.Module, ABC):
    """What all dynamics share: the two parts of the state, and how z is drawn.

    A distribution of z is handed around by its parameters ("logits"): (..., G, C) of G categorical variables, or
    (..., 2 Z) of a Gaussian, see `OneHot` and `DiagonalNormal`.

    Attributes:
        deter_width, stoch_width: of h and z.
        logits_width: numbers that a network gives for a distribution of z.

    Args:
        settings: sizes, and the kind of z.
        deter: width of h.
    """

    from_embedding: nn.Linear

    def __init__(self, settings: ModelSettings, deter: int) -> None:
        super().__init__()
        self.settings = settings
        self.gaussian = settings.latent == "gaussian"
        self.deter_width = deter
        self.stoch_width = settings.stoch if self.gaussian else settings.groups * settings.classes
        self.logits_width = 2 * settings.stoch if self.gaussian else self.stoch_width

    @abstractmethod
    def observe_step(
        self,
        latent: Latent,
        action: Tensor,
        projected: Tensor,
        is_first: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Latent, Tensor]:
        """One step with an observation: the posterior state (N, ...), and the logits (N, ...) it was drawn from.

        Args:
            latent: the state before, (N, ...).
            action: the action that led to the observation, (N, A).
            projected: `project` of its embedding, (N, hidden).
            is_first: (N,) bool; there, neither the state nor the action before counts.
            noise, generator: see `OneHot.sample` and `DiagonalNormal.sample`.
        """

    @abstractmethod
    def observe(self, embedding: Tensor, action: Tensor, is_first: Tensor) -> tuple[Latent, Tensor]:
        """Posterior states of a sequence.

        Args:
            embedding: (B, T, E), encoded observations.
            action: (B, T, A), the action that led to each.
            is_first: (B, T) bool.

        Returns:
            States (B, T, ...), and the logits (B, T, ...) they were drawn from.
        """

    @abstractmethod
    def priors(self, states: Latent, action: Tensor, is_first: Tensor) -> Tensor:
        """Logits (B, T, ...) of what was to be expected at each state of an observed sequence before looking.

        Args:
            states: what `observe` gave, (B, T, ...).
            action, is_first: what it was given, (B, T, ...).
        """

    @abstractmethod
    def imagine_step(
        self, latent: Latent, action: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Latent:
        """One step without an observation: the prior state after `action` (N, A), drawn at this temperature.

        Args:
            latent: the state before, (N, ...).
            action: (N, A), -1 .. 1.
            temperature: see `distribution`.
            generator: see `OneHot.sample` and `DiagonalNormal.sample`.
        """

    def initial(self, *batch: int, device: torch.device | None = None) -> Latent:
        """The state before the first observation: zeros, with leading axes `batch`."""
        return Latent(
            torch.zeros(*batch, self.deter_width, device=device), torch.zeros(*batch, self.stoch_width, device=device)
        )

    def distribution(self, logits: Tensor, temperature: float = 1.0) -> StateDistribution:
        """The distribution of z with these logits; at another temperature than 1, flatter or more peaked."""
        if self.gaussian:
            return DiagonalNormal(logits, temperature)
        return OneHot(logits, self.settings.unimix, temperature)

    def project(self, embedding: Tensor) -> Tensor:
        """The part of the posterior that does not wait for h: one matrix product for all steps at once."""
        projected: Tensor = self.from_embedding(embedding)
        return projected

    def _posterior_head(self) -> nn.Sequential:
        """What makes logits of the sum of h and e, each through a layer: of the papers' layer on [h, e] the rest."""
        s = self.settings
        return nn.Sequential(
            make_norm(s.norm, s.hidden), make_activation(s.activation), nn.Linear(s.hidden, self.logits_width)
        )

    def _noise(self, *batch: int, device: torch.device) -> Tensor:
        """What z is made of, drawn for many steps at once: see `OneHot.sample` and `DiagonalNormal.sample`."""
        if self.gaussian:
            return torch.randn(*batch, self.stoch_width, device=device)
        return torch.rand(*batch, self.settings.groups, device=device)

    def _draw(
        self,
        logits: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        sample = self.distribution(logits, temperature).sample(noise, generator)
        return sample if self.gaussian else sample.flatten(-2)

    def _shape(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits if self.gaussian else logits.unflatten(-1, (self.settings.groups, self.settings.classes))


class RecurrentDynamics(Dynamics):
    """The recurrent state-space model. Its cells differ in `_build_cell` and `advance`.

    Args:
        settings: sizes.
        actions: width of an action.
        embedding: width of an encoded observation.
    """

    prior_layers = 1

    def __init__(self, settings: ModelSettings, actions: int, embedding: int) -> None:
        super().__init__(settings, settings.deter)
        deter, hidden, norm, activation = settings.deter, settings.hidden, settings.norm, settings.activation
        self._build_cell(actions)
        self.prior_logits = Mlp(deter, hidden, self.prior_layers, self.logits_width, norm, activation)
        self.from_embedding = nn.Linear(embedding, hidden, bias=False)
        self.from_deter = nn.Linear(deter, hidden, bias=has_bias(norm))
        self.posterior_logits = self._posterior_head()

    @abstractmethod
    def _build_cell(self, actions: int) -> None:
        """Make the layers of `advance`."""

    @abstractmethod
    def advance(self, latent: Latent, action: Tensor) -> Tensor:
        """h_t from the state and the action before it.

        Args:
            latent: (N, ...).
            action: (N, A), -1 .. 1.
        """

    def prior(self, deter: Tensor) -> Tensor:
        """Logits of p(z | h)."""
        return self._shape(self.prior_logits(deter))

    def posterior(self, deter: Tensor, projected: Tensor) -> Tensor:
        """Logits of q(z | h, o), from h and the projected embedding of o (`project`).

        The papers' layer on [h, e], as the sum of a layer on each.
        """
        return self._shape(self.posterior_logits(self.from_deter(deter) + projected))

    def observe_step(
        self,
        latent: Latent,
        action: Tensor,
        projected: Tensor,
        is_first: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Latent, Tensor]:
        """See `Dynamics.observe_step`."""
        keep = (~is_first)[:, None].to(action.dtype)
        deter = self.advance(Latent(latent.deter * keep, latent.stoch * keep), action * keep)
        logits = self.posterior(deter, projected)
        return Latent(deter, self._draw(logits, noise, generator)), logits

    def observe(self, embedding: Tensor, action: Tensor, is_first: Tensor) -> tuple[Latent, Tensor]:
        """See `Dynamics.observe`; one step after the other."""
        b, t = is_first.shape
        return self._observe(self.project(embedding), action, is_first, self._noise(t, b, device=embedding.device))

    def _observe(self, projected: Tensor, action: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Latent, Tensor]:
        """The same from the projected embeddings (B, T, hidden) and the noise (T, B, ...)."""
        b, t = is_first.shape
        latent = self.initial(b, device=projected.device)
        states: list[Latent] = []
        logits: list[Tensor] = []
        for i in range(t):
            latent, step = self.observe_step(latent, action[:, i], projected[:, i], is_first[:, i], noise[i])
            states.append(latent)
            logits.append(step)
        return stack(states, 1), torch.stack(logits, 1)

    def priors(self, states: Latent, action: Tensor, is_first: Tensor) -> Tensor:
        """See `Dynamics.priors`: h holds all that counts."""
        return self.prior(states.deter)

    def imagine_step(
        self, latent: Latent, action: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Latent:
        """See `Dynamics.imagine_step`."""
        deter = self.advance(latent, action)
        return Latent(deter, self._draw(self.prior(deter), None, generator, temperature))


class NormedDynamics(RecurrentDynamics):
    """A gated recurrent unit with normalised gates (DreamerV2, `GRUCell`).

    x = layer([z, a]);  r, c, u = norm(W [x, h])
    h' = sigmoid(u - 1) tanh(sigmoid(r) c) + (1 - sigmoid(u - 1)) h

    The reset lies inside the candidate's tanh; the update gate is biased by -1 towards remembering.
    """

    def _build_cell(self, actions: int) -> None:
        s = self.settings
        self.input = nn.Sequential(*dense(self.stoch_width + actions, s.hidden, s.norm, s.activation))
        self.gates = nn.Sequential(nn.Linear(s.hidden + s.deter, 3 * s.deter, bias=False), LayerNorm(3 * s.deter))

    def advance(self, latent: Latent, action: Tensor) -> Tensor:
        """See `RecurrentDynamics.advance`."""
        x = self.input(torch.cat([latent.stoch, action], -1))
        return _gated(self.gates(torch.cat([x, latent.deter], -1)).float().chunk(3, -1), latent.deter)

    def _observe(self, projected: Tensor, action: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Latent, Tensor]:
        """By hand, where the parts are those of the default model."""
        s = self.settings
        other = self.gaussian or s.norm != "layer" or s.activation != "silu" or action.requires_grad
        other |= action.device.type != "cpu"  # whose kernels alone norm bfloat16 with a float32 scale
        if other or torch.compiler.is_compiling():  # a compiler wants to see through it, and fuses by itself
            return super()._observe(projected, action, is_first, noise)
        plan = fused.Plan(s.groups, s.classes, s.unimix, LayerNorm.epsilon, product_dtype(action.device))
        # The modules in the order of `fused.Weights`: layer and norm, three times, and the last layer.
        posterior = self.posterior_logits
        modules = (self.input[0], self.input[1], *self.gates, self.from_deter, posterior[0], posterior[2])
        weights = fused.Weights._make(weight for module in modules for weight in module.parameters())
        deter, stoch, logits = fused.observe(plan, weights, projected, action, is_first, noise)
        return Latent(deter, stoch), logits


class PlainDynamics(RecurrentDynamics):
    """The textbook gated recurrent unit (DreamerV1; Keras' and torch's `GRUCell`, the reset behind the product).

    x = layer([z, a]);  r, u, c = W x + b;  r', u', c' = V h + d
    h' = (1 - sigmoid(u + u')) tanh(c + sigmoid(r + r') c') + sigmoid(u + u') h
    """

    def _build_cell(self, actions: int) -> None:
        s = self.settings
        self.input = nn.Sequential(*dense(self.stoch_width + actions, s.hidden, s.norm, s.activation))
        self.input_gates = nn.Linear(s.hidden, 3 * s.deter)
        self.deter_gates = nn.Linear(s.deter, 3 * s.deter)

    def advance(self, latent: Latent, action: Tensor) -> Tensor:
        """See `RecurrentDynamics.advance`."""
        x = self.input(torch.cat([latent.stoch, action], -1))
        reset, update, candidate = self.input_gates(x).float().chunk(3, -1)
        reset_h, update_h, candidate_h = self.deter_gates(latent.deter).float().chunk(3, -1)
        candidate = torch.tanh(candidate + torch.sigmoid(reset + reset_h) * candidate_h)
        update = torch.sigmoid(update + update_h)
        return (1 - update) * candidate + update * latent.deter


class BlockDynamics(RecurrentDynamics):
    """A gated recurrent unit in blocks of h, which meet in its inputs alone (DreamerV3, `_core`).

    x = [layer(h), layer(z), layer(a / max(1, |a|))];  each block k sees [h_k, x]
    r, c, u = W layer([h_k, x]), block by block;  h' as in `NormedDynamics`
    """

    prior_layers = 2

    def _build_cell(self, actions: int) -> None:
        s = self.settings
        inputs = (s.deter, self.stoch_width, actions)
        self.inputs = nn.ModuleList(nn.Sequential(*dense(width, s.hidden, s.norm, s.activation)) for width in inputs)
        self.block = nn.Sequential(
            BlockLinear(s.deter + s.blocks * len(inputs) * s.hidden, s.deter, s.blocks),
            make_norm(s.norm, s.deter),
            make_activation(s.activation),
        )
        self.gates = BlockLinear(s.deter, 3 * s.deter, s.blocks)

    def advance(self, latent: Latent, action: Tensor) -> Tensor:
        """See `RecurrentDynamics.advance`."""
        action = action / action.abs().clamp_min(1).detach()
        parts = zip(self.inputs, (latent.deter, latent.stoch, action), strict=True)
        x = torch.cat([layer(part) for layer, part in parts], -1)  # (N, 3 hidden)
        blocks = latent.deter.unflatten(-1, (self.settings.blocks, -1))  # (N, K, H / K)
        x = torch.cat([blocks, x[:, None].expand(-1, self.settings.blocks, -1)], -1)  # (N, K, H / K + 3 hidden)
        gates = self.gates(self.block(x.flatten(1))).float().unflatten(-1, (self.settings.blocks, 3, -1))
        return _gated([gate.flatten(1) for gate in gates.unbind(2)], latent.deter)


def _gated(gates: Sequence[Tensor], deter: Tensor) -> Tensor:
    """The next h of DreamerV2 and V3, from reset, candidate and update, each (N, H) before its squashing."""
    reset, candidate, update = gates
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update - 1)
    return update * candidate + (1 - update) * deter


class MemorylessDynamics(Dynamics):
    """A state that the latest observation alone decides: no h, and no step that waits for the one before.

    Where nothing came before, the prior is the standard normal, or uniform over the classes.

    Args:
        settings: sizes.
        actions: width of an action.
        embedding: width of an encoded observation.
    """

    unknown: Tensor

    def __init__(self, settings: ModelSettings, actions: int, embedding: int) -> None:
        super().__init__(settings, 0)
        hidden, norm, activation = settings.hidden, settings.norm, settings.activation
        self.prior_logits = Mlp(self.stoch_width + actions, hidden, 2, self.logits_width, norm, activation)
        self.from_embedding = nn.Linear(embedding, hidden, bias=has_bias(norm))
        self.posterior_logits = self._posterior_head()
        zeros = torch.zeros(self.stoch_width)
        self.register_buffer(
            "unknown", DiagonalNormal.raw(zeros, zeros + 1) if self.gaussian else zeros, persistent=False
        )

    def prior(self, stoch: Tensor, action: Tensor) -> Tensor:
        """Logits of p(z' | z, a)."""
        return self._shape(self.prior_logits(torch.cat([stoch, action], -1)))

    def posterior(self, projected: Tensor) -> Tensor:
        """Logits of q(z | o), from the projected embedding of o (`project`)."""
        return self._shape(self.posterior_logits(projected))

    def observe_step(
        self,
        latent: Latent,
        action: Tensor,
        projected: Tensor,
        is_first: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Latent, Tensor]:
        """See `Dynamics.observe_step`; the observation alone counts."""
        logits = self.posterior(projected)
        return self._latent(self._draw(logits, noise, generator)), logits

    def observe(self, embedding: Tensor, action: Tensor, is_first: Tensor) -> tuple[Latent, Tensor]:
        """See `Dynamics.observe`; all steps at once."""
        logits = self.posterior(self.project(embedding))
        return self._latent(self._draw(logits, self._noise(*is_first.shape, device=embedding.device))), logits

    def priors(self, states: Latent, action: Tensor, is_first: Tensor) -> Tensor:
        """See `Dynamics.priors`; nothing is known before a sequence's own first row either."""
        logits = self.prior(states.stoch[:, :-1], action[:, 1:])
        unknown = self._shape(self.unknown).expand(len(logits), 1, *logits.shape[2:])
        known = ~is_first[:, 1:].reshape(*logits.shape[:2], *[1] * (logits.ndim - 2))
        return torch.cat([unknown, torch.where(known, logits, unknown)], 1)

    def imagine_step(
        self, latent: Latent, action: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Latent:
        """See `Dynamics.imagine_step`."""
        return self._latent(self._draw(self.prior(latent.stoch, action), None, generator, temperature))

    def _latent(self, stoch: Tensor) -> Latent:
        return Latent(stoch.new_zeros(*stoch.shape[:-1], 0), stoch)


_CELLS: dict[str, Callable[[ModelSettings, int, int], Dynamics]] = {
    "normed": NormedDynamics,
    "plain": PlainDynamics,
    "blocks": BlockDynamics,
}


def make_dynamics(settings: ModelSettings, actions: int, embedding: int) -> Dynamics:
    """The dynamics that the settings name.

    Args:
        settings: sizes.
        actions: width of an action.
        embedding: width of an encoded observation.
    """
    if settings.dynamics == "memoryless":
        return MemorylessDynamics(settings, actions, embedding)
    return _CELLS[settings.cell](settings, actions, embedding)


class PriorEnsemble(nn.Module):
    """Further prior heads, cheap ones, each from its own random start; where they disagree, the model is guessing.

    The disagreement is the variance over the heads (Plan2Explore, arXiv 2005.05960) of the class probabilities, or of
    a Gaussian's means, summed over the numbers of z: 0 where the heads agree.

    Args:
        settings: sizes; `ensemble` heads of `ensemble_units`.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.gaussian = settings.latent == "gaussian"
        self.shape = (2 * settings.stoch,) if self.gaussian else (settings.groups, settings.classes)
        heads, units, latent = settings.ensemble, settings.ensemble_units, math.prod(self.shape)
        self.hidden = nn.Linear(settings.deter, heads * units)  # all the heads' first layers in one product
        self.out = nn.Parameter(torch.randn(heads, units, latent) / units**0.5)
        self.bias = nn.Parameter(torch.zeros(heads, 1, latent))

    def forward(self, deter: Tensor) -> Tensor:
        """(..., H) to logits (K, ..., G, C), or (K, ..., 2 Z)."""
        rows = deter.flatten(0, -2)
        x = F.silu(self.hidden(rows)).unflatten(-1, (self.out.shape[0], -1)).transpose(0, 1)  # (K, N, units)
        logits = torch.baddbmm(self.bias.to(x.dtype), x, self.out.to(x.dtype))
        return logits.float().reshape(-1, *deter.shape[:-1], *self.shape)

    def disagreement(self, deter: Tensor) -> Tensor:
        """Variance of the probabilities or means over the heads, summed over z, (...)."""
        logits = self(deter)
        predicted = DiagonalNormal(logits).mean if self.gaussian else F.softmax(logits, -1)  # (K, ..., Z or G, C)
        return (predicted - predicted.mean(0)).square().sum(tuple(range(-len(self.shape), 0))).mean(0)

    def loss(self, deter: Tensor, target: StateDistribution) -> Tensor:
        """Cross-entropy of each head to the posterior, mean over the heads, (...) in nats."""
        logits = self(deter)
        if isinstance(target, DiagonalNormal):
            return (target.kl(DiagonalNormal(logits)) + target.entropy()).mean(0)
        assert isinstance(target, OneHot)
        return -(target.probs * F.log_softmax(logits, -1)).sum((-2, -1)).mean(0)
