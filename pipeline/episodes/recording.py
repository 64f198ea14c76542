"""Acting, recorded: an episode of a data set as a function of the settings and its number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..envs import adapter_of, kept_view
from ..envs.actions import Action
from ..envs.tracks import episode_seed
from ..envs.view import AgentView, Step
from ..randomness import Stream, numpy_stream
from .episode import Episode

PATIENT_SHARE, PATIENT_TIMES = 0.1, 6
"""Share of the episodes with more patience, and how many times as much: else no model sees that grass stays grass."""


def record_episode(settings: Settings, number: int) -> Episode:
    """Record an episode of acting at random.

    Args:
        settings: `seed`, `view` and `collect` count.
        number: of the episode in the data set, from 0.

    Returns:
        The episode; the same for the same arguments, in whatever process.
    """
    view = kept_view(settings.view)
    rng = numpy_stream(settings.seed, Stream.RANDOM_POLICY, number)
    patient = rng.random() < PATIENT_SHARE
    policy = adapter_of(settings.view.env).random_policy(settings.collect.policy, rng, view.actions)
    seed = episode_seed(settings.seed, number)
    wanted = settings.collect
    return record(
        view,
        policy,
        seed,
        policy=policy.name,
        patience=wanted.patience * (PATIENT_TIMES if patient else 1),
        limit=wanted.limit,
        truth=wanted.truth,
    )


def use_one_thread() -> None:
    """Keep a worker process to one thread: the workers are what runs in parallel."""
    cv2.setNumThreads(1)


def record(
    view: AgentView,
    act: Callable[[NDArray[np.uint8]], Action],
    seed: int,
    *,
    policy: str,
    patience: float = math.inf,
    limit: float = math.inf,
    truth: bool = False,
) -> Episode:
    """Act for an episode and record it.

    It ends with the environment's episode, or is cut short: when it has been lost (see `Step`) for `patience`
    decisions in a row, or after `limit` decisions. What is cut short is truncated, not terminated.

    Args:
        view: the environment.
        act: asked once a decision, with the observation before it.
        seed: of the episode.
        policy: name of who acts.
        patience: decisions, at least 1; by default no end.
        limit: decisions, at least 1; by default no end.
        truth: keep what `AgentView.truth` says too.

    Returns:
        The episode.
    """
    observations, actions, steps = [view.reset(seed)], [], []
    lost = 0
    over = False
    while not over:
        actions.append(act(observations[-1]))
        step = view.step(actions[-1])
        if truth:
            step = replace(step, infos={**step.infos, **view.truth})
        steps.append(step)
        observations.append(step.observation)
        lost = lost + 1 if step.lost else 0
        over = step.terminated or step.truncated or lost >= patience or len(steps) >= limit
    infos = adapter_of(view.settings.env).infos(truth)
    tiles = view.track_tiles
    return as_episode(observations, actions, steps, infos, seed=seed, policy=policy, track_tiles=tiles)


def as_episode(
    observations: Sequence[NDArray[np.uint8]],
    actions: Sequence[Action],
    steps: Sequence[Step],
    infos: Mapping[str, np.dtype[Any]],
    *,
    seed: int,
    policy: str,
    track_tiles: int,
) -> Episode:
    """The episode that is over; where the environment's did not end, it is truncated.

    Args:
        observations: T + 1 pictures, (3, S, S).
        actions, steps: T decisions, and what came of each.
        infos: names and types of what to keep of the steps' own.
        seed, policy, track_tiles: see `Decisions`.
    """
    terminations = np.array([step.terminated for step in steps])
    truncations = np.zeros_like(terminations)
    truncations[-1] = not terminations[-1]
    return Episode(
        observations=np.stack(observations),
        actions=_as_array(actions),
        rewards=np.array([step.reward for step in steps], np.float32),
        terminations=terminations,
        truncations=truncations,
        infos={name: np.array([step.infos[name] for step in steps], dtype) for name, dtype in infos.items()},
        seed=seed,
        policy=policy,
        track_tiles=track_tiles,
    )


def _as_array(actions: Sequence[Action]) -> NDArray[np.float32] | NDArray[np.int64]:
    """(T, A) float32, or discrete ones (T,) int64."""
    return np.array(actions, np.int64) if isinstance(actions[0], int) else np.array(actions, np.float32)
