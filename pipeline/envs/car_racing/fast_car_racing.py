"""CarRacing-v3 with its pictures drawn bit for bit as gymnasium draws them, in a fraction of the time.

A stock step spends 97 % of its time on the picture: it rotates 700 polygons of which some 40 can be seen,
and opens a font file to write the score. `FastCarRacing` replaces that drawing, and by `FastCar` the car's own
arithmetic. Tracks, collisions, rewards, flags, info and random numbers are gymnasium's own code, untouched.
Two things make it fast:

1. A step whose picture nobody looks at (`step(action, draw=False)`) draws none.
2. A picture that is looked at takes the short cuts below, none of which changes a pixel.

How a picture comes about, and why each short cut is exact. The numbers are rows of the 1000x800 window::

    stock        scene, y upwards -> flip -> bar painted over rows 700-799 -> shrink to 96x96
    here   scene rows 100-799 -> shrink x -> flip --.
                 bar rows 700-799 -> shrink x -------+-> 96x800 -> shrink y to 96x96

- *Only what is seen is drawn.* Scene rows 0-99 end under the bar. Polygons are culled by their bounding
  boxes, with a margin, so a wrongly kept one is drawn off the picture and a wrongly dropped one cannot be.
- *All vertices are rotated at once*, with pygame's own cosine and sine and the same double arithmetic.
- *The rest is drawn by the same calls on a surface of the same size.* The surface is whole since SDL_gfx
  clips a line before it draws it: on a smaller surface the anti-aliasing of a clipped line would differ.
- *The background is filled* where the playfield covers the whole window, by copies of a row.
- *smoothscale shrinks x first, row by row, into 8-bit pixels, then y.* So rows may be shrunk in x apart and
  flipped afterwards, when they are a tenth as wide. Flipping after y would not be exact.
- *Font and surfaces are kept*, and what is shown of a surface is painted anew.
"""

# mypy: allow-untyped-calls
# (gymnasium's methods are not annotated.)

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import cv2
import gymnasium
import numpy as np
import pygame
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d import car_racing as stock
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from pygame import gfxdraw
from pygame.math import Vector2

from .fast_car import FastCar

TESTED_GYMNASIUM = ("1.4.0",)
"""Versions whose drawing this module reproduces. (1.3.0 writes the score with all its decimals.)"""

_METHODS = (
    "_render",
    "_create_track",
    "_draw_colored_polygon",
    "_render_indicators",
    "_render_road",
)
_CONSTANTS = (
    "GRASS_DIM",
    "PLAYFIELD",
    "SCALE",
    "STATE_H",
    "STATE_W",
    "WINDOW_H",
    "WINDOW_W",
    "ZOOM",
)
_CAR_CONSTANTS = (
    "ENGINE_POWER",
    "FRICTION_LIMIT",
    "SIZE",
    "WHEEL_MOMENT_OF_INERTIA",
    "WHEEL_R",
    "WHEEL_W",
    "WHEEL_WHITE",
)

_BAR = 100
"""Height of the bar, in window pixels: `5 * WINDOW_H / 40`."""

_MARGIN = 4
"""Window pixels by which a polygon must miss the picture to be left out. SDL_gfx strays by one or two."""

_Camera = tuple[float, float, Vector2 | tuple[float, float]]
"""Angle (radians), zoom (pixels a unit) and shift (pixels): `pixel = rotate(point, angle) * zoom + shift`."""

_StepResult = tuple[Any, float, bool, bool, dict[str, Any]]

_BLACK = np.zeros((96, 96, 3), np.uint8)
"""The observation where there are no pictures; read-only, since all share it."""
_BLACK.setflags(write=False)


