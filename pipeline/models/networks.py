"""The building blocks: normalisation, activations, perceptrons, block-diagonal layers, and how weights begin."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis; the one kernel that is fused on every device."""

    epsilon = 1e-4

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=self.epsilon)


class RmsNorm(nn.RMSNorm):
    """Root mean square normalisation over the last axis, in float32: x / sqrt(mean(x^2) + 1e-4) * scale (DreamerV3)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width), and so it remains."""
        return super().forward(x.float())


_ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "elu": nn.ELU, "relu": nn.ReLU}


def make_norm(norm: str, width: int) -> nn.Module:
    """Normalisation by its name: 'layer', 'rms' or 'none'."""
    if norm == "none":
        return nn.Identity()
    return LayerNorm(width) if norm == "layer" else RmsNorm(width)


def make_activation(activation: str) -> nn.Module:
    """Activation by its name: 'silu', 'elu' or 'relu'."""
    return _ACTIVATIONS[activation]()


def has_bias(norm: str) -> bool:
    """Whether a layer needs a bias of its own before such a norm; a layer norm has one."""
    return norm != "layer"


def dense(inputs: int, outputs: int, norm: str, activation: str) -> list[nn.Module]:
    """A hidden layer: Linear, norm, activation."""
    return [nn.Linear(inputs, outputs, bias=has_bias(norm)), make_norm(norm, outputs), make_activation(activation)]


class Mlp(nn.Module):
    """Hidden layers of Linear, norm, activation, and a last Linear.

    Args:
        inputs, units, outputs: widths.
        layers: number of hidden layers.
        norm: see `make_norm`.
        activation: see `make_activation`.
    """

    def __init__(
        self, inputs: int, units: int, layers: int, outputs: int, norm: str = "layer", activation: str = "silu"
    ) -> None:
        super().__init__()
        widths = [inputs] + [units] * layers
        hidden: list[nn.Module] = []
        for width, units_out in pairwise(widths):
            hidden += dense(width, units_out, norm, activation)
        self.hidden = nn.Sequential(*hidden)
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        out: Tensor = self.out(self.hidden(x))
        return out


class BlockLinear(nn.Module):
    """A linear layer in blocks: each block of outputs sees its block of inputs alone (DreamerV3's `BlockLinear`).

    Args:
        inputs, outputs: widths, multiples of `blocks`.
        blocks: how many.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        assert inputs % blocks == outputs % blocks == 0, (inputs, outputs, blocks)
        self.weight = nn.Parameter(torch.randn(blocks, inputs // blocks, outputs // blocks) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs // blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        blocks = x.unflatten(-1, (len(self.weight), -1)).transpose(0, 1)  # (K, N, inputs / K)
        out = torch.baddbmm(self.bias, blocks, self.weight)  # (K, N, outputs / K)
        return out.transpose(0, 1).flatten(1)


def product_dtype(device: torch.device) -> torch.dtype:
    """Precision that matrix products and convolutions have here: autocast's within it, else float32."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32


def initialise(module: nn.Module) -> None:
    """Truncated-normal weights scaled to the inputs, zero biases (DreamerV3)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | BlockLinear):
            std = 1.0 / (_fan_in(layer) ** 0.5 * 0.8796)  # 0.8796: deviation of a unit normal cut at two deviations
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _fan_in(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d | BlockLinear) -> int:
    """Inputs that a layer's output is the sum of."""
    if isinstance(layer, nn.ConvTranspose2d):  # a pixel is reached by kernel / stride taps a side
        return layer.in_channels * (layer.kernel_size[0] // layer.stride[0]) ** 2
    if isinstance(layer, BlockLinear):  # of all blocks, as in the official code
        return layer.weight.shape[0] * layer.weight.shape[1]
    return layer.weight[0].numel()
