"""The default model's observed sequence, forwards and backwards by hand: the same numbers, in less time.

A step of the sequence is some forty small operations, and each takes longer to call, and to note down for automatic
differentiation, than to compute. Here a step is about twenty of them, and as many backwards. What need not wait for
another step is done for all at once: the product with the actions, and the gradients of the weights, which automatic
differentiation makes at each step, products of a few rows, and adds up.

`NormedDynamics` and `RecurrentDynamics` say what is computed. In short, one step is

    u = W_in [z, a]        x = silu(norm(u))            z, h, a: those before, 0 where the row is an episode's first
    q = W_gates [x, h]     r, c, v = norm(q)            h' = lerp(h, tanh(sigmoid(r) c), sigmoid(v - 1))
    d = W_deter h' + e     y = silu(norm(d))            l = W_out y + b_out
    p = (1 - m) softmax(l) + m / C                      z' ~ p, with the gradient of p
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_layer_norm = torch.ops.aten.native_layer_norm
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward
_silu_backward = torch.ops.aten.silu_backward
_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward
_softmax_backward = torch.ops.aten._softmax_backward_data


class Weights(NamedTuple):
    """The parameters of a step as `torch.nn` lays them out; scales and shifts are those of the norms behind."""

    w_in: Tensor  # (hidden, Z + A)
    in_scale: Tensor
    in_shift: Tensor
    w_gates: Tensor  # (3 H, hidden + H)
    gates_scale: Tensor
    gates_shift: Tensor
    w_deter: Tensor  # (hidden, H)
    deter_scale: Tensor
    deter_shift: Tensor
    w_out: Tensor  # (G C, hidden)
    b_out: Tensor


class Plan(NamedTuple):
    """What is not a tensor: variables and classes of z, share of the uniform, the norms' epsilon, precision."""

    groups: int
    classes: int
    unimix: float
    eps: float
    dtype: torch.dtype


class _Norm:
    """A layer norm over the last axis at every step; the gradients of its scale and shift are made at the end."""

    def __init__(self, scale: Tensor, shift: Tensor, eps: float) -> None:
        self.scale, self.shift, self.eps = scale, shift, eps
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self.gradients: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """(N, width), of the next step."""
        out, mean, rstd = _layer_norm(x, x.shape[-1:], self.scale, self.shift, self.eps)
        self.steps.append((x, mean, rstd))
        normed: Tensor = out
        return normed

    def backward(self, gradient: Tensor, t: int) -> Tensor:
        """Gradient of step t's input, (N, width); to be asked for from the last step to the first."""
        self.gradients.append(gradient)
        return self._backward(gradient, *self.steps[t], [True, False, False])[0]

    def parameter_gradients(self) -> list[Tensor]:
        """Of scale and shift."""
        x, mean, rstd = (torch.cat(parts) for parts in zip(*self.steps, strict=True))
        return self._backward(torch.cat(self.gradients[::-1]), x, mean, rstd, [False, True, True])[1:]

    def _backward(self, gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, wanted: list[bool]) -> list[Tensor]:
        found = _layer_norm_backward(gradient, x, x.shape[-1:], mean, rstd, self.scale, self.shift, wanted)
        return list(found)


class _Step(NamedTuple):
    """What a step leaves for the way back, each (N, ...)."""

    normed_in: Tensor
    deter: Tensor  # h, the one before
    reset: Tensor  # sigmoid(r)
    raw: Tensor  # c
    candidate: Tensor
    update: Tensor
    normed_deter: Tensor
    softmax: Tensor