class FastCarRacing(CarRacing):
    """gymnasium's `CarRacing` with exact but fast `state_pixels`, and steps that need not draw.

    Pictures for `rgb_array` and `human`, and those where an indicator leaves the bar are drawn by gymnasium, but for
    grass and road. So is everything, after one warning a process, where gymnasium is not of a tested version, lacks a
    private name used here, or where the first picture of this environment is not what gymnasium draws.

    Args:
        pictures: False where nobody looks at any: none is drawn and observations are black, unless everything
            is drawn by gymnasium.
        args, kwargs: those of `CarRacing`.
    """

    car: Any  # None before the first reset
    surf: Any  # the surface that gymnasium's helpers draw on

    def __init__(self, *args: Any, pictures: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        EzPickle.__init__(self, *args, pictures=pictures, **kwargs)  # a pickle is these arguments
        self._pictures = pictures
        self._wanted = True
        self._checked = False
        self.slow_because = _why_not()
        self._fast = self.slow_because is None
        if self.slow_because is not None:
            _warn_once(self.slow_because)
        if self._fast and pictures:
            self._canvas = _Canvas()

    def step(self, action: Any, *, draw: bool = True) -> _StepResult:
        """Advance by 1/50 s.

        Args:
            action: float array (3,), `[steer -1..1, gas 0..1, brake 0..1]`; with `continuous=False` a number, 0 to 4.
            draw: False where the picture will not be looked at: the observation returned is then an earlier
                one, unless this step ends the episode (its last picture is always drawn).

        Returns:
            Observation (96, 96, 3) uint8, reward, terminated, truncated, info, all as gymnasium's.
        """
        if self._fast and type(self.car) is Car:  # each episode has a car of its own
            self.car.__class__ = FastCar
        self._wanted = draw
        try:
            result: _StepResult = super().step(action)
            return result
        finally:
            self._wanted = True

    def _create_track(self) -> bool:
        done = bool(super()._create_track())
        if done and self._fast and self._pictures:
            self._scenery = _Scenery(_grass(self.grass_color) + self.road_poly)
        return done

    def _render(self, mode: str) -> Any:
        if not self._fast or mode != "state_pixels" or self.car is None:
            return super()._render(mode)
        if not self._pictures:
            return _BLACK
        if not self._checked:
            return self._first_picture()
        if not self._wanted and not self._episode_ends():
            return self.state
        return self._draw_state() if self._bar_holds_indicators() else super()._render(mode)

    def _render_road(self, zoom: float, translation: tuple[float, float], angle: float) -> None:
        """Grass and road in the pictures that gymnasium draws: what is not seen is left out once that was checked."""
        if not (self._fast and self._checked):
            super()._render_road(zoom, translation, angle)
            return
        self._draw_field((angle, zoom, translation))
        self._scenery.draw(self.surf, (angle, zoom, translation))

    def _first_picture(self) -> NDArray[np.uint8]:
        """Draw both ways, so that a pygame that draws otherwise than expected is found out at once."""
        fast = self._draw_state()
        self.car.__class__ = Car  # whose drawing is compared too
        exact: NDArray[np.uint8] = super()._render("state_pixels")
        self._checked = True
        if not np.array_equal(fast, exact):
            self._fast = False
            self.slow_because = f"pygame {pygame.version.ver} draws otherwise than expected"
            _warn_once(self.slow_because)
        return exact

    def _episode_ends(self) -> bool:
        """Whether the step under way, whose physics is done and whose flags are not, ends the episode."""
        x, y = self.car.hull.position
        off_field: bool = abs(x) > stock.PLAYFIELD or abs(y) > stock.PLAYFIELD
        return off_field or self.new_lap or self.tile_visited_count == len(self.track)

    def _bar_holds_indicators(self) -> bool:
        # The columns reach the top of the bar at a speed of 200 or a wheel's spin of 400 rad/s.
        speed = self.car.hull.linearVelocity.length
        return speed < 195.0 and all(wheel.omega < 390.0 for wheel in self.car.wheels)

    def _camera(self) -> _Camera:
        """The camera, with the arithmetic of `CarRacing._render`, operation for operation."""
        hull = self.car.hull
        angle = -hull.angle
        zoom = 0.1 * stock.SCALE * max(1 - self.t, 0) + stock.ZOOM * stock.SCALE * min(self.t, 1)
        scroll = Vector2((-(hull.position[0]) * zoom, -(hull.position[1]) * zoom)).rotate_rad(angle)
        return angle, zoom, Vector2(stock.WINDOW_W / 2 + scroll[0], stock.WINDOW_H / 4 + scroll[1])

    def _draw_state(self) -> NDArray[np.uint8]:
        canvas, camera = self._canvas, self._camera()
        angle, zoom, shift = camera

        self.surf = canvas.scene
        self._draw_background(camera)
        self._scenery.draw(canvas.scene, camera)
        self.car.draw(canvas.scene, zoom, shift, angle, False)

        self.surf = canvas.panel
        self._render_indicators(stock.WINDOW_W, stock.WINDOW_H)
        text = _score_text(f"{self.reward:04.0f}")
        canvas.panel.blit(text, text.get_rect(center=(60, stock.WINDOW_H - stock.WINDOW_H * 2.5 / 40.0)))

        return canvas.picture()

    def _draw_background(self, camera: _Camera) -> None:
        _, zoom, _ = camera
        # The car is drawn at (500, 200): no corner of the window is farther from it than this.
        reach = (math.hypot(stock.WINDOW_W / 2, stock.WINDOW_H * 3 / 4) + _MARGIN) / zoom
        x, y = self.car.hull.position
        if max(abs(x), abs(y)) + reach < stock.PLAYFIELD:
            self._canvas.fill_seen(self.bg_color)
            return
        self._canvas.seen.fill((0, 0, 0))
        self._draw_field(camera)

    def _draw_field(self, camera: _Camera) -> None:
        angle, zoom, shift = camera
        b = stock.PLAYFIELD
        field = [(b, b), (b, -b), (-b, -b), (-b, b)]
        self._draw_colored_polygon(self.surf, field, self.bg_color, zoom, shift, angle, clip=False)


class _Canvas:
    """The surfaces that pictures are drawn on, made once: a new one for each picture costs time."""

    def __init__(self) -> None:
        width, height = stock.WINDOW_W, stock.WINDOW_H
        self.scene = pygame.Surface((width, height))  # the world, y upwards
        self.panel = pygame.Surface((width, height))  # the bar, where it is in the finished window
        self._narrow = pygame.Surface((stock.STATE_W, height))  # both, shrunk in x
        # Views of parts of the above.
        self.seen = self.scene.subsurface((0, _BAR, width, height - _BAR))
        self._bar = self.panel.subsurface((0, height - _BAR, width, _BAR))
        self._narrow_bar = self._narrow.subsurface((0, height - _BAR, stock.STATE_W, _BAR))

    def fill_seen(self, colour: NDArray[Any]) -> None:
        """Fill what is seen of the scene with one colour: NumPy copies a row faster than SDL fills it."""
        row = np.full(stock.WINDOW_W, self.seen.map_rgb(colour), np.uint32)
        pygame.surfarray.pixels2d(self.seen).T[:] = row

    def picture(self) -> NDArray[np.uint8]:
        """The finished window, shrunk: (96, 96, 3)."""
        seen = pygame.transform.smoothscale(self.seen, (stock.STATE_W, self.seen.get_height()))
        self._narrow.blit(pygame.transform.flip(seen, False, True), (0, 0))
        pygame.transform.smoothscale(self._bar, self._narrow_bar.get_size(), self._narrow_bar)
        small = pygame.transform.smoothscale(self._narrow, (stock.STATE_W, stock.STATE_H))
        pixels = np.frombuffer(small.get_buffer().raw, np.uint8).reshape(stock.STATE_H, stock.STATE_W, 4)
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), np.uint8)


