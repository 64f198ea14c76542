from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import CarRacing

from pipeline.envs.car_racing.drivers import make_policy
from pipeline.envs.car_racing.fast_car import FastCar
from pipeline.envs.car_racing.fast_car_racing import FastCarRacing

NOTHING_SEEN = np.empty((3, 0, 0), np.uint8)


class Undrawn(CarRacing):
    """gymnasium's environment without its drawing, which takes nearly all of its time."""

    def _render(self, mode: str) -> None:
        return None


def state(car: Any) -> list[Any]:
    """All that moves: bodies, wheels, the traces they leave."""
    bodies = [
        (tuple(body.position), body.angle, tuple(body.linearVelocity), body.angularVelocity)
        for body in (car.hull, *car.wheels)
    ]
    wheels = [(wheel.omega, wheel.phase, wheel.gas, wheel.brake, wheel.joint.motorSpeed) for wheel in car.wheels]
    skids = [(wheel.skid_start and tuple(wheel.skid_start), wheel.skid_particle is None) for wheel in car.wheels]
    return [*bodies, *wheels, *skids, *((p.color, p.grass, p.poly) for p in car.particles), car.fuel_spent]


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_moves_as_gymnasiums_car_does(seed: int, continuous: bool) -> None:
    theirs, ours = Undrawn(continuous=continuous), FastCarRacing(continuous=continuous, pictures=False)
    theirs.reset(seed=seed)
    ours.reset(seed=seed)
    drive = make_policy("smooth", np.random.default_rng(seed), continuous=continuous)
    for step in range(400):
        if step % 4 == 0:
            action: Any = drive(NOTHING_SEEN)
        _, *expected = theirs.step(action)
        _, *found = ours.step(action)
        assert found == expected
        assert type(theirs.car) is Car and type(ours.car) is FastCar
        assert state(ours.car) == state(theirs.car)
        if found[1]:
            break


def test_those_drives_meet_all_that_can_happen_to_a_wheel() -> None:
    env, met = FastCarRacing(pictures=False), set()
    for seed in range(6):
        env.reset(seed=seed)
        drive = make_policy("smooth", np.random.default_rng(seed))
        for step in range(400):
            if step % 4 == 0:
                action = drive(NOTHING_SEEN)
            env.step(action)
            for wheel in env.car.wheels:
                met.add("grass" if not wheel.tiles else "road")
                met.add("skid" if wheel.skid_particle else "grip")
                met.add("locked" if wheel.brake >= 0.9 else "braked" if wheel.brake > 0 else "free")
                met.add("back" if wheel.omega < 0 else "ahead" if wheel.omega > 0 else "still")
    assert met == {"grass", "road", "skid", "grip", "locked", "braked", "free", "back", "ahead", "still"}


@pytest.mark.parametrize("gas", [-1.0, 0.0, 0.05, 0.7, 2.0])
def test_gas_is_pressed_as_in_gymnasiums_car(gas: float) -> None:
    env = Undrawn()
    env.reset(seed=0)
    car = env.car
    assert car is not None
    for wheel in car.wheels:
        wheel.gas = 0.3
    car.gas(gas)
    expected = [wheel.gas for wheel in car.wheels]
    for wheel in car.wheels:
        wheel.gas = 0.3
    car.__class__ = FastCar
    car.gas(gas)
    assert [wheel.gas for wheel in car.wheels] == expected
