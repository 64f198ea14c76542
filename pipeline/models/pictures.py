"""Encoders and decoders: pictures to vectors, and back.

Three pairs: of patches, ours, for speed; of strided convolutions (DreamerV1 and V2); of pooled ones (DreamerV3).
Pictures lie in memory channels last all the way, which convolutions are fastest with: the axes in the comments are
(N, height, width, channels), and the reshapes below are views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelSettings
from ..errors import UsageError
from .networks import BlockLinear, dense, has_bias, make_activation, make_norm, product_dtype


def to_picture(observation: Tensor) -> Tensor:
    """Uint8 colours to float, 0 .. 1."""
    return observation.float() / 255


def to_input(observation: Tensor, fine: bool) -> Tensor:
    """What an encoder is given of colours, in the precision of products; up to the division, it is exact in any.

    A tile of the road that has been visited is darker than the others by at most 5 of 255 shades, of which a network
    makes nothing. Folded, a colour goes up and down from -0.5 to 0.5 every 32 shades; twice, a quarter of that apart,
    since at its turns a fold tells nothing. (As Fourier features do, arXiv 2006.10739.)

    Args:
        observation: (..., C) uint8.
        fine: see `ModelSettings`.

    Returns:
        (..., C), -0.5 .. 0.5; or (..., 3 C), with both folds behind.
    """
    dtype = product_dtype(observation.device)
    plain = observation.to(dtype).sub_(127.5).div_(255)
    if not fine:
        return plain
    # Bytes overflow at 256, where a fold begins anew.
    folds = (((observation + shift) & 31).to(dtype).sub_(15.5).abs_().sub_(8).div_(16) for shift in (0, 8))
    return torch.cat([plain, *folds], -1)


def input_channels(settings: ModelSettings) -> int:
    """How many numbers an encoder is given of a pixel."""
    return 9 if settings.fine else 3


class Encoder(nn.Module):
    """Pictures to vectors.

    Attributes:
        outputs: width of the vectors.
    """

    outputs: int

    def forward(self, observation: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, outputs)."""
        raise NotImplementedError


class Decoder(nn.Module):
    """Features [h, z] to pictures.

    Args:
        settings: `picture` says what comes out: the sigmoid of the last layer, or what it gives.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.squash = settings.picture == "squared"

    def forward(self, feature: Tensor) -> Tensor:
        """(N, H + Z) to (N, 3, S, S): 0 .. 1, or without bounds for means in -0.5 .. 0.5; float32."""
        raise NotImplementedError

    def colours(self, x: Tensor) -> Tensor:
        """What the last layer gives as colours, in float32: bfloat16 near 1 is coarser than the shades of a pixel."""
        return torch.sigmoid(x.float()) if self.squash else x.float()


class PatchEncoder(Encoder):
    """A linear layer on patches of pixels, then convolutions that halve the map.

    The last map is S/16 high and wide; channels double as the height is halved. Patches larger than 2 leave out the
    largest maps, which cost the most time, and a linear layer on patches is the convolution whose stride is its width.

    Args:
        settings: `depth`, `patch`, `norm`, `activation`.
        size: height and width of a picture.
    """

    def __init__(self, settings: ModelSettings, size: int) -> None:
        super().__init__()
        self.patch, self.fine, norm = settings.patch, settings.fine, settings.norm
        channels, bias = map_channels(settings.depth, self.patch), has_bias(norm)
        self.first = nn.Linear(input_channels(settings) * self.patch**2, channels[0], bias=bias)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=bias) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(make_norm(norm, width) for width in channels)
        self.activation = make_activation(settings.activation)
        self.outputs = channels[-1] * (size // 16) ** 2
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, outputs)."""
        p = self.patch
        x: Tensor = observation.permute(0, 2, 3, 1)  # (N, S, S, 3)
        x = x.unflatten(1, (-1, p)).unflatten(3, (-1, p)).transpose(2, 3).flatten(3)  # (N, S/p, S/p, p p 3)
        x = self.activation(self.norms[0](self.first(to_input(x, self.fine))))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            x = self.activation(norm(_channels_last(convolution, x)))  # (N, S/2^i, S/2^i, C)
        return x.flatten(1)


