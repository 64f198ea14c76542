"""Shapes and starting points of the networks."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.models.networks import Decoder, Encoder, Mlp, initialise, map_channels, to_picture


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("patch", [2, 4, 8])
def test_encoder_and_decoder_fit_every_size(size: int, patch: int) -> None:
    encoder, decoder = Encoder(size, 2, patch), Decoder(5, size, 2, patch)
    embedding = encoder(torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8))
    assert embedding.shape == (3, encoder.outputs)
    assert encoder.outputs == 16 * (size // 16) ** 2
    pictures = decoder(torch.randn(3, 5))
    assert pictures.shape == (3, 3, size, size)
    assert pictures.min() >= 0 and pictures.max() <= 1


def test_channels_double_as_the_map_halves() -> None:
    assert map_channels(16, 2) == [16, 32, 64, 128]
    assert map_channels(16, 4) == [32, 64, 128]
    assert map_channels(16, 8) == [64, 128]


def test_memory_format_does_not_change_the_result() -> None:
    encoder = Encoder(64, 4, 4)
    observation = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    other = observation.to(memory_format=torch.channels_last)
    assert torch.allclose(encoder(observation), encoder(other), atol=1e-5)


def test_every_byte_survives_the_way_to_a_picture_and_back() -> None:
    observation = torch.arange(256, dtype=torch.uint8)
    picture = to_picture(observation)
    assert picture.min() == 0 and picture.max() == 1
    assert torch.equal((picture * 255).round().byte(), observation)


def test_pictures_are_exact_to_the_shade_in_bfloat16_too() -> None:
    decoder = Decoder(5, 64, 2, 4)
    torch.nn.init.zeros_(decoder.last.weight)
    torch.nn.init.constant_(decoder.last.bias, 3.0)
    with torch.autocast("cpu", torch.bfloat16):
        pictures = decoder(torch.randn(1, 5))
    assert pictures.dtype == torch.float32
    assert (pictures - 1 / (1 + math.exp(-3))).abs().max() < 1e-6  # bfloat16 alone would be off by up to 2e-3


def test_initial_outputs_have_about_the_variance_of_the_inputs() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(500, 500), torch.nn.Conv2d(8, 64, 4, 2, 1))
    initialise(layer)
    assert layer[0](torch.randn(400, 500)).std().item() == pytest.approx(1.0, abs=0.05)
    inside = layer[1](torch.randn(40, 8, 16, 16))[:, :, 1:-1, 1:-1]
    assert inside.std().item() == pytest.approx(1.0, abs=0.1)


def test_a_perceptron_has_its_layers() -> None:
    network = Mlp(3, 8, 2, 4)
    assert network(torch.randn(5, 3)).shape == (5, 4)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in network.modules()) == 3
