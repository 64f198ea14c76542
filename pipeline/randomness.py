"""Random streams by key: what is drawn for update 7, or on track 1003, does not depend on what was done before."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are for. Streams of one seed share nothing; their numbers are part of every result."""

    TRACK = 0
    RANDOM_POLICY = 1
    SPLIT = 2
    WORLD_WEIGHTS = 3
    POLICY_WEIGHTS = 4
    WINDOWS = 5
    UPDATE = 6
    HELD_OUT = 7
    ENCODING = 8
    DRIVE = 9
    BASELINE = 10
    DREAM = 11
    PLAN = 12


def numpy_stream(seed: int, stream: Stream, *index: int) -> np.random.Generator:
    """The generator for a purpose and, within it, for one of many: an update, an episode, a track."""
    return np.random.default_rng(_sequence(seed, stream, *index))


def stream_seed(seed: int, stream: Stream, *index: int) -> int:
    """The same as a seed, below 2^63, for another generator."""
    return int(_sequence(seed, stream, *index).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_torch(seed: int, stream: Stream, *index: int) -> None:
    """Have torch draw from this stream from now on."""
    import torch

    torch.manual_seed(stream_seed(seed, stream, *index))


def _sequence(seed: int, stream: Stream, *index: int) -> np.random.SeedSequence:
    # As a spawn key: in the entropy itself, trailing zeros would make no difference.
    return np.random.SeedSequence(seed, spawn_key=(stream, *index))
