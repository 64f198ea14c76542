"""The window: keys in, pictures out, at the pace of the car."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pygame

from ..errors import DreamerError
from .game import Command, Input, Keys
from .screen import KEYS, SIZE

_HELD = {
    "left": (pygame.K_LEFT, pygame.K_a),
    "right": (pygame.K_RIGHT, pygame.K_d),
    "gas": (pygame.K_UP, pygame.K_w),
    "brake": (pygame.K_DOWN, pygame.K_s),
}
_COMMANDS = {getattr(pygame, f"K_{key if len(key) > 1 else key.lower()}"): command for command, key in KEYS.items()}
_INVISIBLE = ("offscreen", "dummy", "evdev")  # SDL's drivers that show nothing, or need the whole screen
_REPEATED = (Command.REWIND, Command.FORWARD)  # as long as the key is held


@contextmanager
def window() -> Iterator[tuple[pygame.Surface, Callable[[], None]]]:
    """Open the window: what to draw on, and what shows it. Raises DreamerError where there is no display."""
    try:
        yield _open(), pygame.display.flip
    finally:
        pygame.display.quit()


def _open() -> pygame.Surface:
    try:
        pygame.display.init()
        if "SDL_VIDEODRIVER" not in os.environ and pygame.display.get_driver() in _INVISIBLE:
            raise pygame.error("no video device")
        surface = pygame.display.set_mode(SIZE)
    except pygame.error as error:
        raise DreamerError(
            f"There is no display to open a window on ({error}); play a script instead, such as "
            "`dreamer play --headless --script 'gas*20 gas+left*5' --film drive.mp4`"
        ) from error
    pygame.display.set_caption("dreamer play")
    return surface


def keyboard(pace: float) -> Iterator[Input]:
    """What the player does, `pace` times a second, for as long as the window is open."""
    clock = pygame.time.Clock()
    while True:
        clock.tick(pace)
        commands: list[Command] = []
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                commands.append(Command.QUIT)
            elif event.type == pygame.KEYDOWN and event.key in _COMMANDS:
                commands.append(_COMMANDS[event.key])
        pressed = pygame.key.get_pressed()
        for key, command in _COMMANDS.items():
            if command in _REPEATED and pressed[key] and command not in commands:
                commands.append(command)
        held = Keys(**{name: any(pressed[key] for key in keys) for name, keys in _HELD.items()})
        yield Input(commands, held, ticks=not any(command in _REPEATED for command in commands))
