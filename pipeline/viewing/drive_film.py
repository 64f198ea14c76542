"""The film of an evaluation: its worst, its median and its best episode, done again and shown."""

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
from ..driving import POLICY, Garage, Job, agent_of, decisions, make_driver
from ..envs import adapter_of
from ..scores import EpisodeScore
from .cockpit import Cockpit, Dials
from .film import Frame

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
        return [Pick(f"The only {order[0].PLACE}", order[0])]
    if len(order) == 2:
        del named["Median"]
    return [Pick(f"{name} of {len(order)} {score.PLACE}s", score) for name, score in named.items()]


def film_fps(garage: Garage) -> float:
    """Pictures a second: the film runs at the speed of the environment."""
    settings = agent_of(garage).world.interface.view
    with adapter_of(settings.env).open(settings) as view:
        return view.film_fps


def film_drive(garage: Garage, pick: Pick) -> Iterator[Frame]:
    """Drive a track once more, exactly as before, and show it, between a title and how it ended."""
    track, agent = pick.score.track, agent_of(garage)
    settings = agent.world.interface.view
    cockpit = Cockpit(pick.title, f"seed {track}, score {pick.score.score:.0f}")
    rewards: list[float] = []
    picture: Frame | None = None
    with adapter_of(settings.env).open(settings, film=True) as view:
        for seen, action, step in decisions(view, make_driver(garage, Job(POLICY, track)), track):
            rewards.append(step.reward)
            seconds = len(rewards) * settings.action_repeat / view.steps_a_second
            tiles = f"{step.infos['tiles']}/{view.track_tiles}" if view.track_tiles else None
            dials = Dials(math.fsum(rewards), seconds, view.gauges(action, step), tiles)
            rebuilt = reconstruction(agent)
            for frame in view.film_frames:
                if picture is None:
                    title = cockpit.card(cockpit.picture(frame, seen, rebuilt, dials), _result(pick.score))
                    yield from _held(title, _TITLE_SECONDS * view.film_fps)
                picture = cockpit.picture(frame, seen, rebuilt, dials)
                yield picture
        if picture is not None:
            yield from _held(cockpit.card(picture, _ending(pick.score)), _END_SECONDS * view.film_fps)
        if view.score(track, rewards, step) != pick.score:
            again = f"{pick.score.PLACE} {track} came out otherwise ({math.fsum(rewards):.1f})"
            console.warn(f"Filmed again, the drive on {again}")


@torch.no_grad()
def reconstruction(agent: Agent) -> NDArray[np.uint8]:
    """What the world model makes of the agent's last observation, (3, S, S) uint8."""
    assert agent.latent is not None, "the agent has seen nothing yet"
    picture = agent.world.model.decode(agent.latent.feature).mode[0]
    rebuilt: NDArray[np.uint8] = (picture * 255).round().byte().cpu().numpy()
    return rebuilt


def _held(frame: Frame, count: float) -> Iterator[Frame]:
    return itertools.repeat(frame, round(count))


def _result(score: EpisodeScore) -> str:
    return f"seed {score.track}   {score.result}"


def _ending(score: EpisodeScore) -> str:
    return f"{score.ending}   score {score.score:.0f}"
