"""The optimizers against re-implementations in float64 numpy, their clipping, and an exact resume."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import PolicySettings, WorldSettings
from pipeline.learning.optimizers import LaProp, clip_adaptively, clip_gradients, make_optimizer, restore_optimizer
from pipeline.learning.schedule import set_step_size, step_size

ADAM = PolicySettings(optimizer="adam", eps=1e-8)
LAPROP = PolicySettings(optimizer="laprop", eps=1e-20)


def weights() -> list[nn.Parameter]:
    """A matrix, a vector and a vector of zeros."""
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 4), (5,), (2,)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors[2].zero_()
    return [nn.Parameter(tensor) for tensor in tensors]


def gradients(updates: int) -> list[list[torch.Tensor]]:
    """Of each update, one a tensor; large ones among them, and one that is 0."""
    generator = torch.Generator().manual_seed(1)
    drawn = [[torch.randn(p.shape, generator=generator) * 10 ** (u % 3 - 1) for p in weights()] for u in range(updates)]
    drawn[1][1].zero_()
    return drawn


def take_steps(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, settings, drawn, rates) -> None:
    for step, rate in zip(drawn, rates, strict=True):
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        set_step_size(optimizer, rate)
        clip_gradients(iter(parameters), settings)
        optimizer.step()


def numpy_laprop(drawn, rates, agc: float, decay: float = 0.0) -> list[np.ndarray]:
    """AGC, scaling, momentum, step: each as in the official code, in float64."""
    values = [parameter.detach().double().numpy().copy() for parameter in weights()]
    scales, momenta = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    for t, (step, rate) in enumerate(zip(drawn, rates, strict=True), 1):
        for i, gradient in enumerate(step):
            g = gradient.double().numpy()
            largest = agc * max(1e-3, np.sqrt((values[i] ** 2).sum()))
            g = g * (1 / max(1.0, np.sqrt((g**2).sum()) / largest))
            scales[i] = 0.999 * scales[i] + 0.001 * g * g
            update = g / (np.sqrt(scales[i] / (1 - 0.999**t)) + 1e-20)
            momenta[i] = 0.9 * momenta[i] + 0.1 * update
            values[i] = values[i] * (1 - decay * rate / 1e-2) - rate * momenta[i] / (1 - 0.9**t)
    return values


@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_laprop_golden_over_several_updates_with_warmup(decay: float) -> None:
    settings = LAPROP.model_copy(update={"weight_decay": decay})
    parameters, drawn = weights(), gradients(7)
    rates = [step_size(1e-2, index, 7, warmup=4, anneal=0.0) for index in range(7)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    take_steps(parameters, make_optimizer(parameters, settings, 1e-2), settings, drawn, rates)
    for parameter, expected in zip(parameters, numpy_laprop(drawn, rates, 0.3, decay), strict=True):
        assert np.allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_first_update_of_laprop_goes_one_step_size_along_the_sign() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    parameter.grad = torch.tensor([1e-9, -1e9, 0.0])
    LaProp([parameter], 0.5).step()
    assert parameter.tolist() == pytest.approx([0.5, -1.5, 3.0])


def test_adaptive_clipping_golden() -> None:
    """|w| = 5 lets through 0.3 * 5 = 1.5; of a gradient of norm 3, half is left. Weights of 0 let through 0.0003."""
    parameters = [nn.Parameter(torch.tensor(value)) for value in ([3.0, 4.0], [3.0, 4.0], [0.0, 0.0])]
    for parameter, gradient in zip(parameters, ([0.0, 3.0], [0.9, 1.2], [0.06, 0.08]), strict=True):
        parameter.grad = torch.tensor(gradient)
    norms = clip_adaptively(parameters, 0.3)
    assert norms.each.tolist() == pytest.approx([3.0, 1.5, 0.1])
    assert norms.total.item() == pytest.approx((3**2 + 1.5**2 + 0.1**2) ** 0.5)
    assert parameters[0].grad.tolist() == pytest.approx([0.0, 1.5])
    assert parameters[1].grad.tolist() == pytest.approx([0.9, 1.2])
    assert parameters[2].grad.tolist() == pytest.approx([0.00018, 0.00024])


def test_clipping_goes_with_the_optimizer() -> None:
    def clipped(settings: PolicySettings) -> tuple[float, list[float]]:
        parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
        unused = nn.Parameter(torch.ones(2))
        parameter.grad = torch.tensor([30.0, 40.0])
        norms = clip_gradients(iter([parameter, unused]), settings)
        assert norms.each.tolist() == [norms.total]
        return norms.total.item(), parameter.grad.tolist()

    adam, laprop = ADAM.model_copy(update={"clip": 10.0}), LAPROP.model_copy(update={"agc": 0.5})
    assert clipped(adam) == (pytest.approx(50.0), pytest.approx([6.0, 8.0], rel=1e-4))
    assert clipped(laprop) == (pytest.approx(50.0), pytest.approx([1.5, 2.0]))


def test_adam_is_bitwise_torchs_own_with_its_epsilon() -> None:
    parameters, others, drawn = weights(), weights(), gradients(4)
    settings = ADAM.model_copy(update={"eps": 1e-3})
    take_steps(parameters, make_optimizer(parameters, settings, 1e-2), settings, drawn, [1e-2, 2e-2, 1e-2, 5e-3])
    theirs = torch.optim.AdamW(others, 1e-2, eps=1e-3, weight_decay=0, fused=True)
    take_steps(others, theirs, settings, drawn, [1e-2, 2e-2, 1e-2, 5e-3])
    assert all(torch.equal(p, q) for p, q in zip(parameters, others, strict=True))


@pytest.mark.parametrize("settings", [ADAM, LAPROP], ids=["adam", "laprop"])
def test_weight_decay_takes_a_share_of_the_weight_whatever_the_step_size(settings: PolicySettings) -> None:
    """DreamerV2's code: w <- (1 - weight_decay) w at the full rate; half of it at half the rate."""
    settings = settings.model_copy(update={"weight_decay": 0.25})
    for rate in (1e-1, 1e-4):
        parameter = nn.Parameter(torch.tensor([2.0]))
        optimizer = make_optimizer([parameter], settings, rate)
        take_steps([parameter], optimizer, settings, [[torch.zeros(1)]], [rate])
        assert parameter.item() == pytest.approx(1.5)
        take_steps([parameter], optimizer, settings, [[torch.zeros(1)]], [rate / 2])
        assert parameter.item() == pytest.approx(1.5 * 0.875)


