from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.episodes.episode import Batch, Episode

MakeEpisode = Callable[..., Episode]


def test_digest_is_that_of_the_content(make_episode: MakeEpisode) -> None:
    episode = make_episode(1, 5)
    same = replace(episode, observations=np.asfortranarray(episode.observations))
    assert same.digest() == episode.digest()


def _touched(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.flat[0] = 1 - changed.flat[0]
    return changed


def test_digest_tells_any_difference(make_episode: MakeEpisode) -> None:
    episode = make_episode(1, 5)
    others = [
        replace(episode, seed=7),
        replace(episode, policy="uniform"),
        replace(episode, track_tiles=1),
        replace(episode, truncations=episode.terminations, terminations=episode.truncations),
        *(replace(episode, **{name: _touched(getattr(episode, name))}) for name in ("observations", "actions")),
        replace(episode, rewards=_touched(episode.rewards)),
        *(replace(episode, infos=episode.infos | {name: _touched(episode.infos[name])}) for name in episode.infos),
    ]
    digests = {other.digest() for other in (episode, *others)}
    assert len(digests) == 1 + len(others)


def test_actions_may_be_numbers(make_episode: MakeEpisode) -> None:
    episode = make_episode(1, 5, discrete=True)
    assert episode.actions.shape == (5,) and episode.digest() != make_episode(1, 5).digest()
    assert replace(episode, actions=_touched(episode.actions % 2)).digest() != episode.digest()


@pytest.mark.parametrize(
    "wrong",
    [
        {"observations": np.zeros((5, 3, 8, 8), np.uint8)},
        {"observations": np.zeros((6, 8, 8, 3), np.uint8)},
        {"observations": np.zeros((6, 3, 8, 8), np.float32)},
        {"actions": np.zeros((5, 3))},
        {"actions": np.zeros(5, np.float32)},
        {"actions": np.full((5, 3), np.nan, np.float32)},
        {"actions": np.zeros((5, 3, 1), np.float32)},
        {"actions": np.zeros((5, 3), np.int64)},
        {"actions": np.zeros(5, np.int32)},
        {"actions": np.zeros(6, np.int64)},
        {"actions": np.array([0, 1, -1, 2, 3])},
        {"rewards": np.full(5, np.inf, np.float32)},
        {"rewards": np.zeros(0, np.float32)},
        {"terminations": np.ones(5, np.bool_)},
        {"truncations": np.zeros(5, np.bool_)},
        {"terminations": np.arange(5) == 4},
        {"infos": {"speed": np.zeros(4, np.float32)}},
        {"infos": {"speed": np.zeros((5, 1), np.float32)}},
    ],
)
def test_what_is_no_episode_is_refused(make_episode: MakeEpisode, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(make_episode(1, 5), **wrong)


def test_batch_moves_whole() -> None:
    flags = torch.zeros(2, 3, dtype=torch.bool)
    batch = Batch(torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8), torch.ones(2, 3, 3), torch.ones(2, 3), flags, ~flags)
    moved = batch.to("meta")
    assert {str(tensor.device) for tensor in vars(moved).values()} == {"meta"}
    assert batch.to("cpu").is_terminal.all() and not batch.to("cpu").is_first.any()


def test_batch_selects_sequences() -> None:
    values = torch.arange(6.0).reshape(3, 2)
    flags = values > 2
    batch = Batch(torch.zeros(3, 2, 3, 8, 8), values[..., None], values, flags, ~flags)
    picked = batch.select(torch.tensor([2, 0]))
    assert picked.reward.tolist() == picked.action[..., 0].tolist() == [[4, 5], [0, 1]]
    assert picked.is_first.tolist() == (~picked.is_terminal).tolist() == [[True, True], [False, False]]
