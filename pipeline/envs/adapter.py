"""What the stages may ask about an environment, and how it is made. `Adapter` answers for any Gymnasium environment.

What is special about one is in an adapter of its own, and nowhere else: `car_racing`, `atari`. An adapter is asked
where no simulator is needed too, so it imports none before it makes one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..config import ViewSettings
from ..errors import UsageError
from ..scores import EpisodeScore
from . import random_policies
from .actions import Action, Actions
from .random_policies import RandomPolicy
from .view import AgentView, is_picture

if TYPE_CHECKING:
    from torch import Tensor

Mirror = Callable[["Tensor", "Tensor"], tuple["Tensor", "Tensor"]]
"""Observations (..., 3, S, S) and actions (..., A) with left and right exchanged."""

Cost = Callable[["Tensor"], "Tensor"]
"""Observations (..., 3, S, S) uint8 to what is to be avoided in them, (...) float32, 0 .. 1."""

MOST_ACTIONS = 64
"""Numbers in an action, or actions to choose from, that a data set can hold."""

_FUTURES = 6

_ENDLESS = 10_000
"""Environment steps of an episode where neither the environment nor a setting says."""


@dataclass(frozen=True)
class Described:
    """What an environment turns out to be once it is made.

    Attributes:
        view: the settings, `continuous` being what it is.
        actions: what there is to do.
        picture: what observations are made of, such as "the 96x96 picture" or "the 400x600 rendered frame".
    """

    view: ViewSettings
    actions: Actions
    picture: str


@dataclass(frozen=True)
class Pace:
    """How fast an environment is, and how long its episodes are.

    Attributes:
        decisions_a_second: recorded by one worker.
        episode: decisions of a recorded episode.
        drive: decisions of a whole one, about.
        simulated: seconds that the simulator takes for a decision.
    """

    decisions_a_second: float
    episode: float
    drive: float
    simulated: float


class Adapter:
    """Knows nothing but what Gymnasium says.

    Attributes:
        info_types: what is recorded of the simulator's state for each decision, `Step.infos`, for tables and tests;
            no model ever sees it.
        truth_types: what is recorded beside that where it is asked for (`collect.truth`), `AgentView.truth`, for
            probes; no model ever sees this either.
        score_type: what an episode comes to.
        steps_a_second: the pace of the environment, where there is no simulator to ask, see `AgentView`.
        package: distribution beside gymnasium whose version what happens depends on.
        keys: whether a person can act by the keyboard of `dreamer play`.
        picture_shape: of its own observations, where they are always the same; None where they are not.
        pace: where it is known, else None: an episode tells.
        acting: what acting in it is called.
        differing: what may be otherwise in another version of gymnasium; None where nobody knows.
    """

    info_types: ClassVar[Mapping[str, np.dtype[Any]]] = {}
    truth_types: ClassVar[Mapping[str, np.dtype[Any]]] = {}
    score_type: ClassVar[type[EpisodeScore]] = EpisodeScore
    steps_a_second: ClassVar[float] = 30.0
    package: ClassVar[str | None] = None
    keys: ClassVar[bool] = False
    picture_shape: ClassVar[tuple[int, int, int] | None] = None
    pace: ClassVar[Pace | None] = None
    acting: ClassVar[str] = "actions"
    differing: ClassVar[str | None] = None

    @property
    def mirror(self) -> Mirror | None:
        """What exchanges left and right, where that makes another episode that might have been; else None."""
        return None

    @property
    def cost(self) -> Cost | None:
        """What is to be avoided, whatever the reward says, as pictures show it; None where that is nothing."""
        return None

    def infos(self, truth: bool) -> dict[str, np.dtype[Any]]:
        """Names and types of what is recorded of an episode beside what models see, in their order."""
        return {**self.info_types, **(self.truth_types if truth else {})}

    def check_bounds(self, low: Sequence[float], high: Sequence[float], *, discrete: bool) -> None:
        """Raise ValueError where a file claims bounds that the actions of no such environment have."""
        if not 1 <= len(low) == len(high) <= MOST_ACTIONS:
            raise ValueError(f"there are {len(low)} lower and {len(high)} upper bounds of actions")
        if not all(-math.inf < least < most < math.inf for least, most in zip(low, high, strict=True)):
            raise ValueError("its actions are not within finite bounds")
        if discrete and {*low} | {*high} != {0.0, 1.0}:
            raise ValueError("its discrete actions are not one-hot vectors")

    def describe(self, view: ViewSettings) -> Described:
        """Make the environment to see what it is. Raises UsageError where it cannot be made, seen or acted in."""
        env = self._make(view)
        try:
            actions = self._actions(env, view.env)
            return Described(view.model_copy(update={"continuous": not actions.discrete}), actions, self._picture(env))
        finally:
            env.close()

    def open(self, view: ViewSettings, *, pictures: bool = True, film: bool = False) -> AgentView:
        """The agent's view of a new simulator, see `AgentView`. Raises UsageError, as `describe`."""
        env = self._make(view)
        limit = (env.spec and env.spec.max_episode_steps) or _ENDLESS
        return AgentView(view, env, self._actions(env, view.env), limit=limit, pictures=pictures, film=film)

    def random_policy(self, name: str, rng: np.random.Generator, actions: Actions) -> RandomPolicy:
        """Who acts at random in one episode. Raises UsageError where there is nobody of that name."""
        return random_policies.make_policy(name, rng, actions)

    def baselines(self, *, discrete: bool) -> dict[str, Action]:
        """Beside random actions, what the policy is compared with: by a name, an action that is always taken."""
        return {}

    def futures(self, actions: Actions) -> dict[str, Action]:
        """Actions that lead apart, at most six, by name: to be held, each in a dream of its own.

        All that there are to choose from, or some; of numbers the middle, and the ends of the first two.
        """
        if actions.discrete:
            chosen = np.unique(np.linspace(0, len(actions) - 1, _FUTURES).round().astype(int)).tolist()
            return {actions.names[one] if actions.names else f"action {one}": one for one in chosen}
        low, high = np.array(actions.low), np.array(actions.high)
        if len(actions) == 1:
            return {f"{value[0]:g}": value.astype(np.float32) for value in np.linspace(low, high, _FUTURES - 1)}
        middle = ((low + high) / 2).astype(np.float32)
        ends: dict[str, Action] = {"all in the middle": middle}
        for number in range(2):
            for name, end in (("least", low), ("most", high)):
                action = middle.copy()
                action[number] = end[number]
                ends[f"number {number}: {name}"] = action
        return ends

    def dream_start(self, action_repeat: int) -> int:
        """Decisions after which enough has been seen to ask the dream what comes."""
        return 5

    def _make(self, view: ViewSettings) -> Any:
        return make(view.env, view.arguments, view.time_limit)

    def _picture(self, env: Any) -> str:
        """What observations are made of."""
        if is_picture(env.observation_space):
            height, width, *_ = env.observation_space.shape
            return f"the {height}x{width} picture"
        env.reset(seed=0)
        height, width, *_ = np.shape(env.render())
        return f"the {height}x{width} rendered frame"

    def _actions(self, env: Any, name: str) -> Actions:
        """What there is to do. Raises UsageError where it is neither numbers within bounds nor one of several."""
        from gymnasium.spaces import Box, Discrete

        space = env.action_space
        if not isinstance(space, Discrete) and (not isinstance(space, Box) or space.dtype.kind != "f"):
            raise UsageError(f"The actions of {name} are {space}; they must be a Box of floats or Discrete")
        count = int(space.n if isinstance(space, Discrete) else np.prod(space.shape))
        if not 1 <= count <= MOST_ACTIONS:
            raise UsageError(f"The actions of {name} are {space}, {count} in all; there may be 1 to {MOST_ACTIONS}")
        if isinstance(space, Discrete):
            return Actions.one_of(count, self._names(env))
        low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
        if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise UsageError(f"The actions of {name} are not within finite bounds: {space}")
        return Actions(tuple(low.tolist()), tuple(high.tolist()))

    def _names(self, env: Any) -> tuple[str, ...]:
        """Of the discrete actions."""
        return ()


def make(name: str, arguments: Mapping[str, Any], time_limit: int = 0) -> Any:
    """Make a Gymnasium environment that shows something: by its observations, or by rendering frames.

    Args:
        name: its id, or module:id.
        arguments: its own.
        time_limit: steps, in place of its own limit; 0 for that.

    Raises:
        UsageError: there is none of that name, or it cannot be made of these arguments, or it shows nothing.
    """
    import gymnasium

    options = {**arguments, "max_episode_steps": time_limit or None, "disable_env_checker": True}
    try:
        try:
            env = gymnasium.make(name, **{"render_mode": "rgb_array", **options})
        except TypeError as error:
            if "render_mode" not in str(error):
                raise
            env = gymnasium.make(name, **options)
    except Exception as error:  # a constructor raises almost anything
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"The environment {name} cannot be made: {reason}") from error
    if not is_picture(env.observation_space) and env.render_mode != "rgb_array":
        env.close()
        raise UsageError(f"{name} shows nothing: its observations are no pictures, and it does not render 'rgb_array'")
    return env
