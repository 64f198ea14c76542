"""The states of a whole data set, from which imagination starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..console import Meter
from ..episodes.windows import Windows
from ..models.dynamics import Latent
from ..models.world_model import WorldModel
from .precision import autocast

_EPISODES = 16  # encoded side by side


@dataclass(frozen=True)
class EncodedData:
    """What a data set is to the policy.

    Attributes:
        states: (N, ...), the posterior state of every row that is not terminal; `stoch` as uint8.
        action_mean, action_std: (A,), of the recorded actions in the model's scale.
    """

    states: Latent
    action_mean: Tensor
    action_std: Tensor


@torch.no_grad()
def encode(model: WorldModel, windows: Windows, precision: str) -> EncodedData:
    """Run the world model over whole episodes, each from its first observation, so that no state lacks its history.

    Args:
        model: frozen.
        windows: the episodes.
        precision: 'float32' or 'bfloat16'.
    """
    deter, stoch, actions = [], [], []
    by_length = np.argsort(windows.lengths, kind="stable")  # little padding
    order = [windows.episodes[place] for place in by_length]
    with Meter("Encoding the data", len(order), "episodes") as meter, autocast(model.device, precision):
        for first in range(0, len(order), _EPISODES):
            batch, mask = windows.episode_batch(order[first : first + _EPISODES])
            batch = batch.to(model.device)
            states = model.observe(batch.observation, batch.action, batch.is_first)
            start = (mask.to(model.device) & ~batch.is_terminal).flatten()
            deter.append(states.deter.flatten(0, 1)[start].float())
            stoch.append(states.stoch.flatten(0, 1)[start].to(torch.uint8))
            moved = (mask.to(model.device) & ~batch.is_first).flatten()
            actions.append(model.scale.to_model(batch.action).flatten(0, 1)[moved])
            meter.advance_to(min(first + _EPISODES, len(order)))
    action = torch.cat(actions)
    return EncodedData(Latent(torch.cat(deter), torch.cat(stoch)), action.mean(0), action.std(0))
