"""The building blocks: normalisation, perceptrons, the convolutional encoder and decoder.

Pictures lie in memory channels last all the way, which convolutions are fastest with; the reshapes below are views.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.LayerNorm):
    """Layer normalisation over the last axis; the one kernel that is fused on every device."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-4)


class Mlp(nn.Module):
    """Layers of Linear, Norm, SiLU, and a last Linear.

    Args:
        inputs, units, outputs: widths.
        layers: number of hidden layers.
    """

    def __init__(self, inputs: int, units: int, layers: int, outputs: int) -> None:
        super().__init__()
        widths = [inputs] + [units] * layers
        hidden: list[nn.Module] = []
        for width, units_out in pairwise(widths):
            hidden += [nn.Linear(width, units_out, bias=False), Norm(units_out), nn.SiLU()]
        self.hidden = nn.Sequential(*hidden)
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        out: Tensor = self.out(self.hidden(x))
        return out


class Encoder(nn.Module):
    """Pictures to vectors: a linear layer on patches of pixels, then convolutions that halve the map.

    The last map is S/16 high and wide; channels double as the height is halved. Patches larger than 2 leave out the
    largest maps, which cost the most time, and a linear layer on patches is the convolution whose stride is its width.

    Args:
        size: height and width of a picture.
        depth: channels of a map half as high as the picture; doubled whenever the height is halved.
        patch: height and width of a patch, a power of 2.
    """

    def __init__(self, size: int, depth: int, patch: int) -> None:
        super().__init__()
        channels = map_channels(depth, patch)
        self.patch = patch
        self.first = nn.Linear(3 * patch**2, channels[0], bias=False)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(Norm(width) for width in channels)
        self.outputs = channels[-1] * (size // 16) ** 2
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, outputs)."""
        p = self.patch
        x = observation.permute(0, 2, 3, 1)  # (N, S, S, 3)
        x = x.unflatten(1, (-1, p)).unflatten(3, (-1, p)).transpose(2, 3).flatten(3)  # (N, S/p, S/p, p p 3)
        x = F.silu(self.norms[0](self.first(to_picture(x) - 0.5)))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            x = convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (N, S/2^i, S/2^i, C)
            x = F.silu(norm(x))
        return x.flatten(1)


class Decoder(nn.Module):
    """Vectors to pictures: a linear layer to the smallest map, then the encoder's convolutions transposed.

    Args:
        inputs: width of the vectors.
        size, depth, patch: see `Encoder`.
    """

    def __init__(self, inputs: int, size: int, depth: int, patch: int) -> None:
        super().__init__()
        channels = map_channels(depth, patch)[::-1]
        self.patch = patch
        self.map = (size // 16, size // 16, channels[0])
        self.start = nn.Linear(inputs, self.map[0] * self.map[1] * self.map[2])
        self.convolutions = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(channels))
        self.last = nn.Linear(channels[-1], 3 * patch**2)
        self.norms = nn.ModuleList(Norm(width) for width in channels)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs) to (N, 3, S, S), 0 .. 1."""
        x = self.start(features).unflatten(-1, self.map)  # (N, S/16, S/16, C)
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = convolution(F.silu(norm(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # In float32 from here on: bfloat16 near 1 is coarser than the 256 shades of a pixel.
        x = torch.sigmoid(self.last(F.silu(self.norms[-1](x))).float())  # (N, S/p, S/p, p p 3)
        pictures: Tensor = x.unflatten(3, (self.patch, self.patch, 3)).transpose(2, 3)  # (N, S/p, p, S/p, p, 3)
        return pictures.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def to_picture(observation: Tensor) -> Tensor:
    """Uint8 colours to float, 0 .. 1."""
    return observation.float() / 255


def map_channels(depth: int, patch: int) -> list[int]:
    """Channels of the maps from S / patch down to S / 16: `depth` at S / 2, doubled with each halving."""
    return [depth * 2**level for level in range(patch.bit_length() - 2, 4)]


def initialise(module: nn.Module) -> None:
    """Truncated-normal weights scaled to the inputs, zero biases (DreamerV3)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            inputs = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):  # a pixel is reached by kernel / stride taps a side
                inputs = layer.in_channels * (layer.kernel_size[0] // layer.stride[0]) ** 2
            std = 1.0 / (inputs**0.5 * 0.8796)  # 0.8796: deviation of a unit normal cut at two deviations
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
