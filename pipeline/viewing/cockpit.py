"""The pictures of a drive's film: the real drive large, beside it what the agent sees and what it makes of it.

.---------------------------------------------------------.
| Best of 20 tracks   seed 1007            score ... time |
| .-----------------------------------.  The agent sees   |
| |                                   |  .-------------.  |
| |                                   |  |             |  |
| |            real drive             |  '-------------'  |
| |                                   |  It understands   |
| |                                   |  .-------------.  |
| '-----------------------------------'  |             |  |
|  steering   gas      brake    speed    '-------------'  |
'---------------------------------------------------------'
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 864, 528
"""Of a film picture, pixels: whole blocks of 16, which H.264 codes best."""

_MARGIN = 24
_DRIVE = (_MARGIN, 64, 600, 400)  # left, top, width, height
_SMALL = 192  # height and width of what the agent sees
_RIGHT = _MARGIN + 600 + _MARGIN
_SEEN_TOP, _REBUILT_TOP = 88, 312
_GAUGES_TOP, _GAUGE_GAP = 476, 16

_BACKGROUND = (17, 20, 26)
_PANEL = (38, 44, 54)
_FAINT = (139, 148, 162)
_BRIGHT = (236, 240, 245)
_ACCENT = (255, 184, 76)
_STEER, _GAS, _BRAKE, _SPEED = (88, 166, 255), (86, 211, 100), (248, 97, 90), _ACCENT

_TOP_SPEED = 100.0
"""Units a second at the right end of the speed gauge; a fast lap is driven at about 60."""


@dataclass(frozen=True)
class Dials:
    """What the instruments show after a decision.

    Attributes:
        steer: -1 .. 1, to the right.
        gas, brake: 0 .. 1.
        speed: of the car, units a second.
        score: sum of the rewards so far.
        tiles: visited so far, of `track_tiles`.
        seconds: since the start.
    """

    steer: float
    gas: float
    brake: float
    speed: float
    score: float
    tiles: int
    track_tiles: int
    seconds: float


class Cockpit:
    """Composes the pictures of one drive.

    Args:
        title: such as "Best of 20 tracks".
        subtitle: such as "seed 1007".
    """

    def __init__(self, title: str, subtitle: str) -> None:
        self.title, self.subtitle = title, subtitle
        self._empty = self._draw_panels()

    def picture(
        self, drive: NDArray[np.uint8], seen: NDArray[np.uint8], rebuilt: NDArray[np.uint8], dials: Dials
    ) -> NDArray[np.uint8]:
        """Compose one picture.

        Args:
            drive: the real drive, (400, 600, 3) uint8.
            seen: the agent's observation, (3, S, S) uint8.
            rebuilt: the world model's reconstruction of it, (3, S, S) uint8.
            dials: what the instruments show.

        Returns:
            (HEIGHT, WIDTH, 3) uint8.
        """
        image = self._empty.copy()
        image.paste(Image.fromarray(drive), _DRIVE[:2])
        image.paste(_enlarged(seen), (_RIGHT, _SEEN_TOP))
        image.paste(_enlarged(rebuilt), (_RIGHT, _REBUILT_TOP))
        draw = ImageDraw.Draw(image)
        _draw_numbers(draw, dials)
        _draw_bars(draw, dials)
        return np.array(image)

    def card(self, picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
        """The same picture, its real drive dimmed behind a title and a line of text."""
        image = Image.fromarray(picture)
        left, top, width, height = _DRIVE
        box = (left, top, left + width, top + height)
        dimmed = Image.blend(image.crop(box), Image.new("RGB", (width, height), _BACKGROUND), 0.75)
        image.paste(dimmed, box)
        draw = ImageDraw.Draw(image)
        centre = left + width / 2, top + height / 2
        draw.text((centre[0], centre[1] - 22), self.title, _BRIGHT, _font(34, bold=True), "mm")
        draw.text((centre[0], centre[1] + 24), text, _ACCENT, _font(18), "mm")
        return np.array(image)

    def _draw_panels(self) -> Image.Image:
        """All that stays the same through the drive."""
        image = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
        draw = ImageDraw.Draw(image)
        draw.text((_MARGIN, 42), self.title, _BRIGHT, _font(22, bold=True), "ls")
        right = _MARGIN + _font(22, bold=True).getlength(self.title)
        draw.text((right + 14, 42), self.subtitle, _FAINT, _font(16), "ls")
        draw.text((_RIGHT, _SEEN_TOP - 8), "What the agent sees", _FAINT, _font(13), "ls")
        draw.text((_RIGHT, _REBUILT_TOP - 8), "What its model makes of it", _FAINT, _font(13), "ls")
        for name, (left, right) in _gauges().items():
            draw.text((left, _GAUGES_TOP + 10), name, _FAINT, _font(13), "ls")
            draw.rectangle((left, _GAUGES_TOP + 18, right, _GAUGES_TOP + 27), _PANEL)
        return image


def _draw_numbers(draw: ImageDraw.ImageDraw, dials: Dials) -> None:
    """Score, tiles and time at the top, flush right, in columns that do not move; the speed over its gauge."""
    columns = (
        (WIDTH - _MARGIN, "time", f"{dials.seconds:.1f} s", _BRIGHT),
        (WIDTH - _MARGIN - 92, "tiles", f"{dials.tiles}/{dials.track_tiles}", _BRIGHT),
        (WIDTH - _MARGIN - 206, "score", f"{dials.score:.0f}", _ACCENT),
    )
    for right, name, value, colour in columns:
        draw.text((right, 24), name, _FAINT, _font(12), "rs")
        draw.text((right, 46), value, colour, _font(19, bold=True), "rs")
    draw.text((_gauges()["Speed"][1], _GAUGES_TOP + 10), f"{dials.speed:.0f}", _BRIGHT, _font(13, bold=True), "rs")


def _draw_bars(draw: ImageDraw.ImageDraw, dials: Dials) -> None:
    """Steering from the middle, the others from the left."""
    shares = {
        "Steering": (0.5, 0.5 + dials.steer / 2, _STEER),
        "Gas": (0.0, dials.gas, _GAS),
        "Brake": (0.0, dials.brake, _BRAKE),
        "Speed": (0.0, min(dials.speed / _TOP_SPEED, 1.0), _SPEED),
    }
    for name, (left, right) in _gauges().items():
        start, end, colour = shares[name]
        ends = sorted(left + share * (right - left) for share in (start, end))
        if ends[1] - ends[0] >= 1:
            draw.rectangle((ends[0], _GAUGES_TOP + 18, ends[1], _GAUGES_TOP + 27), colour)
        if name == "Steering":
            middle = (left + right) / 2
            draw.line((middle, _GAUGES_TOP + 15, middle, _GAUGES_TOP + 30), _FAINT)


@cache
def _gauges() -> dict[str, tuple[int, int]]:
    """Left and right end of each gauge, side by side below the real drive."""
    names = ("Steering", "Gas", "Brake", "Speed")
    width = (_DRIVE[2] - (len(names) - 1) * _GAUGE_GAP) // len(names)
    return {
        name: (_MARGIN + i * (width + _GAUGE_GAP), _MARGIN + i * (width + _GAUGE_GAP) + width - 1)
        for i, name in enumerate(names)
    }


def _enlarged(picture: NDArray[np.uint8]) -> Image.Image:
    """(3, S, S) as an image in which every pixel can be told."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    return image.resize((_SMALL, _SMALL), Image.Resampling.NEAREST)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along, so that the film looks the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
