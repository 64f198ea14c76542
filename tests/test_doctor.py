from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import doctor
from pipeline.doctor import Finding, examine
from pipeline.envs.car_racing import fast_car_racing


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_where_all_is_well_everything_has_been_tried() -> None:
    found = by_name(list(examine()))
    assert not any(finding.fatal for finding in found.values())
    assert {"dreamer", "python", "torch", "gymnasium", "box2d", "numpy", "h5py", "opencv-python"} <= set(found)
    for name in ("device", "processor", "precision", "allocator", "simulator", "drawing", "video", "disk"):
        assert found[name].value, name
    assert found["simulator"].value.startswith("works") and found["drawing"].value.startswith("the fast one")
    assert found["video"].value.startswith("H.264")
    assert any(precision in found["precision"].value for precision in ("bfloat16", "float32"))


def without(monkeypatch: pytest.MonkeyPatch, module: str, error: Exception) -> None:
    """Have the import of a module fail, for the doctor alone: what else is imported meanwhile shall stay whole."""

    def import_module(name: str) -> Any:
        if name == module:
            raise error
        return importlib.import_module(name)

    monkeypatch.setattr(doctor, "importlib", SimpleNamespace(import_module=import_module, metadata=metadata))


@pytest.mark.parametrize(
    ("module", "error", "name", "cure"),
    [
        ("Box2D", ModuleNotFoundError("No module named 'Box2D'"), "box2d", "pip install --force-reinstall box2d"),
        ("cv2", ImportError("libGL.so.1: cannot open"), "opencv-python", "pip install opencv-python-headless"),
    ],
)
def test_a_broken_package_is_fatal_and_has_a_cure(
    module: str, error: Exception, name: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, module, error)
    monkeypatch.setattr(doctor, "_CHECKS", {})
    found = by_name(list(examine()))[name]
    assert found.fatal and cure in found.trouble


def test_a_missing_extra_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "wandb", ModuleNotFoundError("No module named 'wandb'"))
    monkeypatch.setattr(doctor, "_CHECKS", {})
    assert by_name(list(examine()))["wandb"] == Finding("wandb", "not installed, optional")


def test_one_failing_check_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Finding:
        raise RuntimeError("no driver\nand more")

    monkeypatch.setattr(doctor, "_CHECKS", {"device": fails, "video": lambda: Finding("video", "fine")})
    found = by_name(list(examine()))
    assert found["device"].fatal and "RuntimeError: no driver;" in found["device"].trouble
    assert found["video"].value == "fine" and "disk" in found


def test_slow_drawing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_car_racing, "_why_not", lambda: "gymnasium 9 is untested")
    monkeypatch.setattr(doctor, "_CHECKS", {"drawing": doctor._drawing})
    found = by_name(list(examine()))["drawing"]
    assert "gymnasium 9 is untested" in found.trouble and "gymnasium[box2d]==1.4.0" in found.trouble
    assert not found.fatal


def test_a_film_that_is_not_h264_has_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", "")
    found = doctor._video()
    assert found.value == "OpenCV (VP8)" and "pip install av" in found.trouble


def test_an_idle_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.devices.fastest", lambda: "cpu")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    assert "There is an NVIDIA driver, but PyTorch" in doctor._device().trouble


@pytest.mark.parametrize(("free", "trouble", "fatal"), [(50.0, False, False), (1.0, True, False), (0.1, True, True)])
def test_little_disk_is_told(free: float, trouble: bool, fatal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=free * 2**30))
    found = by_name(list(doctor._free_space()))["disk"]
    assert (bool(found.trouble), found.fatal) == (trouble, fatal)


@pytest.mark.parametrize(("limit", "free"), [("max\n", 8.0), (f"{3 * 2**30}\n", 2.0)])
def test_memory_is_that_of_the_container(
    limit: str, free: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
        "/sys/fs/cgroup/memory.max": limit,
        "/sys/fs/cgroup/memory.current": str(2**30),
    }
    for name, text in files.items():
        (tmp_path / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name[1:]).write_text(text)
    inside: Callable[[str], Path] = lambda name: tmp_path / name[1:]  # noqa: E731
    monkeypatch.setattr(doctor, "Path", inside)
    memory = doctor._memory()
    assert memory is not None and memory[0] == free
