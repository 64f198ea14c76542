"""What the world model sees and dreams beside what was recorded: as a figure, and moving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ..artifacts import atomic_path

_RECORDED, _SEEN, _DREAMT = "#9aa5b1", "#20639b", "#d1495b"
_ROWS = ("recorded", "reconstructed", "imagined", "error")
_STRIDE = 3  # decisions from one column of the figure to the next
_LEAST_COLUMNS = 13  # the heading needs the room
_ERROR_TOP = 0.5  # error shown as the brightest colour, as a share of full brightness


@dataclass(frozen=True, eq=False)
class Foresight:
    """A stretch of an episode and what the world model made of it. T steps.

    Attributes:
        title: which stretch it is.
        context: steps in which the model looked at the pictures; in the T - context after them it imagined.
        recorded: (T, 3, S, S) uint8.
        reconstructed: (T, 3, S, S) uint8, decoded from states that have seen every picture up to their own.
        imagined: (T, 3, S, S) uint8, decoded from states that have seen the first `context` pictures only.
        reward: (T,) float32, recorded.
        reward_seen: (T,) float32, predicted by the states of `reconstructed`.
        reward_imagined: (T,) float32, predicted by the states of `imagined`.
    """

    title: str
    context: int
    recorded: NDArray[np.uint8]
    reconstructed: NDArray[np.uint8]
    imagined: NDArray[np.uint8]
    reward: NDArray[np.float32]
    reward_seen: NDArray[np.float32]
    reward_imagined: NDArray[np.float32]

    @property
    def steps(self) -> NDArray[np.int64]:
        """(T,), counted from the last picture that the imagining model has seen: 0 is that, 1 the first imagined."""
        return np.arange(len(self.reward)) - self.context + 1

    @property
    def error(self) -> NDArray[np.float32]:
        """(T, S, S), 0 .. 1: absolute difference of `imagined` to `recorded`, mean over the colours."""
        difference = np.abs(self.imagined.astype(np.float32) - self.recorded)
        return np.asarray(difference.mean(1) / 255, np.float32)

    @property
    def summary(self) -> str:
        """The title, and the rewards summed over the imagined steps."""
        dreamt = slice(self.context, None)
        return (
            f"{self.title}.  Reward of the {len(self.reward) - self.context} imagined steps: "
            f"recorded {self.reward[dreamt].sum():.1f}, imagined {self.reward_imagined[dreamt].sum():.1f}"
        )


# The figure. All lengths in inches.
_CELL, _LEFT, _RIGHT, _HEAD, _FOOT = 0.84, 1.2, 0.4, 1.0, 0.2
_BLOCK_HEAD, _REWARD, _GAP = 0.6, 1.05, 0.25
_BLOCK = _BLOCK_HEAD + len(_ROWS) * _CELL + _REWARD + _GAP


def draw_encodings(foresights: Sequence[Foresight], path: Path, note: str) -> None:
    """Draw stretches one below the other, each as four rows of pictures over a plot of the rewards.

    Args:
        foresights: at least one.
        path: the PNG to write, atomically.
        note: under the heading: what the reader needs to know about where it comes from.
    """
    columns = max(_LEAST_COLUMNS, *(len(_columns(foresight)) for foresight in foresights))
    width = _LEFT + columns * _CELL + _RIGHT
    height = _HEAD + len(foresights) * _BLOCK + _FOOT - _GAP
    figure = Figure((width, height), dpi=110)
    figure.text(0.3 / width, 1 - 0.33 / height, "What the world model sees, and what it dreams", size=16, weight="bold")
    figure.text(0.3 / width, 1 - 0.45 / height, note, size=10, color="#444444", va="top", linespacing=1.5)
    figure.legend(handles=_legend(), loc="upper right", ncols=3, frameon=False, fontsize=10)
    for index, foresight in enumerate(foresights):
        top = height - _HEAD - index * _BLOCK - _BLOCK_HEAD
        inches = (len(_columns(foresight)) * _CELL, len(_ROWS) * _CELL)
        pictures = figure.add_axes(box(figure, _LEFT, top - inches[1], *inches))
        rewards = figure.add_axes(box(figure, _LEFT, top - inches[1] - _REWARD, inches[0], _REWARD - 0.2))
        _draw_pictures(pictures, foresight)
        _label_pictures(pictures, foresight)
        _draw_rewards(rewards, foresight)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _columns(foresight: Foresight) -> NDArray[np.int64]:
    """Indices of the steps that are drawn, spaced so that imagination starts half-way between two of them."""
    return np.arange((foresight.context - _STRIDE // 2 - 1) % _STRIDE, len(foresight.reward), _STRIDE)


def box(figure: Figure, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
    """A rectangle in inches as the shares of the figure that matplotlib wants."""
    x, y = figure.get_size_inches()
    return left / x, bottom / y, width / x, height / y


def _legend() -> list[Line2D]:
    labels = {"reward recorded": _RECORDED, "predicted, looking": _SEEN, "predicted, imagining": _DREAMT}
    return [Line2D([], [], color=color, linewidth=3, label=label) for label, color in labels.items()]


def _draw_pictures(axes: Axes, foresight: Foresight) -> None:
    """Four rows of pictures on an x axis that counts steps, so that the plot below has the same."""
    columns, steps = _columns(foresight), foresight.steps
    half, gap = _STRIDE / 2, 0.05 * _STRIDE
    rows = (hwc(foresight.recorded), hwc(foresight.reconstructed), hwc(foresight.imagined), _heat(foresight.error))
    for row, pictures in enumerate(rows):
        bottom = -(row + 1) * _STRIDE
        for column in columns:
            x = steps[column]
            if row < 2 or x > 0:
                extent = (x - half + gap, x + half - gap, bottom + gap, bottom + _STRIDE - gap)
                axes.imshow(pictures[column], extent=extent, interpolation="nearest")
    for column in columns[steps[columns] > 0]:
        error = f"{100 * foresight.error[column].mean():.1f} %"
        axes.text(steps[column], bottom - 0.02, error, ha="center", va="top", size=7, color="#444444")
    axes.set(xlim=(steps[columns[0]] - half, steps[columns[-1]] + half), ylim=(bottom, 0), aspect="auto")


def _label_pictures(axes: Axes, foresight: Foresight) -> None:
    """Names of the rows, numbers of the steps, and where imagination starts."""
    shown = foresight.steps[_columns(foresight)]
    rows = [-(row + 0.5) * _STRIDE for row in range(len(_ROWS))]
    left, _ = axes.get_xlim()
    words = {f"looks at\n{foresight.context} pictures": "#888888", "imagination\nstarts \N{RIGHTWARDS ARROW}": _DREAMT}
    for y, (text, color) in zip(rows[2:], words.items(), strict=True):
        axes.text((left + 0.5) / 2, y, text, ha="center", va="center", size=9, color=color)
    axes.axvline(0.5, color=_DREAMT, linewidth=1.6)
    axes.text(left - 0.25, 0.1, "step", ha="right", va="bottom", size=8)
    axes.set_yticks(rows, _ROWS, fontsize=10)
    for label, color in zip(axes.get_yticklabels()[1:3], (_SEEN, _DREAMT), strict=True):
        label.set_color(color)
    axes.set_xticks(shown, [f"{step:+d}" if step else "0" for step in shown], fontsize=8)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False, pad=2)
    axes.spines[:].set_visible(False)
    axes.set_title(foresight.summary, loc="left", fontsize=10.5, pad=8)


def _draw_rewards(axes: Axes, foresight: Foresight) -> None:
    """The rewards below the pictures, on the same scale of steps."""
    steps, dreamt = foresight.steps, slice(foresight.context, None)
    columns = _columns(foresight)
    axes.fill_between(steps, foresight.reward, step="mid", color=_RECORDED, alpha=0.55, linewidth=0)
    axes.plot(steps, foresight.reward_seen, color=_SEEN, linewidth=1.3)
    axes.plot(steps[dreamt], foresight.reward_imagined[dreamt], color=_DREAMT, linewidth=1.6)
    axes.axvline(0.5, color=_DREAMT, linewidth=1.6)
    axes.set_xlim(steps[columns[0]] - _STRIDE / 2, steps[columns[-1]] + _STRIDE / 2)
    axes.set_xticks(steps[columns], [])
    axes.set_ylabel("reward", fontsize=10, rotation=0, ha="right", va="center")
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "left"]].set_visible(False)


def hwc(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(T, 3, S, S) to (T, S, S, 3)."""
    return pictures.transpose(0, 2, 3, 1)


