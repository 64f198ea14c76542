from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artifacts import Manifest, Run
from pipeline.config import VARIANTS, Settings, resolve
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.episodes.episode import Episode
from pipeline.episodes.metadata import Origin
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError, UsageError
from pipeline.stages import forecast
from pipeline.stages.forecast import Forecast, collect, evaluate, fit_policy, fit_world, show, show_total, whole_run

CPU = torch.device("cpu")
COMMANDS = [f"dreamer {name}" for name in ("collect", "fit-world", "show-encodings", "fit-policy", "evaluate")]


def tiny(**values: object) -> Settings:
    """The smallest settings, and some of them, with `__` for the dot."""
    precise = {"world.precision": "float32", "policy.precision": "float32"}
    return resolve("tiny", precise, [(name.replace("__", "."), value) for name, value in values.items()])


def write_data(path: Path, settings: Settings, steps: int = 20) -> Path:
    """Two episodes as `collect` would record them with these settings."""
    size = settings.view.size
    with EpisodeStore.create(path, Origin.of(settings)) as writer:
        for number in range(2):
            last = np.arange(steps) == steps - 1
            writer.append(
                Episode(
                    observations=np.zeros((steps + 1, 3, size, size), np.uint8),
                    actions=np.zeros((steps, 3), np.float32) if settings.view.continuous else np.zeros(steps, np.int64),
                    rewards=np.zeros(steps, np.float32),
                    terminations=np.zeros(steps, np.bool_),
                    truncations=last,
                    infos={name: np.zeros(steps, dtype) for name, dtype in CarRacing.info_types.items()},
                    seed=number,
                    policy="smooth",
                    track_tiles=300,
                )
            )
    (path / ".lock").unlink()
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 decisions."""
    return write_data(tmp_path / "data" / "some", tiny())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every update takes 6 s, encoding 7 s, a decision of the policy 0.01 s. Gives the learners that were timed."""
    timed: list[Any] = []

    def planned_updates(learner: Any, minutes: float, seed: int) -> int:
        timed.append(learner)
        return int(10 * minutes)

    monkeypatch.setattr(forecast, "planned_updates", planned_updates)
    monkeypatch.setattr(forecast, "_encoding_seconds", lambda *_: 7.0)
    monkeypatch.setattr(forecast, "_acting_seconds", lambda *_: 0.01)
    return timed


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# All of them


def test_all_is_foreseen_where_nothing_is_there(tmp_path: Path) -> None:
    """The one test in which something is timed: whatever the clock says will do."""
    forecasts = whole_run(tiny(), run=Run(tmp_path / "run"), data=tmp_path / "data", device=CPU, workers=2, video=True)
    assert [one.command for one in forecasts] == COMMANDS
    assert all(one.seconds > 0 and 0 < one.memory_gib < 4 for one in forecasts)
    assert all("seed" in one.settings for one in forecasts)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_where_all_is_there(data: Path, tiny_run: Run, clock: list[Any]) -> None:
    before = files(data), files(tiny_run.root)
    for fresh in (False, True):
        whole_run(tiny(), run=tiny_run, data=data, device=CPU, fresh=fresh)
        fit_policy(tiny(), run=tiny_run, data=data, device=CPU, fresh=fresh)
    assert (files(data), files(tiny_run.root)) == before


def test_a_data_set_that_is_being_written_can_be_looked_at(data: Path, tmp_path: Path, clock: list[Any]) -> None:
    with EpisodeStore.extend(data):
        assert "40 there" in collect(tiny(), data=data).sizes
        assert "40 decisions" in fit_world(tiny(), run=None, data=data, device=CPU).sizes
    with EpisodeStore.create(tmp_path / "begun", Origin.of(tiny())):
        assert collect(tiny(), data=tmp_path / "begun").sizes.startswith("300 decisions to record, ")


