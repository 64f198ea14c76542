from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from pipeline.envs.car_racing.actions import ACTION_NAMES, action_bounds
from pipeline.episodes.episode import Episode
from pipeline.episodes.metadata import Origin, View
from pipeline.episodes.store import EpisodeStore
from pipeline.viewing.coverage import LAP, LIMIT, OFF_FIELD, OFF_ROAD, DriveCoverage, draw, measure, report


def good(decisions: int = 1000, episodes: int = 50) -> DriveCoverage:
    """Data that nothing is wrong with."""
    rng = np.random.default_rng(0)
    return DriveCoverage(
        speed=rng.uniform(0, 70, decisions).astype(np.float32),
        actions=rng.uniform(-1, 1, (decisions, 3)).astype(np.float32),
        names=("steering", "gas", "brake"),
        wheels=rng.integers(0, 5, decisions).astype(np.uint8),
        rewards=rng.choice([-0.4, 3.0, -100.0], decisions).astype(np.float32),
        lengths=rng.integers(40, 250, episodes),
        scores=rng.normal(10, 20, episodes),
        tiles=rng.integers(4, 50, episodes).astype(np.int32),
        ends=Counter({OFF_FIELD: 2, OFF_ROAD: episodes - 2}),
    )


def good_discrete(decisions: int = 1000, episodes: int = 50) -> DriveCoverage:
    """The same, of discrete actions and episodes of one length."""
    actions = np.random.default_rng(1).choice(5, decisions, p=[0.1, 0.15, 0.15, 0.55, 0.05])
    lengths = np.full(episodes, decisions // episodes)
    return replace(good(decisions, episodes), actions=actions, names=ACTION_NAMES, lengths=lengths)


def test_good_data_have_no_weakness() -> None:
    assert good().weaknesses() == good_discrete().weaknesses() == []


@pytest.mark.parametrize(
    ("poor", "said"),
    [
        ({"wheels": np.array([1] * 29 + [0] * 71, np.uint8)}, "Only 29% of the decisions have a wheel on the road"),
        ({"speed": np.array([39.0] * 999 + [41.0], np.float32)}, "Only 0.1% of the decisions are at 40 units/s"),
        ({"tiles": np.array([2, 3, 3], np.int32)}, "visits 2.7 tiles on average"),
        ({"lengths": np.array([60] * 19)}, "only 19 episodes"),
    ],
)
def test_each_weakness_is_told_with_its_cure(poor: dict[str, object], said: str) -> None:
    (told,) = replace(good(), **poor).weaknesses()
    assert said in told and ("collect.p" in told or "collect more decisions" in told)


def _episode(
    wheels: list[int], *, terminated: bool = False, lap: bool = False, chosen: list[int] | None = None
) -> Episode:
    steps = len(wheels)
    last = np.arange(steps) == steps - 1
    return Episode(
        observations=np.zeros((steps + 1, 3, 8, 8), np.uint8),
        actions=np.tile(np.float32([0.1, 0.2, 0.3]), (steps, 1)) if chosen is None else np.array(chosen),
        rewards=np.arange(steps, dtype=np.float32),
        terminations=last & terminated,
        truncations=last & (not terminated),
        infos={
            "speed": np.arange(steps, dtype=np.float32) * 20,
            "on_road": np.array(wheels, np.uint8),
            "tiles": np.arange(steps, dtype=np.int32) * 2,
            "lap_finished": last & lap,
        },
        seed=1,
        policy="smooth",
        track_tiles=300,
    )


def _origin(continuous: bool) -> Origin:
    low, high = action_bounds(continuous)
    view = View(action_repeat=4, size=8, continuous=continuous, action_low=low, action_high=high)
    return Origin(gymnasium="1.4.0", view=view, policy="mixture", patience=3, limit=5, seed=0)


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    with EpisodeStore.create(tmp_path / "x", _origin(continuous=True)) as writer:
        writer.append(_episode([4, 4, 0, 0, 0]))
        writer.append(_episode([4, 4, 1, 0, 0]))
        writer.append(_episode([0, 0]))
        writer.append(_episode([4, 0, 0, 0], terminated=True))
        writer.append(_episode([4, 4, 4], terminated=True, lap=True))
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("wheels", "end"),
    [([4] + [0] * 2, OFF_ROAD), ([4] + [0] * 12, OFF_ROAD), ([4] + [0] * 5, LIMIT), ([4, 4], LIMIT), ([4, 0], LIMIT)],
)
def test_a_drive_with_more_patience_is_lost_later(tmp_path: Path, wheels: list[int], end: str) -> None:
    with EpisodeStore.create(
        tmp_path / "x", _origin(continuous=True).model_copy(update={"patience": 2, "limit": 20})
    ) as writer:
        writer.append(_episode(wheels))
    with EpisodeStore.open(tmp_path / "x") as store:
        coverage = measure(store)
    assert isinstance(coverage, DriveCoverage) and coverage.ends == Counter({end: 1})


