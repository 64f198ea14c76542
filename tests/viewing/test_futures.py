from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.viewing.futures import Future, draw_futures


@pytest.mark.parametrize(("count", "steps"), [(5, 28), (2, 7), (1, 1)])
def test_every_future_has_a_row(tmp_path: Path, count: int, steps: int) -> None:
    rng = np.random.default_rng(0)
    blue = np.zeros((steps, 3, 64, 64), np.uint8)
    blue[:, 2] = 255
    futures = [Future(f"way {n}", blue, rng.normal(size=steps).astype(np.float32)) for n in range(count)]
    path = tmp_path / "futures.png"
    draw_futures(blue[0], futures, path, "Title", "Note")
    picture = cv2.imread(str(path))
    assert picture is not None
    shown = (picture == [255, 0, 0]).all(-1).sum()
    cell = (0.92 * 110) ** 2
    pictures = count * -(-steps // 3) + 1
    assert 0.8 * pictures * cell < shown < 1.02 * pictures * cell
