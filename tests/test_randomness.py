"""Streams of random numbers: repeatable, and apart from each other."""

from __future__ import annotations

from itertools import product

import torch

from pipeline.randomness import Stream, numpy_stream, seed_torch, stream_seed


def test_every_seed_stream_and_index_draws_numbers_of_its_own() -> None:
    keys = [(seed, stream, *index) for seed, stream in product((0, 1, 5), Stream) for index in ((), (0,), (1,), (0, 0))]
    assert len({stream_seed(*key) for key in keys}) == len(keys)
    assert len({numpy_stream(*key).integers(2**62) for key in keys}) == len(keys)


def test_a_stream_does_not_depend_on_what_was_drawn_before() -> None:
    seed_torch(7, Stream.UPDATE, 3)
    first = torch.rand(5)
    torch.rand(11)
    seed_torch(7, Stream.UPDATE, 3)
    assert torch.equal(torch.rand(5), first)


def test_seeds_fit_into_a_signed_64_bit_number() -> None:
    assert all(0 <= stream_seed(seed, Stream.DRIVE, 1000) < 2**63 for seed in range(100))
