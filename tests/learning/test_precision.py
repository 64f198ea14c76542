"""The choice of arithmetic."""

from __future__ import annotations

import pytest
import torch

from pipeline.learning import precision
from pipeline.learning.precision import autocast, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("ratio", "chosen"), [(0.5, "bfloat16"), (0.95, "float32"), (3.0, "float32")])
def test_auto_takes_bfloat16_only_where_it_is_clearly_faster(
    ratio: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda dtype: ratio if dtype == torch.bfloat16 else 1.0)
    assert resolve_precision("auto", CPU) == chosen


def test_what_is_asked_for_is_taken_and_auto_measures() -> None:
    assert resolve_precision("float32", CPU) == "float32"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    assert resolve_precision("auto", CPU) in {"float32", "bfloat16"}


def test_autocast_changes_products_only_where_asked() -> None:
    x = torch.randn(4, 4)
    with autocast(CPU, "bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(CPU, "float32"):
        assert (x @ x).dtype == torch.float32
