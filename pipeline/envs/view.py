"""CarRacing-v3 as the agent meets it, in one place: an action held for several steps, a small picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import cv2
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from numpy.typing import NDArray

from .actions import ACTION_HIGH, ACTION_LOW, ACTION_NAMES, Action
from .fast_car_racing import FastCarRacing
from .truth import Truth, measure

TIME_LIMIT = 1000
"""Environment steps (1/50 s each) after which an episode is cut off: the limit of gymnasium's spec."""

FILM_EVERY = 2
"""Environment steps to one frame of film: 25 frames a second."""


def shrink(frame: NDArray[np.uint8], size: int = 64) -> NDArray[np.uint8]:
    """Resize a picture by averaging areas.

    Args:
        frame: (96, 96, 3) uint8, an observation of CarRacing.
        size: height and width of the result, pixels.

    Returns:
        (3, size, size) uint8, channel first, contiguous.
    """
    small = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.uint8)


@dataclass(frozen=True)
class Step:
    """What came of one decision.

    Attributes:
        observation: (3, size, size) uint8, the picture after the last of the held steps; empty, (3, 0, 0), in a
            view without pictures.
        reward: sum over the held steps.
        terminated: the lap is finished or the car has left the playfield: there is no future reward.
        truncated: the time is up.
        on_road: wheels on the road, 0 to 4.
        speed: of the hull, units a second (about 60 on a fast lap).
        tiles: tiles of the track visited so far.
        lap_finished: all tiles are visited.
    """

    observation: NDArray[np.uint8]
    reward: float
    terminated: bool
    truncated: bool
    on_road: int
    speed: float
    tiles: int
    lap_finished: bool


class AgentView:
    """CarRacing-v3 with one step a decision. A context manager; needs no display.

    Observations, rewards and flags are those of `gym.make("CarRacing-v3", continuous=continuous)` stepped
    `action_repeat` times with the same action or until the episode ends, its last picture shrunk.

    Args:
        action_repeat: environment steps for which an action is held.
        size: height and width of an observation, pixels.
        continuous: actions are steering, gas and brake; else they are numbers, see `ACTION_NAMES`.
        fast: draw only what is seen, with short cuts (see `fast_car_racing`); the pictures are the same.
        pictures: False for drivers who look at none: observations are empty, (3, 0, 0), and where `fast` not even
            drawn. All else is the same.
        film: keep large pictures too, for a video (see `film_frames`). They are drawn by gymnasium, slowly.
    """

    def __init__(
        self,
        *,
        action_repeat: int = 4,
        size: int = 64,
        continuous: bool = True,
        fast: bool = True,
        pictures: bool = True,
        film: bool = False,
    ) -> None:
        self._action_repeat = action_repeat
        self._size = size
        self._continuous = continuous
        self._pictures = pictures
        self._film = film
        self._fast = fast
        mode = "rgb_array" if film else None
        self._env: Any = (
            FastCarRacing(mode, continuous=continuous, pictures=pictures)
            if fast
            else CarRacing(mode, continuous=continuous)
        )
        self._steps = 0
        self._over = True
        self._frames: list[NDArray[np.uint8]] = []

    def reset(self, seed: int) -> NDArray[np.uint8]:
        """Start an episode on the track of this seed.

        Returns:
            The first observation, (3, size, size) uint8; empty in a view without pictures.
        """
        frame, _ = self._env.reset(seed=seed)
        self._steps = 0
        self._over = False
        self._frames = [self._env.render()] if self._film else []
        return self._observation(frame)

    def step(self, action: Action) -> Step:
        """Hold an action for `action_repeat` environment steps, or until the episode ends.

        Args:
            action: (3,) `[steer, gas, brake]`, clipped to `ACTION_LOW` and `ACTION_HIGH`; or a number, 0 to 4.

        Raises:
            RuntimeError: The episode is over, or none was started: call `reset` first.
            ValueError: The action is not three finite numbers; or not one of the five.
        """
        if self._over:
            raise RuntimeError("the episode is over: call reset before step")
        frame, reward, terminated, truncated, info = self._hold(self._valid(action))
        self._over = terminated or truncated
        car = self._env.car
        return Step(
            observation=self._observation(frame),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            on_road=sum(bool(wheel.tiles) for wheel in car.wheels),
            speed=float(car.hull.linearVelocity.length),
            tiles=self._env.tile_visited_count,
            lap_finished=info.get("lap_finished", False),
        )

    @property
    def track_tiles(self) -> int:
        """Tiles of the present track: visiting all of them finishes the lap."""
        return len(self._env.track)

    @property
    def truth(self) -> Truth:
        """What the simulator knows besides, after the latest `reset` or `step`."""
        return measure(self._env)

    @property
    def film_frames(self) -> list[NDArray[np.uint8]]:
        """Pictures (400, 600, 3) uint8 of the latest `reset` or `step`, 25 a second; none unless `film`."""
        return self._frames

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _observation(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return shrink(frame, self._size) if self._pictures else np.empty((3, 0, 0), np.uint8)

    def _valid(self, action: Action) -> Action:
        """The action as the simulator takes it. Raises ValueError."""
        if self._continuous:
            if np.shape(action) != ACTION_LOW.shape or not np.isfinite(action).all():
                raise ValueError(f"an action is three finite numbers (steer, gas, brake), not {action}")
            clipped: NDArray[np.float32] = np.clip(action, ACTION_LOW, ACTION_HIGH, dtype=np.float32)
            return clipped
        if not isinstance(action, int | np.integer) or not 0 <= action < len(ACTION_NAMES):
            names = ", ".join(f"{number} {name}" for number, name in enumerate(ACTION_NAMES))
            raise ValueError(f"an action is a whole number ({names}), not {action}")
        return int(action)

    def _hold(self, action: Action) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        total = 0.0
        self._frames = []
        for left in reversed(range(self._action_repeat)):
            self._steps += 1
            truncated = self._steps >= TIME_LIMIT
            seen = {"draw": truncated or left == 0} if self._fast else {}
            frame, reward, terminated, _, info = self._env.step(action, **seen)
            total += float(reward)
            if self._film and self._steps % FILM_EVERY == 0:
                self._frames.append(self._env.render())
            if terminated or truncated:
                break
        return frame, total, terminated, truncated, info


@cache
def kept_view(*, action_repeat: int, size: int, continuous: bool, pictures: bool = True) -> AgentView:
    """The view of these settings, made once in a process and never closed: a reset leaves nothing of what was before.

    What Box2D holds for an environment is not all given back when it goes.
    """
    return AgentView(action_repeat=action_repeat, size=size, continuous=continuous, pictures=pictures)
