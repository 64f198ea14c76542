"""Random streams by key: what is drawn for update 7, or on track 1003, does not depend on what was done before."""

from __future__ import annotations

import numpy as np


def stream_seed(*key: int) -> int:
    """A seed, below 2^63, of the stream that belongs to a key such as (seed, update)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_torch(*key: int) -> None:
    """Have torch draw from the stream of this key from now on."""
    import torch

    torch.manual_seed(stream_seed(*key))
