"""One data set recorded in parts, each on a machine of its own, and put together as if one machine had recorded it.

Of N shards, number K (1 .. N) records the episodes K - 1, K - 1 + N, K - 1 + 2 N, ... of the data set. Episode i
depends on the settings and i alone, so the shards hold, episode by episode, what one process would have recorded.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..console import Meter
from ..errors import InterruptedRunError, StageError, UsageError
from ..locks import reading
from ..processes import Interruption
from .metadata import Origin
from .store import EpisodeStore, EpisodeWriter, lock_of


@dataclass(frozen=True)
class Shard:
    """One of several parts of a data set.

    Attributes:
        number: which, 1 .. count.
        count: how many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2/8`. Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, count = (int(part) for part in match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f"--shard takes the number of a shard and how many there are, such as 2/8, not '{text}'")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def name(self, data: str) -> str:
        """The name of this part of a data set: a data set itself."""
        return f"{data}-{self.number}of{self.count}"

    def episodes(self, first: int) -> Iterator[int]:
        """The numbers, in the whole, of this shard's episodes from its `first` on."""
        return itertools.count(self.number - 1 + first * self.count, self.count)

    def decisions(self, whole: int) -> int:
        """The decisions that this shard records of so many in all."""
        return -(-whole // self.count)


@contextmanager
def open_shards(whole: Path, count: int, origin: Origin) -> Iterator[list[EpisodeStore]]:
    """Open all shards of a data set to read.

    Args:
        whole: folder of the data set, beside which the shards are.
        count: how many there are; 0 for none.
        origin: how the whole comes about.

    Raises:
        StageError: a shard is missing, damaged or was collected with other settings.
        BusyError: a shard is being recorded at this moment.
    """
    with ExitStack() as stack:
        stores = []
        for shard in (Shard(number, count) for number in range(1, count + 1)):
            path = whole.with_name(shard.name(whole.name))
            if not EpisodeStore.has_episodes(path):
                raise StageError(f"{path} holds no episodes; run `dreamer collect --data {whole.name} --shard {shard}`")
            stack.enter_context(reading(f"dreamer collect --data {whole.name} --merge {count}", (lock_of(path), path)))
            stores.append(stack.enter_context(EpisodeStore.open(path)))
            stores[-1].origin.require(origin.model_copy(update={"shard": str(shard)}), path)
        yield stores


def take_over(writer: EpisodeWriter, shards: Sequence[EpisodeStore], decisions: int) -> None:
    """Add to a data set what its shards hold of the episodes that come next, up to the first one missing.

    Args:
        writer: of the data set.
        shards: all of them, in their order.
        decisions: to stop at, with the first episode that brings the data set there.

    Raises:
        StageError: an episode of a shard is damaged.
        InterruptedRunError: after Ctrl-C or SIGTERM; what is taken over is kept.
    """
    with Meter("Merging", decisions, "decisions", writer.steps) as meter, Interruption() as interruption:
        while shards and writer.steps < decisions:
            store, index = shards[len(writer) % len(shards)], len(writer) // len(shards)
            if index == len(store):
                return
            if interruption.asked:
                raise InterruptedRunError(
                    f"Stopped; {writer.path} keeps {len(writer)} episodes, and the same command goes on"
                )
            writer.append(store.read(index))
            meter.advance_to(min(writer.steps, decisions))
