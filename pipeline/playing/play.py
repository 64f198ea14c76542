"""`dreamer play`: drive in the dream or in the real environment, from the keyboard or from a script."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import console
from ..artifacts import Run
from ..config import Settings
from ..dream_env import recorded_states
from ..envs import adapter_of
from ..envs.tracks import REPORT_TRACKS, SELECTION_TRACKS, episode_seed
from ..episodes.episode import Episode
from ..episodes.joined import Data, have_episodes, locks_of
from ..episodes.metadata import PLAYED, Origin
from ..episodes.recording import as_episode
from ..episodes.store import EpisodeStore, EpisodeWriter
from ..errors import StageError, UsageError
from ..locks import reading
from ..models.checkpoints import load_actor, load_world
from ..randomness import Stream, stream_seed
from ..viewing.film import write_film
from .game import DREAM, REAL, Game, Input, Moment
from .mind import Mind
from .screen import Screen


def play(
    settings: Settings,
    *,
    run: Run,
    data: Data,
    device: torch.device,
    script: Sequence[Input] | None = None,
    real: bool = False,
    track: int | None = None,
    speed: float = 1.0,
    record: Path | None = None,
    film: Path | None = None,
) -> Game:
    """Play until the player quits or the script ends.

    Args:
        settings: `seed` counts: of where dreams begin, of tracks, and of the states that the model draws.
        run: whose `world/` is read, and whose `policy/` where there is one.
        data: folder of the data set whose states dreams begin in, or of several; where one is missing, they go on
            from a real drive.
        device: for world model and policy.
        script: played without a window.
        real: begin in the real environment.
        track: of all real drives; else each has another.
        speed: 1 is the environment's own.
        record: folder of the data set that the real drives go to, made where it is missing.
        film: a film of what was to be seen, to write, ending in `.mp4`; must not exist.

    Returns:
        The game, as it was left.

    Raises:
        StageError: the world model is missing or damaged, or the data set does not go with it.
        BusyError: another command is at work on them.
        UsageError: the film exists or its name does not end in `.mp4`, or a track that is reported on would be
            recorded, or there is nobody to act.
        DreamerError: there is no display for a window.
    """
    if film and film.suffix != ".mp4":
        raise UsageError(f"--film takes a file that ends in .mp4, not {film}")
    if film and (taken := next(filter(Path.exists, (film, film.with_suffix(".webm"))), None)):  # see `write_film`
        raise UsageError(f"{taken} exists; give --film another name")
    if record and track in (*REPORT_TRACKS, *SELECTION_TRACKS):
        raise UsageError(f"Track {track} is for evaluation and must not be learned from; record on another --track")
    command = f"dreamer play --run {run.root.name}"
    with reading(command, *locks_of(data), (run.world.lock, run.world.path)):
        mind = open_mind(run, device, settings.seed)
        starts = recorded_states(mind.world, data, settings.seed) if have_episodes(data) else None
    view = mind.world.interface.view
    if not adapter_of(view.env).keys and mind.actor is None:
        raise UsageError(f"There are no keys to act in {view.env} by, and no policy to act; run `{run.policy.command}`")
    plain = settings.collect.model_copy(update={"truth": False})  # no game keeps it
    settings = settings.model_copy(update={"view": view, "collect": plain})
    with _recorder(record, settings) as writer:
        numbers = itertools.count(len(writer) if writer else 0)
        tracks = itertools.repeat(track) if track is not None else (episode_seed(settings.seed, n) for n in numbers)
        with adapter_of(view.env).open(view) as simulator:
            game = Game(mind, simulator, tracks, starts, REAL if real else DREAM, settings.seed)
            try:
                _play(game, script, speed * simulator.steps_a_second / view.action_repeat, film)
            finally:
                _keep(game, writer)
    _report(game)
    return game


def open_mind(folder: Run, device: torch.device, seed: int) -> Mind:
    """World model of a run, and its policy where that is finished. Raises StageError."""
    weights = folder.world.weights.name
    manifest = folder.world.require({})
    world, fitted = load_world(folder.world.weights, device), folder.world.read_settings()
    policy = folder.policy.read_manifest()
    actor = None
    if policy and policy.complete:
        folder.policy.require({"world": manifest.outputs[weights]})
        actor = load_actor(folder.policy.weights, world)
    discount = fitted.world.discount if fitted.model.goes_on == "soft" else 1.0
    return Mind(world, actor, discount, stream_seed(seed, Stream.DREAM))


def _play(game: Game, script: Sequence[Input] | None, pace: float, film: Path | None) -> None:
    """Play by the script or in a window, film it, and say how long a frame took."""
    spent: list[float] = []
    with ExitStack() as stack:
        if script is not None:
            screens = _screens(game, script, Screen(), spent)
        else:
            from .window import keyboard, window

            surface, flip = stack.enter_context(window())
            screens = _screens(game, keyboard(pace), Screen(surface), spent, flip)
        if film:
            written = write_film(film, (screen.frame() for screen in screens), pace)
            console.say(f"Film: {written.path} ({written.encoder})")
        else:
            deque(screens, maxlen=0)
    typical = statistics.median(spent)
    console.say(f"{len(spent)} frames, {1000 * typical:.1f} ms each (median): up to {1 / typical:.0f} a second")


def _screens(
    game: Game, inputs: Iterable[Input], screen: Screen, spent: list[float], flip: Callable[[], object] = bool
) -> Iterator[Screen]:
    """The screen as it is at first and after each input; notes the seconds that each frame took."""
    for given in itertools.chain([Input(ticks=False)], inputs):
        begun = time.perf_counter()
        game.take(given)
        if game.over:
            return
        screen.draw(game)
        flip()
        spent.append(time.perf_counter() - begun)
        yield screen


@contextmanager
def _recorder(path: Path | None, settings: Settings) -> Iterator[EpisodeWriter | None]:
    """Begin a data set of played drives, or go on with one; None where nothing is to be recorded."""
    if path is None:
        yield None
        return
    origin = Origin.of(settings).model_copy(update={"policy": PLAYED})
    writer = EpisodeStore.extend(path) if EpisodeStore.exists(path) else EpisodeStore.create(path, origin)
    try:
        writer.origin.require(origin, path)
    except StageError:
        writer.release()
        raise
    with writer:
        yield writer


def _keep(game: Game, writer: EpisodeWriter | None) -> None:
    """Record the real drives."""
    if writer is None:
        return
    drives = game.real_drives()
    for drive in drives:
        writer.append(_episode(drive, writer.origin.infos, game.track_tiles[drive[0]]))
    if drives:
        console.say(f"{writer.path} has {len(drives)} more drives, {len(writer)} in all")
    else:
        console.warn("Nothing was recorded: a data set holds real drives alone; --film shows dreams too")


def _episode(drive: Sequence[Moment], infos: Mapping[str, np.dtype[Any]], track_tiles: int) -> Episode:
    """A real drive as an episode."""
    first, *rest = drive
    assert first.track is not None
    actions = [moment.action for moment in rest if moment.action is not None]
    steps = [moment.step for moment in rest if moment.step is not None]
    pictures = [moment.picture for moment in drive]
    return as_episode(pictures, actions, steps, infos, seed=first.track, policy=PLAYED, track_tiles=track_tiles)


def _report(game: Game) -> None:
    """What was played, branch by branch."""
    rows = [
        [
            f"{number}, {end.world}",
            str(end.decisions),
            str(sum(moment.world == REAL for moment in end.drive()[1:])),
            f"{end.score:.1f}",
            "over" if end.over else "",
        ]
        for number, end in enumerate(game.ends, 1)
    ]
    console.table("What was played", ["future", "decisions", "of them real", "score", ""], rows)
