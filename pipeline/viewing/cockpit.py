"""The pictures of a film: the real environment large, beside it what the agent sees and what it makes of it.

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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..envs.view import Gauge

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
_COLOURS = ((88, 166, 255), (86, 211, 100), (248, 97, 90), _ACCENT)
"""Of the gauges, from left to right, and then again from the first; CarRacing's are steering, gas, brake and speed."""

_MOST_GAUGES = 9
"""For which there is room; of more, the first are shown."""


@dataclass(frozen=True)
class Dials:
    """What the instruments show after a decision.

    Attributes:
        score: sum of the rewards so far.
        seconds: since the start.
        gauges: below the real drive, from left to right.
        tiles: visited so far of how many, such as "12/300"; None where there are none.
    """

    score: float
    seconds: float
    gauges: Sequence[Gauge]
    tiles: str | None = None


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
            drive: the real environment, (H, W, 3) uint8; of CarRacing (400, 600, 3), which just fits.
            seen: the agent's observation, (3, S, S) uint8.
            rebuilt: the world model's reconstruction of it, (3, S, S) uint8.
            dials: what the instruments show.

        Returns:
            (HEIGHT, WIDTH, 3) uint8.
        """
        image = self._empty.copy()
        fitting, place = _fitted(drive)
        image.paste(fitting, place)
        image.paste(_enlarged(seen), (_RIGHT, _SEEN_TOP))
        image.paste(_enlarged(rebuilt), (_RIGHT, _REBUILT_TOP))
        draw = ImageDraw.Draw(image)
        _draw_numbers(draw, dials)
        _draw_gauges(draw, dials.gauges)
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
        return image


def _draw_numbers(draw: ImageDraw.ImageDraw, dials: Dials) -> None:
    """Score, tiles and time at the top, flush right, in columns that do not move."""
    columns = [
        (WIDTH - _MARGIN, "time", f"{dials.seconds:.1f} s", _BRIGHT),
        (WIDTH - _MARGIN - 92, "tiles", dials.tiles, _BRIGHT),
        (WIDTH - _MARGIN - (206 if dials.tiles else 92), "score", f"{dials.score:.0f}", _ACCENT),
    ]
    for right, name, value, colour in columns:
        if value is not None:
            draw.text((right, 24), name, _FAINT, _font(12), "rs")
            draw.text((right, 46), value, colour, _font(19, bold=True), "rs")


def _draw_gauges(draw: ImageDraw.ImageDraw, gauges: Sequence[Gauge]) -> None:
    """The gauges side by side: what is signed from the middle, the others from the left."""
    gauges = gauges[:_MOST_GAUGES]
    width = (_DRIVE[2] - (len(gauges) - 1) * _GAUGE_GAP) // max(1, len(gauges))
    for index, gauge in enumerate(gauges):
        left = _MARGIN + index * (width + _GAUGE_GAP)
        right = left + width - 1
        size = 13 if len(gauges) <= len(_COLOURS) else 9
        draw.text((left, _GAUGES_TOP + 10), gauge.name, _FAINT, _font(size), "ls")
        draw.text((right, _GAUGES_TOP + 10), gauge.text, _BRIGHT, _font(13, bold=True), "rs")
        draw.rectangle((left, _GAUGES_TOP + 18, right, _GAUGES_TOP + 27), _PANEL)
        shares = (0.5, 0.5 + gauge.value / 2) if gauge.signed else (0.0, gauge.value)
        ends = sorted(left + share * (right - left) for share in shares)
        if ends[1] - ends[0] >= 1:
            draw.rectangle((ends[0], _GAUGES_TOP + 18, ends[1], _GAUGES_TOP + 27), _COLOURS[index % len(_COLOURS)])
        if gauge.signed:
            middle = (left + right) / 2
            draw.line((middle, _GAUGES_TOP + 15, middle, _GAUGES_TOP + 30), _FAINT)


def _fitted(drive: NDArray[np.uint8]) -> tuple[Image.Image, tuple[int, int]]:
    """The real environment as large as there is room for, and where it belongs."""
    left, top, width, height = _DRIVE
    image = Image.fromarray(drive)
    scale = min(width / image.width, height / image.height)
    if scale != 1:
        smooth = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
        image = image.resize((round(scale * image.width), round(scale * image.height)), smooth)
    return image, (left + (width - image.width) // 2, top + (height - image.height) // 2)


def _enlarged(picture: NDArray[np.uint8]) -> Image.Image:
    """(3, S, S) as an image in which every pixel can be told."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    return image.resize((_SMALL, _SMALL), Image.Resampling.NEAREST)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along, so that the film looks the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
