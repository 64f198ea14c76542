"""The game as a picture: the world large, beside it who drives, what the model says, and the keys. Needs no display.

.---------------------------------------------.
| .-------------------------.  DREAM           |
| |                         |  you drive       |
| |                         |  reward  ====    |
| |        the world        |  value   ======  |
| |                         |  goes on ======= |
| |                         |  .----------.    |
| |                         |  | rebuilt  |    |
| '-------------------------'  '----------'    |
'---------------------------------------------'
"""

from __future__ import annotations

import numpy as np
import pygame
from numpy.typing import NDArray

from .game import DREAM, HELP, HUMAN, Command, Game
from .mind import AHEAD

SIZE = (816, 560)
"""Width and height, pixels."""

KEYS = {
    Command.SWITCH: "M",
    Command.DRIVER: "P",
    Command.PAUSE: "SPACE",
    Command.STEP: "E",
    Command.REWIND: "BACKSPACE",
    Command.FORWARD: "RETURN",
    Command.BRANCH: "B",
    Command.RESTART: "R",
    Command.HELP: "H",
    Command.QUIT: "ESCAPE",
}
"""The key of each command, by pygame's name of it; one drives with the arrows, or W, A, S and D."""

_MARGIN, _WORLD, _SMALL = 24, 512, 144
_LEFT = _MARGIN + _WORLD + _MARGIN
_RIGHT = SIZE[0] - _MARGIN
_BACKGROUND, _PANEL, _FAINT, _BRIGHT = (17, 20, 26), (38, 44, 54), (139, 148, 162), (236, 240, 245)
_COLOURS = {DREAM: (178, 132, 255), "real": (255, 184, 76)}
_UP, _DOWN, _STEER = (86, 211, 100), (248, 97, 90), (88, 166, 255)
_FULL_REWARD, _FULL_VALUE = 10.0, 60.0  # points at the right end of a bar: a fast decision, and fifteen of them


class Screen:
    """Draws a game.

    Args:
        surface: to draw on, of `SIZE`; where none is given, one in memory.
    """

    def __init__(self, surface: pygame.Surface | None = None) -> None:
        pygame.font.init()
        self.surface = surface or pygame.Surface(SIZE)
        self._fonts = {size: pygame.font.Font(None, size) for size in (20, 24, 40)}

    def draw(self, game: Game) -> None:
        """Draw the present moment."""
        now = game.now
        self.surface.fill(_BACKGROUND)
        self._picture(now.picture, (_MARGIN, _MARGIN), _WORLD)
        self._text(game.world.upper(), (_LEFT, 24), 40, _COLOURS[game.world])
        who = "you drive" if game.driver == HUMAN else "the policy drives"
        state = "over: R begins anew" if now.over else "paused" if game.paused else ""
        self._text(f"{who}   {state}", (_LEFT, 58), 24, _BRIGHT)
        place = f"decision {now.decisions}   score {now.score:.0f}   future {game.branch} of {len(game.ends)}"
        self._text(place, (_LEFT, 82), 20, _FAINT)
        self._bar(112, "predicted reward", now.said.reward, _FULL_REWARD)
        self._bar(152, f"value, {AHEAD} decisions ahead", now.said.value, _FULL_VALUE)
        self._bar(192, "chance that it goes on", now.said.goes_on, 1.0, "{:.0%}")
        for row, gauge in enumerate(game.gauges()):
            form = "{:+.2f}" if gauge.signed else "{:.2f}"
            self._bar(240 + 40 * row, gauge.name.lower(), gauge.value, 1.0, gauge.text or form, centred=gauge.signed)
        if now.world != DREAM:
            self._text("what the model makes of it", (_LEFT, 364), 20, _FAINT)
            self._picture(game.mind.picture(now.latent), (_LEFT, 384), _SMALL)
        self._text("H: keys", (_LEFT + 160, SIZE[1] - 40), 20, _FAINT)
        if game.help:
            self._help(game)

    def frame(self) -> NDArray[np.uint8]:
        """What was drawn, (height, width, 3) uint8."""
        return np.ascontiguousarray(pygame.surfarray.array3d(self.surface).transpose(1, 0, 2))

    def _picture(self, picture: NDArray[np.uint8], place: tuple[int, int], side: int) -> None:
        """(3, S, S) with every pixel to be told."""
        small = pygame.surfarray.make_surface(picture.transpose(2, 1, 0))
        self.surface.blit(pygame.transform.scale(small, (side, side)), place)

    def _text(self, text: str, place: tuple[int, int], size: int, colour: tuple[int, int, int]) -> None:
        self.surface.blit(self._fonts[size].render(text, True, colour), place)

    def _bar(
        self, top: int, name: str, value: float | None, full: float, form: str = "{:+.1f}", centred: bool = False
    ) -> None:
        """A name with a number, and under it a bar from the left, or from the middle."""
        self._text(f"{name}  {'none' if value is None else form.format(value)}", (_LEFT, top), 20, _FAINT)
        width = _RIGHT - _LEFT
        pygame.draw.rect(self.surface, _PANEL, (_LEFT, top + 16, width, 10))
        share = max(-1.0, min((value or 0.0) / full, 1.0))
        length = round(abs(share) * (width / 2 if centred else width))
        start = _LEFT if not centred else _LEFT + width // 2 - (length if share < 0 else 0)
        colour = _STEER if centred else _UP if share >= 0 else _DOWN
        pygame.draw.rect(self.surface, colour, (start, top + 16, length, 10))

    def _help(self, game: Game) -> None:
        """The keys, over the picture."""
        shade = pygame.Surface((_WORLD, _WORLD), pygame.SRCALPHA)
        shade.fill((*_BACKGROUND, 215))
        self.surface.blit(shade, (_MARGIN, _MARGIN))
        lines = {"ARROWS": "steer, gas and brake; or W A S D"} if game.keyed else {}
        lines |= {key: HELP[command] for command, key in KEYS.items()}
        for row, (key, meaning) in enumerate(lines.items()):
            self._text(key, (_MARGIN + 32, 72 + 38 * row), 24, _COLOURS["real"])
            self._text(meaning, (_MARGIN + 170, 72 + 38 * row), 24, _BRIGHT)
