from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.envs.car_racing.fast_car_racing import FastCarRacing
from pipeline.envs.tracks import REPORT_TRACKS, SELECTION_TRACKS, episode_seed


def test_report_and_selection_are_a_hundred_different_tracks_each() -> None:
    assert len(set(REPORT_TRACKS)) == len(REPORT_TRACKS) == 100
    assert len(set(SELECTION_TRACKS)) == len(SELECTION_TRACKS) == 100
    assert not set(REPORT_TRACKS) & set(SELECTION_TRACKS)


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**9))
def test_collection_never_meets_them(seed: int, episode: int) -> None:
    track = episode_seed(seed, episode)
    assert track == episode_seed(seed, episode)
    assert max(REPORT_TRACKS + SELECTION_TRACKS) < 2**24 <= track < 2**31


def test_episodes_and_seeds_have_tracks_of_their_own() -> None:
    tracks = {episode_seed(seed, episode) for seed in range(3) for episode in range(500)}
    assert len(tracks) > 1490  # as many as there are, but for chance


def test_published_seeds_are_what_they_were() -> None:
    assert (REPORT_TRACKS[0], REPORT_TRACKS[-1]) == (1000, 1099)
    assert (SELECTION_TRACKS[0], SELECTION_TRACKS[-1]) == (2000, 2099)
    assert [episode_seed(0, 0), episode_seed(0, 1), episode_seed(1, 0)] == PINNED


PINNED = [53477737, 1288126672, 1467105178]


@pytest.mark.parametrize("tracks", [REPORT_TRACKS, SELECTION_TRACKS])
def test_every_published_seed_makes_a_track_of_its_own(tracks: tuple[int, ...]) -> None:
    env = FastCarRacing()
    shapes = set()
    for seed in tracks:
        env.reset(seed=seed)
        assert len(env.track) > 200
        shapes.add(env.track[100])
    assert len(shapes) == len(tracks)
