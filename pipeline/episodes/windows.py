"""What the models are fitted on: windows drawn from anywhere in the episodes, and whole episodes side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..devices import machine_memory
from ..envs.adapter import Mirror
from ..errors import StageError, UsageError
from ..randomness import Stream, numpy_stream
from .episode import Batch, Decisions
from .store import EpisodeStore

__all__ = ["Batch", "BlankWindows", "Windows", "split"]

_AHEAD = 3  # batches made before they are asked for
_READERS = 2  # threads: they inflate side by side, and take turns at the rest
_ALL = slice(None)


def split(episodes: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the episodes to hold out.

    Whole episodes are held out, never windows: two windows of one episode share most of their pictures.

    Args:
        episodes: how many there are.
        share: share of them to hold out, in (0, 1); at least one is, and at least one is not.
        seed: of the choice, which depends on these three alone.

    Returns:
        Numbers of the episodes to train on, and of those held out, each ascending.

    Raises:
        StageError: there is only one episode.
    """
    if episodes < 2:
        raise StageError(
            f"{episodes} episode cannot be divided into training and held-out data; run `dreamer collect` with more "
            "--decisions"
        )
    held = min(max(round(share * episodes), 1), episodes - 1)
    order = numpy_stream(seed, Stream.SPLIT).permutation(episodes)
    return np.sort(order[held:]), np.sort(order[:held])


