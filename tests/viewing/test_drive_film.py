from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.artifacts import Run
from pipeline.driving import agent_of, open_garage
from pipeline.envs.actions import Action
from pipeline.envs.car_racing.actions import GAS, LEFT
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.envs.car_racing.scores import DriveScore
from pipeline.envs.car_racing.view import CarRacingView
from pipeline.envs.view import Step
from pipeline.viewing import drive_film
from pipeline.viewing.cockpit import Cockpit, Dials
from pipeline.viewing.drive_film import Pick, film_drive, pick, reconstruction


def episode(score: float, track: int) -> DriveScore:
    return DriveScore(track, score, 250, 30, 300, lap_finished=False, left_field=False, truncated=True)


def picked(*scores: float) -> list[tuple[str, int]]:
    return [(one.title, one.score.track) for one in pick([episode(score, k) for k, score in enumerate(scores)])]


def test_worst_median_and_best_are_picked() -> None:
    assert picked(5, 1, 4, 2, 3) == [("Worst of 5 tracks", 1), ("Median of 5 tracks", 4), ("Best of 5 tracks", 0)]
    assert picked(4, 3, 2, 1) == [("Worst of 4 tracks", 3), ("Median of 4 tracks", 2), ("Best of 4 tracks", 0)]


def test_no_drive_is_picked_twice() -> None:
    assert picked(7) == [("The only track", 0)]
    assert picked(9, 8) == [("Worst of 2 tracks", 1), ("Best of 2 tracks", 0)]
    assert [track for _, track in picked(1, 1, 1)] == [0, 1, 2]


class ShortView(CarRacingView):
    """Three decisions over a field of one colour, the second of which brings a reward of 5."""

    def reset(self, seed: int) -> NDArray[np.uint8]:
        self.done = 0
        return np.full((3, 64, 64), 100, np.uint8)

    def step(self, action: NDArray[np.float32]) -> Step:
        self.done += 1
        reward, over = 5.0 * (self.done == 2), self.done == 3
        infos = {"on_road": 4, "speed": 30.0, "tiles": self.done, "lap_finished": False}
        return Step(np.full((3, 64, 64), 100, np.uint8), reward, False, over, infos)

    @property
    def track_tiles(self) -> int:
        return 300

    @property
    def film_frames(self) -> list[NDArray[np.uint8]]:
        count = {1: 2, 2: 3, 3: 0}[self.done]  # a drive may end before the next picture is due
        return [np.full((400, 600, 3), 10 * self.done + k, np.uint8) for k in range(count)]


SCORE = DriveScore(1000, 5.0, 3, 3, 300, lap_finished=False, left_field=False, truncated=True)
TITLE, END = 40, 25  # pictures


def film(run: Run, monkeypatch: pytest.MonkeyPatch, score: DriveScore) -> list[NDArray[np.uint8]]:
    monkeypatch.setattr(CarRacing, "open", lambda self, view, *, film: ShortView(view, film=film))
    return list(film_drive(open_garage(run), Pick("Best", score)))


def test_a_drive_is_filmed_between_a_title_and_its_end(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = film(tiny_run, monkeypatch, SCORE)
    assert len(pictures) == TITLE + 5 + END
    assert all((picture == pictures[0]).all() for picture in pictures[:TITLE])
    shown = [int(picture[200, 200, 0]) for picture in pictures[TITLE:-END]]
    assert shown == [10, 11, 20, 21, 22]
    assert not capsys.readouterr().err


def test_the_dials_show_what_the_action_does_to_the_car(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Dials] = []

    def picture(self: Cockpit, drive: object, seen: object, rebuilt: object, dials: Dials) -> NDArray[np.uint8]:
        shown.append(dials)
        return np.zeros((8, 8, 3), np.uint8)

    actions: Iterator[Action] = iter([np.float32([-0.5, 0.25, 0.75]), LEFT, GAS])
    monkeypatch.setattr(Cockpit, "picture", picture)
    monkeypatch.setattr(Cockpit, "card", lambda self, picture, text: picture)
    monkeypatch.setattr(drive_film, "make_driver", lambda garage, job: lambda seen: next(actions))
    monkeypatch.setattr(drive_film, "reconstruction", lambda agent: np.zeros((3, 64, 64), np.uint8))
    film(tiny_run, monkeypatch, SCORE)
    controls = [tuple(gauge.value for gauge in dials.gauges[:3]) for dials in shown]
    assert controls == [(-0.5, 0.25, 0.75)] * 3 + [(-0.6, 0.0, 0.0)] * 3  # of the first two decisions, and a title


def test_a_drive_that_comes_out_otherwise_is_told(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    film(tiny_run, monkeypatch, replace(SCORE, score=900.0))
    assert "track 1000 came out otherwise (5.0)" in capsys.readouterr().err


def test_the_reconstruction_is_of_what_the_agent_saw_last(tiny_run: Run) -> None:
    agent = agent_of(open_garage(tiny_run))
    agent.reset()
    pictures = []
    for seed in (0, 1):
        agent.act(np.random.default_rng(seed).integers(0, 256, (3, 64, 64), dtype=np.uint8))
        pictures.append(reconstruction(agent))
        assert agent.latent is not None
        decoded = agent.world.model.decode(agent.latent.feature).mean[0].detach().numpy()
        assert pictures[-1].dtype == np.uint8
        assert np.abs(pictures[-1] / 255 - decoded).max() <= 0.5 / 255 + 1e-6
    assert (pictures[0] != pictures[1]).any()
