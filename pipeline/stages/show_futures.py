"""`dreamer show-futures`: one recorded present, several actions, and the futures that the world model imagines of each.

Reads the data and the world model alone; no environment is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import console
from ..artifacts import Run
from ..config import Settings
from ..devices import deterministic
from ..dream_env import as_vectors
from ..envs import adapter_of
from ..envs.actions import Actions
from ..episodes.joined import Data, locks_of, open_data
from ..episodes.store import EpisodeStore
from ..episodes.windows import Batch, Windows, split
from ..errors import StageError, UsageError
from ..learning.imagination import Dream
from ..locks import reading
from ..models.checkpoints import LoadedWorld, load_world
from ..models.dynamics import Latent, stack
from ..models.world_model import WorldModel
from ..randomness import Stream, stream_seed
from ..viewing.futures import Future, draw_futures

FIGURE = "futures.png"
IMAGINED = 28
"""Decisions in a future, of CarRacing 2.2 seconds at an action repeat of 4."""
SEEN = 15
"""Decisions of an episode before the earliest present: by then CarRacing's camera has zoomed in."""
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def show_futures(
    settings: Settings,
    *,
    run: Run,
    data: Data,
    device: torch.device,
    episode: int | None = None,
    decision: int | None = None,
) -> Path:
    """Draw what comes of some actions, see `Adapter.futures`, each held for `IMAGINED` decisions.

    Left out, the present is where the recorded drive earned most in the decisions after it; of the held-out episodes
    the best, or of the one that is named. All futures share their random numbers: what differs is the action's doing.

    Args:
        settings: `seed` counts: of the states that the model draws.
        run: whose `world/` is read and to whose `encodings/` the figure goes.
        data: folder of a data set seen as the world model sees, or of several.
        device: for the world model.
        episode: number of an episode.
        decision: of the present in it.

    Returns:
        The figure.

    Raises:
        StageError: the data set or the world model is missing or damaged, or they do not go together; or no held-out
            episode is long enough.
        BusyError: another command is at work on them, or on `encodings/`.
        UsageError: there is no such episode or decision.
    """
    folder = replace(run.encodings, command=f"dreamer show-futures --run {run.root.name}")
    with (
        deterministic(settings.deterministic),
        reading(folder.command, *locks_of(data), (run.world.lock, run.world.path)),
    ):
        run.world.require({})
        world, fitted = load_world(run.world.weights, device), run.world.read_settings()
        with open_data(data) as store:
            store.require_view(world.interface.view)
            _, held_out = split(len(store), fitted.world.validation_share, fitted.seed)
            chosen, row = _present(store, held_out, episode, decision)
            batch = Windows(store, [chosen], 2, memory_gib=1.0).episode_batch([chosen])[0].to(device)
            actions = choices(world, store.view.action_names)
        futures = _futures(world, batch, row, actions, stream_seed(settings.seed, Stream.DREAM))
    figure = folder.path / FIGURE
    number = _NUMBERS[len(futures)]
    title = f"One present, {number} futures"
    note = (
        f"Episode {chosen}, decision {row}: the model has looked at every picture up to now, and then looks no more. "
        f"Each action is held for {IMAGINED} decisions\n"
        f"of {world.interface.view.action_repeat} environment steps. The random numbers are the same in all {number}."
    )
    with folder.writing():
        draw_futures(batch.observation[0, row].cpu().numpy(), futures, figure, title, note)
    rows = [[future.name, f"{future.reward.sum():.1f}"] for future in futures]
    console.table(f"Reward imagined over {IMAGINED} decisions", ["", "reward"], rows)
    console.say(f"Figure: {figure}")
    return figure


def _futures(world: LoadedWorld, batch: Batch, row: int, actions: dict[str, Tensor], seed: int) -> list[Future]:
    """The futures of a row of the only episode in the batch."""
    torch.manual_seed(seed)
    parts = (batch.observation, batch.action, batch.is_first)
    with torch.no_grad():
        past = world.model.observe(*(part[:, : row + 1] for part in parts))
    return imagine_futures(world.model, past[:, -1], actions, IMAGINED, seed)


def _present(
    store: EpisodeStore, held_out: NDArray[np.int64], episode: int | None, decision: int | None
) -> tuple[int, int]:
    """Episode and row of the present, as far as they were given. Raises UsageError where there is none such."""
    if episode is None:
        if decision is not None:
            raise UsageError("--decision counts in an episode; name that one too, with --episode")
        return choose_present(store, held_out)
    if not 0 <= episode < len(store):
        raise UsageError(f"{store.path} has the episodes 0 to {len(store) - 1}, and no episode {episode}")
    row = choose_present(store, np.array([episode]))[1] if decision is None else decision
    if not 0 <= row < store.lengths[episode]:
        raise UsageError(f"Episode {episode} of {store.path} has the decisions 0 to {store.lengths[episode] - 1}")
    return episode, row


def choose_present(store: EpisodeStore, episodes: NDArray[np.int64]) -> tuple[int, int]:
    """Episode and row after which most was earned in `IMAGINED` decisions, or in those that were left.

    Raises:
        StageError: no episode goes on after `SEEN` decisions.
    """
    best: tuple[float, int, int] | None = None
    for episode in episodes:
        earned = np.concatenate([[0.0], store.read_decisions(int(episode)).rewards.cumsum(dtype=np.float64)])
        rows = np.arange(SEEN, len(earned) - 1)  # earned[r] had arrived with row r
        if len(rows):
            gains = earned[np.minimum(rows + IMAGINED, len(earned) - 1)] - earned[rows]
            row = int(gains.argmax())
            best = max(best or (-np.inf, 0, 0), (float(gains[row]), int(episode), int(rows[row])))
    if best is None:
        raise StageError(
            f"All episodes of {store.path} to choose from end within {SEEN} decisions; "
            f"run `dreamer collect --data {store.path.name}` with more decisions"
        )
    return best[1:]


def choices(world: LoadedWorld, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """What to compare, as vectors (A,), by name; `names` are those of discrete actions, where the data have them."""
    interface = world.interface
    actions = Actions(interface.low, interface.high, interface.discrete, names or ())
    chosen = adapter_of(interface.view.env).futures(actions)
    return {name: as_vectors(world, [action])[0] for name, action in chosen.items()}


@torch.no_grad()
def imagine_futures(
    model: WorldModel, start: Latent, actions: dict[str, Tensor], horizon: int, seed: int
) -> list[Future]:
    """Hold each of the actions (A,), the environment's own, from one state (1, ...), with the same random numbers."""
    futures = []
    for name, action in actions.items():
        dream = Dream(model, generator=torch.Generator(model.device).manual_seed(seed))
        dream.reset(start)
        held = model.scale.to_model(action.to(model.device))[None]
        states = stack([dream.step(held) for _ in range(horizon)], 1)[0]  # (H, ...)
        pictures, reward = model.pictures(states.feature), model.reward(states.feature).mean
        futures.append(Future(name, pictures.cpu().numpy(), reward.cpu().numpy()))
    return futures