def _heat(error: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Errors (T, S, S) as colours (T, S, S, 3): black for none."""
    colors: NDArray[np.uint8] = matplotlib.colormaps["inferno"](error / _ERROR_TOP, bytes=True)
    return colors[..., :3]


# The film. All lengths in inches of 100 pixels.
_SIDE, _MARGIN = 2.56, 0.24
_FILM = (4 * _SIDE + 5 * _MARGIN, 5.2)
FILM_FPS = 10


def film_frames(foresights: Iterable[Foresight]) -> Iterator[NDArray[np.uint8]]:
    """Pictures (520, 1144, 3) uint8 of a film that shows one stretch after the other, `FILM_FPS` steps a second."""
    for foresight in foresights:
        yield from _frames(foresight)


def _frames(foresight: Foresight) -> Iterator[NDArray[np.uint8]]:
    """One picture a step. What does not move is drawn once."""
    figure = Figure(_FILM, dpi=100)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib gives its methods no types
    figure.text(_MARGIN / _FILM[0], 0.96, foresight.summary, size=11)
    panels = [_panel(figure, index, name) for index, name in enumerate(("recorded", "reconstructed", "", "error"))]
    state = panels[2].set_title("", loc="left", fontsize=12, weight="bold", animated=True)
    images = [axes.imshow(np.zeros((1, 1, 3), np.uint8), interpolation="nearest", animated=True) for axes in panels]
    plot = figure.add_axes(box(figure, 0.75, 0.5, _FILM[0] - 0.75 - _MARGIN, 1.2))
    lines = _film_plot(plot, foresight)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    pictures = (foresight.recorded, foresight.reconstructed, foresight.imagined)
    shown = (*(hwc(part) for part in pictures), _heat(foresight.error))
    for index, step in enumerate(foresight.steps):
        canvas.restore_region(still)
        for image, part in zip(images, shown, strict=True):
            image.set(data=part[index], extent=(0, 1, 0, 1))
        state.set(text=f"imagined, step {step}" if step > 0 else "looking", color=_DREAMT if step > 0 else _SEEN)
        _advance(lines, foresight, index)
        for artist in (*images, state, *lines):
            figure.draw_artist(artist)
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _panel(figure: Figure, index: int, title: str) -> Axes:
    """Room for a moving picture."""
    axes = figure.add_axes(box(figure, _MARGIN + index * (_SIDE + _MARGIN), 2.1, _SIDE, _SIDE))
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
    axes.set_title(title, loc="left", fontsize=12)
    return axes


def _film_plot(axes: Axes, foresight: Foresight) -> tuple[Line2D, Line2D, Line2D]:
    """The recorded rewards at rest, and three lines that move: predicted looking, predicted imagining, now."""
    steps = foresight.steps
    axes.fill_between(steps, foresight.reward, step="mid", color=_RECORDED, alpha=0.55, linewidth=0)
    axes.axvline(0.5, color=_DREAMT, linewidth=1, linestyle=":")
    both = np.concatenate([foresight.reward, foresight.reward_seen, foresight.reward_imagined])
    margin = 0.08 * (both.max() - both.min()) + 1e-3
    axes.set(xlim=(steps[0] - 0.5, steps[-1] + 0.5), ylim=(both.min() - margin, both.max() + margin))
    axes.set_xlabel("decisions since the model last saw a picture", fontsize=9)
    axes.set_ylabel("reward", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(handles=_legend(), loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9)
    seen, dreamt, now = (
        axes.plot([], [], color=color, linewidth=width, animated=True)[0]
        for color, width in ((_SEEN, 1.5), (_DREAMT, 1.8), ("#333333", 1.0))
    )
    return seen, dreamt, now


def _advance(lines: tuple[Line2D, Line2D, Line2D], foresight: Foresight, index: int) -> None:
    """Bring the moving lines to a step."""
    seen, dreamt, now = lines
    steps, start = foresight.steps, foresight.context
    seen.set_data(steps[: index + 1], foresight.reward_seen[: index + 1])
    dreamt.set_data(steps[start : index + 1], foresight.reward_imagined[start : index + 1])
    now.set_data([steps[index]] * 2, now.axes.get_ylim())  # type: ignore[union-attr]