def test_measure(store_path: Path) -> None:
    with EpisodeStore.open(store_path) as store:
        coverage = measure(store)
    assert isinstance(coverage, DriveCoverage)
    assert coverage.ends == Counter({OFF_ROAD: 1, LIMIT: 2, OFF_FIELD: 1, LAP: 1})
    assert coverage.lengths.tolist() == [5, 5, 2, 4, 3]
    assert coverage.scores.tolist() == [10, 10, 1, 6, 3]
    assert coverage.tiles.tolist() == [8, 8, 2, 6, 4]
    assert coverage.speed.shape == coverage.wheels.shape == coverage.rewards.shape == (19,)
    assert coverage.actions.shape == (19, 3)
    assert coverage.on_road == pytest.approx(9 / 19)
    assert coverage.fast == pytest.approx(9 / 19)


def test_report(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EpisodeStore.open(store_path) as store:
        report(store)
    output = capsys.readouterr()
    assert "19 decisions in 5 episodes" in output.out
    assert "A wheel on the road in 47% of the decisions" in output.out
    assert "1 left the playfield, 1 finished the lap, 1 cut short off the road, 2 cut short by limit" in output.out
    assert output.err.count("Warning") == 1 and "only 5 episodes" in output.err
    assert _inked(matplotlib.image.imread(store_path / "coverage.png"))


def test_report_of_discrete_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EpisodeStore.create(tmp_path / "x", _origin(continuous=False)) as writer:
        writer.append(_episode([4, 4, 4, 4], chosen=[3, 3, 3, 1]))
        writer.append(_episode([4, 4], chosen=[3, 0]))
    with EpisodeStore.open(tmp_path / "x") as store:
        coverage = report(store)
    np.testing.assert_allclose(coverage.action_shares, [[0, 0.25, 0, 0.75, 0], [0.5, 0, 0, 0.5, 0]])
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: row[1:] for row in rows if row}
    assert table["share of 'gas'"] == ["0.62", "0.51", "0.62", "0.74", "0.75"]
    assert table["share of 'brake'"][0] == "0.00"
    assert len([name for name in table if name.startswith("share of")]) == 5
    assert not any("steering," in name for name in table)
    assert _inked(matplotlib.image.imread(tmp_path / "x" / "coverage.png"))


def _inked(picture: np.ndarray) -> bool:
    """Whether each of the nine fields of the figure holds something dark or coloured."""
    height, width = (side // 3 for side in picture.shape[:2])
    fields = [picture[r * height :, c * width :][:height, :width, :3] for r in range(3) for c in range(3)]
    return all((field.min(-1) < 0.8).mean() > 0.01 for field in fields)


@pytest.mark.parametrize("single", [False, True])
def test_draw(tmp_path: Path, single: bool) -> None:
    """Also where there is but one value of everything, and where all rewards are rare."""
    coverage = good()
    if single:
        one = {
            name: getattr(coverage, name)[:1] for name in ("speed", "actions", "wheels", "lengths", "scores", "tiles")
        }
        coverage = replace(coverage, **one, rewards=np.float32([-100.0]), ends=Counter({OFF_FIELD: 1}))
    draw(coverage, tmp_path / "figure.png", "A title")
    assert matplotlib.image.imread(tmp_path / "figure.png").shape == (900, 1200, 4)


def test_draw_discrete_actions(tmp_path: Path) -> None:
    """They change two fields of nine, the left and the middle one of the second row."""
    for name, coverage in (("one", good_discrete()), ("other", replace(good(), lengths=good_discrete().lengths))):
        draw(coverage, tmp_path / f"{name}.png", "A title")
    one, other = (matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3] for name in ("one", "other"))
    assert _inked(one) and one.shape == other.shape
    differing = (one != other).any(-1)
    assert differing[300:600, :400].mean() > 0.02 and differing[300:600, 400:800].mean() > 0.02
