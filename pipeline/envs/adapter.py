"""What the stages may ask about an environment, and how it is made. `Adapter` answers for any Gymnasium environment.

What is special about one is in an adapter of its own, and nowhere else: `car_racing`, `atari`. An adapter is asked
where no simulator is needed too, so it imports none before it makes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..config import ViewSettings
from ..errors import UsageError
from . import random_policies
from .actions import Action, Actions
from .random_policies import RandomPolicy
from .view import AgentView, is_picture

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


class Adapter:
    """Knows nothing but what Gymnasium says.

    Attributes:
        info_types: what is recorded of the simulator's state for each decision, `Step.infos`, for tables and tests;
            no model ever sees it.
        package: distribution beside gymnasium whose version what happens depends on.
    """

    info_types: ClassVar[Mapping[str, np.dtype[Any]]] = {}
    package: ClassVar[str | None] = None

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
        if isinstance(space, Discrete):
            return Actions.one_of(int(space.n), self._names(env))
        if not isinstance(space, Box) or space.dtype.kind != "f":
            raise UsageError(f"The actions of {name} are {space}; they must be a Box of floats or Discrete")
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