@pytest.mark.parametrize("settings", [ADAM, LAPROP], ids=["adam", "laprop"])
def test_resumed_it_goes_on_bitwise(settings: PolicySettings) -> None:
    drawn, rates = gradients(6), [1e-2] * 6
    whole, parts = weights(), weights()
    take_steps(whole, make_optimizer(whole, settings, 1e-2), settings, drawn, rates)
    first = make_optimizer(parts, settings, 1e-2)
    take_steps(parts, first, settings, drawn[:3], rates[:3])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = [nn.Parameter(copy.deepcopy(p.data)) for p in parts]
    second = make_optimizer(resumed, settings, 1e-2)
    second.load_state_dict(torch.load(file, weights_only=True))
    take_steps(resumed, second, settings, drawn[3:], rates[3:])
    assert all(torch.equal(p, q) for p, q in zip(whole, resumed, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(parts, resumed, strict=True))


@pytest.mark.parametrize("settings", [ADAM, LAPROP], ids=["adam", "laprop"])
def test_a_state_of_another_shape_is_refused(settings: PolicySettings) -> None:
    fitted = weights()
    optimizer = make_optimizer(fitted, settings, 1e-2)
    take_steps(fitted, optimizer, settings, gradients(2), [1e-2] * 2)
    state = copy.deepcopy(optimizer.state_dict())
    restore_optimizer(make_optimizer(weights(), settings, 1e-2), state)
    moment = next(name for name, value in state["state"][0].items() if isinstance(value, torch.Tensor) and value.ndim)
    state["state"][0][moment] = torch.zeros(7, 5, 3)
    with pytest.raises(ValueError, match=f"the optimizer's {moment} has shape"):
        restore_optimizer(make_optimizer(weights(), settings, 1e-2), state)


def test_the_world_models_settings_name_one_too() -> None:
    assert isinstance(make_optimizer(weights(), WorldSettings(optimizer="laprop"), 1e-3), LaProp)
    optimizer = make_optimizer(weights(), WorldSettings(eps=1e-5), 1e-3)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["eps"] == 1e-5
