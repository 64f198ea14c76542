from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.viewing.encodings import Foresight, draw_encodings, film_frames

CONTEXT = 5


def make_foresight(steps: int = 12, size: int = 64, seed: int = 0) -> Foresight:
    rng = np.random.default_rng(seed)
    recorded, reconstructed, imagined = rng.integers(0, 256, (3, steps, 3, size, size), np.uint8)
    reward, seen, dreamt = rng.normal(size=(3, steps)).astype(np.float32)
    return Foresight("Episode 7", CONTEXT, recorded, reconstructed, imagined, reward, seen, dreamt)


def test_step_0_is_the_last_picture_seen() -> None:
    foresight = make_foresight(steps=8)
    assert foresight.steps.tolist() == [-4, -3, -2, -1, 0, 1, 2, 3]
    assert foresight.steps[foresight.context] == 1


def test_error_is_the_share_of_full_brightness() -> None:
    black, white = np.zeros((6, 3, 64, 64), np.uint8), np.full((6, 3, 64, 64), 255, np.uint8)
    reward = np.zeros(6, np.float32)
    foresight = Foresight("", CONTEXT, black, black, white, reward, reward, reward)
    assert foresight.error.shape == (6, 64, 64)
    assert (foresight.error == 1).all()


def test_summary_adds_up_the_imagined_steps_alone() -> None:
    foresight = make_foresight(steps=7)
    assert f"recorded {foresight.reward[5:].sum():.1f}" in foresight.summary
    assert f"imagined {foresight.reward_imagined[5:].sum():.1f}" in foresight.summary


@pytest.mark.parametrize("lengths", [[45, 45], [6], [30, 9]])
def test_the_figure_shows_all_stretches(tmp_path: Path, lengths: list[int]) -> None:
    path = tmp_path / "encodings.png"
    draw_encodings([make_foresight(steps) for steps in lengths], path, "A note.")
    picture = cv2.imread(str(path))
    assert picture is not None
    one = tmp_path / "one.png"
    draw_encodings([make_foresight(lengths[0])], one, "A note.")
    height = cv2.imread(str(one)).shape[0]
    assert (picture.shape[0] > height) == (len(lengths) > 1)
    assert {file.name for file in tmp_path.iterdir()} == {"encodings.png", "one.png"}


def test_the_film_has_a_frame_for_every_step() -> None:
    frames = list(film_frames([make_foresight(9), make_foresight(6)]))
    assert len(frames) == 15
    assert {(frame.shape, frame.dtype) for frame in frames} == {((520, 1144, 3), np.dtype(np.uint8))}
    assert all(side % 2 == 0 for side in frames[0].shape[:2])


def test_the_film_shows_the_pictures_pixel_by_pixel() -> None:
    foresight = make_foresight(7)
    for step, frame in enumerate(film_frames([foresight])):
        for column, pictures in enumerate((foresight.recorded, foresight.reconstructed, foresight.imagined)):
            left = 24 + 280 * column
            shown = frame[54:310, left : left + 256][2::4, 2::4]
            np.testing.assert_array_equal(shown, pictures[step].transpose(1, 2, 0))


def test_the_film_says_when_it_imagines() -> None:
    frames = [frame.astype(int) for frame in film_frames([make_foresight(7)])]
    title = (slice(30, 52), slice(584, 840))
    red = [(frame[title][..., 0] - frame[title][..., 2] > 80).sum() for frame in frames]
    assert max(red[:CONTEXT]) == 0
    assert min(red[CONTEXT:]) > 50
