"""Environments as the agent meets them: an action held for several steps, a small picture; and random drivers."""

from __future__ import annotations

from functools import cache

from ..config import CAR_RACING, ViewSettings
from .adapter import Adapter
from .atari import Atari
from .car_racing.adapter import CarRacing
from .view import AgentView

__all__ = ["adapter_of", "kept_view"]


def adapter_of(env: str) -> Adapter:
    """Who knows the environment of this id."""
    if env == CAR_RACING:
        return CarRacing()
    return Atari() if env.startswith("ALE/") else Adapter()


@cache
def kept_view(view: ViewSettings, *, pictures: bool = True) -> AgentView:
    """The view of these settings, made once in a process and never closed: a reset leaves nothing of what was before.

    What Box2D holds for an environment is not all given back when it goes.
    """
    return adapter_of(view.env).open(view, pictures=pictures)
