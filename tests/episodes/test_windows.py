from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.envs.adapter import Mirror
from pipeline.envs.car_racing.mirror import mirror
from pipeline.episodes import windows as windows_module
from pipeline.episodes.episode import Batch, Episode
from pipeline.episodes.store import EpisodeStore
from pipeline.episodes.windows import BlankWindows, DeviceWindows, Windows, place, split
from pipeline.errors import StageError, UsageError

MakeEpisode = Callable[..., Episode]

STEPS = (3, 20, 1, 7, 40, 2)
TERMINATED = (1, 4)
MEMORY, DISK = 1.0, 1e-9  # GiB


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory,
    write_store: Callable[[Path, Sequence[Episode]], Path],
    make_episode: MakeEpisode,
) -> Iterator[EpisodeStore]:
    recorded = [make_episode(n, steps, terminated=n in TERMINATED) for n, steps in enumerate(STEPS)]
    with EpisodeStore.open(write_store(tmp_path_factory.mktemp("data") / "x", recorded)) as opened:
        yield opened


def shown(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the pictures say of themselves, each (B, T): episode, last action, row."""
    pictures = batch.observation.long()
    assert (pictures == pictures[..., :1, :1]).all()
    return pictures[:, :, 0, 0, 0], pictures[:, :, 1, 0, 0], pictures[:, :, 2, 0, 0]


def check_rows(batch: Batch) -> None:
    """Each row holds what belongs together, and each follows on the one before, but for `is_first`."""
    episode, action, row = shown(batch)
    steps = torch.tensor(STEPS)[episode]
    torch.testing.assert_close(batch.action[..., 0], -action / 255)
    torch.testing.assert_close(batch.action[..., 2], action / 510)
    torch.testing.assert_close(batch.reward, action.float())
    assert torch.equal(batch.is_first, row == 0)
    assert torch.equal(batch.is_terminal, (row == steps) & torch.isin(episode, torch.tensor(TERMINATED)))
    first = batch.is_first[:, 1:]
    follows = (episode[:, 1:] == episode[:, :-1]) & (row[:, 1:] == row[:, :-1] + 1)
    assert torch.equal(follows, ~first)
    assert (row == steps)[:, :-1][first].all()  # what comes before a first row is a last one


@pytest.mark.parametrize("memory", [MEMORY, DISK])
@settings(max_examples=30, deadline=None)
@given(
    episodes=st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True),
    length=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_windows_hold_what_belongs_together(
    store: EpisodeStore, memory: float, episodes: list[int], length: int, seed: int
) -> None:
    rows = int(store.lengths[episodes].sum())
    if rows < length:
        with pytest.raises(StageError, match=f"has {rows} rows in {len(episodes)} episodes, fewer than the {length}"):
            Windows(store, episodes, length, memory)
        return
    windows = Windows(store, episodes, length, memory)
    assert windows.in_memory == (memory == MEMORY)
    batch = windows.sample(np.random.default_rng(seed), 5)
    assert batch.observation.shape == (5, length, 3, 8, 8)
    assert batch.action.shape == (5, length, 3)
    assert set(shown(batch)[0].unique().tolist()) <= set(episodes)
    check_rows(batch)


def test_every_start_is_drawn_alike(store: EpisodeStore) -> None:
    windows = Windows(store, [0, 3], 4, MEMORY)
    episode, _, row = shown(windows.sample(np.random.default_rng(0), 9000))
    starts, counts = torch.stack([episode[:, 0], row[:, 0]]).unique(dim=1, return_counts=True)
    assert starts.shape[1] == len(windows) - 4 + 1 == 9
    assert counts.min() > 850 and counts.max() < 1150


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_memory_and_disk_give_the_same(store: EpisodeStore) -> None:
    batches = [list(Windows(store, range(6), 9, memory).batches(3, 0, 12, 4)) for memory in (MEMORY, DISK)]
    assert len(batches[0]) == 12
    assert all(equal(one, other) for one, other in zip(*batches, strict=True))
    wholes = [Windows(store, range(6), 9, memory).episode_batch([4, 0, 2])[0] for memory in (MEMORY, DISK)]
    assert equal(*wholes)


@pytest.mark.parametrize("mirrored", [None, mirror])
@pytest.mark.parametrize("memory", [MEMORY, DISK])
def test_shares_make_the_whole_batch(store: EpisodeStore, memory: float, mirrored: Mirror | None) -> None:
    def batches(share: slice) -> list[Batch]:
        return list(Windows(store, range(6), 9, memory, share, mirrored).batches(3, 0, 4, 6))

    for whole, *parts in zip(batches(slice(None)), batches(slice(0, 3)), batches(slice(3, 6)), strict=True):
        assert [len(part.reward) for part in parts] == [3, 3]
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(whole)}
        assert equal(Batch(**joined), whole)


def test_every_other_window_and_episode_is_seen_in_the_mirror(store: EpisodeStore) -> None:
    recorded, seen = (Windows(store, range(6), 9, MEMORY, mirror=mirrored) for mirrored in (None, mirror))
    one, other = (windows.sample(np.random.default_rng(0), 4) for windows in (recorded, seen))
    assert equal(one.select(torch.tensor([1, 3])), other.select(torch.tensor([1, 3])))
    shown = mirror(one.observation[::2], one.action[::2])
    assert torch.equal(other.observation[::2], shown[0]) and torch.equal(other.action[::2], shown[1])
    assert torch.equal(one.reward, other.reward) and not torch.equal(one.action, other.action)
    assert one.observation.stride() == other.observation.stride()
    (one, _), (other, _) = (windows.episode_batch([5, 2, 3]) for windows in (recorded, seen))  # by its number
    assert [torch.equal(one.action[place], other.action[place]) for place in range(3)] == [True, False, True]


@pytest.mark.parametrize("share", [slice(None), slice(1, 3)])
def test_a_stream_on_a_device_gives_the_same_windows_and_waits_for_none(
    store: EpisodeStore, share: slice, no_waiting: Callable[[], AbstractContextManager[object]]
) -> None:
    windows = Windows(store, range(6), 9, MEMORY, share, mirror)
    placed = place(windows, torch.device("cpu"), free=windows.memory_bytes)
    assert isinstance(placed, DeviceWindows)
    pairs = zip(windows.batches(3, 2, 12, 4), placed.batches(3, 2, 12, 4), strict=True)
    assert all(equal(one, other) for one, other in pairs)
    one, other = (source.sample(np.random.default_rng(0), 7) for source in (windows, placed))
    assert equal(one, other) and one.observation.stride() == other.observation.stride()
    with no_waiting():
        placed.sample(np.random.default_rng(0), 7, share)


def test_what_does_not_fit_on_a_gpu_is_sent_from_pinned_memory(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    memory, disk = (Windows(store, range(6), 9, budget) for budget in (MEMORY, DISK))
    assert place(memory, torch.device("cuda"), free=memory.memory_bytes - 1) is memory
    assert place(disk, torch.device("cuda"), free=2**40) is disk
    assert place(Windows(store, range(6), 9, MEMORY), torch.device("cpu"), free=0).pinned is False  # type: ignore[union-attr]
    for windows in (memory, disk):
        pinned.clear()
        (batch,) = windows.batches(0, 0, 1, 4)
        assert all(any(tensor is part for part in pinned) for tensor in vars(batch).values())


@given(st.integers(0, 8), st.integers(0, 8))
@settings(max_examples=10, deadline=None)
def test_resuming_goes_on_exactly(store: EpisodeStore, start: int, stop: int) -> None:
    windows = Windows(store, range(6), 5, MEMORY)
    whole = list(windows.batches(1, 0, 8, 3))
    part = list(windows.batches(1, start, stop, 3))
    assert len(part) == max(0, stop - start)
    assert all(equal(one, other) for one, other in zip(part, whole[start:stop], strict=False))


def test_other_seeds_and_updates_give_other_batches(store: EpisodeStore) -> None:
    windows = Windows(store, range(6), 5, MEMORY)
    batches = [*windows.batches(1, 0, 4, 8), *windows.batches(2, 0, 4, 8)]
    assert not any(equal(one, other) for i, one in enumerate(batches) for other in batches[:i])


def test_reading_ahead_ends_with_the_iterator(store: EpisodeStore) -> None:
    before = threading.active_count()
    batches = Windows(store, range(6), 5, DISK).batches(0, 0, 10**9, 4)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_what_goes_wrong_in_the_thread_is_raised(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(store, range(6), 5, DISK)
    batches = windows.batches(0, 0, 10, 4)
    next(batches)

    def fail(*_: object) -> None:
        raise StageError("the disk is gone")

    monkeypatch.setattr(store, "read_frames", fail)
    with pytest.raises(StageError, match="the disk is gone"):
        list(batches)


@pytest.mark.parametrize("memory", [MEMORY, DISK])
def test_whole_episodes(store: EpisodeStore, memory: float) -> None:
    windows = Windows(store, [5, 1, 3], 2, memory)
    batch, mask = windows.episode_batch([3, 1])
    assert mask.sum(1).tolist() == [8, 21]
    assert batch.observation.shape == (2, 21, 3, 8, 8)
    for tensor in vars(batch).values():
        assert not tensor[~mask].any()
    for index in range(2):
        check_rows(Batch(**{name: tensor[index : index + 1, mask[index]] for name, tensor in vars(batch).items()}))
    assert shown(batch)[0][:, 0].tolist() == [3, 1]
    with pytest.raises(KeyError):
        windows.episode_batch([0])


@pytest.mark.parametrize("memory", [MEMORY, DISK])
def test_discrete_actions_are_one_hot_vectors(
    tmp_path: Path,
    write_store: Callable[[Path, Sequence[Episode]], Path],
    make_episode: MakeEpisode,
    memory: float,
) -> None:
    recorded = [make_episode(number, steps, discrete=True) for number, steps in enumerate((4, 9))]
    with EpisodeStore.open(write_store(tmp_path / "x", recorded)) as discrete:
        windows = Windows(discrete, range(2), 5, memory)
        batch = windows.sample(np.random.default_rng(0), 20)
        whole, mask = windows.episode_batch([0, 1])
    assert batch.action.shape == (20, 5, 5) and batch.action.dtype == torch.float32
    chosen = shown(batch)[1] % 5  # as `make_episode` has it
    expected = torch.nn.functional.one_hot(chosen, 5) * ~batch.is_first[..., None]
    assert torch.equal(batch.action, expected.float())
    assert whole.action.shape == (2, 10, 5)
    assert torch.equal(whole.action.sum(-1), (mask & ~whole.is_first).float())


def test_memory_is_that_of_the_pictures_and_columns(store: EpisodeStore) -> None:
    assert Windows(store, [0], 2, MEMORY).memory_bytes == 4 * (3 * 8 * 8 + 3 * 4 + 4 + 2)
    assert Windows(store, [0], 2, DISK).memory_bytes == 4 * (3 * 4 + 4 + 2)


def test_blank_windows_are_like_real_ones_but_black(store: EpisodeStore) -> None:
    real, blank = Windows(store, range(6), 9, MEMORY), BlankWindows(9, 8, 3)
    pairs = [(windows.sample(np.random.default_rng(0), 4), *windows.batches(0, 2, 5, 4)) for windows in (real, blank)]
    assert len(pairs[0]) == len(pairs[1]) == 4
    for one, other in zip(*pairs, strict=True):
        for name in vars(one):
            tensor, black = getattr(one, name), getattr(other, name)
            assert (tensor.shape, tensor.dtype, tensor.stride()) == (black.shape, black.dtype, black.stride())
            assert not black.any()


@given(st.integers(2, 500), st.floats(0.001, 0.999), st.integers(0, 2**31 - 1))
def test_split(episodes: int, share: float, seed: int) -> None:
    train, held_out = split(episodes, share, seed)
    assert sorted([*train, *held_out]) == list(range(episodes))
    assert list(train) == sorted(train) and list(held_out) == sorted(held_out)
    assert len(held_out) == min(max(round(share * episodes), 1), episodes - 1)
    again = split(episodes, share, seed)
    assert np.array_equal(again[0], train) and np.array_equal(again[1], held_out)


def test_split_depends_on_the_seed_and_needs_two_episodes() -> None:
    assert len({tuple(split(50, 0.1, seed)[1]) for seed in range(20)}) == 20
    with pytest.raises(StageError, match="with more --decisions"):
        split(1, 0.5, 0)


def test_batches_that_no_memory_holds_are_not_begun(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Windows(store, [0, 1], 4, 1.0)
    needed = 4 * 8 * 4 * 3 * store.view.size**2  # made ahead, windows, rows
    monkeypatch.setattr(windows_module, "machine_memory", lambda: needed)
    assert len(next(batches.batches(0, 0, 1, 8)).reward) == 8
    monkeypatch.setattr(windows_module, "machine_memory", lambda: needed - 1)
    with pytest.raises(UsageError, match="Batches of 8 windows of 4 pictures take"):
        next(batches.batches(0, 0, 1, 8))
