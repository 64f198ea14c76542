"""The states that imagination starts from, and what was recorded with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config import ModelSettings, ViewSettings
from pipeline.episodes.episode import Batch
from pipeline.learning.encoding import EncodedData, encode, episodes_that_fit, side_by_side
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
        reward = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 4.0, 9.0, 9.0]])
        batch = Batch(observation=observation, action=ACTIONS, reward=reward, is_first=first, is_terminal=terminal)
        return batch, mask


def encode_two(sizes: ModelSettings, **options: bool) -> EncodedData:
    torch.manual_seed(0)
    model = build_world(sizes, Interface(ViewSettings(), (-1.0,), (1.0,)))
    windows: Any = TwoEpisodes()
    return encode(model, windows, "float32", **options)


def test_starts_are_real_rows_that_are_not_terminal_and_actions_those_that_were_taken() -> None:
    encoded = encode_two(SIZES)
    assert encoded.states.deter.shape == (4 + 2 - 1, 8)
    assert encoded.states.stoch.dtype == torch.uint8
    assert set(encoded.states.stoch.unique().tolist()) == {0, 1}
    taken = torch.tensor([0.2, -0.4, 0.6, 0.8])
    assert encoded.action_mean.item() == pytest.approx(taken.mean().item())
    assert encoded.action_std.item() == pytest.approx(taken.std().item())
    assert encoded.rows is None


def test_rows_stand_beside_their_states_one_episode_after_the_other() -> None:
    encoded, without = encode_two(SIZES, with_rows=True), encode_two(SIZES)
    assert encoded.rows is not None
    assert encoded.rows.reward.tolist() == [0, 1, 2, 3, 0, 4]
    assert encoded.rows.is_terminal.tolist() == [False, False, False, True, False, False]
    assert encoded.rows.is_last.tolist() == [False, False, False, True, False, True]
    living = ~encoded.rows.is_terminal
    assert torch.equal(encoded.states.deter[living], without.states.deter)
    assert torch.equal(encoded.states.stoch[living], without.states.stoch)


def test_gaussian_states_keep_their_numbers() -> None:
    encoded = encode_two(SIZES.model_copy(update={"latent": "gaussian", "stoch": 5}))
    assert encoded.states.stoch.dtype == torch.float32
    assert encoded.states.stoch.shape == (5, 5)
    assert (encoded.states.stoch % 1).all()


def test_the_longest_episodes_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever longer ones find no room where the last ones were: 900,000 decisions then take 16 GiB in place of 3."""
    asked: list[int] = []

    class Short(TwoEpisodes):
        lengths, episodes = np.array([7, 9, 8]), (0, 1, 2)

        def episode_batch(self, episodes: list[int]) -> tuple[Batch, Tensor]:
            asked.extend(int(self.lengths[number]) for number in episodes)
            return super().episode_batch(episodes)

    monkeypatch.setattr("pipeline.learning.encoding._EPISODES", 1)
    windows: Any = Short()
    encode(build_world(SIZES, Interface(ViewSettings(), (-1.0,), (1.0,))), windows, "float32")
    assert asked == [9, 8, 7]


def test_long_episodes_are_encoded_in_smaller_groups() -> None:
    assert [side_by_side(longest) for longest in (2, 251, 513, 1001, 27_000)] == [16, 16, 15, 8, 1]


@pytest.mark.parametrize(("latent", "bytes_of_a_state"), [("categorical", 4 * 8 + 2 * 4), ("gaussian", 4 * 8 + 4 * 5)])
def test_where_not_all_states_fit_a_random_share_of_the_episodes_is_kept(latent: str, bytes_of_a_state: int) -> None:
    sizes = SIZES.model_copy(update={"latent": latent, "stoch": 5})
    model = build_world(sizes, Interface(ViewSettings(), (-1.0,), (1.0,)))
    lengths = np.arange(10, 110)
    whole = int(lengths.sum()) * bytes_of_a_state / 2**30
    assert episodes_that_fit(lengths, model, 1.001 * whole, 0).tolist() == list(range(100))
    half = episodes_that_fit(lengths, model, 0.5 * whole, 0)
    assert lengths[half].sum() <= 0.5 * lengths.sum() < lengths[half].sum() + 110
    assert half.tolist() == sorted(set(half.tolist()))
    assert half.min() < 20 and half.max() > 80  # from all over
    assert half.tolist() == episodes_that_fit(lengths, model, 0.5 * whole, 0).tolist()
    assert half.tolist() != episodes_that_fit(lengths, model, 0.5 * whole, 1).tolist()
    assert len(episodes_that_fit(lengths, model, 1e-9, 0)) == 1
