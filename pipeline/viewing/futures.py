"""One present and several futures: what the world model imagines after different actions, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..artifacts import atomic_path
from .encodings import box, hwc


@dataclass(frozen=True, eq=False)
class Future:
    """What is imagined after an action that is held for H decisions.

    Attributes:
        name: of the action.
        pictures: (H, 3, S, S) uint8.
        reward: (H,), predicted.
    """

    name: str
    pictures: NDArray[np.uint8]
    reward: NDArray[np.float32]


# All lengths in inches.
_CELL, _LEFT, _RIGHT, _HEAD, _FOOT = 0.92, 1.75, 1.0, 1.25, 0.65
_BETWEEN, _PLOT, _GAP = 0.18, 1.6, 0.35
_COLORS = ("#20639b", "#2a9d8f", "#444444", "#d98b0c", "#d1495b")
_STRIDE = 3  # decisions from one column to the next


def draw_futures(present: NDArray[np.uint8], futures: Sequence[Future], path: Path, title: str, note: str) -> None:
    """Draw the futures of one present, and the rewards that each of them adds up to.

    Args:
        present: (3, S, S) uint8, the last recorded picture.
        futures: one to five, all equally long.
        path: the PNG to write, atomically.
        title, note: the heading, and under it what the reader needs to know.
    """
    steps = np.arange(0, len(futures[0].reward), _STRIDE)
    columns, rows = len(steps), len(futures)
    width = _LEFT + _CELL + _BETWEEN + columns * _CELL + _RIGHT
    height = _HEAD + rows * _CELL + _GAP + _PLOT + _FOOT
    figure = Figure((width, height), dpi=110)
    figure.text(0.3 / width, 1 - 0.33 / height, title, size=16, weight="bold")
    figure.text(0.3 / width, 1 - 0.45 / height, note, size=10, color="#444444", va="top", linespacing=1.5)
    colors = _COLORS[:rows]
    first = _LEFT + _CELL + _BETWEEN
    pictures = figure.add_axes(box(figure, first, height - _HEAD - rows * _CELL, columns * _CELL, rows * _CELL))
    _draw_pictures(pictures, futures, steps, colors)
    middle = height - _HEAD - (rows / 2 + 0.5) * _CELL
    _draw_present(figure.add_axes(box(figure, _LEFT, middle, _CELL, _CELL)), present)
    plot = figure.add_axes(box(figure, first, _FOOT, columns * _CELL, _PLOT))
    _draw_rewards(plot, futures, steps, colors)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _draw_present(axes: Axes, present: NDArray[np.uint8]) -> None:
    axes.imshow(hwc(present[None])[0], interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title("now", fontsize=10, weight="bold", pad=4)


def _draw_pictures(axes: Axes, futures: Sequence[Future], steps: NDArray[np.int64], colors: Sequence[str]) -> None:
    """A row for each future, its name on the left, what it earns on the right."""
    gap = 0.04
    for row, (future, color) in enumerate(zip(futures, colors, strict=True)):
        for column, step in enumerate(steps):
            extent = (column + gap, column + 1 - gap, -row - 1 + gap, -row - gap)
            axes.imshow(hwc(future.pictures[step][None])[0], extent=extent, interpolation="nearest")
        place = (-(_CELL + _BETWEEN) / _CELL - 0.1, -row - 0.5)
        axes.text(*place, future.name, ha="right", va="center", size=10, color=color, weight="bold")
        earned = f"{future.reward.sum():+.1f}"
        axes.text(len(steps) + 0.12, -row - 0.5, earned, va="center", size=11, color=color, weight="bold")
    axes.text(len(steps) + 0.12, 0.1, "reward", size=9)
    axes.set(xlim=(0, len(steps)), ylim=(-len(futures), 0), aspect="auto", yticks=[])
    axes.set_xticks(np.arange(len(steps)) + 0.5, [f"+{step + 1}" for step in steps], fontsize=8)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False, pad=2)
    axes.spines[:].set_visible(False)


def _draw_rewards(axes: Axes, futures: Sequence[Future], steps: NDArray[np.int64], colors: Sequence[str]) -> None:
    """The rewards added up, each decision below its picture."""
    at = (np.arange(len(futures[0].reward)) + _STRIDE / 2) / _STRIDE
    for future, color in zip(futures, colors, strict=True):
        axes.plot(at, future.reward.cumsum(), color=color, linewidth=1.8)
    axes.axhline(0, color="#9aa5b1", linewidth=0.8)
    axes.set_xlim(0, len(steps))
    axes.set_xticks(np.arange(len(steps)) + 0.5, [f"+{step + 1}" for step in steps], fontsize=8)
    axes.set_xlabel("decisions from now", fontsize=9)
    axes.set_ylabel("reward so far", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