class _Scenery:
    """Grass patches and road of one track, in drawing order, all rotated at once to find out which are seen.

    Args:
        polygons: N pairs of four vertices (world units) and a colour. A tile's colour is an array, which
            changes when a wheel touches the tile: it is read when the tile is drawn.
    """

    def __init__(self, polygons: list[tuple[Any, Any]]) -> None:
        self._colours = [colour for _, colour in polygons]
        vertices = np.array([vertices for vertices, _ in polygons], dtype=np.float64)  # (N, 4, 2)
        x, y = vertices.transpose(2, 1, 0)  # (4, N) each: the long axis last, which NumPy is fast along
        self._along, self._across = np.array([x, y]), np.array([-y, x])  # (2, 4, N)

    def draw(self, surface: pygame.Surface, camera: _Camera) -> None:
        """Draw what can be seen, as `CarRacing._draw_colored_polygon` does."""
        angle, zoom, shift = camera
        cos, sin = Vector2(1, 0).rotate_rad(angle)  # pygame's own, to the last bit
        pixels = self._along * cos  # (2, 4, N)
        pixels += self._across * sin
        pixels *= zoom
        pixels += np.array(shift)[:, None, None]
        seen = _seen(pixels)
        # gfxdraw would cut off the decimals of each vertex too, one by one.
        corners = pixels[:, :, seen].astype(np.int64).T.tolist()  # k polygons of four [x, y]
        for i, polygon in zip(seen.tolist(), corners, strict=True):
            colour = self._colours[i]
            rgb = colour if isinstance(colour, tuple) else [int(c) for c in colour.tolist()]
            gfxdraw.aapolygon(surface, polygon, rgb)
            gfxdraw.filled_polygon(surface, polygon, rgb)


