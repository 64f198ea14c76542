from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artifacts import Run
from pipeline.config import resolve
from pipeline.episodes.store import EpisodeStore
from pipeline.episodes.windows import Windows, split
from pipeline.errors import StageError
from pipeline.models.checkpoints import LoadedWorld, load_world
from pipeline.models.dynamics import Latent
from pipeline.models.world_model import WorldModel
from pipeline.stages.probe import Finding, as_json, probe, show

SETTINGS = resolve("tiny")


def _probe(run: Run, data: Path) -> list[Finding]:
    return probe(SETTINGS, run=run, data=data, device=torch.device("cpu"))


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world model whose z is the picture's brightness, in which the made-up data hide their speed; h is noise."""

    def observe(self: WorldModel, observation: torch.Tensor, action: torch.Tensor, is_first: torch.Tensor) -> Latent:
        brightness = observation.float().mean((-3, -2, -1))[..., None] / 255
        rows = observation.shape[:2]
        noise = torch.rand(*rows, self.dynamics.deter_width)
        return Latent(noise, brightness.expand(*rows, self.dynamics.stoch_width))

    monkeypatch.setattr(WorldModel, "observe", observe)


@pytest.mark.usefixtures("bright")
def test_what_is_in_the_state_is_found_and_nothing_else(tiny_run: Run, truth_data: Path) -> None:
    speed, yaw_rate, track_offset = _probe(tiny_run, truth_data)
    assert (speed.quantity, yaw_rate.quantity, track_offset.quantity) == ("speed", "yaw_rate", "track_offset")
    assert speed.z > 0.99 and speed.h < 0.5 and speed.error < 0.1 * speed.spread
    assert yaw_rate.z < 0.5
    assert speed.rows == 12  # a quarter of four episodes of 12 decisions
    with EpisodeStore.open(truth_data) as store:
        _, held_out = split(4, 0.25, SETTINGS.seed)
        on_road = sum(int((store.read_decisions(int(index)).infos["on_road"] > 0).sum()) for index in held_out)
    assert track_offset.rows == on_road < 12, "off the road, its middle means nothing"


@pytest.mark.usefixtures("bright")
def test_of_the_data_it_was_fitted_to_those_are_held_out_that_were_then(
    tiny_run: Run, truth_data: Path, tmp_path: Path
) -> None:
    own = Run(Path(shutil.copytree(tiny_run.root, tmp_path / "own")))
    manifest = own.world.read_manifest()
    assert manifest is not None
    with EpisodeStore.open(truth_data) as store:
        own.world.write_manifest(replace(manifest, inputs={"data": store.fingerprint}))
    assert _probe(own, truth_data)[0].rows == 24  # the tiny preset holds out half


def test_without_memory_there_is_nothing_to_read_off_it(
    tiny_run: Run, truth_data: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(self: WorldModel, observation: torch.Tensor, action: torch.Tensor, is_first: torch.Tensor) -> Latent:
        rows = observation.shape[:2]
        return Latent(torch.zeros(*rows, 0), torch.rand(*rows, self.features))

    monkeypatch.setattr(WorldModel, "observe", observe)

    def without(path: Path, device: torch.device) -> LoadedWorld:
        world = load_world(path, device)
        world.model.dynamics.deter_width = 0
        return world

    monkeypatch.setattr("pipeline.stages.probe.load_world", without)
    found = _probe(tiny_run, truth_data)
    assert math.isnan(found[0].h) and found[0].z == found[0].state
    show(found, tiny_run)
    assert " - " in capsys.readouterr().out


@pytest.mark.usefixtures("bright")
def test_without_the_truth_there_is_the_speed(tiny_run: Run, tiny_data: Path, capsys: Any) -> None:
    (speed,) = _probe(tiny_run, tiny_data)
    assert speed.z > 0.99
    show([speed], tiny_run)
    printed = capsys.readouterr().out
    assert f"{speed.state:.3f}" in printed and "--set collect.truth=true" in printed


def test_the_same_command_finds_the_same(tiny_run: Run, truth_data: Path) -> None:
    assert str(_probe(tiny_run, truth_data)) == str(_probe(tiny_run, truth_data))


def test_what_cannot_be_told_is_null_in_json() -> None:
    finding = Finding("speed", "units/s", 3, 1.0, 0.5, 0.25, float("nan"), 1.0)
    (told,) = json.loads(json.dumps(as_json([finding]), allow_nan=False))
    assert told == {**asdict(finding), "h": None}


def test_other_data_and_missing_ones_are_refused(
    tiny_run: Run, tiny_data: Path, discrete_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="another view"):
        _probe(tiny_run, discrete_data)
    with pytest.raises(StageError, match="dreamer fit-world --run none"):
        _probe(Run(tmp_path / "none"), tiny_data)
    (tmp_path / "bad").mkdir()
    shutil.copy(tiny_data / "metadata.json", tmp_path / "bad")
    with pytest.raises(StageError, match="dreamer collect --data bad"):
        _probe(tiny_run, tmp_path / "bad")


def test_the_truth_is_in_no_batch(truth_data: Path, tiny_data: Path) -> None:
    """No model sees it: the rows that models are fitted to are the same with it and without."""
    columns = []
    for path in (truth_data, tiny_data):
        with EpisodeStore.open(path) as store:
            columns.append(Windows(store, range(4), 4, 1.0).columns)
    for name, column in columns[0].items():
        np.testing.assert_array_equal(column, columns[1][name])
    assert set(columns[0]) == {"observation", "action", "reward", "is_first", "is_terminal"}


def test_of_other_environments_nothing_is_recorded_to_probe_for(other_run: Run, other_data: Path) -> None:
    with pytest.raises(StageError, match=r"nothing is recorded of \S+-v\d to probe for"):
        _probe(other_run, other_data)