class PatchDecoder(Decoder):
    """A linear layer to the smallest map, then the encoder's convolutions transposed.

    Args:
        settings, size: see `PatchEncoder`.
        deter, stoch: widths of h and z.
    """

    def __init__(self, settings: ModelSettings, size: int, deter: int, stoch: int) -> None:
        super().__init__(settings)
        self.patch = settings.patch
        channels = map_channels(settings.depth, self.patch)[::-1]
        self.map = (size // 16, size // 16, channels[0])
        self.start = nn.Linear(deter + stoch, self.map[0] * self.map[1] * self.map[2])
        self.convolutions = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(channels))
        self.last = nn.Linear(channels[-1], 3 * self.patch**2)
        self.norms = nn.ModuleList(make_norm(settings.norm, width) for width in channels)
        self.activation = make_activation(settings.activation)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, feature: Tensor) -> Tensor:
        """(N, H + Z) to (N, 3, S, S)."""
        x = self.start(feature).unflatten(-1, self.map)  # (N, S/16, S/16, C)
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = _channels_last(convolution, self.activation(norm(x)))
        x = self.colours(self.last(self.activation(self.norms[-1](x))))  # (N, S/p, S/p, p p 3)
        pictures: Tensor = x.unflatten(3, (self.patch, self.patch, 3)).transpose(2, 3)  # (N, S/p, p, S/p, p, 3)
        return pictures.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def map_channels(depth: int, patch: int) -> list[int]:
    """Channels of the maps from S / patch down to S / 16: `depth` at S / 2, doubled with each halving."""
    return [depth * 2**level for level in range(patch.bit_length() - 2, 4)]


def convolution_activation(settings: ModelSettings) -> str:
    """Activation between strided convolutions: ReLU in a Gaussian model, as in DreamerV1, whatever its other layers."""
    return "relu" if settings.latent == "gaussian" else settings.activation


class StridedEncoder(Encoder):
    """Four convolutions of kernel 4 and stride 2 without padding (DreamerV1 and V2, after World Models).

    A picture of 64 becomes maps 31, 14, 6 and 2 high and wide.

    Args:
        settings: `depth`, the channels of the first map, doubled from map to map; `norm`.
        size: height and width of a picture.
    """

    def __init__(self, settings: ModelSettings, size: int) -> None:
        super().__init__()
        self.fine = settings.fine
        channels = [input_channels(settings), *(settings.depth * 2**level for level in range(4))]
        bias = has_bias(settings.norm)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 4, 2, bias=bias) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(make_norm(settings.norm, width) for width in channels[1:])
        self.activation = make_activation(convolution_activation(settings))
        for _ in self.convolutions:
            size = size // 2 - 1
        self.outputs = channels[-1] * size**2
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, outputs)."""
        x = to_input(observation.permute(0, 2, 3, 1), self.fine)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.activation(norm(_channels_last(convolution, x)))
        return x.flatten(1)


class StridedDecoder(Decoder):
    """A linear layer to a map, then transposed convolutions of kernels 5, 5, 6, 6 and stride 2 (DreamerV1 and V2).

    As published the map is a single point, which they make a picture of 64; from n x n they make 16 n + 48.

    Args:
        settings, size: see `StridedEncoder`.
        deter, stoch: widths of h and z.
    """

    def __init__(self, settings: ModelSettings, size: int, deter: int, stoch: int) -> None:
        super().__init__(settings)
        depth, side = settings.depth, (size - 48) // 16
        channels = [32 * depth, 4 * depth, 2 * depth, depth, 3]
        self.map = (side, side, channels[0])
        self.start = nn.Linear(deter + stoch, side * side * channels[0])
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(a, b, kernel, 2) for (a, b), kernel in zip(pairwise(channels), (5, 5, 6, 6), strict=True)
        )
        self.norms = nn.ModuleList(make_norm(settings.norm, width) for width in channels[1:-1])
        self.activation = make_activation(convolution_activation(settings))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, feature: Tensor) -> Tensor:
        """(N, H + Z) to (N, 3, S, S)."""
        x = self.start(feature).unflatten(-1, self.map)  # no activation here, in the official code too
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = self.activation(norm(_channels_last(convolution, x)))
        return self.colours(_channels_last(self.convolutions[-1], x)).permute(0, 3, 1, 2)


_POOLED = (2, 3, 4, 4)
"""Channels of DreamerV3's maps, S/2 to S/16 high and wide, in multiples of `depth`."""


