"""The film of an evaluation: its worst, its median and its best drive, driven again and shown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .. import console
from ..agent import Agent
from ..driving import POLICY, Garage, Job, agent_of, decisions, make_driver, score_of
from ..envs.actions import controls
from ..envs.view import AgentView
from ..scores import EpisodeScore
from .cockpit import Cockpit, Dials
from .film import Frame

FPS = 25.0
"""Pictures a second, as `AgentView` films: the film runs at the speed of the drive."""

_TITLE_SECONDS, _END_SECONDS = 1.6, 1.0


@dataclass(frozen=True)
class Pick:
    """A drive worth showing."""

    title: str
    score: EpisodeScore


def pick(scores: Sequence[EpisodeScore]) -> list[Pick]:
    """The worst, the median (of an even number the lower) and the best drive, none twice."""
    order = sorted(scores, key=lambda score: (score.score, score.track))
    named = {"Worst": order[0], "Median": order[(len(order) - 1) // 2], "Best": order[-1]}
    if len(order) == 1:
        return [Pick("The only track", order[0])]
    if len(order) == 2:
        del named["Median"]
    return [Pick(f"{name} of {len(order)} tracks", score) for name, score in named.items()]


def film_drive(garage: Garage, pick: Pick) -> Iterator[Frame]:
    """Drive a track once more, exactly as before, and show it, between a title and how it ended."""
    track, agent = pick.score.track, agent_of(garage)
    settings = agent.world.interface.view
    cockpit = Cockpit(pick.title, f"seed {track}, score {pick.score.score:.0f}")
    rewards: list[float] = []
    picture: Frame | None = None
    with AgentView(**settings.model_dump(), film=True) as view:
        for seen, action, step in decisions(view, make_driver(garage, Job(POLICY, track)), track):
            rewards.append(step.reward)
            score, seconds = math.fsum(rewards), len(rewards) * settings.action_repeat / 50
            dials = Dials(*controls(action), step.speed, score, step.tiles, view.track_tiles, seconds)
            rebuilt = reconstruction(agent)
            for frame in view.film_frames:
                if picture is None:
                    title = cockpit.card(cockpit.picture(frame, seen, rebuilt, dials), _result(pick.score))
                    yield from _held(title, _TITLE_SECONDS)
                picture = cockpit.picture(frame, seen, rebuilt, dials)
                yield picture
        if picture is not None:
            yield from _held(cockpit.card(picture, _ending(pick.score)), _END_SECONDS)
        if score_of(view, track, rewards, step) != pick.score:
            console.warn(f"Filmed again, the drive on track {track} came out otherwise ({math.fsum(rewards):.1f})")


@torch.no_grad()
def reconstruction(agent: Agent) -> NDArray[np.uint8]:
    """What the world model makes of the agent's last observation, (3, S, S) uint8."""
    assert agent.latent is not None, "the agent has seen nothing yet"
    picture = agent.world.model.decode(agent.latent.feature).mode[0]
    rebuilt: NDArray[np.uint8] = (picture * 255).round().byte().cpu().numpy()
    return rebuilt


def _held(frame: Frame, seconds: float) -> Iterator[Frame]:
    return itertools.repeat(frame, round(seconds * FPS))


def _result(score: EpisodeScore) -> str:
    return f"seed {score.track}   score {score.score:.0f}   {score.tiles / score.track_tiles:.0%} of the tiles"


def _ending(score: EpisodeScore) -> str:
    if score.lap_finished:
        return f"Lap finished   score {score.score:.0f}"
    return f"{'Left the field' if score.left_field else 'Time is up'}   score {score.score:.0f}"
