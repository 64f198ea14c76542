"""The states that imagination starts from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import ModelSettings, ViewSettings
from pipeline.episodes.episode import Batch
from pipeline.learning.encoding import encode
from pipeline.models.checkpoints import Interface, build_world

SIZES = ModelSettings(deter=8, groups=2, classes=4, hidden=8, units=8, depth=2, ensemble=2, ensemble_units=4)
ACTIONS = torch.tensor([[0.0, 0.2, -0.4, 0.6], [0.0, 0.8, 9.0, 9.0]])[..., None]


class TwoEpisodes:
    """One of four rows that ended for good, and one of two that was cut short, padded with rows of 9."""

    episodes = (0, 1)
    lengths = torch.tensor([4, 2]).numpy()

    def episode_batch(self, episodes: list[int]) -> tuple[Batch, Tensor]:
        terminal = torch.zeros(2, 4, dtype=torch.bool)
        terminal[0, 3] = True
        first = torch.zeros(2, 4, dtype=torch.bool)
        first[:, 0] = True
        observation = torch.randint(0, 256, (2, 4, 3, 64, 64), dtype=torch.uint8)
        mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
        batch = Batch(
            observation=observation, action=ACTIONS, reward=torch.zeros(2, 4), is_first=first, is_terminal=terminal
        )
        return batch, mask


def test_starts_are_real_rows_that_are_not_terminal_and_actions_those_that_were_taken() -> None:
    torch.manual_seed(0)
    model = build_world(SIZES, Interface(ViewSettings(), (-1.0,), (1.0,)))
    windows: Any = TwoEpisodes()
    encoded = encode(model, windows, "float32")
    assert encoded.states.deter.shape == (4 + 2 - 1, 8)
    assert encoded.states.stoch.dtype == torch.uint8
    assert set(encoded.states.stoch.unique().tolist()) == {0, 1}
    taken = torch.tensor([0.2, -0.4, 0.6, 0.8])
    assert encoded.action_mean.item() == pytest.approx(taken.mean().item())
    assert encoded.action_std.item() == pytest.approx(taken.std().item())
