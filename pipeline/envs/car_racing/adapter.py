"""All that is special about CarRacing, for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...config import ViewSettings
from ...errors import UsageError
from ..actions import Action, Actions
from ..adapter import Adapter, Cost, Described, Mirror, Pace
from ..random_policies import RandomPolicy
from ..view import AgentView
from .actions import ACTION_NAMES, GAS, action_bounds, car_actions
from .drivers import make_policy
from .grass import grass
from .mirror import mirror
from .scores import DriveScore

_ZOOM_STEPS = 50
"""Environment steps (one second) in which the camera zooms in; before that, little of the road can be told."""

_STRAIGHT = np.array([0.0, 0.3, 0.0], dtype=np.float32)

_STEERING = {"hard left": -0.4, "left": -0.12, "straight on": 0.0, "right": 0.12, "hard right": 0.4}
_ROLLING = 0.1
"""Gas with which they are compared."""

_ARGUMENTS = ("continuous", "domain_randomize", "lap_complete_percent")


class CarRacing(Adapter):
    """`CarRacing-v3`. Its argument `continuous` and the setting `view.continuous` are one and the same."""

    info_types: ClassVar[Mapping[str, np.dtype[Any]]] = {
        "speed": np.dtype(np.float32),
        "on_road": np.dtype(np.uint8),
        "tiles": np.dtype(np.int32),
        "lap_finished": np.dtype(np.bool_),
    }
    truth_types: ClassVar[Mapping[str, np.dtype[Any]]] = {
        "yaw_rate": np.dtype(np.float32),
        "track_offset": np.dtype(np.float32),
    }
    score_type = DriveScore
    steps_a_second = 50.0
    keys = True
    picture_shape = (96, 96, 3)
    pace = Pace(decisions_a_second=400, episode=60, drive=250, simulated=0.003)  # of an AMD EPYC (Zen 4)
    acting = "driving"
    differing = "pictures differ in the text"

    @property
    def mirror(self) -> Mirror:
        """See `Adapter.mirror`."""
        return mirror

    @property
    def cost(self) -> Cost:
        """See `Adapter.cost`."""
        return grass

    def check_bounds(self, low: Sequence[float], high: Sequence[float], *, discrete: bool) -> None:
        """See `Adapter.check_bounds`."""
        if (tuple(low), tuple(high)) != action_bounds(not discrete):
            raise ValueError("its actions are not CarRacing's")

    def describe(self, view: ViewSettings) -> Described:
        """See `Adapter.describe`; no simulator is needed."""
        arguments = view.arguments
        for name in arguments.keys() - {*_ARGUMENTS}:
            raise UsageError(f"CarRacing-v3 has no argument '{name}' to be set; there are {', '.join(_ARGUMENTS)}")
        continuous = bool(arguments.pop("continuous", view.continuous))
        settings = view.model_dump() | {"env_kwargs": arguments, "continuous": continuous}
        return Described(ViewSettings(**settings), car_actions(continuous), "the 96x96 picture")

    def open(self, view: ViewSettings, *, pictures: bool = True, film: bool = False) -> AgentView:
        """See `Adapter.open`."""
        from .view import CarRacingView

        return CarRacingView(self.describe(view).view, pictures=pictures, film=film)

    def random_policy(self, name: str, rng: np.random.Generator, actions: Actions) -> RandomPolicy:
        """A random driver."""
        return make_policy(name, rng, continuous=not actions.discrete)

    def baselines(self, *, discrete: bool) -> dict[str, Action]:
        """A little gas with the wheel held straight: 0.3, or where actions are discrete the one gas there is, 0.2."""
        return {"straight": GAS if discrete else _STRAIGHT}

    def futures(self, actions: Actions) -> dict[str, Action]:
        """All discrete actions; or five ways to steer, with a little gas."""
        if actions.discrete:
            return dict(zip(ACTION_NAMES, range(len(ACTION_NAMES)), strict=True))
        return {name: np.array([steer, _ROLLING, 0.0], np.float32) for name, steer in _STEERING.items()}

    def dream_start(self, action_repeat: int) -> int:
        """Once the camera has zoomed in."""
        return -(-_ZOOM_STEPS // action_repeat)
