from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pygame
import pytest
import torch

from pipeline.artifacts import Run
from pipeline.config import resolve
from pipeline.envs.car_racing.view import CarRacingView
from pipeline.episodes.metadata import PLAYED
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import BusyError, DreamerError, StageError, UsageError
from pipeline.playing.game import DREAM, POLICY, REAL, Command, Game, Input, Keys
from pipeline.playing.play import open_mind, play
from pipeline.playing.screen import KEYS, SIZE, Screen
from pipeline.playing.script import read_script
from pipeline.playing.window import keyboard, window
from pipeline.stages.fit_world import recorded_sections

SETTINGS = resolve("tiny", values=[("collect.truth", True)])  # which a played drive has none of


@pytest.fixture(autouse=True)
def _dreams_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a continue head says that has learned nothing."""
    monkeypatch.setattr("pipeline.playing.game._LIKELY", 0.0)


Printed = pytest.CaptureFixture[str]


def play_script(run: Run, data: Path, text: str, **options: Any) -> Game:
    device = torch.device("cpu")
    return play(SETTINGS, run=run, data=data, device=device, script=read_script(text), **options)


def test_a_script_is_played(tiny_run: Run, tiny_data: Path, capsys: Printed) -> None:
    game = play_script(tiny_run, tiny_data, "gas*3 rewind gas+left switch gas driver none quit gas*9")
    assert [(end.world, end.decisions) for end in game.ends] == [(DREAM, 3), (DREAM, 3), (REAL, 2)]
    printed = capsys.readouterr().out
    assert "frames" in printed and "3, real" in printed


def test_the_same_script_is_the_same_game(tiny_run: Run, tiny_data: Path) -> None:
    games = [play_script(tiny_run, tiny_data, "gas*3 switch gas*2") for _ in range(2)]
    one, other = ([moment.picture for moment in game.moments] for game in games)
    np.testing.assert_array_equal(one, other)


def test_real_drives_become_a_data_set_that_can_be_learned_from(tiny_run: Run, tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    game = play_script(tiny_run, tiny_data, "gas*4 rewind*2 gas+left switch gas*3", real=True, record=path)
    play_script(tiny_run, tiny_data, "gas*2", real=True, record=path)
    with EpisodeStore.open(path) as store:
        assert (len(store), store.origin.policy) == (3, PLAYED)
        first, second, third = (store.read(index) for index in range(3))
        assert recorded_sections(store, SETTINGS)["collect"].policy == SETTINGS.collect.policy  # type: ignore[attr-defined]
    assert [len(episode) for episode in (first, second, third)] == [4, 3, 2]
    assert third.seed != first.seed == second.seed, "another time, another track"
    with CarRacingView() as view:
        view.reset(second.seed)
        for index, action in enumerate(second.actions):
            step = view.step(action)
            np.testing.assert_array_equal(second.observations[index + 1], step.observation)
            assert second.rewards[index] == np.float32(step.reward)
            assert second.infos["speed"][index] == np.float32(step.infos["speed"])
        assert second.track_tiles == view.track_tiles
    assert game.now.world == DREAM


def test_dreams_are_not_recorded(tiny_run: Run, tiny_data: Path, tmp_path: Path, capsys: Printed) -> None:
    play_script(tiny_run, tiny_data, "gas*3", record=tmp_path / "mine")
    assert "Nothing was recorded" in capsys.readouterr().err


def test_other_data_and_tracks_of_the_evaluation_are_left_alone(
    tiny_run: Run, tiny_data: Path, truth_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="was collected with"):
        play_script(tiny_run, tiny_data, "gas", record=truth_data)
    with pytest.raises(UsageError, match="Track 1000 is for evaluation"):
        play_script(tiny_run, tiny_data, "gas", record=tmp_path / "mine", track=1000)
    assert not (tmp_path / "mine").exists()


def test_what_is_being_written_is_not_played_with(tiny_run: Run, tiny_data: Path, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(tiny_run.root, tmp_path / "run")))
    with run.world.writing(), pytest.raises(BusyError, match="world is in use by `dreamer fit-world --run run`"):
        play_script(run, tiny_data, "gas")
    data = Path(shutil.copytree(tiny_data, tmp_path / "drives"))
    with EpisodeStore.extend(data), pytest.raises(BusyError, match="drives is in use by `dreamer collect"):
        play_script(run, data, "gas")


def test_the_drive_is_recorded_even_if_the_game_fails(
    tiny_run: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "_help", fail)
    with pytest.raises(KeyboardInterrupt):
        play_script(tiny_run, tiny_data, "gas*3 help", real=True, record=tmp_path / "mine")
    with EpisodeStore.open(tmp_path / "mine") as store:
        assert store.steps == 3


def test_a_film_shows_every_frame_and_replaces_none(tiny_run: Run, tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    play_script(tiny_run, tiny_data, "gas*5 help none", film=path)
    (film,) = tmp_path.glob("drive.*")
    capture = cv2.VideoCapture(str(film))
    frames = [frame for good, frame in iter(capture.read, (False, None)) if good]
    assert (len(frames), frames[0].shape) == (8, (SIZE[1], SIZE[0], 3))
    with pytest.raises(UsageError, match="exists"):
        play_script(tiny_run, tiny_data, "gas", film=path)
    with pytest.raises(UsageError, match=r"ends in \.mp4"):  # `drive.txt` would be written as `drive.mp4`
        play_script(tiny_run, tiny_data, "gas", film=path.with_suffix(".txt"))


def test_a_run_without_a_policy_can_be_played(tiny_run: Run, tiny_data: Path, tmp_path: Path) -> None:
    alone = Run(tmp_path / "alone")
    alone.root.mkdir()
    shutil.copytree(tiny_run.world.path, alone.root / "world")
    assert play_script(alone, tiny_data, "driver gas").now.said.value is None


# The screen and the window


@pytest.fixture
def game(tiny_run: Run, tiny_data: Path) -> Game:
    return play_script(tiny_run, tiny_data, "gas")


def test_the_screen_shows_the_picture_pixel_by_pixel(game: Game) -> None:
    screen = Screen()
    screen.draw(game)
    shown = screen.frame()[24 : 24 + 512, 24 : 24 + 512][4::8, 4::8]
    np.testing.assert_array_equal(shown, game.now.picture.transpose(1, 2, 0))
    plain = screen.frame()
    game.help = True
    screen.draw(game)
    assert (screen.frame() != plain).any()


def test_every_command_has_a_key() -> None:
    assert set(KEYS) == set(Command)
    assert len(set(KEYS.values())) == len(KEYS)


def test_without_a_display_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_display(size: object) -> None:
        raise pygame.error("No available video device")

    monkeypatch.setattr(pygame.display, "set_mode", no_display)
    with pytest.raises(DreamerError, match=r"no display.*--headless --script"), window():
        pass


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that nobody sees."""
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def open_window(blind: None) -> Iterator[None]:
    with window():
        yield


