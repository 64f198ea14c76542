"""Encoders and decoders: sizes, colours, and the maps between."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import ModelSettings
from pipeline.errors import UsageError
from pipeline.models.networks import initialise
from pipeline.models.pictures import (
    PatchDecoder,
    PooledDecoder,
    StridedDecoder,
    make_decoder,
    make_encoder,
    map_channels,
    to_input,
    to_picture,
)

PATCHES = ModelSettings(depth=2)
STRIDED = ModelSettings(depth=2, encoder="strided", norm="none", activation="elu", fine=False)
POOLED = ModelSettings(depth=4, encoder="pooled", norm="rms", units=8, blocks=8, fine=False)


def pictures(n: int, size: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("patch", [2, 4, 8])
def test_patches_fit_every_size(size: int, patch: int) -> None:
    settings = PATCHES.model_copy(update={"patch": patch})
    encoder, decoder = make_encoder(settings, size), make_decoder(settings, size, 3, 2)
    embedding = encoder(pictures(3, size))
    assert embedding.shape == (3, encoder.outputs)
    assert encoder.outputs == 16 * (size // 16) ** 2
    assert decoder(torch.randn(3, 5)).shape == (3, 3, size, size)


@pytest.mark.parametrize(
    ("settings", "size", "outputs"),
    [
        (STRIDED, 64, 16 * 2**2),
        (STRIDED, 96, 16 * 4**2),
        (STRIDED, 128, 16 * 6**2),
        (POOLED, 64, 16 * 4**2),
        (POOLED, 96, 16 * 6**2),
        (POOLED, 128, 16 * 8**2),
    ],
)
def test_published_convolutions_fit_every_size(settings: ModelSettings, size: int, outputs: int) -> None:
    encoder = make_encoder(settings, size)
    assert encoder(pictures(2, size)).shape == (2, encoder.outputs) == (2, outputs)
    for deter in (0, 16):  # without memory, and with
        decoder = make_decoder(settings, size, deter, 5)
        assert decoder(torch.randn(2, deter + 5)).shape == (2, 3, size, size)


@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("encoder", ["patches", "strided", "pooled"])
def test_every_norm_goes_with_every_encoder_and_all_of_it_learns(encoder: str, norm: str) -> None:
    settings = ModelSettings(depth=2, units=8, encoder=encoder, norm=norm)
    pair = nn.ModuleList([make_encoder(settings, 64), make_decoder(settings, 64, 16, 5)])
    (pair[0](pictures(2, 64)).square().sum() + pair[1](torch.randn(2, 21)).square().sum()).backward()
    assert [name for name, parameter in pair.named_parameters() if parameter.grad is None] == []


def test_published_widths() -> None:
    """1024 numbers from DreamerV1's encoder, 1536 from V2's, 1024 from V3's with a depth of 16."""
    published = {(32, "strided"): 1024, (48, "strided"): 1536, (16, "pooled"): 1024}
    for (depth, encoder), outputs in published.items():
        assert make_encoder(ModelSettings(depth=depth, encoder=encoder), 64).outputs == outputs


def rms(x: Tensor) -> Tensor:
    """Over the channels of maps (N, C, H, W)."""
    return x / torch.sqrt((x**2).mean(1, keepdim=True) + 1e-4)


def test_pooled_encoder_golden() -> None:
    """Each time: convolution, the largest of each square, norm, SiLU."""
    encoder, observation = make_encoder(POOLED, 64), pictures(2, 64)
    x = observation / 255 - 0.5
    for layer in encoder.convolutions:
        x = nn.functional.conv2d(x, layer.weight, layer.bias, padding=2)
        x = x.unflatten(3, (-1, 2)).amax(4).unflatten(2, (-1, 2)).amax(3)
        x = nn.functional.silu(rms(x))
    assert x.shape == (2, 16, 4, 4)
    assert torch.allclose(encoder(observation), x.permute(0, 2, 3, 1).flatten(1), atol=1e-5)


def test_without_an_h_the_pooled_decoder_needs_no_blocks() -> None:
    """The first map's 12 channels do not divide into 8 blocks of h, which there are none of."""
    odd = POOLED.model_copy(update={"depth": 3})
    assert make_decoder(odd, 64, 0, 5)(torch.randn(2, 5)).shape == (2, 3, 64, 64)
    with pytest.raises(UsageError, match=r"multiples of model\.blocks"):
        make_decoder(odd, 64, 16, 5)