def test_a_run_is_foreseen_from_what_the_stages_before_will_leave(data: Path, tiny_run: Run, clock: list[Any]) -> None:
    """The model there was fitted, with 1 update of 6, to the 40 decisions there; more data ask for another model."""

    def sizes(decisions: int, fresh: bool) -> list[str]:
        settings = tiny(collect__decisions=decisions, world__updates=1)
        return [one.sizes for one in whole_run(settings, run=tiny_run, data=data, device=CPU, fresh=fresh)]

    recorded, world, _, policy, _ = sizes(40, fresh=False)
    assert "nothing to record" in recorded and "already fitted" in world and policy.startswith("40 states")
    for fresh in (False, True):
        recorded, world, _, policy, _ = sizes(70, fresh)
        assert recorded.startswith(f"{70 if fresh else 30} decisions to record")
        assert world.startswith("70 decisions") and world.endswith("1 updates") and policy.startswith("70 states")


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_variant_is_foreseen(tmp_path: Path, variant: str) -> None:
    """Timed too: a learner of each can learn from nothing."""
    settings = resolve("tiny", variant=variant)
    assert all(one.seconds > 0 for one in whole_run(settings, run=Run(tmp_path), data=tmp_path / "none", device=CPU))


@pytest.mark.parametrize(
    ("variant", "bytes_of_a_state"),
    [("laptop", 4 * 16 + 4 * 4), ("memoryless", 4 * 32), ("v1", 4 * 16 + 4 * 30), ("v3", 4 * 16 + 4 * 4)],
)
def test_memory_follows_the_states(variant: str, bytes_of_a_state: int, clock: list[Any]) -> None:
    """Numbers of h and of a Gaussian z take four bytes, those of a one-hot z one; as many are kept as may be."""

    def memory(decisions: int, most: float = 100.0) -> float:
        values = [("collect.decisions", decisions), ("world.memory_gib", 1e-9), ("policy.states_gib", most)]
        return fit_policy(resolve("tiny", values=values, variant=variant), run=None, data=None, device=CPU).memory_gib

    found = (memory(60_000_000) - memory(50_000_000)) * 2**30 / 10_000_000
    assert found == pytest.approx(bytes_of_a_state)
    assert memory(60_000_000, 2.0) == memory(50_000_000, 2.0) == pytest.approx(memory(50_000_000, 1.0) + 1)


def test_discrete_actions_are_foreseen(tmp_path: Path, tiny_run: Run) -> None:
    """As the settings say; and from the data, whatever the settings say. Timed, as in the first test."""
    discrete = tiny(view__continuous=False)
    whole_run(discrete, run=Run(tmp_path / "run"), data=tmp_path / "none", device=CPU, workers=1)
    data = write_data(tmp_path / "data", discrete)
    assert collect(discrete, data=data).sizes.startswith("260 decisions to record beside the 40 there")
    with pytest.raises(StageError, match=r"view\.continuous False, not True"):
        collect(tiny(), data=data)
    for fit in (fit_world, fit_policy):
        assert fit(tiny(), run=None, data=data, device=CPU).seconds > 0


def test_the_models_are_those_for_the_actions(tmp_path: Path, clock: list[Any]) -> None:
    data = write_data(tmp_path / "data", tiny(view__continuous=False))
    for fit, source in itertools.product((fit_world, fit_policy), (None, data)):
        fit(tiny(), run=None, data=source, device=CPU)
    widths = [len(learner.model.scale.low) for learner in clock]
    assert widths == [3, 5, 3, 5]
    assert [learner.model.discrete for learner in clock] == [False, True, False, True]
    assert clock[0].held_out.action.shape[-1] == 3 and clock[1].held_out.action.shape[-1] == 5


# Collecting


def test_collecting_follows_the_settings(tmp_path: Path) -> None:
    def foresee(decisions: int, **options: Any) -> Forecast:
        return collect(tiny(collect__decisions=decisions), data=tmp_path / "none", **options)

    one, two = foresee(600, workers=1), foresee(1200, workers=1)
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert foresee(1200, workers=2).seconds == pytest.approx(one.seconds)
    assert foresee(1200, workers=4).memory_gib > two.memory_gib
    assert one.sizes == "600 decisions to record, about 10 episodes and 1 MB"
    assert one.settings["collect.decisions"] == 600 and "world.updates" not in one.settings


