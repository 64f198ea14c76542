from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.envs.car_racing.scores import DriveScore
from pipeline.scores import Promise
from pipeline.viewing.score_figures import promise_figure, score_figure

ONE = DriveScore(1, 5.0, 250, tiles=30, track_tiles=300, lap_finished=False, left_field=False, truncated=True)


def test_tracks_are_in_the_order_of_the_first_driver() -> None:
    policy = [replace(ONE, score=score) for score in (30.0, 10.0, 20.0)]
    random = [replace(ONE, score=score) for score in (-3.0, -1.0, -2.0)]
    axes = score_figure({"policy": policy, "random": random}).axes[0]
    first, second = axes.lines[:2]
    assert np.array_equal(first.get_ydata(), [10, 20, 30]) and np.array_equal(second.get_ydata(), [-1, -2, -3])
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["policy", "random"]


def test_what_is_true_lies_on_the_line() -> None:
    axes = promise_figure([Promise(1, 15, 40.0, 30.0), Promise(2, 15, 70.0, 60.0)], 15, "track").axes[0]
    truth, dots = axes.lines
    assert np.array_equal(truth.get_xdata(), truth.get_ydata())
    assert list(dots.get_xdata()) == [30, 60] and list(dots.get_ydata()) == [40, 70]
