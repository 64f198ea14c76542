"""Shapes and starting points of the networks."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.networks import Decoder, Encoder, Mlp, initialise, map_channels


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("patch", [2, 4, 8])
def test_encoder_and_decoder_fit_every_size(size: int, patch: int) -> None:
    encoder, decoder = Encoder(size, 2, patch), Decoder(5, size, 2, patch)
    embedding = encoder(torch.rand(3, 3, size, size))
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
    pictures = torch.rand(2, 3, 64, 64)
    assert torch.allclose(encoder(pictures), encoder(pictures.to(memory_format=torch.channels_last)), atol=1e-5)


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
