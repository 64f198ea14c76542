"""Figures of an evaluation: the score of every seed, and what the dream promised beside what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..scores import EpisodeScore, Promise

_SIZE = (4.2, 2.8)  # inches, as the panels of the learning curves
_COLORS = ("#20639b", "#c77b0a", "#8a5a9e", "#3a7d44")


def score_figure(scores: Mapping[str, Sequence[EpisodeScore]]) -> Figure:
    """The score of each seed, or track, in the order of the first driver's: one dot an episode.

    Args:
        scores: of the same seeds in the same order, by driver.
    """
    figure = Figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    first = next(iter(scores.values()))
    order = np.argsort([score.score for score in first], kind="stable")
    for (driver, many), color in zip(scores.items(), _COLORS, strict=False):
        values = np.array([score.score for score in many])[order]
        axes.plot(range(1, len(values) + 1), values, "o", markersize=3.5, color=color, label=driver)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_title(f"Score of each {first[0].PLACE}, from the worst to the best", loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=len(scores), loc="lower center", bbox_to_anchor=(0.5, -0.36))
    return figure


def promise_figure(promises: Sequence[Promise], horizon: int, place: str) -> Figure:
    """Dreamt against real rewards, one dot a track, or what `place` calls it; on the line the dream tells the truth."""
    figure = Figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    real, dreamt = ([getattr(promise, name) for promise in promises] for name in ("real", "dreamt"))
    low, high = min(*real, *dreamt), max(*real, *dreamt)
    axes.plot([low, high], [low, high], color="#3a7d44", linewidth=1.2, label="the truth")
    axes.plot(real, dreamt, "o", markersize=4, color="#d1495b", alpha=0.8)
    axes.set_title(f"Rewards of {horizon} decisions, each {place}", loc="left", fontsize=10)
    axes.set_xlabel("real", fontsize=9)
    axes.set_ylabel("dreamt", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