class _Sequence:
    """The steps of a sequence, time first.

    Args:
        plan, weights: see there.
        projected: e, (T, N, hidden).
        action: (T, N, A).
        is_first: (T, N) bool.
        noise: (T, N, G), uniform, of which z is made.
    """

    def __init__(
        self, plan: Plan, weights: Weights, projected: Tensor, action: Tensor, is_first: Tensor, noise: Tensor
    ) -> None:
        steps, n, hidden = projected.shape
        deter, z = weights.w_deter.shape[1], plan.groups * plan.classes
        self.plan, self.noise = plan, noise[..., None]
        self.keep = (~is_first)[..., None].float()  # (T, N, 1)
        matrices = (weights.w_in, weights.w_gates, weights.w_deter, weights.w_out)
        self.w_in, self.w_gates, self.w_deter, self.w_out = (matrix.to(plan.dtype) for matrix in matrices)
        self.w_z, self.b_out = self.w_in[:, :z], weights.b_out.to(plan.dtype)
        self.norm_in = _Norm(weights.in_scale, weights.in_shift, plan.eps)
        self.norm_gates = _Norm(weights.gates_scale, weights.gates_shift, plan.eps)
        self.norm_deter = _Norm(weights.deter_scale, weights.deter_shift, plan.eps)
        # What the four products read, all steps side by side.
        self.za = projected.new_empty(steps, n, z + action.shape[-1], dtype=plan.dtype)
        self.xh = projected.new_empty(steps, n, hidden + deter, dtype=plan.dtype)
        self.h = projected.new_empty(steps, n, deter, dtype=plan.dtype)
        self.y = projected.new_empty(steps, n, hidden, dtype=plan.dtype)
        self.za[..., z:] = action * self.keep
        self.from_action = self.za[..., z:] @ self.w_in[:, z:].mT  # (T, N, hidden)
        self.projected = projected.to(plan.dtype)
        self.steps: list[_Step] = []

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """States h (T, N, H) and z (T, N, G, C), and logits.

        They are not kept: a result that hangs on what its own gradient needs would never be freed.
        """
        steps, n, deter = self.h.shape
        shape = (steps, n, self.plan.groups, self.plan.classes)
        result = self.keep.new_empty(steps, n, deter), self.keep.new_zeros(shape), self.keep.new_empty(shape)
        before = torch.zeros_like(result[0][0]), torch.zeros_like(result[1][0])
        for t, keep in enumerate(self.keep):
            row = result[0][t], result[1][t], result[2][t]
            self._forward(t, before[0] * keep, before[1].flatten(1) * keep, *row)
            before = row[:2]
        return result

    def _forward(
        self, t: int, deter: Tensor, stoch: Tensor, new_deter: Tensor, new_stoch: Tensor, logits: Tensor
    ) -> None:
        """Step t, from h and z before it; fills its results, each (N, ...)."""
        plan, hidden, z = self.plan, self.y.shape[-1], stoch.shape[-1]
        self.za[t, :, :z] = stoch
        normed_in = self.norm_in.forward(torch.addmm(self.from_action[t], self.za[t, :, :z], self.w_z.mT))
        self.xh[t, :, :hidden] = F.silu(normed_in)
        self.xh[t, :, hidden:] = deter
        reset, raw, update = self.norm_gates.forward(self.xh[t] @ self.w_gates.mT).float().chunk(3, -1)
        reset, update = torch.sigmoid(reset), torch.sigmoid(update - 1)
        candidate = torch.tanh(reset * raw)
        torch.lerp(deter, candidate, update, out=new_deter)
        self.h[t] = new_deter
        normed_deter = self.norm_deter.forward(torch.addmm(self.projected[t], self.h[t], self.w_deter.mT))
        self.y[t] = F.silu(normed_deter)
        logits.copy_(torch.addmm(self.b_out, self.y[t], self.w_out.mT).view_as(logits))
        softmax = torch.softmax(logits, -1)
        cumulative = ((1 - plan.unimix) * softmax + plan.unimix / plan.classes).cumsum(-1)
        index = torch.searchsorted(cumulative, self.noise[t], right=True).clamp_max_(plan.classes - 1)
        new_stoch.scatter_(-1, index, 1.0)
        self.steps.append(_Step(normed_in, deter, reset, raw, candidate, update, normed_deter, softmax))

    def backward(self, of_deter: Tensor, of_stoch: Tensor, of_logits: Tensor) -> tuple[Tensor, Weights]:
        """From the gradients of what `forward` gave, those of `projected` and of the weights."""
        # Of the four products, all steps side by side.
        self.du, self.dq = torch.empty_like(self.y), self.y.new_empty(*self.y.shape[:2], len(self.w_gates))
        self.dd, self.dl = torch.empty_like(self.y), self.y.new_empty(*self.y.shape[:2], len(self.w_out))
        deter, stoch = torch.zeros_like(of_deter[0]), torch.zeros_like(of_stoch[0])
        for t in reversed(range(len(self.keep))):
            deter, z = self._backward(t, of_deter[t] + deter, of_stoch[t] + stoch, of_logits[t])
            deter, stoch = deter * self.keep[t], (z * self.keep[t]).view_as(stoch)
        du, dq, dd, dl, za, xh, h, y = (
            x.flatten(0, 1) for x in (self.du, self.dq, self.dd, self.dl, self.za, self.xh, self.h, self.y)
        )
        parts = (
            *(du.mT @ za, *self.norm_in.parameter_gradients()),
            *(dq.mT @ xh, *self.norm_gates.parameter_gradients()),
            *(dd.mT @ h, *self.norm_deter.parameter_gradients()),
            *(dl.mT @ y, dl.float().sum(0)),
        )
        return self.dd, Weights._make(parts)

    def _backward(self, t: int, deter: Tensor, stoch: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """From the gradients of step t's results, those of h (N, H) and z (N, Z) before it."""
        plan, step, hidden = self.plan, self.steps[t], self.y.shape[-1]
        logits = logits + _softmax_backward((1 - plan.unimix) * stoch, step.softmax, -1, torch.float32)
        self.dl[t] = logits.flatten(1)
        normed = _silu_backward(self.dl[t] @ self.w_out, step.normed_deter)
        self.dd[t] = self.norm_deter.backward(normed, t)
        deter = deter + self.dd[t] @ self.w_deter
        squashed = _tanh_backward(deter * step.update, step.candidate)
        gates = (
            _sigmoid_backward(squashed * step.raw, step.reset),
            squashed * step.reset,
            _sigmoid_backward(deter * (step.candidate - step.deter), step.update),
        )
        self.dq[t] = self.norm_gates.backward(torch.cat(gates, -1).to(plan.dtype), t)
        xh = self.dq[t] @ self.w_gates
        self.du[t] = self.norm_in.backward(_silu_backward(xh[:, :hidden], step.normed_in), t)
        return deter * (1 - step.update) + xh[:, hidden:], self.du[t] @ self.w_z


class _Observe(torch.autograd.Function):
    """`_Sequence` to automatic differentiation; actions are data and have no gradient."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        action, is_first, noise, projected, *weights = tensors
        ctx.sequence, ctx.dtype = (
            _Sequence(plan, Weights(*weights), projected, action, is_first, noise),
            projected.dtype,
        )
        return ctx.sequence.forward()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        projected, weights = ctx.sequence.backward(*gradients)
        return (None, None, None, None, projected.to(ctx.dtype), *(weight.float() for weight in weights))


def observe(
    plan: Plan, weights: Weights, projected: Tensor, action: Tensor, is_first: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior states of a sequence, see `Dynamics.observe`.

    Args:
        plan, weights: of the dynamics.
        projected: (B, T, hidden), what the posterior's first layer makes of the embeddings.
        action: (B, T, A); a constant.
        is_first: (B, T) bool.
        noise: (T, B, G), uniform in 0 .. 1.

    Returns:
        h (B, T, H), z (B, T, G C) and the logits (B, T, G, C) that z was drawn from, all float32.
    """
    by_time = (action.transpose(0, 1), is_first.transpose(0, 1), noise, projected.transpose(0, 1))
    found = _Observe.apply(plan, *by_time, *weights)  # type: ignore[no-untyped-call]
    deter, stoch, logits = (x.transpose(0, 1).contiguous() for x in found)
    return deter, stoch.flatten(-2), logits
