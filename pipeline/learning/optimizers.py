"""The optimizers of the papers: Adam (V1, V2 and ours), and LaProp behind adaptive gradient clipping (V3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class OptimizerSettings(Protocol):
    """What an optimizer asks of `WorldSettings` or `PolicySettings`, which say what each is."""

    @property
    def optimizer(self) -> str:
        """'adam' or 'laprop'."""

    @property
    def eps(self) -> float:
        """Its epsilon."""

    @property
    def weight_decay(self) -> float:
        """Share of each weight that an update at the full rate takes off."""

    @property
    def clip(self) -> float:
        """Largest global norm of the gradient, with Adam."""

    @property
    def agc(self) -> float:
        """Largest norm of a tensor's gradient, as a share of its own, with LaProp."""


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings, rate: float
) -> torch.optim.Optimizer:
    """The optimizer that the settings name; its gradients go through `clip_gradients` first.

    Weight decay is decoupled, and as in DreamerV2's code a share of the weight, not of the step: an update at the full
    rate takes it whole, one in which the rate has not risen yet or falls takes as much less.

    Args:
        parameters: to be fitted.
        settings: which, and its epsilon and weight decay.
        rate: full step size, which schedules reduce (see `schedule`).
    """
    decay = settings.weight_decay / rate  # both multiply it by the step size again
    if settings.optimizer == "laprop":
        return LaProp(parameters, rate, eps=settings.eps, weight_decay=decay)
    return torch.optim.AdamW(parameters, rate, eps=settings.eps, weight_decay=decay, fused=True)


class Norms(NamedTuple):
    """Norms of gradients.

    Attributes:
        total: (), of all together.
        each: (P,), of each parameter's, of the P that have one.
    """

    total: Tensor
    each: Tensor


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take back an optimizer's `state_dict`. Raises ValueError where a tensor does not fit its weights."""
    optimizer.load_state_dict(state)
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.ndim > 0 and value.shape != parameter.shape:
                raise ValueError(f"the optimizer's {name} has shape {list(value.shape)}, not {list(parameter.shape)}")


def clip_gradients(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Norms:
    """Clip the gradients in place, as it goes with the optimizer, and give their norms before that."""
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    if settings.optimizer == "laprop":
        return clip_adaptively(moved, settings.agc)
    each = torch.stack(torch._foreach_norm([parameter.grad for parameter in moved if parameter.grad is not None]))
    total: Tensor = torch.linalg.vector_norm(each)
    nn.utils.clip_grads_with_norm_(moved, settings.clip, total)
    return Norms(total, each)


def clip_adaptively(parameters: Iterable[nn.Parameter], share: float, smallest: float = 1e-3) -> Norms:
    """Adaptive gradient clipping, of each tensor by itself (Brock et al., arXiv 2102.06171, as in DreamerV3's code).

    g <- g / max(1, |g| / (share max(|w|, smallest))).

    Args:
        parameters: with gradients.
        share: largest norm of a gradient, as a share of the weights' own.
        smallest: norm of weights below which it counts as this, so that weights that are 0 can leave it.

    Returns:
        Norms of the gradients before.
    """
    norms = []
    for parameter in parameters:
        gradient = parameter.grad
        assert gradient is not None
        norm = torch.linalg.vector_norm(gradient)
        largest = share * torch.linalg.vector_norm(parameter.detach()).clamp_min(smallest)
        gradient.div_((norm / largest).clamp_min(1.0))
        norms.append(norm)
    each = torch.stack(norms)
    return Norms(torch.linalg.vector_norm(each), each)


class LaProp(torch.optim.Optimizer):
    """Adam with momentum and scaling the other way round (arXiv 2002.04839, in the form of DreamerV3's code).

    n <- b2 n + (1 - b2) g^2                                   scale
    m <- b1 m + (1 - b1) g / (sqrt(n / (1 - b2^t)) + eps)      momentum of what is scaled already
    w <- w - rate (m / (1 - b1^t) + weight_decay w)

    Args:
        parameters: to be fitted.
        rate: step size.
        betas: of the momentum and the scale.
        eps: see above.
        weight_decay: decoupled, multiplied by the step size.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": rate, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that the parameters hold."""
        assert closure is None, "gradients come first, a step after"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, scale=torch.zeros_like(parameter), momentum=torch.zeros_like(parameter))
        state["step"] += 1
        low, high = group["betas"]
        scale = state["scale"].mul_(high).addcmul_(gradient, gradient, value=1 - high)
        root = (scale / (1 - high ** state["step"])).sqrt_().add_(group["eps"])
        momentum = state["momentum"].mul_(low).addcdiv_(gradient, root, value=1 - low)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(momentum, alpha=-group["lr"] / (1 - low ** state["step"]))
