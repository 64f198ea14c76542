"""An environment as the agent meets it: an action held for several steps, a small picture. Nothing else is known of it.

`AgentView` is that of any Gymnasium environment; an adapter (see `adapter`) may know a better one of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from ..config import ViewSettings
from ..scores import EpisodeScore
from .actions import Action, Actions

Picture = NDArray[np.uint8]

_FILM_FPS = 25.0
"""Frames of film a second, or up to twice as many where the environment's own pace asks for it."""


def shrink(frame: Picture, size: int = 64, grey: bool = False) -> Picture:
    """Resize a picture by averaging areas.

    Args:
        frame: (H, W, 3) uint8, or without colours, (H, W) or (H, W, 1).
        size: height and width of the result, pixels.
        grey: leave out the colours.

    Returns:
        (3, size, size) uint8, channel first, contiguous. Without colours the three channels are alike: so all that
        follows knows pictures of one shape.
    """
    small = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
    if grey and small.ndim == 3:
        small = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    if small.ndim == 2:
        small = np.repeat(small[..., None], 3, axis=2)
    return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.uint8)


@dataclass(frozen=True)
class Step:
    """What came of one decision.

    Attributes:
        observation: (3, size, size) uint8, the picture after the last of the held steps; empty, (3, 0, 0), in a
            view without pictures.
        reward: sum over the held steps.
        terminated: the episode has ended for good: there is no future reward.
        truncated: the time is up.
        infos: what the adapter keeps of the simulator, by the names of its `info_types`.
        lost: nothing worth recording goes on here; a recording that is lost for long is cut short.
    """

    observation: Picture
    reward: float
    terminated: bool
    truncated: bool
    infos: Mapping[str, Any] = field(default_factory=dict)
    lost: bool = False


@dataclass(frozen=True)
class Gauge:
    """An instrument of the film.

    Attributes:
        name: over it.
        value: 0 .. 1, drawn from the left; where `signed` -1 .. 1, drawn from the middle.
        signed: which of the two.
        text: a number beside the name.
    """

    name: str
    value: float
    signed: bool = False
    text: str = ""


