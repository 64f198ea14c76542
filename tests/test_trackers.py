from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline import trackers
from pipeline.errors import UsageError
from pipeline.trackers import TensorBoard, WandB, require


def test_tensorboard_shows_each_point_once_however_often_the_command_was_started(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for last in (3, 5):  # the second start gives the lines of the first again
        tracker = TensorBoard(tmp_path)
        for step in range(1, last + 1):
            tracker.append(step, {"loss": last + step / 10, "held_out/loss": 1.0})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "held_out/loss"}
    points = [(event.step, event.value) for event in events.Scalars("loss")]
    assert points == [(step, pytest.approx(5 + step / 10)) for step in range(1, 6)]


def test_wandb_is_told_the_run_the_stage_and_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Started:
        def log(self, metrics: dict[str, float], step: int) -> None:
            calls.append(("log", (step, metrics)))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(**options: object) -> Started:
        calls.append(("init", options))
        return Started()

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    folder = tmp_path / "mine" / "world"
    folder.mkdir(parents=True)
    (folder / "settings.toml").write_text("seed = 3\n")
    tracker = WandB(folder)
    tracker.append(10, {"loss": 1.5})
    tracker.close()
    (_, options), *rest = calls
    assert (options["name"], options["group"], options["config"]) == ("mine/world", "mine", {"seed": 3})
    assert options["dir"] == str(folder)
    assert rest == [("log", (10, {"loss": 1.5})), ("finish", None)]


def test_wandb_offline_stays_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "mine" / "world"
    folder.mkdir(parents=True)
    tracker = WandB(folder)
    tracker.append(10, {"loss": 1.5})
    tracker.close()
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install wandb"):
        require("wandb")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: object())
    assert require("tensorboard") is TensorBoard


@pytest.mark.parametrize(("name", "tracker"), [("tensorboard", TensorBoard), ("wandb", WandB)])
def test_nothing_is_written_through_a_link_in_somebody_elses_run(
    name: str, tracker: type[TensorBoard] | type[WandB], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("wandb", "torch.utils.tensorboard"):
        stub = ModuleType(module)
        stub.init = stub.SummaryWriter = lambda *_, **__: pytest.fail("it writes")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module, stub)
    (tmp_path / name).symlink_to(tmp_path / "home")
    with pytest.raises(UsageError, match=f"{name} is a link that leads elsewhere; remove it"):
        tracker(tmp_path)