class PooledEncoder(Encoder):
    """Four times a convolution of kernel 5, the largest of each 2 x 2, norm, activation (DreamerV3).

    Args:
        settings: `depth`, `norm`, `activation`.
        size: height and width of a picture.
    """

    def __init__(self, settings: ModelSettings, size: int) -> None:
        super().__init__()
        self.fine = settings.fine
        channels = [input_channels(settings), *(settings.depth * multiple for multiple in _POOLED)]
        self.convolutions, self.norms = _same_convolutions(channels, settings.norm)
        self.activation = make_activation(settings.activation)
        self.outputs = channels[-1] * (size // 16) ** 2
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, outputs)."""
        x = to_input(observation.permute(0, 2, 3, 1), self.fine)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.max_pool2d(convolution(x.permute(0, 3, 1, 2)), 2).permute(0, 2, 3, 1)  # (N, S/2^i, S/2^i, C)
            x = self.activation(norm(x))
        return x.flatten(1)


class PooledDecoder(Decoder):
    """The smallest map from h in blocks and from z densely, then doublings, each with a convolution (DreamerV3).

    Args:
        settings: `depth`, `units`, `blocks`, `norm`, `activation`.
        size: height and width of a picture.
        deter, stoch: widths of h and z; without an h, the map is made from z alone.

    Raises:
        UsageError: h or the channels do not divide into the blocks.
    """

    def __init__(self, settings: ModelSettings, size: int, deter: int, stoch: int) -> None:
        super().__init__(settings)
        norm, activation, side = settings.norm, settings.activation, size // 16
        channels = [*(settings.depth * multiple for multiple in _POOLED[::-1]), 3]
        if deter and (deter % settings.blocks or channels[0] % settings.blocks):
            raise UsageError("model.encoder = pooled needs model.deter and 4 model.depth in multiples of model.blocks")
        width = side * side * channels[0]
        self.widths = (deter, stoch)
        self.map = (side, side, channels[0])
        self.blocks = (settings.blocks, side, side, channels[0] // settings.blocks)
        self.from_deter = BlockLinear(deter, width, settings.blocks) if deter else None
        hidden = dense(stoch, 2 * settings.units, norm, activation)
        self.from_stoch = nn.Sequential(*hidden, nn.Linear(2 * settings.units, width))
        self.start = nn.Sequential(make_norm(norm, channels[0]), make_activation(activation))
        self.convolutions, self.norms = _same_convolutions(channels[:-1], norm)
        self.last = nn.Conv2d(channels[-2], 3, 5, padding=2)
        self.activation = make_activation(activation)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, feature: Tensor) -> Tensor:
        """(N, H + Z) to (N, 3, S, S)."""
        deter, stoch = feature.split(self.widths, -1)
        x = self.from_stoch(stoch).unflatten(-1, self.map)  # (N, S/16, S/16, C)
        if self.from_deter is not None:  # each block makes some of the channels: (N, K, S/16, S/16, C/K)
            x = x + self.from_deter(deter).unflatten(-1, self.blocks).permute(0, 2, 3, 1, 4).flatten(3)
        x = self.start(x)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.activation(norm(_doubled(convolution, x)))  # (N, 2^i S/16, 2^i S/16, C)
        return self.colours(_doubled(self.last, x)).permute(0, 3, 1, 2)


def _same_convolutions(channels: Sequence[int], norm: str) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Convolutions of kernel 5 that keep the size of a map, and the norms behind them."""
    bias = has_bias(norm)
    convolutions = nn.ModuleList(nn.Conv2d(a, b, 5, padding=2, bias=bias) for a, b in pairwise(channels))
    return convolutions, nn.ModuleList(make_norm(norm, width) for width in channels[1:])


def _channels_last(convolution: nn.Module, x: Tensor) -> Tensor:
    """Run a convolution on a map (N, height, width, channels)."""
    out: Tensor = convolution(x.permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1)


def _doubled(convolution: nn.Module, x: Tensor) -> Tensor:
    """The same on the map enlarged to twice its height and width, each value to 2 x 2."""
    out: Tensor = convolution(F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest"))
    return out.permute(0, 2, 3, 1)


ENCODERS: dict[str, Callable[[ModelSettings, int], Encoder]] = {
    "patches": PatchEncoder,
    "strided": StridedEncoder,
    "pooled": PooledEncoder,
}
DECODERS: dict[str, Callable[[ModelSettings, int, int, int], Decoder]] = {
    "patches": PatchDecoder,
    "strided": StridedDecoder,
    "pooled": PooledDecoder,
}
"""By the setting `model.encoder`; a program may put its own there (docs/change-one-part.md)."""


def make_encoder(settings: ModelSettings, size: int) -> Encoder:
    """The encoder that the settings name, for pictures `size` high and wide."""
    return ENCODERS[settings.encoder](settings, size)


def make_decoder(settings: ModelSettings, size: int, deter: int, stoch: int) -> Decoder:
    """The decoder that the settings name, from h and z of these widths to pictures `size` high and wide."""
    return DECODERS[settings.encoder](settings, size, deter, stoch)
