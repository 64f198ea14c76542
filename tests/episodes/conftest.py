"""Made-up episodes whose pictures tell what belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.envs.car_racing.actions import action_bounds
from pipeline.envs.car_racing.adapter import CarRacing
from pipeline.episodes.episode import Episode
from pipeline.episodes.metadata import Origin, View
from pipeline.episodes.store import EpisodeStore

SIZE = 8


def _episode(number: int, steps: int, terminated: bool = False, discrete: bool = False) -> Episode:
    """An episode whose observations show, in their channels, its number, the last action, and the row."""
    rng = np.random.default_rng(number)
    codes = rng.integers(1, 256, steps)
    observations = np.empty((steps + 1, 3, SIZE, SIZE), np.uint8)
    observations[:, 0] = number
    observations[:, 1] = np.concatenate([[0], codes])[:, None, None]
    observations[:, 2] = np.arange(steps + 1)[:, None, None]
    last = np.arange(steps) == steps - 1
    actions = (codes[:, None] / 255 * np.array([-1, 1, 0.5])).astype(np.float32)
    return Episode(
        observations=observations,
        actions=codes % 5 if discrete else actions,
        rewards=codes.astype(np.float32),
        terminations=last & terminated,
        truncations=last & (not terminated),
        infos={name: rng.integers(0, 2, steps).astype(dtype) for name, dtype in CarRacing.info_types.items()},
        seed=2**24 + number,
        policy="smooth",
        track_tiles=300,
    )


@pytest.fixture(scope="session")
def make_episode() -> Callable[..., Episode]:
    return _episode


def _origin(continuous: bool) -> Origin:
    low, high = action_bounds(continuous)
    view = View(action_repeat=4, size=SIZE, continuous=continuous, action_low=low, action_high=high)
    return Origin(gymnasium="1.4.0", view=view, policy="mixture", patience=30, limit=250, seed=0)


@pytest.fixture(scope="session")
def origin() -> Origin:
    return _origin(continuous=True)


@pytest.fixture(scope="session")
def discrete_origin() -> Origin:
    return _origin(continuous=False)


@pytest.fixture(scope="session")
def write_store() -> Callable[[Path, Sequence[Episode]], Path]:
    """Write a data set, of discrete actions where the first episode has them, and give its folder."""

    def write(path: Path, episodes: Sequence[Episode]) -> Path:
        with EpisodeStore.create(path, _origin(episodes[0].actions.ndim == 2)) as writer:
            for episode in episodes:
                writer.append(episode)
        return path

    return write
