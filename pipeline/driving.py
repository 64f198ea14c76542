"""Whole episodes in the real environment: by the agent and by drivers that need no learning, in worker processes.

A drive depends on its driver, its track and the seed alone: each begins with a simulator as good as new and with
random numbers of its own, and computes on one thread. So it comes out the same in every process and in any company.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from .agent import PARTICLES, Agent, load_agent
from .artifacts import Run
from .config import CAR_RACING, PlannerSettings, Settings
from .envs import adapter_of, kept_view
from .envs.actions import Action, Actions
from .envs.adapter import Adapter
from .envs.random_policies import RandomPolicy
from .envs.tracks import episode_seed
from .envs.view import AgentView, Step
from .episodes.episode import Episode
from .episodes.metadata import DRIVEN, DrivingPolicy
from .episodes.recording import record
from .errors import DreamerError
from .learning.imagination import Dream, imagine
from .models.dynamics import Latent
from .planning import load_planner
from .processes import in_order
from .randomness import Stream, numpy_stream, seed_torch, stream_seed
from .scores import EpisodeScore, Report

POLICY, RANDOM = "policy", "random"
"""The drivers that there always are: the run's policy, and the random policy of its data."""

PLANNER = "planner"
"""The driver that looks ahead, where one is asked for."""

DREAM_SAMPLES = 16
"""Imagined futures of each start state, to be averaged."""

HORIZONS = (15, 50, 250)
"""Decisions over which dreamt and real rewards are compared; 250 are a whole drive of CarRacing."""

Driver = Callable[[NDArray[np.uint8]], Action]
"""Observation (3, S, S) to action, within one drive."""


@dataclass(frozen=True)
class Garage:
    """What is needed to put any driver on any track.

    Attributes:
        run: folder of the run whose policy drives.
        world, policy: content hashes of its weights; with others, it is another garage.
        random_policy: name of the random policy.
        seed: of everything random in a drive, together with the track.
        stochastic: the policy draws its actions instead of taking their mean.
        device: where the policy computes.
        discount: that the world model's continue head holds; 1 where it holds none.
        deterministic: by algorithms alone that give bitwise the same again.
        planner: how the planner searches; None where there is none.
        particles: states of the policy side by side, see `Agent`.
    """

    run: Path
    world: str
    policy: str
    random_policy: str
    seed: int = 0
    stochastic: bool = False
    device: str = "cpu"
    discount: float = 1.0
    deterministic: bool = False
    planner: PlannerSettings | None = None
    particles: int = PARTICLES


def open_garage(run: Run, *, seed: int = 0, stochastic: bool = False, device: torch.device | str = "cpu") -> Garage:
    """The garage of a run, with the random policy of the data that its world model was fitted to.

    Raises:
        StageError: the run has no world model or policy, or they do not belong together.
    """
    weights = run.world.weights.name
    world = run.world.require({}).outputs[weights]
    policy = run.policy.require({"world": world}).outputs[weights]
    settings = run.world.read_settings()
    discount = settings.world.discount if settings.model.goes_on == "soft" else 1.0
    return Garage(run.root, world, policy, settings.collect.policy, seed, stochastic, str(device), discount)


def adapter_to(garage: Garage) -> Adapter:
    """Who knows the environment that the policy was made for."""
    return adapter_of(agent_of(garage).world.interface.view.env)


def drivers(garage: Garage) -> tuple[str, ...]:
    """The policy, and what it is compared with."""
    baselines = adapter_to(garage).baselines(discrete=agent_of(garage).world.interface.discrete)
    return (POLICY, *([PLANNER] if garage.planner else []), RANDOM, *baselines)


def read_report(tree: Mapping[str, Any]) -> Report:
    """An evaluation from what `Report.as_json` gave. Raises ValueError, TypeError or KeyError where it is none.

    Its environment need not be here.
    """
    adapter = adapter_of(str(tree["question"].get("env", CAR_RACING)))
    report = Report.from_json(tree, adapter.score_type)
    known = {POLICY, PLANNER, RANDOM, *adapter.baselines(discrete=False)}
    seeds = {tuple(one.track for one in many) for many in report.scores.values()}
    if not {POLICY} <= report.scores.keys() <= known or len(seeds) != 1 or seeds == {()}:
        raise ValueError("other drivers, or not all by the same seeds")
    if not (report.question.keys() >= {"list", "actions"} and isinstance(report.question.get("tracks"), list)):
        raise ValueError("a question without list, tracks or actions")
    return report


