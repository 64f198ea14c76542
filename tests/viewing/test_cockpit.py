from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.viewing.cockpit import HEIGHT, WIDTH, Cockpit, Dials

RNG = np.random.default_rng(0)
DRIVE = RNG.integers(0, 256, (400, 600, 3), dtype=np.uint8)
SEEN, REBUILT = RNG.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
IDLE = Dials(steer=0, gas=0, brake=0, speed=0, score=0, tiles=0, track_tiles=300, seconds=0)
GAUGES = slice(490, 510)  # rows


def picture(dials: Dials = IDLE) -> NDArray[np.uint8]:
    return Cockpit("Best of 20 tracks", "seed 1007, score 912").picture(DRIVE, SEEN, REBUILT, dials)


def changed_columns(dials: Dials) -> NDArray[np.intp]:
    """Columns of the gauges that differ from those of an idle car."""
    return np.flatnonzero((picture(dials)[GAUGES] != picture()[GAUGES]).any((0, 2)))


def find(inner: NDArray[np.uint8], outer: NDArray[np.uint8]) -> tuple[int, int]:
    """Row and column at which a picture lies in another, pixel for pixel."""
    height, width, _ = inner.shape
    for row, column in np.argwhere((outer == inner[0, 0]).all(-1)):
        if np.array_equal(outer[row : row + height, column : column + width], inner):
            return int(row), int(column)
    raise AssertionError("not found")


def test_everything_real_is_shown_unchanged() -> None:
    shown = picture()
    assert shown.shape == (HEIGHT, WIDTH, 3) and shown.dtype == np.uint8
    drive = find(DRIVE, shown)
    seen, rebuilt = (find(np.kron(p.transpose(1, 2, 0), np.ones((3, 3, 1), np.uint8)), shown) for p in (SEEN, REBUILT))
    assert drive[1] + 600 < seen[1] == rebuilt[1]  # beside the drive
    assert seen[0] + 192 < rebuilt[0]  # one above the other


@pytest.mark.parametrize("size", [64, 96, 128])
def test_any_size_of_observation_fits(size: int) -> None:
    grey = np.full((3, size, size), 77, np.uint8)
    shown = Cockpit("t", "s").picture(DRIVE, grey, grey, IDLE)
    assert (shown == 77).all(-1).sum() >= 2 * 192 * 192


def test_steering_points_to_its_side() -> None:
    left, right = changed_columns(replace(IDLE, steer=-0.5)), changed_columns(replace(IDLE, steer=0.5))
    assert left.max() <= right.min()
    assert len(left) == pytest.approx(len(right), abs=2)
    assert len(changed_columns(replace(IDLE, steer=1.0))) == pytest.approx(2 * len(right), abs=2)


@pytest.mark.parametrize(("name", "full"), [("gas", 1.0), ("brake", 1.0), ("speed", 100.0)])
def test_gauges_grow_with_what_they_show(name: str, full: float) -> None:
    half, whole = (changed_columns(replace(IDLE, **{name: share * full})) for share in (0.5, 1.0))
    assert half.min() == whole.min()
    assert len(whole) == pytest.approx(2 * len(half), abs=2)


def test_a_speed_beyond_the_gauge_fills_it() -> None:
    fast, faster = (changed_columns(replace(IDLE, speed=speed)) for speed in (100.0, 250.0))
    assert np.array_equal(fast, faster)


def test_a_card_dims_the_drive_alone() -> None:
    cockpit = Cockpit("Worst of 3 tracks", "seed 1000")
    before = cockpit.picture(DRIVE, SEEN, REBUILT, IDLE)
    card = cockpit.card(before, "score -32")
    top, left = find(DRIVE, before)
    inside = (slice(top, top + 400), slice(left, left + 600))
    assert card[inside].mean() < 0.5 * before[inside].mean()
    assert card[inside].max() > 200  # the text
    card[inside] = before[inside]
    assert np.array_equal(card, before)
