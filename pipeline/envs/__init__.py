"""Environments as the agent meets them: an action held for several steps, a small picture; and random drivers."""

from __future__ import annotations

from functools import cache

from ..config import CAR_RACING, ViewSettings
from ..errors import UsageError
from .adapter import Adapter, Cost, Mirror
from .atari import Atari
from .car_racing.adapter import CarRacing
from .view import AgentView

__all__ = ["adapter_of", "cost_of", "kept_view", "mirror_of"]


def adapter_of(env: str) -> Adapter:
    """Who knows the environment of this id."""
    if env == CAR_RACING:
        return CarRacing()
    return Atari() if env.startswith("ALE/") else Adapter()


def mirror_of(view: ViewSettings, *, wanted: bool) -> Mirror | None:
    """What shows this environment in a mirror; None where it is not wanted. Raises UsageError where there is none."""
    mirror = adapter_of(view.env).mirror if wanted else None
    if wanted and mirror is None:
        raise UsageError(f"{view.env} is not known to be the same in a mirror; --set model.mirror=false")
    return mirror


def cost_of(view: ViewSettings, *, wanted: bool) -> Cost | None:
    """What is to be avoided in this environment; None where it is not wanted.

    Raises UsageError where nothing is known to be, or where it cannot be seen.
    """
    cost = adapter_of(view.env).cost if wanted else None
    if wanted and cost is None:
        raise UsageError(f"Nothing is known that is to be avoided in {view.env}; --set model.cost=false")
    if wanted and (view.grey or view.arguments.get("domain_randomize")):
        raise UsageError(
            f"What is to be avoided in {view.env} is told by its colour, which is another with view.grey or "
            "domain_randomize; --set model.cost=false --set policy.cost_ends=0"
        )
    return cost


@cache
def kept_view(view: ViewSettings, *, pictures: bool = True) -> AgentView:
    """The view of these settings, made once in a process and never closed: a reset leaves nothing of what was before.

    What Box2D holds for an environment is not all given back when it goes.
    """
    return adapter_of(view.env).open(view, pictures=pictures)