class Job(NamedTuple):
    """One episode to be done: who, and by which seed (of CarRacing: on which track)."""

    driver: str
    track: int


@dataclass(frozen=True)
class Drive:
    """One drive that is done.

    Attributes:
        score: what it came to.
        rewards: of each decision.
        dream_start: decision at which the dream was asked; None where it was not, or where the drive was too short.
        dreamt: rewards that the dream expected from there on, of `HORIZONS[-1]` decisions; may be empty.
        thinking: processor time that the driver took for a decision, seconds; no part of what makes drives the same.
    """

    score: EpisodeScore
    rewards: tuple[float, ...]
    dream_start: int | None = None
    dreamt: tuple[float, ...] = ()
    thinking: float = field(default=0.0, compare=False)


class Decision(NamedTuple):
    """One decision as it happened: the picture that the driver saw, what it did, and what came of it."""

    seen: NDArray[np.uint8]
    action: Action
    step: Step


def decisions(view: AgentView, driver: Driver, track: int) -> Iterator[Decision]:
    """Drive one track to the end."""
    seen = view.reset(track)
    while True:
        action = driver(seen)
        step = view.step(action)
        yield Decision(seen, action, step)
        if step.terminated or step.truncated:
            return
        seen = step.observation


@cache
def agent_of(garage: Garage) -> Agent:
    """The agent, loaded once a process. Raises StageError, see `load_agent`."""
    return load_agent(garage.run, device=garage.device, stochastic=garage.stochastic, particles=garage.particles)


@cache
def planning_agent_of(garage: Garage) -> Agent:
    """The same agent with its planner, loaded once a process.

    Raises:
        StageError: the run has no critic, see `load_planner`.
        UsageError: its actions are discrete.
    """
    agent = agent_of(garage)
    assert garage.planner is not None, "no planner was asked for"
    planner = load_planner(Run(garage.run).policy, agent.world, agent.actor, garage.planner)
    return Agent(agent.world, agent.actor, planner=planner)


def make_driver(garage: Garage, job: Job) -> Driver:
    """Put a driver at the start of a track, with the random numbers that belong to the two."""
    agent, adapter = agent_of(garage), adapter_to(garage)
    if job.driver == POLICY:
        agent.reset(stream_seed(garage.seed, Stream.DRIVE, job.track))
        return agent.act
    if job.driver == PLANNER:
        planning = planning_agent_of(garage)
        planning.reset(stream_seed(garage.seed, Stream.DRIVE, job.track))
        return planning.act
    interface = agent.world.interface
    if job.driver == RANDOM:
        return _random_policy(garage, job.track)
    always = adapter.baselines(discrete=interface.discrete)[job.driver]
    return lambda _: always


def _random_policy(garage: Garage, track: int) -> RandomPolicy:
    """Who acts at random there."""
    interface = agent_of(garage).world.interface
    rng = numpy_stream(garage.seed, Stream.BASELINE, track)
    actions = Actions(interface.low, interface.high, interface.discrete)
    return adapter_to(garage).random_policy(garage.random_policy, rng, actions)


def _looks(garage: Garage, job: Job) -> bool:
    """Whether that driver looks at pictures."""
    return job.driver in (POLICY, PLANNER) or (job.driver == RANDOM and _random_policy(garage, job.track).looks)