class AgentView:
    """An environment with one step a decision. A context manager; needs no display.

    Args:
        settings: how it is seen.
        env: a Gymnasium environment without a time limit. Its observations are pictures, or it renders `rgb_array`.
        actions: what there is to do in it.
        limit: environment steps after which an episode is cut off.
        pictures: False for drivers who look at none: observations are empty, (3, 0, 0), and nothing is rendered for
            them. All else is the same.
        film: keep large pictures too, for a video (see `film_frames`).
    """

    def __init__(
        self,
        settings: ViewSettings,
        env: Any,
        actions: Actions,
        *,
        limit: int,
        pictures: bool = True,
        film: bool = False,
    ) -> None:
        self.settings, self.actions = settings, actions
        self._env = env
        self._limit = limit
        self._pictures, self._film = pictures, film
        self._steps = 0
        self._over = True
        self._frames: list[Picture] = []

    def reset(self, seed: int) -> Picture:
        """Start the episode of this seed.

        Returns:
            The first observation, (3, size, size) uint8; empty in a view without pictures.
        """
        observation, _ = self._env.reset(seed=seed)
        self._steps = 0
        self._over = False
        self._frames = [self._frame(observation)] if self._film else []
        return self._observation(observation)

    def step(self, action: Action) -> Step:
        """Hold an action for `action_repeat` environment steps, or until the episode ends.

        Args:
            action: (A,), clipped to its bounds; or a number from 0 on.

        Raises:
            RuntimeError: The episode is over, or none was started: call `reset` first.
            ValueError: The action is none of this environment's.
        """
        if self._over:
            raise RuntimeError("the episode is over: call reset before step")
        observation, reward, terminated, truncated, info = self._hold(self.actions.valid(action))
        self._over = terminated or truncated
        infos, picture = self._infos(info), self._observation(observation)
        return Step(picture, reward, terminated, truncated, infos, self._is_lost(infos))

    @property
    def track_tiles(self) -> int:
        """Tiles of the present track; 0 where there is none."""
        return 0

    @property
    def truth(self) -> Mapping[str, Any]:
        """What the adapter measures besides, after the latest `reset` or `step`, by the names of its `truth_types`."""
        return {}

    @property
    def steps_a_second(self) -> float:
        """Environment steps to a second of film, as the environment says itself."""
        return float(self._env.metadata.get("render_fps") or 30)

    @property
    def _film_every(self) -> int:
        """Environment steps to one frame of film."""
        return max(1, math.floor(self.steps_a_second / _FILM_FPS))

    @property
    def film_fps(self) -> float:
        """Frames of film a second, at the speed of the environment."""
        return self.steps_a_second / self._film_every

    @property
    def film_frames(self) -> list[Picture]:
        """Pictures (H, W, 3) uint8 of the latest `reset` or `step`, `film_fps` a second; none unless `film`."""
        return self._frames

    def gauges(self, action: Action, step: Step | None) -> list[Gauge]:
        """What a film shows of a decision: each number, or each of the actions; and of what came of it, if it did."""
        if isinstance(action, int):
            names = self.actions.names or [f"Action {number}" for number in range(len(self.actions))]
            return [Gauge(name.capitalize(), float(number == action)) for number, name in enumerate(names)]
        middle = (np.array(self.actions.low) + self.actions.high) / 2
        shares = (action - middle) / (np.array(self.actions.high) - middle)
        return [
            Gauge(f"Action {number}" if len(shares) > 1 else "Action", float(share), True, f"{value:.2f}")
            for number, (share, value) in enumerate(zip(shares, action, strict=True))
        ]

    def score(self, seed: int, rewards: Sequence[float], last: Step) -> EpisodeScore:
        """The score of an episode that has ended with the step `last`."""
        return EpisodeScore(seed, math.fsum(rewards), len(rewards), truncated=last.truncated and not last.terminated)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _observation(self, observation: Any) -> Picture:
        if not self._pictures:
            return np.empty((3, 0, 0), np.uint8)
        return shrink(self._picture(observation), self.settings.size, self.settings.grey)

    def _hold(self, action: Action) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        self._frames = []
        for left in reversed(range(self._repeat)):
            self._steps += 1
            up = self._steps >= self._limit
            observation, reward, terminated, truncated, info = self._advance(action, seen=up or left == 0)
            truncated = truncated or up
            total += float(reward)
            if self._film and self._steps % self._film_every == 0:
                self._frames.append(self._frame(observation))
            if terminated or truncated:
                break
        return observation, total, bool(terminated), bool(truncated), info

    def _frame(self, observation: Any) -> Picture:
        """A picture of the film, (H, W, 3): what the environment renders, or else its observation."""
        frame: Any = self._env.render() if self._env.render_mode == "rgb_array" else self._picture(observation)
        frame = np.atleast_3d(frame)
        coloured: Picture = frame if frame.shape[2] == 3 else frame.repeat(3, axis=2)
        return coloured

    # What an adapter's own view may do otherwise.

    @property
    def _repeat(self) -> int:
        """Steps of `_advance` to a decision."""
        return self.settings.action_repeat

    def _advance(self, action: Action, *, seen: bool) -> Any:
        """One step of the environment; where not `seen`, its picture counts only if it ends the episode."""
        return self._env.step(self._native(action))

    def _native(self, action: Action) -> Any:
        """The action in the environment's own shape and type."""
        space = self._env.action_space
        if isinstance(action, int):
            return int(space.start) + action
        return action.astype(space.dtype).reshape(space.shape)

    def _picture(self, observation: Any) -> Picture:
        """The picture (H, W, 3), (H, W) or (H, W, 1) of what the environment has come to."""
        picture: Picture = observation if is_picture(self._env.observation_space) else self._env.render()
        return picture

    def _infos(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def _is_lost(self, infos: Mapping[str, Any]) -> bool:
        return False


_LEAST_PIXELS = 16


def is_picture(space: Any) -> bool:
    """Whether observations of a Gymnasium space are pictures, (H, W, 3), (H, W, 1) or (H, W) uint8."""
    shape: Any = getattr(space, "shape", None) or ()
    image = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    return bool(image and space.dtype == np.uint8 and min(shape[:2]) >= _LEAST_PIXELS)