def test_pooled_decoder_golden() -> None:
    """The first map of the sum of both parts, then doublings: convolution, norm, SiLU; the last one alone."""
    decoder = make_decoder(POOLED, 64, 0, 5)
    z = torch.randn(2, 5)
    first, _, _, last = decoder.from_stoch
    hidden = z @ first.weight.T + first.bias
    hidden = hidden / torch.sqrt((hidden**2).mean(-1, keepdim=True) + 1e-4)
    x = (nn.functional.silu(hidden) @ last.weight.T + last.bias).unflatten(1, (4, 4, 16)).permute(0, 3, 1, 2)
    for layer in (*decoder.convolutions, decoder.last):
        x = nn.functional.silu(rms(x)).repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = nn.functional.conv2d(x, layer.weight, layer.bias, padding=2)
    assert torch.allclose(decoder(z), torch.sigmoid(x), atol=1e-5)


@pytest.mark.parametrize(("latent", "activation"), [("gaussian", torch.relu), ("categorical", nn.functional.elu)])
def test_strided_pair_golden(latent: str, activation: Callable[[Tensor], Tensor]) -> None:
    """No activation before the first transposed convolution, none after the last."""
    settings = STRIDED.model_copy(update={"latent": latent, "picture": "normal"})
    encoder, decoder = make_encoder(settings, 64), make_decoder(settings, 64, 3, 2)
    observation, feature = pictures(2, 64), torch.randn(2, 5)
    x = observation / 255 - 0.5
    for layer in encoder.convolutions:
        x = activation(nn.functional.conv2d(x, layer.weight, layer.bias, 2))
    assert torch.allclose(encoder(observation), x.permute(0, 2, 3, 1).flatten(1), atol=1e-5)
    x = (feature @ decoder.start.weight.T + decoder.start.bias)[:, :, None, None]
    for layer in decoder.convolutions:
        x = nn.functional.conv_transpose2d(x, layer.weight, layer.bias, 2)
        x = x if layer is decoder.convolutions[-1] else activation(x)
    assert torch.allclose(decoder(feature), x, atol=1e-5)


def test_channels_double_as_the_map_halves() -> None:
    assert map_channels(16, 2) == [16, 32, 64, 128]
    assert map_channels(16, 4) == [32, 64, 128]
    assert map_channels(16, 8) == [64, 128]


@pytest.mark.parametrize("settings", [PATCHES, STRIDED, POOLED])
def test_memory_format_does_not_change_the_result(settings: ModelSettings) -> None:
    encoder, observation = make_encoder(settings, 64), pictures(2, 64)
    other = observation.to(memory_format=torch.channels_last)
    assert torch.allclose(encoder(observation), encoder(other), atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "latent", "activation", "expected"),
    [
        ("strided", "gaussian", "elu", nn.ReLU),
        ("strided", "categorical", "elu", nn.ELU),
        ("pooled", "gaussian", "silu", nn.SiLU),
        ("patches", "gaussian", "elu", nn.ELU),
    ],
)
def test_strided_convolutions_of_a_gaussian_model_have_relu(
    encoder: str, latent: str, activation: str, expected: type[nn.Module]
) -> None:
    settings = ModelSettings(depth=2, encoder=encoder, latent=latent, activation=activation)
    for part in (make_encoder(settings, 64), make_decoder(settings, 64, 16, 5)):
        assert isinstance(part.activation, expected)


def test_every_byte_survives_the_way_to_a_picture_and_back() -> None:
    observation = torch.arange(256, dtype=torch.uint8)
    picture = to_picture(observation)
    assert picture.min() == 0 and picture.max() == 1
    assert torch.equal((picture * 255).round().byte(), observation)


def triangle(shade: int) -> float:
    """Through (0, .5), (16, -.5) and (32, .5), at the middle of a shade."""
    return abs(((shade + 0.5) % 32) / 16 - 1) - 0.5


def test_fine_inputs_are_the_colours_and_two_folds_of_them_golden() -> None:
    shades = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3)
    seen = to_input(shades, fine=True)
    assert seen.shape == (256, 9)
    assert torch.equal(seen[:, :3], to_input(shades, fine=False))
    for shade in range(256):
        expected = torch.tensor([shade / 255 - 0.5, triangle(shade), triangle(shade + 8)]).repeat_interleave(3)
        assert torch.allclose(seen[shade], expected, atol=1e-6), shade


def test_folds_are_exact_in_bfloat16_too() -> None:
    shades = torch.arange(256, dtype=torch.uint8)[:, None]
    exact = to_input(shades, fine=True)
    with torch.autocast("cpu", torch.bfloat16):
        seen = to_input(shades, fine=True)
    assert seen.dtype == torch.bfloat16
    assert torch.equal(seen[:, 1:].float(), exact[:, 1:])


