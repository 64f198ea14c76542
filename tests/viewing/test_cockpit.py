from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.envs.view import Gauge
from pipeline.viewing.cockpit import HEIGHT, WIDTH, Cockpit, Dials

RNG = np.random.default_rng(0)
DRIVE = RNG.integers(0, 256, (400, 600, 3), dtype=np.uint8)
SEEN, REBUILT = RNG.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)


def car(steer: float = 0, gas: float = 0, brake: float = 0, speed: float = 0) -> Dials:
    """The instruments of CarRacing; the last three from 0 to 1."""
    gauges = [Gauge("Steering", steer, signed=True), Gauge("Gas", gas), Gauge("Brake", brake), Gauge("Speed", speed)]
    return Dials(score=0, seconds=0, gauges=gauges, tiles="0/300")


IDLE = car()
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
    left, right = changed_columns(car(steer=-0.5)), changed_columns(car(steer=0.5))
    assert left.max() <= right.min()
    assert len(left) == pytest.approx(len(right), abs=2)
    assert len(changed_columns(car(steer=1.0))) == pytest.approx(2 * len(right), abs=2)


@pytest.mark.parametrize("name", ["gas", "brake", "speed"])
def test_gauges_grow_with_what_they_show(name: str) -> None:
    half, whole = (changed_columns(car(**{name: share})) for share in (0.5, 1.0))
    assert half.min() == whole.min()
    assert len(whole) == pytest.approx(2 * len(half), abs=2)


@pytest.mark.parametrize(("height", "width"), [(210, 160), (500, 500), (64, 64), (900, 300)])
def test_any_real_picture_fits(height: int, width: int) -> None:
    plain = np.full((height, width, 3), 77, np.uint8)
    shown = Cockpit("t", "s").picture(plain, SEEN, REBUILT, IDLE)
    rows, columns = np.nonzero((shown == 77).all(-1))
    tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert (tall == 400 and wide <= 600) or (wide == 600 and tall <= 400)
    assert tall / wide == pytest.approx(height / width, rel=0.02)


def test_many_gauges_have_room_each() -> None:
    for chosen in range(9):
        gauges = [Gauge(f"Action {number}", float(number == chosen)) for number in range(18)]
        columns = changed_columns_of(gauges)
        assert columns.min() > 24 + chosen * 600 / 9 - 4 and columns.max() < 24 + (chosen + 1) * 600 / 9 + 4


def changed_columns_of(gauges: list[Gauge]) -> NDArray[np.intp]:
    """Columns that differ from those where nothing is chosen."""
    idle = replace(IDLE, gauges=[replace(gauge, value=0.0) for gauge in gauges])
    return np.flatnonzero((picture(replace(IDLE, gauges=gauges))[GAUGES] != picture(idle)[GAUGES]).any((0, 2)))


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
