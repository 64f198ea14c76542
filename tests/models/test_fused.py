"""The sequence differentiated by hand, against the one that automatic differentiation sees."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import resolve
from pipeline.models import fused
from pipeline.models.dynamics import Latent, NormedDynamics, RecurrentDynamics, make_dynamics


def sequence(dynamics: NormedDynamics, by_hand: bool, low: bool, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Results of an observed sequence, and the gradients of a sum in which each counts differently."""
    dynamics.zero_grad()
    embedding = data["embedding"].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        observe = NormedDynamics._observe if by_hand else RecurrentDynamics._observe
        states, logits = observe(dynamics, dynamics.project(embedding), data["action"], data["first"], data["noise"])
    total = (data["weight"] * states.stoch).sum() + states.deter.square().sum() + logits.float().square().sum()
    total.backward()
    gradients = {name: weight.grad for name, weight in dynamics.named_parameters() if weight.grad is not None}
    found = {"deter": states.deter, "stoch": states.stoch, "logits": logits, "embedding": embedding.grad, **gradients}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


@pytest.fixture
def dynamics() -> NormedDynamics:
    torch.manual_seed(0)
    model = make_dynamics(resolve("tiny").model, 2, 8)
    assert isinstance(model, NormedDynamics)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture
def data() -> dict[str, Tensor]:
    torch.manual_seed(1)
    first = torch.zeros(3, 7, dtype=torch.bool)
    first[0, 0] = first[1, 3] = first[1, 4] = True
    shapes = {"embedding": (3, 7, 8), "action": (3, 7, 2), "weight": (3, 7, 16)}
    return {
        "first": first,
        "noise": torch.rand(7, 3, 4),
        **{name: torch.randn(shape) for name, shape in shapes.items()},
    }


@pytest.mark.parametrize(("low", "bound"), [(False, 1e-5), (True, 0.02)], ids=["float32", "bfloat16"])
def test_results_and_gradients_are_those_of_automatic_differentiation(
    dynamics: NormedDynamics, data: dict[str, Tensor], low: bool, bound: float
) -> None:
    """Within 1e-5 of their norm; in bfloat16, where a product of all steps is rounded once, within 2 %."""
    if low:
        data["noise"] = torch.zeros_like(data["noise"])  # draws the first class, however probabilities are rounded
    by_hand, plain = (sequence(dynamics, way, low, data) for way in (True, False))
    assert by_hand.keys() == plain.keys()
    assert len(by_hand) == 4 + 12  # all weights but the prior's four
    assert torch.equal(by_hand["stoch"], plain["stoch"])
    for name, expected in plain.items():
        assert by_hand[name].dtype == expected.dtype, name
        assert (by_hand[name] - expected).norm() <= bound * expected.norm(), name


def test_the_default_model_is_observed_by_hand(
    dynamics: NormedDynamics, data: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> tuple[Latent, Tensor]:
        raise AssertionError

    monkeypatch.setattr(RecurrentDynamics, "_observe", fail)
    dynamics.observe(data["embedding"], data["action"], data["first"])
    with pytest.raises(AssertionError):
        dynamics.observe(data["embedding"], data["action"].requires_grad_(), data["first"])
    other = make_dynamics(resolve("tiny", variant="v2").model, 2, 8)
    with pytest.raises(AssertionError):
        other.observe(data["embedding"], data["action"], data["first"])


def test_only_a_cpu_norms_bfloat16_with_a_float32_scale(
    dynamics: NormedDynamics, data: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere the kernel of the way back refuses the two types, and automatic differentiation casts first."""

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(fused, "observe", fail)
    elsewhere = {name: tensor.to("meta") for name, tensor in data.items()}
    dynamics.to("meta")
    embedding, action, first = (elsewhere[name] for name in ("embedding", "action", "first"))
    states, _ = dynamics._observe(dynamics.project(embedding), action, first, elsewhere["noise"])
    assert states.deter.shape == (3, 7, dynamics.deter_width)


@pytest.mark.parametrize("backwards", [True, False])
def test_nothing_stays_in_memory(dynamics: NormedDynamics, data: dict[str, Tensor], backwards: bool) -> None:
    """Neither after the gradient nor where it is never asked for; without the garbage collector, which sees no cycle
    that goes through a graph."""
    alive = []
    build = fused._Sequence.__init__

    def remember(self: fused._Sequence, *args: Any) -> None:
        alive.append(weakref.ref(self))
        build(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused._Sequence, "__init__", remember)
        states, logits = dynamics.observe(data["embedding"], data["action"], data["first"])
    if backwards:
        (states.feature.sum() + logits.sum()).backward()
    del states, logits
    assert len(alive) == 1
    assert alive[0]() is None


def test_gradients_are_those_of_finite_differences(dynamics: NormedDynamics, data: dict[str, Tensor]) -> None:
    """Of what z's straight-through gradient has no part in: the logits of single rows, of which z is drawn last."""
    data = {name: tensor[:1] if name == "noise" else tensor[:, :1] for name, tensor in data.items()}
    weight = dynamics.from_deter.weight

    def total() -> Tensor:
        states, logits = dynamics._observe(
            dynamics.project(data["embedding"]), data["action"], data["first"], data["noise"]
        )
        return logits.square().sum() + states.deter.square().sum()

    dynamics.zero_grad()
    total().backward()
    gradient = dynamics.input[0].weight.grad
    assert gradient is not None and weight.grad is not None
    for tensor, found in ((dynamics.posterior_logits[2].weight, None), (dynamics.input[0].weight, gradient)):
        found = tensor.grad if found is None else found
        direction = torch.randn_like(tensor)
        with torch.no_grad():
            tensor += 1e-3 * direction
            above = total()
            tensor -= 2e-3 * direction
            below = total()
            tensor += 1e-3 * direction
        assert (found * direction).sum().item() == pytest.approx(((above - below) / 2e-3).item(), rel=2e-2)
