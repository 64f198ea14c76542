"""The states of a whole data set, from which imagination starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..console import Meter
from ..episodes.windows import Windows
from ..models.dynamics import Latent
from ..models.world_model import WorldModel
from .precision import autocast

_EPISODES = 16  # encoded side by side


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


@torch.no_grad()
def encode(model: WorldModel, windows: Windows, precision: str, *, with_rows: bool = False) -> EncodedData:
    """Run the world model over whole episodes, each from its first observation, so that no state lacks its history.

    Args:
        model: frozen.
        windows: the episodes.
        precision: 'float32' or 'bfloat16'.
        with_rows: keep what was recorded, and the terminal states with it.
    """
    deter, stoch, actions, rows = [], [], [], []
    compact = torch.uint8 if model.settings.latent == "categorical" else torch.float32
    by_length = np.argsort(windows.lengths, kind="stable")  # little padding
    order = [windows.episodes[place] for place in by_length]
    with Meter("Encoding the data", len(order), "episodes") as meter, autocast(model.device, precision):
        for first in range(0, len(order), _EPISODES):
            batch, mask = windows.episode_batch(order[first : first + _EPISODES])
            batch, mask = batch.to(model.device), mask.to(model.device)
            states = model.observe(batch.observation, batch.action, batch.is_first)
            kept = (mask if with_rows else mask & ~batch.is_terminal).flatten()
            deter.append(states.deter.flatten(0, 1)[kept].float())
            stoch.append(states.stoch.flatten(0, 1)[kept].to(compact))
            moved = (mask & ~batch.is_first).flatten()
            actions.append(model.scale.to_model(batch.action).flatten(0, 1)[moved])
            if with_rows:
                is_last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
                rows.append([part.flatten()[kept] for part in (batch.reward, batch.is_terminal, is_last)])
            meter.advance_to(min(first + _EPISODES, len(order)))
    action = torch.cat(actions)
    recorded = Rows(*(torch.cat(part) for part in zip(*rows, strict=True))) if with_rows else None
    return EncodedData(Latent(torch.cat(deter), torch.cat(stoch)), action.mean(0), action.std(0), recorded)
