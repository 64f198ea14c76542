"""The score of a drive, with what CarRacing counts beside rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...scores import EpisodeScore, Scores, statistics


@dataclass(frozen=True)
class DriveScore(EpisodeScore):
    """One whole drive.

    Attributes:
        tiles: tiles of the track visited, of `track_tiles`.
        lap_finished: all tiles were visited; this ends the drive.
        left_field: the car left the playfield; this ends the drive, for a reward of -100.
    """

    PLACE: ClassVar[str] = "track"
    YARDSTICK: ClassVar[str] = "A whole lap gives about 900."

    tiles: int
    track_tiles: int
    lap_finished: bool
    left_field: bool

    @property
    def foreseeable(self) -> bool:
        """The car left the playfield: that it visits the last tile, a dream cannot know."""
        return self.left_field

    @property
    def special(self) -> dict[str, str]:
        """See `EpisodeScore.special`."""
        return {"tiles": f"{self.tiles} of {self.track_tiles}"}

    @property
    def result(self) -> str:
        """See `EpisodeScore.result`."""
        return f"score {self.score:.0f}   {self.tiles / self.track_tiles:.0%} of the tiles"

    @property
    def ending(self) -> str:
        """See `EpisodeScore.ending`."""
        return "Lap finished" if self.lap_finished else "Left the field" if self.left_field else "Time is up"

    @staticmethod
    def summarise(episodes: Sequence[Any]) -> DriveSummary:
        """See `EpisodeScore.summarise`."""
        return DriveSummary(
            **statistics(episodes),
            tile_share=float(np.mean([episode.tiles / episode.track_tiles for episode in episodes])),
            laps=sum(episode.lap_finished for episode in episodes),
            left_field=sum(episode.left_field for episode in episodes),
        )


@dataclass(frozen=True)
class DriveSummary(Scores):
    """Many drives in a few numbers.

    Attributes:
        tile_share: mean share of the track's tiles visited, 0 .. 1.
        laps: drives that visited every tile.
        left_field: drives that left the playfield.
    """

    tile_share: float
    laps: int
    left_field: int

    @property
    def special(self) -> dict[str, str]:
        """See `Scores.special`."""
        return {"tiles": f"{self.tile_share:.0%}", "laps": str(self.laps), "off field": str(self.left_field)}
