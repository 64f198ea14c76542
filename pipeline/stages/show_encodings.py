"""`dreamer show-encodings`: what the world model sees, and what it dreams, beside what was recorded.

Reads the data and the world model alone; no environment is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .. import console
from ..artifacts import Manifest, Run, StageFolder, file_hash
from ..config import Settings
from ..devices import deterministic
from ..episodes.joined import Data, locks_of, open_data
from ..episodes.store import EpisodeStore
from ..episodes.windows import Windows, split
from ..errors import StageError
from ..learning.world_learner import CONTEXT, imagine_recorded
from ..locks import reading
from ..models.checkpoints import load_world
from ..models.dynamics import Latent
from ..models.world_model import WorldModel
from ..randomness import Stream, seed_torch
from ..viewing.encodings import FILM_FPS, Foresight, draw_encodings, film_frames
from ..viewing.film import write_film

EPISODES = 4
"""Held-out episodes that are shown."""
IMAGINED = 40
"""Decisions imagined after the `CONTEXT` frames."""


def show_encodings(settings: Settings, *, run: Run, data: Data, device: torch.device) -> Manifest:
    """Write `encodings.png` and `dream.mp4` for some held-out episodes.

    Args:
        settings: `seed` counts: of the states that the model draws.
        run: whose `world/` is read and whose `encodings/` is written.
        data: folder of the data set that the world model was fitted to, or of several.
        device: for the world model.

    Raises:
        StageError: the data set or the world model is missing, damaged or stale; or no held-out episode is long enough.
        BusyError: another command is at work on them, or on this.
    """
    folder, source = run.encodings, run.world
    with (
        deterministic(settings.deterministic),
        reading(folder.command, *locks_of(data), (source.lock, source.path)),
        open_data(data) as store,
    ):
        inputs = {"data": store.fingerprint}
        inputs["world"] = source.require(inputs).outputs[source.weights.name]
        fitted = source.read_settings()
        _, held_out = split(len(store), fitted.world.validation_share, fitted.seed)
        windows = choose_windows(store, held_out, EPISODES, CONTEXT + IMAGINED)
        with folder.writing():
            world = load_world(source.weights, device)
            seed_torch(settings.seed, Stream.ENCODING)
            episodes = Windows(store, [window.episode for window in windows], CONTEXT, fitted.world.memory_gib)
            foresights = [foresee(world.model, episodes, window) for window in windows]
            note = _note(len(held_out), world.interface.view.action_repeat)
            return _write(folder, foresights, note, settings, inputs)


def _write(
    folder: StageFolder, foresights: Sequence[Foresight], note: str, settings: Settings, inputs: dict[str, str]
) -> Manifest:
    """Write the figure and the film, and the manifest that calls them complete."""
    figure = folder.path / "encodings.png"
    draw_encodings(foresights, figure, note)
    film = write_film(folder.path / "dream.mp4", film_frames(foresights), FILM_FPS)
    folder.write_settings(settings)
    outputs = {path.name: file_hash(path) for path in (figure, film.path)}
    manifest = Manifest("show-encodings", inputs, outputs, done=len(foresights), complete=True)
    folder.write_manifest(manifest)
    _report(foresights)
    console.say(f"Figure: {figure}")
    console.say(f"Film: {film.path} ({film.encoder})")
    return manifest


@dataclass(frozen=True)
class Window:
    """Rows `start` to `stop` of an episode; `reward` is what was earned in those after the first `CONTEXT`."""

    episode: int
    start: int
    stop: int
    reward: float


def choose_windows(
    store: EpisodeStore, episodes: Sequence[int] | NDArray[np.int64], count: int, rows: int
) -> list[Window]:
    """Where most happens: of each episode the stretch with the largest recorded reward, and of these the best.

    The choice looks at the recorded rewards alone, never at how well the model does.

    Args:
        store: the data set.
        episodes: to choose from.
        count: windows wanted; fewer where there are not so many episodes.
        rows: of each window; fewer where the episode is shorter.

    Raises:
        StageError: no episode has a row to imagine.
    """
    windows = [_best_window(store, int(episode), rows) for episode in episodes if store.lengths[episode] > CONTEXT]
    if not windows:
        raise StageError(
            f"All held-out episodes of {store.path} end within {CONTEXT} decisions; "
            f"run `dreamer collect --data {store.path.name}` with more decisions"
        )
    return sorted(windows, key=lambda window: (-window.reward, window.episode))[:count]


def _best_window(store: EpisodeStore, episode: int, rows: int) -> Window:
    rows = min(rows, int(store.lengths[episode]))
    earned = np.concatenate([[0.0, 0.0], store.read_decisions(episode).rewards.cumsum(dtype=np.float64)])
    # earned[r] is the sum of the rewards that arrived before row r
    starts = np.arange(len(earned) - rows)
    gains = earned[starts + rows] - earned[starts + CONTEXT]
    start = int(gains.argmax())
    return Window(episode, start, start + rows, float(gains[start]))


@torch.no_grad()
def foresee(model: WorldModel, episodes: Windows, window: Window) -> Foresight:
    """Let the model look at a window from its first picture on, and imagine it after `CONTEXT` pictures.

    As in training, a window that starts within an episode is not marked as its beginning.
    """
    episode = episodes.episode_batch([window.episode])[0].to(model.device)
    rows = slice(window.start, window.stop)
    parts = (episode.observation, episode.action, episode.reward, episode.is_first)
    observation, action, reward, is_first = (part[:, rows] for part in parts)  # (1, T, ...)
    seen = model.observe(observation, action, is_first)
    imagined = imagine_recorded(model, seen[:, CONTEXT - 1], action[:, CONTEXT:])
    reconstructed, reward_seen = _predict(model, seen)
    dreamt, reward_dreamt = _predict(model, imagined)
    return Foresight(
        title=f"Episode {window.episode}, decisions {window.start} to {window.stop - 1}",
        context=CONTEXT,
        recorded=observation[0].cpu().numpy(),
        reconstructed=reconstructed,
        imagined=np.concatenate([reconstructed[:CONTEXT], dreamt]),
        reward=reward[0].cpu().numpy(),
        reward_seen=reward_seen,
        reward_imagined=np.concatenate([reward_seen[:CONTEXT], reward_dreamt]),
    )


def _predict(model: WorldModel, states: Latent) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode states (1, T, ...) to pictures (T, 3, S, S) and the rewards (T,) that arrive with them."""
    pictures = model.decode(states.feature).mode[0].float().clamp(0, 1)
    rewards = model.reward(states.feature).mean[0]
    return (pictures * 255).round().to(torch.uint8).cpu().numpy(), rewards.float().cpu().numpy()


def _note(held_out: int, action_repeat: int) -> str:
    """What the reader of the figure needs to know."""
    return (
        f"The model looks at {CONTEXT} pictures (step 0 is the last of them), then imagines from the recorded actions "
        f"alone. One step is one decision, {action_repeat} environment steps.\n"
        f"Shown are held-out episodes, where the recorded reward is largest; {held_out} to choose from."
    )


def _report(foresights: Sequence[Foresight]) -> None:
    """A table of the imagined pictures' error as the dream goes on."""
    horizons = [step for step in (1, 5, 15, IMAGINED) if all(step <= item.steps[-1] for item in foresights)]
    rows = []
    for item in foresights:
        errors = [100 * item.error[item.context + step - 1].mean() for step in horizons]
        rows.append([item.title, *(f"{error:.2f} %" for error in errors)])
    console.table("Pixel error of imagination, mean absolute", ["", *(f"step {step}" for step in horizons)], rows)
