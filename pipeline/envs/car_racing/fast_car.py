"""gymnasium's car, which moves and looks the same to the last bit and takes half the time.

The stock car calculates with NumPy's scalars, which are slower than Python's floats and as precise, and has Box2D
list the vertices of its parts each time it is drawn. Here are the same operations in the same order.
"""

# mypy: allow-untyped-calls
# (gymnasium's methods are not annotated.)

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import pygame
from gymnasium.envs.box2d import car_dynamics as stock
from gymnasium.envs.box2d.car_dynamics import Car
from pygame.math import Vector2

_Polygon = tuple[list[Any], tuple[int, ...]]
"""Vertices in the units of the part they belong to, and a colour."""


class FastCar(Car):
    """A car that an environment has made already: `car.__class__ = FastCar`."""

    def gas(self, gas: float) -> None:
        """Press the gas, 0 .. 1: the rear wheels follow by at most 0.1 a step, and at once where it is less."""
        gas = min(max(float(gas), 0.0), 1.0)
        for wheel in self.wheels[2:4]:
            wheel.gas += min(gas - wheel.gas, 0.1)

    def step(self, dt: float) -> None:
        """Have every wheel push the car, for `dt` seconds."""
        for wheel in self.wheels:
            turn = wheel.steer - wheel.joint.angle
            wheel.joint.motorSpeed = math.copysign(min(50.0 * abs(turn), 3.0), turn)

            wheel.omega = self._spin(wheel, dt)
            wheel.phase += wheel.omega * dt
            forward_x, forward_y = wheel.GetWorldVector((0, 1))
            side_x, side_y = wheel.GetWorldVector((1, 0))
            x, y = wheel.linearVelocity
            stiffness = 205000 * stock.SIZE * stock.SIZE
            forward = (-(forward_x * x + forward_y * y) + wheel.omega * wheel.wheel_rad) * stiffness
            side = -(side_x * x + side_y * y) * stiffness

            force = math.sqrt(forward * forward + side * side)
            grip = stock.FRICTION_LIMIT if wheel.tiles else stock.FRICTION_LIMIT * 0.6
            self._leave_trace(wheel, force > 2.0 * grip)
            if force > grip:
                forward = forward / force * grip
                side = side / force * grip

            wheel.omega -= dt * forward * wheel.wheel_rad / stock.WHEEL_MOMENT_OF_INERTIA
            push = (side * side_x + forward * forward_x, side * side_y + forward * forward_y)
            wheel.ApplyForceToCenter(push, True)

    def _spin(self, wheel: Any, dt: float) -> float:
        """How fast a wheel turns, in radians a second, after what gas and brake do to it."""
        self.fuel_spent += dt * stock.ENGINE_POWER * wheel.gas
        omega: float = wheel.omega
        omega += dt * stock.ENGINE_POWER * wheel.gas / stock.WHEEL_MOMENT_OF_INERTIA / (abs(omega) + 5.0)
        if wheel.brake >= 0.9:
            return 0.0
        if wheel.brake > 0:
            omega -= math.copysign(min(15 * wheel.brake, abs(omega)), omega)
        return omega

    def _leave_trace(self, wheel: Any, skids: bool) -> None:
        """Note where a wheel skids: films show it."""
        if not skids:
            wheel.skid_start = wheel.skid_particle = None
            return
        grass, trace = not wheel.tiles, wheel.skid_particle
        if trace and trace.grass == grass and len(trace.poly) < 30:
            trace.poly.append((wheel.position[0], wheel.position[1]))
        elif wheel.skid_start is None:
            wheel.skid_start = wheel.position
        else:
            wheel.skid_particle = self._create_particle(wheel.skid_start, wheel.position, grass)
            wheel.skid_start = None

    def draw(
        self, surface: pygame.Surface, zoom: float, translation: Any, angle: float, draw_particles: bool = True
    ) -> None:
        """Draw wheels and hull. With the traces of wheels that skid it is left to gymnasium."""
        if draw_particles:
            super().draw(surface, zoom, translation, angle)
            return
        shift = Vector2(translation)
        for part, polygons in self._parts:
            transform = part.transform
            for vertices, colour in polygons if part is self.hull else polygons + _mark(part.phase):
                world = [transform * vertex for vertex in vertices]  # by Box2D, in float32
                points = [Vector2(point.x, point.y).rotate_rad(angle) * zoom + shift for point in world]
                pygame.draw.polygon(surface, colour, points)

    @cached_property
    def _parts(self) -> list[tuple[Any, list[_Polygon]]]:
        """Wheels and hull in drawing order, with their shapes."""
        return [
            (part, [(fixture.shape.vertices, tuple(int(c * 255) for c in part.color)) for fixture in part.fixtures])
            for part in self.drawlist
        ]


def _mark(phase: float) -> list[_Polygon]:
    """The white mark on a wheel that has turned by `phase` radians; none where it is below."""
    ends = []
    for angle in (phase, phase + 1.2):
        sin, cos = math.sin(angle), math.cos(angle)
        ends.append((sin > 0, math.copysign(1.0, cos) if sin > 0 else cos))
    (first_below, first), (last_below, last) = ends
    if first_below and last_below:
        return []
    x = stock.WHEEL_W * stock.SIZE
    y1, y2 = stock.WHEEL_R * first * stock.SIZE, stock.WHEEL_R * last * stock.SIZE
    return [([(-x, y1), (x, y1), (x, y2), (-x, y2)], stock.WHEEL_WHITE)]
