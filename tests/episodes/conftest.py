"""Made-up episodes whose pictures tell what belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.episodes.episode import INFO_TYPES, Episode
from pipeline.episodes.metadata import Origin, View
from pipeline.episodes.store import EpisodeStore

SIZE = 8


def _episode(number: int, steps: int, terminated: bool = False) -> Episode:
    """An episode whose observations show, in their channels, its number, the last action, and the row."""
    rng = np.random.default_rng(number)
    codes = rng.integers(1, 256, steps)
    observations = np.empty((steps + 1, 3, SIZE, SIZE), np.uint8)
    observations[:, 0] = number
    observations[:, 1] = np.concatenate([[0], codes])[:, None, None]
    observations[:, 2] = np.arange(steps + 1)[:, None, None]
    last = np.arange(steps) == steps - 1
    return Episode(
        observations=observations,
        actions=(codes[:, None] / 255 * np.array([-1, 1, 0.5])).astype(np.float32),
        rewards=codes.astype(np.float32),
        terminations=last & terminated,
        truncations=last & (not terminated),
        infos={name: rng.integers(0, 2, steps).astype(dtype) for name, dtype in INFO_TYPES.items()},
        seed=2**24 + number,
        policy="smooth",
        track_tiles=300,
    )


@pytest.fixture(scope="session")
def make_episode() -> Callable[..., Episode]:
    return _episode


@pytest.fixture(scope="session")
def origin() -> Origin:
    view = View(action_repeat=4, size=SIZE, action_low=(-1.0, 0.0, 0.0), action_high=(1.0, 1.0, 1.0))
    return Origin(gymnasium="1.4.0", view=view, policy="mixture", patience=30, limit=250, seed=0)


@pytest.fixture(scope="session")
def write_store(origin: Origin) -> Callable[[Path, Sequence[Episode]], Path]:
    """Write a data set and give its folder."""

    def write(path: Path, episodes: Sequence[Episode]) -> Path:
        with EpisodeStore.create(path, origin) as writer:
            for episode in episodes:
                writer.append(episode)
        return path

    return write
