from __future__ import annotations

import sys

import pytest
import torch

from pipeline import devices, distributed
from pipeline.devices import named_device, pick_device, room_for_data
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


def test_a_device_is_named_with_its_number_and_refused_where_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "cuda", "cpu")
    assert named_device("cuda:1") == torch.device("cuda:1")
    for name in ("mps", "cude", "meta", ""):
        with pytest.raises(UsageError, match=f"no device '{name}' on this machine"):
            named_device(name)


def test_an_unknown_device_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        pick_device("cude")


def test_of_several_processes_each_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "cuda", "mps", "cpu")
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(distributed, "_size", 6)  # on two machines
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 2)
    assert chosen == [2, 2]
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UsageError, match="has 3 GPUs; start at most 3 processes"):
        pick_device("auto")
    with pytest.raises(UsageError, match="cannot share the mps device"):
        pick_device("mps")
    _only(monkeypatch, "mps", "cpu")
    assert pick_device("auto") == torch.device("cpu")


def test_data_may_take_half_of_what_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    assert room_for_data(torch.device("cuda", 0)) == 500
    assert room_for_data(torch.device("cpu")) == 0


def test_the_machine_has_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**28 < devices.machine_memory() < 2**50
    monkeypatch.delattr(devices.os, "sysconf")
    assert devices.machine_memory() == sys.maxsize
