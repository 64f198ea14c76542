"""Learning curves, drawn from the metrics that a fitting stage has logged: of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..artifacts import atomic_path
from ..learning.world_learner import HORIZONS
from ..lineage import Score

_COLORS = (
    *("#20639b", "#d1495b", "#3a7d44", "#8a5a9e", "#c77b0a"),
    *("#4fb0c6", "#e08fa0", "#8fb339", "#6b6b6b", "#5b3a29"),
)
MOST_RUNS = len(_COLORS)
"""Runs that can be told apart in one figure."""
_SPARSE = 40  # points; a curve with fewer is drawn as it is, with markers
_COLUMNS = 3
_PANEL_SIZE = (4.2, 2.8)  # inches


@dataclass(frozen=True)
class Panel:
    """One small plot.

    Attributes:
        title: what is shown, with its unit.
        names: metrics drawn in it.
        log: draw the values on a logarithmic axis; those that are not above 0 are left out.
    """

    title: str
    names: tuple[str, ...]
    log: bool = False


WORLD_PANELS = (
    Panel("Reconstruction error (sum over pixels)", ("picture", "held_out/picture"), log=True),
    Panel("KL, nats a step", ("kl", "held_out/kl")),
    Panel("Reward loss", ("reward", "held_out/reward"), log=True),
    Panel("Held-out pixel error, imagined", tuple(f"held_out/open_loop_{k}" for k in HORIZONS), log=True),
    Panel("Held-out reward error, imagined sum", tuple(f"held_out/open_loop_reward_{k}" for k in HORIZONS)),
    Panel("Gradient norm", ("gradient",), log=True),
)
POLICY_PANELS = (
    Panel("Imagined return (lambda; of utility, penalised)", ("return",)),
    Panel("Imagined reward a decision", ("reward",)),
    Panel("Value", ("value",)),
    Panel("Actor's entropy, nats", ("entropy",)),
    Panel("Ensemble disagreement, cost", ("disagreement", "cost")),
    Panel("Scale of returns", ("scale",)),
)
_WORLD_COMPARED = (
    Panel("Held-out reconstruction error", ("held_out/picture",), log=True),
    Panel("Held-out KL, nats a step", ("held_out/kl",)),
    Panel("Held-out reward loss", ("held_out/reward",), log=True),
    Panel(f"Held-out pixel error, {HORIZONS[-1]} imagined", (f"held_out/open_loop_{HORIZONS[-1]}",), log=True),
)
_POLICY_COMPARED = (
    Panel("Imagined return", ("return",)),
    Panel("Actor's entropy, nats", ("entropy",)),
)

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps (N,) and values (N,) of a curve."""


@dataclass(frozen=True)
class RunCurves:
    """What is compared of a run.

    Attributes:
        name: of the run.
        world, policy: lines of metrics, as `console.read_lines` gives them; none where there are none.
        score: None where it was not evaluated.
    """

    name: str
    world: Sequence[Mapping[str, float | None]]
    policy: Sequence[Mapping[str, float | None]]
    score: Score | None = None