class Windows:
    """Episodes laid end to end as one stream of rows, of which windows are cut anywhere.

    A window that runs over the end of an episode goes on with the next, whose first row has `is_first`. The
    pictures are held in memory, contiguous, where they fit, and are else read from disk; the rest always is.

    Attributes:
        episodes: numbers of the episodes in the store, in the order of the stream.
        length: rows in a window.
        store: where they are.
        in_memory: whether the pictures are held in memory.
        pinned: whether `batches` come in memory that a GPU reads by itself.
        lengths: rows of each episode, in the order of `episodes`.

    Args:
        store: where the episodes are; it must stay open.
        episodes: numbers of those to read, at least one.
        length: rows in a window.
        memory_gib: the most that the pictures may take, GiB.
        share: windows of each batch of `batches` that are made here; the others are another process'.
        mirror: how every other window of a batch, and every other episode, is seen; None for all as recorded.

    Raises:
        StageError: the episodes have fewer rows than a window, or are not what was recorded.
    """

    def __init__(
        self,
        store: EpisodeStore,
        episodes: Sequence[int] | NDArray[np.int64],
        length: int,
        memory_gib: float,
        share: slice = _ALL,
        mirror: Mirror | None = None,
    ) -> None:
        self.episodes = [int(episode) for episode in episodes]
        self.length = length
        self.store = store
        self.share = share
        self.mirror = mirror
        self.pinned = False
        self.lengths = store.lengths[self.episodes]
        self._ends = np.cumsum(self.lengths)
        self._begins = self._ends - self.lengths
        self._places = {episode: place for place, episode in enumerate(self.episodes)}
        if len(self) < length:
            raise StageError(
                f"{store.path} has {len(self)} rows in {len(self.episodes)} episodes, fewer than the {length} of a "
                f"window; run `dreamer collect --data {store.path.name}` with more --decisions"
            )
        size = store.view.size
        self.in_memory = len(self) * 3 * size**2 <= memory_gib * 2**30
        self._frames = np.empty((len(self) if self.in_memory else 0, size, size, 3), np.uint8)  # see `_channel_first`
        self._read(len(store.view.action_low))

    def _read(self, action: int) -> None:
        """Fill the columns of the stream, each row with what arrives together (see `Batch`)."""
        self._action = np.zeros((len(self), action), np.float32)
        self._reward = np.zeros(len(self), np.float32)
        self._is_first = np.zeros(len(self), np.bool_)
        self._is_terminal = np.zeros(len(self), np.bool_)
        self._is_first[self._begins] = True
        with ThreadPoolExecutor(_READERS, thread_name_prefix="episodes") as threads:
            for _ in threads.map(self._read_episode, self.episodes, self._begins, self._ends):
                pass  # what goes wrong there is raised here

    def _read_episode(self, episode: int, begin: int, end: int) -> None:
        """Fill the rows of one episode."""
        if self.in_memory:
            recorded = self.store.read(episode)
            for channel in range(3):  # one at a time: many times as fast as a copy of the whole transposed
                self._frames[begin:end, ..., channel] = recorded.observations[:, channel]
            decisions: Decisions = recorded
        else:
            decisions = self.store.read_decisions(episode)
        self._action[begin + 1 : end] = self._as_vectors(decisions.actions)
        self._reward[begin + 1 : end] = decisions.rewards
        self._is_terminal[begin + 1 : end] = decisions.terminations

    def _as_vectors(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (T, A) as they are, discrete ones (T,) as one-hot vectors."""
        return actions if self.store.view.continuous else np.eye(self._action.shape[1], dtype=np.float32)[actions]

    def __len__(self) -> int:
        """Rows in the stream."""
        return int(self._ends[-1])

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The stream by the names in `Batch`, each of all rows; the pictures (N, S, S, 3), none where not in memory."""
        return {
            "observation": self._frames,
            "action": self._action,
            "reward": self._reward,
            "is_first": self._is_first,
            "is_terminal": self._is_terminal,
        }

    @property
    def memory_bytes(self) -> int:
        """Memory that the stream takes."""
        return sum(column.nbytes for column in self.columns.values())

    def sample(self, rng: np.random.Generator, batch: int, share: slice = _ALL) -> Batch:
        """Draw windows, each start as likely as any other.

        Args:
            rng: draws the starts, and nothing else.
            batch: how many, B.
            share: those of them to make.

        Returns:
            B windows of `length` rows, or that share of them.
        """
        starts = rng.integers(len(self) - self.length + 1, size=batch)[share]
        frames = np.empty((len(starts), self.length, *self._frames.shape[1:]), np.uint8)
        for window, start in zip(frames, starts, strict=True):
            self._copy_frames(int(start), window)
        rows = starts[:, None] + np.arange(self.length)  # (B, T)
        made = self._batch(rows, frames, np.ones_like(rows, np.bool_))
        return made.mirrored(self.mirror, _even(share))

    def batches(self, seed: int, start: int, stop: int, batch: int) -> Iterator[Batch]:
        """Draw the batches of updates `start` to `stop - 1`, a few ahead, in a thread.

        Batch u depends on the seed and u alone, so a run that is resumed at update u goes on exactly.

        Args:
            seed: of the draws.
            start: first update.
            stop: the update to end before.
            batch: windows in a batch.

        Yields:
            `stop - start` batches, of each this process' share. What goes wrong in the thread is raised here; closing
            the iterator ends it.

        Raises:
            UsageError: they take more memory than this machine has.
        """
        self._require_memory(batch)

        def draw(update: int) -> Batch:
            made = self.sample(numpy_stream(seed, Stream.WINDOWS, update), batch, self.share)
            return made.pinned() if self.pinned else made

        with ThreadPoolExecutor(1, thread_name_prefix="windows") as thread:
            try:
                waiting = deque(thread.submit(draw, u) for u in range(start, min(start + _AHEAD, stop)))
                for update in range(start, stop):
                    if update + _AHEAD < stop:
                        waiting.append(thread.submit(draw, update + _AHEAD))
                    yield waiting.popleft().result()
            finally:
                thread.shutdown(cancel_futures=True)

    def episode_batch(self, episodes: Sequence[int] | NDArray[np.int64]) -> tuple[Batch, Tensor]:
        """Whole episodes side by side, padded with zeros behind their ends to the longest of them.

        Args:
            episodes: their numbers in the store, B of them, all among `self.episodes`.

        Returns:
            B sequences of T rows, T that of the longest episode, and the mask (B, T) bool of the rows that are real.
        """
        places = [self._places[int(episode)] for episode in episodes]
        lengths = self.lengths[places]
        steps = np.arange(lengths.max())
        mask = steps < lengths[:, None]  # (B, T)
        frames = np.zeros((*mask.shape, *self._frames.shape[1:]), np.uint8)
        for sequence, place, length in zip(frames, places, lengths, strict=True):
            self._copy_frames(int(self._begins[place]), sequence[:length])
        rows = np.where(mask, self._begins[places][:, None] + steps, 0)
        even = [place for place, episode in enumerate(episodes) if episode % 2 == 0]
        return self._batch(rows, frames, mask).mirrored(self.mirror, even), torch.from_numpy(mask)

    def _require_memory(self, batch: int) -> None:
        """Raise UsageError where the batches made ahead would not fit into any memory that is there."""
        memory, size = machine_memory(), self.store.view.size
        needed = (_AHEAD + 1) * len(range(batch)[self.share]) * self.length * 3 * size**2
        if needed > memory:
            raise UsageError(
                f"Batches of {batch} windows of {self.length} pictures take {needed / 2**30:.0f} GiB, more than the "
                f"{memory / 2**30:.0f} GiB of this machine; choose a smaller world.batch or world.length"
            )

    def _copy_frames(self, start: int, out: NDArray[np.uint8]) -> None:
        """Copy the pictures of the rows from `start` on into `out`, from memory or disk."""
        if self.in_memory:
            out[:] = self._frames[start : start + len(out)]
            return
        place = int(np.searchsorted(self._ends, start, side="right"))
        done = 0
        while done < len(out):
            first = start + done - int(self._begins[place])
            last = min(first + len(out) - done, int(self.lengths[place]))
            read = self.store.read_frames(self.episodes[place], first, last)
            out[done : done + last - first] = read.transpose(0, 2, 3, 1)
            done += last - first
            place += 1

    def _batch(self, rows: NDArray[np.int64], frames: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Batch:
        """Put the columns of the rows (B, T) beside their pictures, zeros where the mask is False."""

        def take(column: NDArray[Any]) -> Tensor:
            values = column[rows]
            values[~mask] = 0
            return torch.from_numpy(values)

        return Batch(
            observation=_channel_first(frames),
            action=take(self._action),
            reward=take(self._reward),
            is_first=take(self._is_first),
            is_terminal=take(self._is_terminal),
        )


class DeviceWindows:
    """The same windows from a stream that lies on a device: a batch is gathered there, and the host does not wait.

    Args:
        windows: the stream, in memory; of no use afterwards.
        device: where to.
    """

    def __init__(self, windows: Windows, device: torch.device) -> None:
        assert windows.in_memory
        self.length, self.share, self.mirror = windows.length, windows.share, windows.mirror
        self._columns = {name: torch.from_numpy(column).to(device) for name, column in windows.columns.items()}
        self._steps = torch.arange(self.length, device=device)

    def sample(self, rng: np.random.Generator, batch: int, share: slice = _ALL) -> Batch:
        """See `Windows.sample`."""
        rows = len(self._columns["reward"])
        starts = torch.from_numpy(rng.integers(rows - self.length + 1, size=batch)[share])
        if self._steps.is_cuda:
            starts = starts.pin_memory()
        chosen = starts.to(self._steps.device, non_blocking=True)[:, None] + self._steps  # (B, T)
        taken = {name: column[chosen] for name, column in self._columns.items()}
        made = Batch(**taken | {"observation": taken["observation"].permute(0, 1, 4, 2, 3)})
        return made.mirrored(self.mirror, _even(share))

    def batches(self, seed: int, start: int, stop: int, batch: int) -> Iterator[Batch]:
        """See `Windows.batches`; a batch is made when it is asked for."""
        for update in range(start, stop):
            yield self.sample(numpy_stream(seed, Stream.WINDOWS, update), batch, self.share)


def place(windows: Windows, device: torch.device, free: int) -> Windows | DeviceWindows:
    """Bring windows as near to a device as they can be.

    Args:
        windows: the stream.
        device: that the batches are for.
        free: bytes that the stream may take there, 0 where it shall stay where it is.

    Returns:
        Windows of a stream on the device where it fits and is in memory; else the same, and where the device is a GPU,
        with batches in pinned memory.
    """
    if windows.in_memory and windows.memory_bytes <= free:
        return DeviceWindows(windows, device)
    windows.pinned = device.type == "cuda"
    return windows


class BlankWindows:
    """Black windows in which nothing is done and nothing happens: to time a learner where there are no data.

    Args:
        length: rows in a window.
        size: height and width of a picture, pixels.
        actions: width of an action.
    """

    def __init__(self, length: int, size: int, actions: int) -> None:
        self.length, self.size, self.actions = length, size, actions

    def sample(self, rng: np.random.Generator, batch: int) -> Batch:
        """`batch` windows, all alike; `rng` draws nothing."""
        rows = (batch, self.length)
        return Batch(
            observation=_channel_first(np.zeros((*rows, self.size, self.size, 3), np.uint8)),
            action=torch.zeros(*rows, self.actions),
            reward=torch.zeros(rows),
            is_first=torch.zeros(rows, dtype=torch.bool),
            is_terminal=torch.zeros(rows, dtype=torch.bool),
        )

    def batches(self, seed: int, start: int, stop: int, batch: int) -> Iterator[Batch]:
        """`stop - start` batches of `batch` windows."""
        for update in range(start, stop):
            yield self.sample(numpy_stream(seed, Stream.WINDOWS, update), batch)


def _even(share: slice) -> slice:
    """Which windows of a share have even numbers in the batch."""
    return slice((share.start or 0) % 2, None, 2)


def _channel_first(frames: NDArray[np.uint8]) -> Tensor:
    """Frames (B, T, S, S, 3) as (B, T, 3, S, S), the memory as it is: convolutions are fastest on channels last."""
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
