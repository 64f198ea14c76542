"""Learn a world model of CarRacing from random driving, then learn to drive entirely inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent import Agent, load_agent

__version__ = "0.1.0"
__all__ = ["Agent", "__version__", "load_agent"]


def __getattr__(name: str) -> Any:
    """Import the agent, and torch with it, only when somebody asks for it: `dreamer --help` must be quick."""
    if name in ("Agent", "load_agent"):
        from . import agent

        return getattr(agent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
