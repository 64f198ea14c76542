"""The building blocks, against values worked out by hand or by another layer, and their starting points."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models.networks import BlockLinear, LayerNorm, Mlp, RmsNorm, initialise, make_activation, make_norm


def test_rms_norm_golden() -> None:
    """(3, 4) has the mean square 12.5; the scale multiplies, nothing is subtracted or added."""
    norm = RmsNorm(2)
    x, root = torch.tensor([[3.0, 4.0]]), (12.5 + 1e-4) ** 0.5
    assert norm(x)[0].tolist() == pytest.approx([3 / root, 4 / root])
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -1.0]))
    assert norm(x)[0].tolist() == pytest.approx([6 / root, -4 / root])
    assert [name for name, _ in norm.named_parameters()] == ["weight"]


def test_layer_norm_golden() -> None:
    """(1, 5) has the mean 3 and the variance 4."""
    assert LayerNorm(2)(torch.tensor([1.0, 5.0])).tolist() == pytest.approx([-2 / 4.0001**0.5, 2 / 4.0001**0.5])


def test_rms_norm_computes_in_float32() -> None:
    x = torch.randn(4, 8).bfloat16()
    normed = RmsNorm(8)(x)
    assert normed.dtype == torch.float32
    assert torch.equal(normed, RmsNorm(8)(x.float()))


@pytest.mark.parametrize(("name", "expected"), [("silu", -0.26894142), ("elu", -0.63212056), ("relu", 0.0)])
def test_activations_golden(name: str, expected: float) -> None:
    assert make_activation(name)(torch.tensor([-1.0, 2.0]))[0].item() == pytest.approx(expected)


@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
def test_a_perceptron_has_its_layers(norm: str) -> None:
    network = Mlp(3, 8, 2, 4, norm, "elu")
    assert network(torch.randn(5, 3)).shape == (5, 4)
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 3
    assert sum(isinstance(layer, nn.ELU) for layer in network.modules()) == 2
    assert sum(type(layer) is type(make_norm(norm, 8)) for layer in network.modules()) == 2
    assert [layer.bias is not None for layer in linear] == [norm != "layer"] * 2 + [True]


def test_a_perceptron_golden() -> None:
    """Without a norm: W2 elu(W1 x + b1) + b2, in float64."""
    network = Mlp(3, 4, 1, 2, "none", "elu").double()
    x = torch.randn(5, 3, dtype=torch.float64)
    first, last = network.hidden[0], network.out
    hidden = x @ first.weight.T + first.bias
    hidden = torch.where(hidden > 0, hidden, torch.exp(hidden) - 1)
    assert torch.allclose(network(x), hidden @ last.weight.T + last.bias)


def test_blocks_are_a_dense_layer_with_zeros_between_them() -> None:
    layer, full = BlockLinear(12, 6, 3), nn.Linear(12, 6)
    with torch.no_grad():
        layer.bias.normal_()
        full.weight.copy_(torch.block_diag(*[block.T for block in layer.weight]))
        full.bias.copy_(layer.bias.flatten())
    x = torch.randn(5, 12)
    assert torch.allclose(layer(x), full(x), atol=1e-6)
    assert (full.weight == 0).sum().item() == 12 * 6 - layer.weight.numel()


def test_initial_outputs_have_about_the_variance_of_the_inputs() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(500, 500), nn.Conv2d(8, 64, 4, 2, 1))
    initialise(layer)
    assert layer[0](torch.randn(400, 500)).std().item() == pytest.approx(1.0, abs=0.05)
    inside = layer[1](torch.randn(40, 8, 16, 16))[:, :, 1:-1, 1:-1]
    assert inside.std().item() == pytest.approx(1.0, abs=0.1)


def test_blocks_count_the_inputs_of_all() -> None:
    """As in DreamerV3's code: with 4 blocks, a quarter of the variance of the inputs."""
    torch.manual_seed(0)
    layer = BlockLinear(800, 800, 4)
    initialise(layer)
    assert layer(torch.randn(400, 800)).std().item() == pytest.approx(0.5, abs=0.03)
    assert not layer.bias.any()
