"""The states of a whole data set, from which imagination starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..console import Meter
from ..episodes.windows import Windows
from ..models.dynamics import Latent
from ..models.world_model import WorldModel
from ..randomness import Stream, numpy_stream
from .precision import autocast

_EPISODES, _ROWS = 16, 8192  # at most, encoded side by side


def side_by_side(longest: int) -> int:
    """How many episodes to encode at once: a batch is padded to the longest of them, and takes memory by its rows."""
    return max(1, min(_EPISODES, _ROWS // longest))


class Rows(NamedTuple):
    """What was recorded with each state, where the states of each episode stand one after the other.

    Attributes:
        reward: (...) float32, which arrived with the state.
        is_terminal: (...) bool, the episode ended there for good.
        is_last: (...) bool, what follows belongs to another episode.
    """

    reward: Tensor
    is_terminal: Tensor
    is_last: Tensor


@dataclass(frozen=True)
class EncodedData:
    """What a data set is to the policy.

    Attributes:
        states: (N, ...), posterior states; one-hot `stoch` as uint8.
        action_mean, action_std: (A,), of the recorded actions in the model's scale.
        rows: (N,), what was recorded with each state. None where it is not needed; terminal states, from which nothing
            can be imagined, are then left out.
    """

    states: Latent
    action_mean: Tensor
    action_std: Tensor
    rows: Rows | None = None


def episodes_that_fit(lengths: NDArray[np.int64], model: WorldModel, states_gib: float, seed: int) -> NDArray[np.int64]:
    """The episodes whose states are to be kept: all, or where these take too much, a random share, at least one.

    Args:
        lengths: (E,) rows of each episode.
        model: whose states.
        states_gib: the most that the states may take, GiB.
        seed: of the choice.

    Returns:
        Their numbers, ascending.
    """
    order = numpy_stream(seed, Stream.ENCODING).permutation(len(lengths))
    fitting = np.cumsum(lengths[order]) * _bytes_of_state(model) <= states_gib * 2**30
    return np.sort(order[: max(1, int(fitting.sum()))]) if not fitting.all() else np.arange(len(lengths))


def _bytes_of_state(model: WorldModel) -> int:
    return 4 * model.dynamics.deter_width + _type_of_z(model).itemsize * model.dynamics.stoch_width


def _type_of_z(model: WorldModel) -> torch.dtype:
    return torch.uint8 if model.settings.latent == "categorical" else torch.float32


@torch.no_grad()
def encode(model: WorldModel, windows: Windows, precision: str, *, with_rows: bool = False) -> EncodedData:
    """Run the world model over whole episodes, each from its first observation, so that no state lacks its history.

    Args:
        model: frozen.
        windows: the episodes.
        precision: 'float32' or 'bfloat16'.
        with_rows: keep what was recorded, and the terminal states with it.
    """
    most, filled, device = int(windows.lengths.sum()), 0, model.device
    deter = torch.empty(most, model.dynamics.deter_width, device=device)
    stoch = torch.empty(most, model.dynamics.stoch_width, device=device, dtype=_type_of_z(model))
    actions, rows = [], []
    # Of like lengths, for little padding; the longest first, so that each batch finds room where the last one was.
    by_length = np.argsort(-windows.lengths, kind="stable")
    order = [windows.episodes[place] for place in by_length]
    with Meter("Encoding the data", len(order), "episodes") as meter, autocast(model.device, precision):
        done = 0
        while done < len(order):
            group = order[done : done + side_by_side(int(windows.lengths[by_length[done]]))]
            batch, mask = windows.episode_batch(group)
            batch, mask = batch.to(model.device), mask.to(model.device)
            states = model.observe(batch.observation, batch.action, batch.is_first)
            kept = (mask if with_rows else mask & ~batch.is_terminal).flatten()
            new = slice(filled, filled + int(kept.sum()))
            deter[new], stoch[new] = states.deter.flatten(0, 1)[kept], states.stoch.flatten(0, 1)[kept]
            filled = new.stop
            moved = (mask & ~batch.is_first).flatten()
            actions.append(model.scale.to_model(batch.action).flatten(0, 1)[moved])
            if with_rows:
                is_last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
                rows.append([part.flatten()[kept] for part in (batch.reward, batch.is_terminal, is_last)])
            done += len(group)
            meter.advance_to(done)
    action = torch.cat(actions)
    recorded = Rows(*(torch.cat(part) for part in zip(*rows, strict=True))) if with_rows else None
    return EncodedData(Latent(deter[:filled], stoch[:filled]), action.mean(0), action.std(0), recorded)
