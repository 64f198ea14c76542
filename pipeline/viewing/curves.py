"""Learning curves, drawn from the metrics that a fitting stage has logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..artifacts import atomic_path

_COLORS = ("#20639b", "#d1495b", "#3a7d44", "#8a5a9e", "#c77b0a")
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


def draw_curves(metrics: Sequence[Mapping[str, float | None]], path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Draw metrics against the number of updates: faint as measured, strong as a running mean.

    The mean is geometric where the axis is logarithmic. A panel of which nothing was logged is left out.

    Args:
        metrics: lines as `console.read_lines` gives them; a value may be missing or None.
        path: the PNG to write, atomically.
        title: over the whole figure.
        panels: what to draw, row by row.
    """
    curves = [(panel, _curves(metrics, panel)) for panel in panels]
    shown = [(panel, lines) for panel, lines in curves if lines]
    columns = max(1, min(_COLUMNS, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure((_PANEL_SIZE[0] * columns, _PANEL_SIZE[1] * rows + 0.5), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (panel, lines) in zip(grid, shown, strict=False):
        _draw_panel(axes, panel, lines)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


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


def _curves(
    metrics: Sequence[Mapping[str, float | None]], panel: Panel
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Steps (N,) and values (N,) of each metric of the panel that was logged at all."""
    curves = {}
    for name in panel.names:
        points = [(line["step"], value) for line in metrics if (value := line.get(name)) is not None]
        kept = [point for point in points if point[1] > 0 or not panel.log]
        if kept:
            steps, values = np.array(kept, np.float64).T
            curves[name] = (steps, values)
    return curves


def _draw_panel(
    axes: Axes, panel: Panel, curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> None:
    for color, (name, (steps, values)) in zip(_COLORS, curves.items(), strict=False):
        label = name.replace("/", ", ").replace("_", " ")
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
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(fontsize=8, frameon=False)
