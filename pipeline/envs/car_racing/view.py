"""CarRacing as the agent meets it, drawn by our own code where its picture is seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gymnasium.envs.box2d.car_racing import CarRacing

from ...config import ViewSettings
from ..actions import Action
from ..view import AgentView, Gauge, Picture, Step
from .actions import car_actions, controls
from .fast_car_racing import FastCarRacing
from .scores import DriveScore
from .truth import measure

TIME_LIMIT = 1000
"""Environment steps (1/50 s each) after which an episode is cut off: the limit of gymnasium's spec."""

_TOP_SPEED = 100.0
"""Units a second at the right end of the speed gauge; a fast lap is driven at about 60."""


class CarRacingView(AgentView):
    """CarRacing-v3 with one step a decision.

    Observations, rewards and flags are those of `gym.make("CarRacing-v3", continuous=continuous)` stepped
    `action_repeat` times with the same action or until the episode ends, its last picture shrunk.

    `Step.infos` are: `on_road`, wheels on the road, 0 to 4; `speed` of the hull, units a second (about 60 on a fast
    lap); `tiles` of the track visited so far; `lap_finished`, all tiles are visited. A car off the road is lost.
    `truth` is that of the module of this name.

    Args:
        settings: how it is seen.
        fast: draw only what is seen, with short cuts (see `fast_car_racing`); the pictures are the same.
        pictures, film: see `AgentView`; films are drawn by gymnasium, slowly.
    """

    def __init__(
        self,
        settings: ViewSettings | None = None,
        *,
        fast: bool = True,
        pictures: bool = True,
        film: bool = False,
    ) -> None:
        settings = settings or ViewSettings()
        mode, options = "rgb_array" if film else None, {"continuous": settings.continuous, **settings.arguments}
        env: Any = FastCarRacing(mode, pictures=pictures, **options) if fast else CarRacing(mode, **options)
        self._fast = fast
        limit = settings.time_limit or TIME_LIMIT
        super().__init__(settings, env, car_actions(settings.continuous), limit=limit, pictures=pictures, film=film)

    @property
    def track_tiles(self) -> int:
        """Tiles of the present track: visiting all of them finishes the lap."""
        return len(self._env.track)

    @property
    def truth(self) -> dict[str, float]:
        """See `Truth`."""
        return asdict(measure(self._env))

    def gauges(self, action: Action, step: Step | None) -> list[Gauge]:
        """Steering, gas, brake, and the speed that came of them."""
        steer, gas, brake = controls(action)
        gauges = [Gauge("Steering", steer, signed=True), Gauge("Gas", gas), Gauge("Brake", brake)]
        if step is None:
            return gauges
        speed: float = step.infos["speed"]
        return [*gauges, Gauge("Speed", min(speed / _TOP_SPEED, 1.0), text=f"{speed:.0f}")]

    def score(self, seed: int, rewards: Sequence[float], last: Step) -> DriveScore:
        """The score of a drive that has ended with the step `last`."""
        return DriveScore(
            seed,
            math.fsum(rewards),
            len(rewards),
            tiles=last.infos["tiles"],
            track_tiles=self.track_tiles,
            lap_finished=last.infos["lap_finished"],
            left_field=last.terminated and not last.infos["lap_finished"],
            truncated=last.truncated and not last.terminated,
        )

    def _advance(self, action: Action, *, seen: bool) -> Any:
        return self._env.step(action, **({"draw": seen} if self._fast else {}))

    def _picture(self, observation: Any) -> Picture:
        picture: Picture = observation
        return picture

    def _infos(self, info: Mapping[str, Any]) -> dict[str, Any]:
        car = self._env.car
        return {
            "speed": float(car.hull.linearVelocity.length),
            "on_road": sum(bool(wheel.tiles) for wheel in car.wheels),
            "tiles": self._env.tile_visited_count,
            "lap_finished": info.get("lap_finished", False),
        }

    def _is_lost(self, infos: Mapping[str, Any]) -> bool:
        return not infos["on_road"]