@pytest.mark.usefixtures("open_window")
def test_the_window_hears_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = keyboard(1000)
    next(inputs)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_m))
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_z))
    assert next(inputs) == Input([Command.SWITCH])
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_BACKSPACE))
    assert next(inputs) == Input([Command.REWIND], ticks=False)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert next(inputs) == Input([Command.QUIT])
    held = defaultdict(bool, dict.fromkeys((pygame.K_UP, pygame.K_a, pygame.K_RETURN), True))
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: held)
    assert next(inputs) == Input([Command.FORWARD], Keys(left=True, gas=True), ticks=False)


@pytest.mark.usefixtures("blind")
def test_a_game_in_a_window_ends_when_it_is_closed(
    tiny_run: Run, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def three_frames(pace: float) -> Any:
        assert pace == 25
        yield from [Input(keys=Keys(gas=True))] * 3
        yield Input([Command.QUIT])
        raise AssertionError("it went on after its end")

    def flip() -> None:
        shown.append(pygame.surfarray.array3d(pygame.display.get_surface()))

    shown: list[Any] = []
    monkeypatch.setattr("pipeline.playing.window.keyboard", three_frames)
    monkeypatch.setattr(pygame.display, "flip", flip)
    played = play(SETTINGS, run=tiny_run, data=tiny_data, device=torch.device("cpu"), speed=2)
    assert played.over and played.now.decisions == 3
    assert len(shown) == 4 and (shown[0] != shown[3]).any()
    assert not pygame.display.get_init()


def test_a_mind_needs_a_world_and_a_policy_that_belongs_to_it(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="dreamer fit-world"):
        open_mind(Run(tmp_path / "none"), torch.device("cpu"), 0)


def test_in_other_environments_the_policy_acts(
    other_run: Run, other_data: Path, other_env: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine"
    game = play_script(other_run, other_data, "gas*3 driver none switch none*2 help", real=True, record=path)
    assert (game.driver, game.now.world, game.now.decisions) == (POLICY, DREAM, 6)
    here = game.now
    np.testing.assert_array_equal(here.action, game.mind.act(here.before.latent))  # type: ignore[arg-type, union-attr]
    (shown,) = game.gauges()
    assert shown.value == pytest.approx(here.action[0] / 2 if other_env == "Pendulum-v1" else 1.0)  # type: ignore[index]
    with EpisodeStore.open(path) as store:
        assert (len(store), store.steps, store.origin.environment, store.origin.policy) == (1, 4, other_env, PLAYED)


def test_where_nobody_can_act_a_sentence_says_so(other_run: Run, other_data: Path, tmp_path: Path) -> None:
    alone = Run(tmp_path / "alone")
    alone.root.mkdir()
    shutil.copytree(other_run.world.path, alone.root / "world")
    with pytest.raises(UsageError, match=r"no keys to act in .*run `dreamer fit-policy --run alone`"):
        play_script(alone, other_data, "gas")