def test_shades_that_are_nearly_alike_are_far_apart_when_folded() -> None:
    """Wherever they are: at a turn of one fold, the other is steep."""
    seen = to_input(torch.arange(256, dtype=torch.uint8)[:, None], fine=True)
    apart = (seen[2:] - seen[:-2]).abs()  # two shades
    assert apart[:, 0].max() < 0.008
    assert apart[:, 1:].amax(1).min() > 0.12


@pytest.mark.parametrize("settings", [PATCHES, STRIDED, POOLED])
def test_every_encoder_can_have_fine_inputs_and_do_without(settings: ModelSettings) -> None:
    inputs = {}
    for fine in (True, False):
        encoder = make_encoder(settings.model_copy(update={"fine": fine}), 64)
        first = next(parameter for parameter in encoder.parameters() if parameter.ndim > 1)
        encoder(pictures(2, 64)).square().sum().backward()
        assert first.grad is not None
        assert (first.grad.transpose(0, 1).flatten(1).abs().sum(1) > 0).all()  # each input is made use of
        inputs[fine] = first.shape[1]
    assert inputs[True] == 3 * inputs[False]


def fill_last(decoder: nn.Module, value: float) -> None:
    """Have the last layer give one value everywhere."""
    last = {PatchDecoder: "last", StridedDecoder: "convolutions", PooledDecoder: "last"}[type(decoder)]
    layer = getattr(decoder, last)
    layer = layer[-1] if isinstance(layer, nn.ModuleList) else layer
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)


@pytest.mark.parametrize("settings", [PATCHES, STRIDED, POOLED])
def test_pictures_are_exact_to_the_shade_in_bfloat16_too(settings: ModelSettings) -> None:
    decoder = make_decoder(settings, 64, 0, 5)
    fill_last(decoder, 3.0)
    with torch.autocast("cpu", torch.bfloat16):
        picture = decoder(torch.randn(1, 5))
    assert picture.dtype == torch.float32
    assert (picture - 1 / (1 + math.exp(-3))).abs().max() < 1e-6  # bfloat16 alone would be off by up to 2e-3


@pytest.mark.parametrize("settings", [PATCHES, STRIDED, POOLED])
def test_means_of_normals_are_not_squashed(settings: ModelSettings) -> None:
    decoder = make_decoder(settings.model_copy(update={"picture": "normal"}), 64, 0, 5)
    fill_last(decoder, 3.0)
    assert torch.equal(decoder(torch.randn(1, 5)), torch.full((1, 3, 64, 64), 3.0))


def test_the_smallest_map_is_made_of_h_in_blocks() -> None:
    """Each block of h makes its own channels of the pooled decoder's first map, at all places."""
    decoder = make_decoder(POOLED, 64, 16, 5)
    seen: list[Tensor] = []
    decoder.start.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    feature = torch.randn(1, 21)
    decoder(feature)
    feature = feature.clone()
    feature[:, 2:4] += 1  # the second of eight blocks
    decoder(feature)
    moved = (seen[1] - seen[0]).abs() > 1e-7  # (1, 4, 4, 16)
    assert moved[..., 2:4].all()
    assert not moved[..., :2].any() and not moved[..., 4:].any()


def test_a_doubled_map_repeats_each_value() -> None:
    """Before the last convolution of the pooled decoder, values come in squares of four."""
    decoder = make_decoder(POOLED, 64, 16, 5)
    seen: list[Tensor] = []
    decoder.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoder(torch.randn(1, 21))
    (x,) = seen
    assert x.shape == (1, 8, 64, 64)
    for row, column in ((0, 1), (1, 0), (1, 1)):
        assert torch.equal(x[..., ::2, ::2], x[..., row::2, column::2])


@pytest.mark.parametrize(("deter", "depth"), [(12, 4), (16, 3)])
def test_what_does_not_divide_into_blocks_is_refused(deter: int, depth: int) -> None:
    with pytest.raises(UsageError, match=r"multiples of model\.blocks"):
        make_decoder(POOLED.model_copy(update={"depth": depth}), 64, deter, 5)


def test_pixels_begin_with_about_the_variance_of_their_inputs() -> None:
    """With ReLU halving it from map to map, the pictures of a fresh strided decoder are neither flat nor garish."""
    torch.manual_seed(0)
    decoder = make_decoder(STRIDED.model_copy(update={"depth": 16, "picture": "normal"}), 64, 0, 50)
    initialise(decoder)
    assert 0.05 < decoder(torch.randn(8, 50)).std().item() < 2