def test_what_is_there_need_not_be_recorded(data: Path, tmp_path: Path) -> None:
    def foresee(path: Path, decisions: int, fresh: bool = False) -> Forecast:
        return collect(tiny(collect__decisions=decisions), data=path, workers=1, fresh=fresh)

    more = foresee(data, 100)
    assert more.sizes.startswith("60 decisions to record beside the 40 there")
    assert more.seconds == foresee(tmp_path / "none", 60).seconds
    assert foresee(data, 40).seconds == 0
    assert foresee(data, 40).sizes == "40 decisions there, nothing to record"
    assert foresee(data, 100, fresh=True) == foresee(tmp_path / "none", 100)


def test_other_settings_do_not_mix(data: Path) -> None:
    other = tiny(collect__patience=11)
    with pytest.raises(StageError, match=r"patience 10, not 11; .* `dreamer collect --data some --fresh`"):
        collect(other, data=data)
    with pytest.raises(StageError, match="patience 10, not 11"):
        whole_run(other, run=Run(data), data=data, device=CPU)
    assert collect(other, data=data, fresh=True).seconds > 0


# Fitting

FITS = pytest.mark.parametrize(("fit", "section", "before"), [(fit_world, "world", 0.0), (fit_policy, "policy", 7.0)])


@FITS
def test_the_time_follows_the_updates(fit: Any, section: str, before: float, clock: list[Any]) -> None:
    for updates in (10, 20):
        found = fit(tiny(**{f"{section}__updates": updates}), run=None, data=None, device=CPU)
        assert found.seconds == pytest.approx(6 * updates + before)
        assert f"{updates} updates" in found.sizes
        assert found.settings[f"{section}.updates"] == updates


@FITS
def test_minutes_take_the_place_of_the_updates(fit: Any, section: str, before: float, clock: list[Any]) -> None:
    found = fit(tiny(), run=None, data=None, device=CPU, minutes=2.5)
    assert found.seconds == 150 + before
    assert "25 updates in 2.5 minutes" in found.sizes


@FITS
def test_what_is_fitted_need_not_be_fitted(
    fit: Any, section: str, before: float, tiny_run: Run, clock: list[Any]
) -> None:
    """One update of that run is done, of the 6 that it was begun with."""

    def foresee(updates: int, **options: Any) -> Forecast:
        found: Forecast = fit(tiny(**{f"{section}__updates": updates}), run=tiny_run, data=None, device=CPU, **options)
        return found

    assert foresee(1).seconds == 0
    assert "already fitted with 1 updates" in foresee(1).sizes
    assert foresee(4).seconds == pytest.approx(3 * 6 + before)
    assert "3 updates to go after 1" in foresee(4).sizes
    assert foresee(4, minutes=1.0).seconds == pytest.approx(5 * 6 + before)  # those it was begun with
    assert foresee(4, fresh=True).seconds == pytest.approx(4 * 6 + before)
    assert foresee(4, fresh=True, minutes=1.0).seconds == 60 + before


def test_an_unfinished_fit_goes_on(tmp_path: Path, clock: list[Any]) -> None:
    run = Run(tmp_path / "run")
    run.world.write_settings(tiny())
    run.world.write_manifest(Manifest("fit-world", done=4))
    assert fit_world(tiny(), run=run, data=None, device=CPU).seconds == pytest.approx(2 * 6)


@FITS
def test_the_view_is_that_of_the_data(fit: Any, section: str, before: float, tmp_path: Path, clock: list[Any]) -> None:
    other = write_data(tmp_path / "other", tiny(view__size=96))
    found = fit(tiny(), run=None, data=other, device=CPU)
    assert found.sizes.startswith("40 ")
    assert fit(tiny(), run=None, data=None, device=CPU).sizes.startswith("300 ")
    sizes = [learner.model.encoder.outputs for learner in clock]
    assert sizes[0] > sizes[1]
    if section == "world":
        assert found.settings["view.size"] == 96


