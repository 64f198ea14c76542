from __future__ import annotations

import pytest
import torch

from pipeline import devices
from pipeline.devices import pick_device
from pipeline.errors import UsageError


def _only(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    monkeypatch.setattr(devices, "_PRESENT", {name: lambda name=name: name in present for name in devices._PRESENT})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some Card")


@pytest.mark.parametrize(
    ("present", "chosen"), [(("cuda", "mps", "cpu"), "cuda"), (("mps", "cpu"), "mps"), (("cpu",), "cpu")]
)
def test_auto_takes_the_fastest_and_says_so(
    present: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _only(monkeypatch, *present)
    assert pick_device("auto") == torch.device(chosen)
    assert capsys.readouterr().out.startswith(f"Device: {chosen}")


def test_a_device_asked_for_is_taken_even_where_there_is_a_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "cuda", "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "cpu")
    with pytest.raises(UsageError, match=f"no {name} device.*--device auto"):
        pick_device(name)


def test_an_unknown_device_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        pick_device("cude")
