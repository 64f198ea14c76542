"""Random driving, recorded: an episode of a data set as a function of the settings and its number."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..config import Settings
from ..envs.actions import Action
from ..envs.random_policies import RandomPolicy, make_policy
from ..envs.tracks import episode_seed
from ..envs.truth import Truth
from ..envs.view import AgentView, Step, kept_view
from ..randomness import Stream, numpy_stream
from .episode import INFO_TYPES, TRUTH_TYPES, Episode


def record_episode(settings: Settings, number: int) -> Episode:
    """Record an episode of random driving.

    Args:
        settings: `seed`, `view` and `collect` count.
        number: of the episode in the data set, from 0.

    Returns:
        The episode; the same for the same arguments, in whatever process.
    """
    view = kept_view(**settings.view.model_dump())
    rng = numpy_stream(settings.seed, Stream.RANDOM_POLICY, number)
    policy = make_policy(settings.collect.policy, rng, continuous=settings.view.continuous)
    seed = episode_seed(settings.seed, number)
    wanted = settings.collect
    return record(view, policy, seed, patience=wanted.patience, limit=wanted.limit, truth=wanted.truth)


def use_one_thread() -> None:
    """Keep a worker process to one thread: the workers are what runs in parallel."""
    cv2.setNumThreads(1)


def record(
    view: AgentView, policy: RandomPolicy, seed: int, *, patience: int, limit: int, truth: bool = False
) -> Episode:
    """Drive an episode and record it.

    It ends with the environment's episode, or is cut short: when all wheels have been off the road for `patience`
    decisions in a row, or after `limit` decisions. What is cut short is truncated, not terminated.

    Args:
        view: the environment.
        policy: asked once a decision; it sees nothing.
        seed: of the track.
        patience: decisions, at least 1.
        limit: decisions, at least 1.
        truth: keep what `AgentView.truth` says too.

    Returns:
        The episode.
    """
    observations, actions, steps = [view.reset(seed)], [], []
    truths: list[Truth] = []
    off_road = 0
    over = False
    while not over:
        actions.append(policy())
        step = view.step(actions[-1])
        steps.append(step)
        observations.append(step.observation)
        if truth:
            truths.append(view.truth)
        off_road = 0 if step.on_road else off_road + 1
        over = step.terminated or step.truncated or off_road >= patience or len(steps) >= limit
    return as_episode(observations, actions, steps, truths, seed=seed, policy=policy.name, track_tiles=view.track_tiles)


def as_episode(
    observations: Sequence[NDArray[np.uint8]],
    actions: Sequence[Action],
    steps: Sequence[Step],
    truths: Sequence[Truth] = (),
    *,
    seed: int,
    policy: str,
    track_tiles: int,
) -> Episode:
    """The episode of a drive that is over; where the environment's did not end, it is truncated.

    Args:
        observations: T + 1 pictures, (3, S, S).
        actions, steps: T decisions, and what came of each.
        truths: one for each step, or none at all.
        seed, policy, track_tiles: see `Decisions`.
    """
    terminations = np.array([step.terminated for step in steps])
    truncations = np.zeros_like(terminations)
    truncations[-1] = not terminations[-1]
    infos = {name: np.array([getattr(step, name) for step in steps], dtype) for name, dtype in INFO_TYPES.items()}
    if truths:
        infos |= {
            name: np.array([getattr(truth, name) for truth in truths], dtype) for name, dtype in TRUTH_TYPES.items()
        }
    return Episode(
        observations=np.stack(observations),
        actions=_as_array(actions),
        rewards=np.array([step.reward for step in steps], np.float32),
        terminations=terminations,
        truncations=truncations,
        infos=infos,
        seed=seed,
        policy=policy,
        track_tiles=track_tiles,
    )


def _as_array(actions: Sequence[Action]) -> NDArray[np.float32] | NDArray[np.int64]:
    """(T, A) float32, or discrete ones (T,) int64."""
    return np.array(actions, np.int64) if isinstance(actions[0], int) else np.array(actions, np.float32)
