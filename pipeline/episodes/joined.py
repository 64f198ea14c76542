"""Several data sets read as one: the episodes of the first, then those of the second, and so on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..artifacts import Source
from ..errors import StageError, UsageError
from .episode import Decisions, Episode
from .store import EpisodeStore, lock_of

Data = Path | Sequence[Path]
"""The folder of a data set, or those of several."""


def folders(data: Data) -> tuple[Path, ...]:
    """The folders, at least one. Raises UsageError where one is given twice."""
    paths = (data,) if isinstance(data, Path) else tuple(data)
    twice = next((path for number, path in enumerate(paths) if path in paths[:number]), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice; give each data set once")
    return paths


def locks_of(data: Data) -> list[tuple[Path, Path]]:
    """What `locks.reading` takes for all of them."""
    return [(lock_of(path), path) for path in folders(data)]


def have_episodes(data: Data) -> bool:
    """Whether all of them can be opened to read, damage aside."""
    return all(EpisodeStore.has_episodes(path) for path in folders(data))


def open_data(data: Data) -> EpisodeStore:
    """Open one data set, or several as one, to read.

    Raises:
        StageError: one is missing or damaged, or was seen otherwise than the first.
        UsageError: one is given twice.
    """
    paths = folders(data)
    with ExitStack() as stack:
        stores = [stack.enter_context(EpisodeStore.open(path)) for path in paths]
        store = stores[0] if len(stores) == 1 else JoinedStore(stores)
        stack.pop_all()
        return store


def joint_fingerprint(fingerprints: Sequence[str]) -> str:
    """The fingerprint of data sets in this order; of one, its own."""
    return fingerprints[0] if len(fingerprints) == 1 else hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()


class JoinedStore(EpisodeStore):
    """Data sets of one environment, seen in one way. Episodes are numbered through; all is read where it lies.

    Attributes:
        stores: the data sets.
        path: that of the first.
        origin: that of the first where the drivers act at random, else that of the first of all; with the truth where
            all have it.

    Args:
        stores: at least one, open; closed with this one.

    Raises:
        StageError: one was seen otherwise than the first.
    """

    def __init__(self, stores: Sequence[EpisodeStore]) -> None:
        first = stores[0]
        for store in stores[1:]:
            difference = store.origin.mismatch(first.origin)
            if difference is not None:
                raise StageError(
                    f"{store.path} was recorded with {difference} as {first.path} was, and a model learns from one "
                    "view alone; leave one of the two out"
                )
        self.stores = tuple(stores)
        self.path = first.path
        origin = next((store.origin for store in stores if store.origin.kind == "random"), first.origin)
        truth = True if all(store.origin.truth for store in stores) else None
        self.origin = origin.model_copy(update={"truth": truth})
        self.lengths = np.concatenate([store.lengths for store in stores])
        self._ends = np.cumsum([len(store) for store in stores])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        """See `joint_fingerprint`."""
        return joint_fingerprint([store.fingerprint for store in self.stores])

    @property
    def sources(self) -> tuple[Source, ...]:
        """See `EpisodeStore.sources`."""
        return tuple(source for store in self.stores for source in store.sources)

    def read(self, index: int) -> Episode:
        """See `EpisodeStore.read`."""
        store, index = self._find(index)
        return store.read(index)

    def read_decisions(self, index: int) -> Decisions:
        """See `EpisodeStore.read_decisions`."""
        store, index = self._find(index)
        return store.read_decisions(index)

    def read_frames(self, index: int, start: int, stop: int) -> NDArray[np.uint8]:
        """See `EpisodeStore.read_frames`."""
        store, index = self._find(index)
        return store.read_frames(index, start, stop)

    def close(self) -> None:
        """Close all files."""
        for store in self.stores:
            store.close()

    def _find(self, index: int) -> tuple[EpisodeStore, int]:
        """The data set that an episode is in, and its number there."""
        place = int(np.searchsorted(self._ends, index, side="right"))
        store = self.stores[place]
        return store, index - int(self._ends[place]) + len(store)
