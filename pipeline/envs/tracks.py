"""Seeds of episodes. A seed given to `AgentView.reset` makes always the same episode; of CarRacing, the same track.

Three sets that cannot meet, by their ranges: what is learned from, what is chosen by, what is reported.
"""

from __future__ import annotations

from ..randomness import Stream, numpy_stream

REPORT_TRACKS: tuple[int, ...] = tuple(range(1000, 1100))
"""The published tracks: every score that is reported is a mean over these, or over the first of them."""

SELECTION_TRACKS: tuple[int, ...] = tuple(range(2000, 2100))
"""For choosing settings and checkpoints while developing."""

_COLLECTION_FROM, _COLLECTION_TO = 2**24, 2**31


def episode_seed(seed: int, episode: int, *driver: int) -> int:
    """The track that is met in an episode of a data set: at least 2**24, so never one of those above.

    Args:
        seed: of the data set, >= 0.
        episode: number of the episode in it, >= 0.
        driver: what stands for the policy that drives, >= 0; left out where it is random. Each meets other tracks.

    Returns:
        A seed that depends on these alone, in [2**24, 2**31).
    """
    return int(numpy_stream(seed, Stream.TRACK, episode, *driver).integers(_COLLECTION_FROM, _COLLECTION_TO))