def draw_curves(metrics: Sequence[Mapping[str, float | None]], path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Draw metrics against the number of updates: faint as measured, strong as a running mean.

    The mean is geometric where the axis is logarithmic. A panel of which nothing was logged is left out.

    Args:
        metrics: lines as `console.read_lines` gives them; a value may be missing or None.
        path: the PNG to write, atomically.
        title: over the whole figure.
        panels: what to draw, row by row.
    """
    shown = _logged(metrics, panels)
    figure, grid = _grid(title, len(shown))
    for axes, (panel, curves) in zip(grid, shown, strict=False):
        _draw_panel(axes, panel, curves)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def panel_figures(metrics: Sequence[Mapping[str, float | None]], panels: Sequence[Panel]) -> list[Figure]:
    """The same curves, each panel as a figure of its own; those of which nothing was logged are left out."""
    figures = []
    for panel, curves in _logged(metrics, panels):
        figures.append(Figure(_PANEL_SIZE, layout="constrained"))
        _draw_panel(figures[-1].subplots(), panel, curves)
    return figures


def compare_runs(runs: Sequence[RunCurves], path: Path) -> None:
    """Draw the curves of several runs in one figure, a colour for each run, and their scores.

    Args:
        runs: at most `MOST_RUNS`.
        path: the PNG to write, atomically.
    """
    shown = []
    for panels, logs in (
        (_WORLD_COMPARED, {run.name: run.world for run in runs}),
        (_POLICY_COMPARED, {run.name: run.policy for run in runs}),
    ):
        for panel in panels:
            found = {name: curve for name, log in logs.items() for curve in _curves(log, panel).values()}
            if found:
                shown.append((panel, found))
    colors = {run.name: color for run, color in zip(runs, _COLORS, strict=False)}
    scored = [run for run in runs if run.score is not None]
    figure, grid = _grid("Runs compared", len(shown) + bool(scored))
    for axes, (panel, curves) in zip(grid, shown, strict=False):
        _draw_panel(axes, panel, curves, colors)
    if scored:
        _draw_scores(grid[len(shown)], scored, colors)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _grid(title: str, panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with room for so many panels, and at least as many axes; those left over are blank."""
    columns = max(1, min(_COLUMNS, panels))
    rows = max(1, -(-panels // columns))
    figure = Figure((_PANEL_SIZE[0] * columns, _PANEL_SIZE[1] * rows + 0.5), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    grid: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid[panels:]:
        axes.set_axis_off()
    return figure, grid


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean with Gaussian weights, a fortieth of the curve wide: centred, so that nothing seems to come late.

    Args:
        values: (N,).

    Returns:
        (N,).
    """
    width = max(1.0, len(values) / 40)
    reach = np.arange(-int(3 * width), int(3 * width) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    inside = slice(len(reach) // 2, len(reach) // 2 + len(values))
    sums = np.convolve(values, kernel)[inside]
    weights = np.convolve(np.ones_like(values), kernel)[inside]  # less at the ends, where values are missing
    return np.asarray(sums / weights, np.float64)


def _logged(
    metrics: Sequence[Mapping[str, float | None]], panels: Sequence[Panel]
) -> list[tuple[Panel, dict[str, Points]]]:
    """The panels of which anything was logged, with their curves."""
    curves = ((panel, _curves(metrics, panel)) for panel in panels)
    return [(panel, lines) for panel, lines in curves if lines]


def _curves(metrics: Sequence[Mapping[str, float | None]], panel: Panel) -> dict[str, Points]:
    """Each metric of the panel that was logged at all."""
    curves = {}
    for name in panel.names:
        points = [(line["step"], value) for line in metrics if (value := line.get(name)) is not None]
        kept = [point for point in points if point[1] > 0 or not panel.log]
        if kept:
            steps, values = np.array(kept, np.float64).T
            curves[name] = (steps, values)
    return curves


def _draw_panel(
    axes: Axes, panel: Panel, curves: Mapping[str, Points], colors: Mapping[str, str] | None = None
) -> None:
    """Draw curves by metric; or by run, where `colors` has those of the runs."""
    for drawn, (name, (steps, values)) in zip(_COLORS, curves.items(), strict=False):
        color, label = (colors[name], name) if colors else (drawn, name.replace("/", ", ").replace("_", " "))
        if len(values) < _SPARSE:
            axes.plot(steps, values, "o-", markersize=3, color=color, label=label)
            continue
        mean = np.exp(smooth(np.log(values))) if panel.log else smooth(values)
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, mean, color=color, linewidth=1.8, label=label)
    if panel.log:
        axes.set_yscale("log")
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set_xlabel("updates", fontsize=9)
    _style(axes)
    if len(curves) > 1:
        axes.legend(fontsize=8, frameon=False)


def _draw_scores(axes: Axes, runs: Sequence[RunCurves], colors: Mapping[str, str]) -> None:
    """Mean scores with their intervals, the first run on top."""
    for row, run in enumerate(runs):
        assert run.score is not None
        mean, low, high = run.score.mean, run.score.low, run.score.high
        if low is not None and high is not None:
            axes.plot([low, high], [row, row], color=colors[run.name], linewidth=2)
        axes.plot([mean], [row], "o", color=colors[run.name])
        axes.annotate(f"{mean:.0f}", (mean, row), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(runs)), [run.name for run in runs])
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.set_title("Score, mean and 95 % interval", loc="left", fontsize=10)
    _style(axes)


def _style(axes: Axes) -> None:
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