def _seen(pixels: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the polygons, (2, 4, N) in window pixels, whose bounding boxes come near what is seen."""
    (left, low), (right, high) = pixels.min(axis=1), pixels.max(axis=1)  # (N,) each
    across = (right > -_MARGIN) & (left < stock.WINDOW_W + _MARGIN)
    upright = (high > _BAR - _MARGIN) & (low < stock.WINDOW_H + _MARGIN)
    return np.flatnonzero(across & upright)


def _grass(colour: NDArray[Any]) -> list[tuple[Any, Any]]:
    """The patches of `CarRacing._render_road`, in its order."""
    d = stock.GRASS_DIM
    rgb = tuple(int(c) for c in colour)
    return [
        ([(d * x + d, d * y), (d * x, d * y), (d * x, d * y + d), (d * x + d, d * y + d)], rgb)
        for x in range(-20, 20, 2)
        for y in range(-20, 20, 2)
    ]


@cache
def _font() -> pygame.font.Font:
    pygame.font.init()
    return pygame.font.Font(pygame.font.get_default_font(), 42)


def _score_text(text: str) -> pygame.Surface:
    white, black = (255, 255, 255), (0, 0, 0)
    try:
        return _font().render(text, True, white, black)
    except pygame.error:  # a pygame.quit() elsewhere in the process takes the fonts with it
        _font.cache_clear()
        return _font().render(text, True, white, black)


def _why_not() -> str | None:
    """Why drawing fast cannot be trusted here, or None."""
    if gymnasium.__version__ not in TESTED_GYMNASIUM:
        return f"gymnasium {gymnasium.__version__} is untested (tested: {', '.join(TESTED_GYMNASIUM)})"
    missing = [f"CarRacing.{name}" for name in _METHODS if not hasattr(CarRacing, name)]
    missing += [name for name in _CONSTANTS if not hasattr(stock, name)]
    missing += [name for name in _CAR_CONSTANTS if not hasattr(car_dynamics, name)]
    return f"this gymnasium has no {' and no '.join(missing)}" if missing else None


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"CarRacing is drawn by gymnasium itself, about 12 times slower: {reason}.", stacklevel=3)
