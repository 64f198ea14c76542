from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pipeline.lineage import Score
from pipeline.viewing import curves
from pipeline.viewing.curves import Panel, RunCurves, compare_runs, draw_curves, panel_figures, smooth

PANELS = (Panel("Loss", ("loss", "held_out/loss"), log=True), Panel("Entropy", ("entropy",)), Panel("None", ("none",)))


def _metrics(updates: int) -> list[dict[str, float | None]]:
    lines: list[dict[str, float | None]] = []
    for step in range(1, updates + 1):
        lines.append({"step": step, "loss": 1 / step, "entropy": None if step == 3 else -step / 10})
        if step % 10 == 0:
            lines[-1]["held_out/loss"] = 2 / step
    return lines


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Keep every figure that is drawn."""
    kept: list[Figure] = []

    class KeptFigure(Figure):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            kept.append(self)

    monkeypatch.setattr(curves, "Figure", KeptFigure)
    return kept


def test_panels_with_nothing_logged_are_left_out(tmp_path: Path, figures: list[Figure]) -> None:
    draw_curves(_metrics(100), tmp_path / "curves.png", "Title", PANELS)
    titles = [axes.get_title(loc="left") for axes in figures[0].axes if axes.axison]
    assert titles == ["Loss", "Entropy"]
    assert [axes.get_yscale() for axes in figures[0].axes] == ["log", "linear"]


def test_dense_curves_are_drawn_raw_and_smooth_sparse_ones_as_points(tmp_path: Path, figures: list[Figure]) -> None:
    draw_curves(_metrics(100), tmp_path / "curves.png", "Title", PANELS)
    raw, mean, held_out = figures[0].axes[0].lines
    assert (raw.get_alpha(), len(raw.get_xdata())) == (0.25, 100)
    assert mean.get_label() == "loss" and len(mean.get_xdata()) == 100
    assert held_out.get_marker() == "o" and list(held_out.get_xdata()) == list(range(10, 101, 10))


def test_missing_values_are_left_out(tmp_path: Path, figures: list[Figure]) -> None:
    draw_curves(_metrics(5), tmp_path / "curves.png", "Title", PANELS)
    (entropy,) = figures[0].axes[1].lines
    assert list(entropy.get_xdata()) == [1, 2, 4, 5]


def test_values_not_above_zero_are_left_out_of_log_panels(tmp_path: Path, figures: list[Figure]) -> None:
    metrics: list[dict[str, float | None]] = [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 3.0}]
    draw_curves(metrics, tmp_path / "curves.png", "Title", PANELS)
    assert list(figures[0].axes[0].lines[0].get_ydata()) == [3.0]


@pytest.mark.parametrize("metrics", [[], _metrics(1), _metrics(60)])
def test_the_picture_is_written(tmp_path: Path, metrics: list[dict[str, float | None]]) -> None:
    path = tmp_path / "new" / "curves.png"
    draw_curves(metrics, path, "Title", PANELS)
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 0
    assert list(path.parent.iterdir()) == [path]


def test_each_panel_can_be_a_figure_of_its_own() -> None:
    drawn = panel_figures(_metrics(100), PANELS)
    assert [figure.axes[0].get_title(loc="left") for figure in drawn] == ["Loss", "Entropy"]
    assert panel_figures([], PANELS) == []


def test_runs_are_compared_each_in_its_colour(tmp_path: Path, figures: list[Figure]) -> None:
    world = [{"step": step, "held_out/kl": step} for step in (10, 20)]
    policy = [{"step": step, "return": 2 * step, "entropy": -step} for step in (10, 20)]
    one = RunCurves("one", world, policy, Score(700, 600, 800, 20, "report"))
    two = RunCurves("two", [], policy, Score(-50, None, None, 1, "report"))
    compare_runs([RunCurves("none", [], []), one, two], tmp_path / "curves.png")
    panels = {axes.get_title(loc="left"): axes for axes in figures[0].axes if axes.axison}
    assert list(panels) == [
        "Held-out KL, nats a step",
        "Imagined return",
        "Actor's entropy, nats",
        "Score, mean and 95 % interval",
    ]
    returns = {str(line.get_label()): line for line in panels["Imagined return"].lines}
    assert list(returns) == ["one", "two"]
    scores = panels["Score, mean and 95 % interval"]
    assert [label.get_text() for label in scores.get_yticklabels()] == ["one", "two"]
    interval, mean, only = scores.lines
    assert list(interval.get_xdata()) == [600, 800] and list(mean.get_xdata()) == [700]
    assert list(only.get_xdata()) == [-50]
    assert mean.get_color() == returns["one"].get_color() != returns["two"].get_color() == only.get_color()
    assert (tmp_path / "curves.png").stat().st_size > 1000


@given(st.floats(-1e6, 1e6), st.integers(1, 300))
def test_smoothing_keeps_a_constant(value: float, length: int) -> None:
    np.testing.assert_allclose(smooth(np.full(length, value)), value, rtol=1e-9, atol=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_smoothing_stays_within_what_was_seen_and_has_no_direction(values: list[float]) -> None:
    array = np.array(values)
    smoothed = smooth(array)
    assert smoothed.shape == array.shape
    assert (smoothed <= array.max() + 1e-9).all() and (smoothed >= array.min() - 1e-9).all()
    np.testing.assert_allclose(smooth(array[::-1]), smoothed[::-1], atol=1e-9)


def test_smoothing_calms_noise() -> None:
    noise = np.random.default_rng(0).normal(size=1000)
    assert smooth(noise)[100:].std() < 0.2 * noise.std()