def drive(garage: Garage, job: Job) -> Drive:
    """Do one drive; where the policy drives, also ask the dream what it expects, once the agent has seen enough.

    Where a driver looks at nothing, nothing is drawn for it.
    """
    settings = agent_of(garage).world.interface.view
    dream_start = adapter_to(garage).dream_start(settings.action_repeat)
    rewards: list[float] = []
    start: Latent | None = None
    view = kept_view(settings, pictures=_looks(garage, job))
    timed = _Timed(make_driver(garage, job))
    for index, decision in enumerate(decisions(view, timed, job.track)):
        if job.driver == POLICY and index == dream_start:
            start = agent_of(garage).latent
        rewards.append(decision.step.reward)
        if not math.isfinite(rewards[-1]):
            where = f"{adapter_to(garage).score_type.PLACE} {job.track}"
            raise DreamerError(f"The reward of decision {index} of '{job.driver}' on {where} is {rewards[-1]}")
    score = view.score(job.track, rewards, decision.step)
    thinking = timed.seconds / len(rewards)
    if start is None:
        return Drive(score, tuple(rewards), thinking=thinking)
    seed_torch(garage.seed, Stream.DREAM, job.track)
    dreamt = tuple(dreamt_rewards(agent_of(garage), start, garage.discount))
    return Drive(score, tuple(rewards), dream_start, dreamt, thinking)


class _Timed:
    """A driver, and the processor time that it has taken so far, `seconds`."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.seconds = driver, 0.0

    def __call__(self, seen: NDArray[np.uint8]) -> Action:
        started = time.process_time()
        action = self.driver(seen)
        self.seconds += time.process_time() - started
        return action


@torch.no_grad()
def dreamt_rewards(agent: Agent, start: Latent, discount: float = 1.0) -> list[float]:
    """Rewards that the world model expects of the next `HORIZONS[-1]` decisions of the policy.

    The reward of a decision counts as far as the imagined drive has not ended before it: r_t prod_{k<t} c_k, averaged
    over `DREAM_SAMPLES` futures.

    Args:
        agent: world model and policy; it imagines by the mean action or stochastically, as it drives, but in one state
            a future.
        start: one state, (1, ...).
        discount: that the continue head holds; what is promised is not discounted.
    """
    model = agent.world.model
    starts = start[[0] * DREAM_SAMPLES]
    trajectory = imagine(Dream(model), agent.actor, starts, HORIZONS[-1], sample=agent.stochastic)
    feature = trajectory.latents[1:].feature  # (H, N, F)
    goes_on = (model.goes_on(feature).mean / discount).clamp_max(1)  # (H, N)
    alive = torch.cat([torch.ones_like(goes_on[:1]), goes_on[:-1]]).cumprod(0)
    expected: list[float] = (alive * model.reward(feature).mean).mean(1).tolist()
    return expected


def drive_all(
    garage: Garage, jobs: Sequence[Job], workers: int, stopped: Callable[[], bool]
) -> Generator[Drive, None, None]:
    """Do all drives in worker processes, in the order of the jobs; see `processes.in_order`."""
    prepare = partial(settle_in, garage.deterministic)
    return in_order(partial(drive, garage), jobs, workers, prepare=prepare, stopped=stopped)


def driving_policy(garage: Garage) -> DrivingPolicy:
    """The policy as a data set names it."""
    actions: Literal["stochastic", "deterministic"] = "stochastic" if garage.stochastic else "deterministic"
    return DrivingPolicy(run=garage.run.name, world=garage.world, policy=garage.policy, actions=actions)


def record_drive(garage: Garage, settings: Settings, number: int) -> Episode:
    """Record an episode in which the policy drives until the environment ends it.

    Args:
        garage: of the policy.
        settings: `seed`, `view` and `collect.truth` count.
        number: of the episode in the data set, from 0.

    Returns:
        The episode; the same for the same arguments, in whatever process. Another policy meets other tracks.
    """
    track = episode_seed(settings.seed, number, int(garage.policy[:8], 16))
    agent = agent_of(garage)
    agent.reset(stream_seed(settings.seed, Stream.DRIVE, track))
    return record(kept_view(settings.view), agent.act, track, policy=DRIVEN, truth=settings.collect.truth)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as the workers do: sums in another order would be other sums, and soon another drive."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settle_in(deterministic: bool = False) -> None:
    """Compute on one thread, in a worker for good."""
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