def test_the_policy_is_foreseen_in_the_world_model_of_the_run(tiny_run: Run, tmp_path: Path, clock: list[Any]) -> None:
    asked = tiny(model__deter=64)
    for run in (tiny_run, Run(tmp_path / "none"), None):
        fit_policy(asked, run=run, data=None, device=CPU)
    assert [learner.model.settings.deter for learner in clock] == [16, 64, 64]


def test_memory_follows_the_pictures_as_far_as_they_are_kept(clock: list[Any]) -> None:
    for fit in (fit_world, fit_policy):
        memory = [
            fit(
                tiny(collect__decisions=decisions, world__memory_gib=budget), run=None, data=None, device=CPU
            ).memory_gib
            for decisions, budget in ((300, 4), (200_000, 4), (200_000, 0.001))
        ]
        pictures = 200_000 * 3 * 64**2 / 2**30
        assert memory[1] - memory[0] == pytest.approx(pictures, rel=0.05)
        assert memory[2] - memory[0] < 0.05 * pictures
    batches = [fit_world(tiny(world__batch=batch), run=None, data=None, device=CPU).memory_gib for batch in (200, 400)]
    assert batches[1] > batches[0] + 1


# Evaluating


def test_a_mirror_that_is_none_is_refused_as_when_fitting(tmp_path: Path) -> None:
    settings = resolve("tiny", values=[("view.env", "Pendulum-v1"), ("model.mirror", True)])
    with pytest.raises(UsageError, match="Pendulum-v1 is not known to be the same in a mirror"):
        fit_world(settings, run=None, data=None, device=CPU)


def test_evaluating_follows_the_tracks_and_the_workers(clock: list[Any]) -> None:
    def foresee(tracks: int, workers: int, video: bool = False) -> Forecast:
        return evaluate(tiny(evaluate__tracks=tracks), run=None, workers=workers, video=video)

    start = 2 * foresee(10, 1).seconds - foresee(20, 1).seconds
    assert 0 < start < foresee(1, 1).seconds
    assert foresee(20, 2).seconds == pytest.approx(foresee(10, 1).seconds)
    assert foresee(1, 100).sizes == "1 tracks, each for 3 drivers in 3 processes"
    assert foresee(20, 4).memory_gib > foresee(20, 2).memory_gib
    filmed = [foresee(tracks, 1, video=True).seconds - foresee(tracks, 1).seconds for tracks in (1, 3, 20)]
    assert filmed[0] > 0 and filmed[1:] == pytest.approx([3 * filmed[0]] * 2)
    assert "20 tracks, 3 of them filmed" in foresee(20, 1, video=True).sizes


# Showing


def test_a_forecast_is_shown_in_a_table_and_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(Forecast("dreamer collect", {"seed": 3, "collect.limit": 250}, "5 decisions to record", 3723.4, 1.25))
    output = capsys.readouterr().out
    assert "dreamer collect would use" in output
    assert [[cell.strip() for cell in line.split("│")[1:3]] for line in output.splitlines() if "│" in line] == [
        ["seed", "3"],
        ["collect.limit", "250"],
    ]
    assert output.splitlines()[-1] == ("5 decisions to record; about 1:02:03 and 1.2 GiB of memory; nothing written")


def test_a_run_takes_the_sum_of_the_times_and_the_largest_memory(capsys: pytest.CaptureFixture[str]) -> None:
    show_total([Forecast("dreamer x", {}, "", 61.0, 2.0), Forecast("dreamer y", {}, "", 3.0, 1.0)])
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row] == [
        ["dreamer x", "1:01", "2.0 GiB"],
        ["dreamer y", "0:03", "1.0 GiB"],
        ["all", "1:04", "2.0 GiB"],
    ]
