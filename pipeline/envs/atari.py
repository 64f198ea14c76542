"""Atari games by ale-py, with the standard preprocessing (Machado et al. 2018, arXiv 1709.06009).

An action is held for four frames, of the last two of which the brighter pixels are seen; a game goes on when a life is
lost; it begins after up to 30 frames of doing nothing; and one time in four the console repeats the action before.
All but the last is Gymnasium's `AtariPreprocessing`.
"""

from __future__ import annotations

from typing import Any

from ..config import ViewSettings
from ..errors import UsageError
from .adapter import Adapter, make
from .view import AgentView

_FRAMES_A_SECOND = 60.0
_MOST_FRAMES = 108_000
"""Half an hour: the limit of ale-py's v5 games."""
_PREPROCESSING = ("noop_max", "terminal_on_life_loss")
_OURS = {"frameskip": "view.action_repeat", "obs_type": "view.grey", "max_num_frames_per_episode": "view.time_limit"}


class Atari(Adapter):
    """`ALE/<Game>-v5`.

    Its arguments are those of ale-py, such as `repeat_action_probability`, `full_action_space`, `mode` and
    `difficulty`, and of the preprocessing `noop_max` and `terminal_on_life_loss`.
    """

    package = "ale-py"
    steps_a_second = _FRAMES_A_SECOND

    def open(self, view: ViewSettings, *, pictures: bool = True, film: bool = False) -> AgentView:
        """See `Adapter.open`."""
        env = self._make(view)
        return _AtariView(view, env, self._actions(env, view.env), limit=_MOST_FRAMES, pictures=pictures, film=film)

    def _make(self, view: ViewSettings) -> Any:
        try:
            import ale_py
        except ImportError as error:
            raise UsageError(f"{view.env} needs ale-py; run `pip install ale-py`") from error
        import gymnasium
        from gymnasium.wrappers import AtariPreprocessing

        gymnasium.register_envs(ale_py)
        arguments = view.arguments
        for name in _OURS.keys() & arguments:
            raise UsageError(f"The argument {name} of {view.env} is decided by the setting {_OURS[name]}")
        preprocessing = {name: arguments.pop(name) for name in _PREPROCESSING if name in arguments}
        frames = view.time_limit or _MOST_FRAMES
        env = make(view.env, {**arguments, "frameskip": 1, "max_num_frames_per_episode": frames})
        repeat, size = view.action_repeat, view.size
        return AtariPreprocessing(env, frame_skip=repeat, screen_size=size, grayscale_obs=view.grey, **preprocessing)

    def _picture(self, env: Any) -> str:
        height, width, *_ = env.unwrapped.observation_space.shape
        return f"the {height}x{width} picture"

    def _names(self, env: Any) -> tuple[str, ...]:
        return tuple(name.lower() for name in env.unwrapped.get_action_meanings())


class _AtariView(AgentView):
    """The preprocessing holds actions and shrinks pictures already."""

    @property
    def _repeat(self) -> int:
        return 1

    @property
    def _film_every(self) -> int:
        return 1

    @property
    def film_fps(self) -> float:
        """One frame a decision."""
        return self.steps_a_second / self.settings.action_repeat

    @property
    def steps_a_second(self) -> float:
        """Of the console."""
        return _FRAMES_A_SECOND
