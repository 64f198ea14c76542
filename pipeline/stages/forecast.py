"""What each command would do, and about what it would take: `--dry-run`. Nothing is written, and no lock is taken.

Where the data set or the run is there, its facts count, else what the settings say: so all five stages can be foreseen
where none has been run. Fitting is timed on a learner that is thrown away, with black pictures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import console
from ..artifacts import Run, StageFolder
from ..config import STAGE_SECTIONS, Settings
from ..envs import adapter_of, mirror_of
from ..envs.adapter import Pace
from ..episodes.joined import Data, have_episodes, open_data
from ..episodes.metadata import Origin
from ..episodes.store import EpisodeStore
from ..episodes.windows import BlankWindows
from ..learning.encoding import Rows
from ..learning.fitting import Learner, planned_updates
from ..learning.policy_learner import PolicyLearner
from ..learning.precision import autocast, resolve_precision
from ..learning.world_learner import CONTEXT, HELD_OUT_WINDOWS, HORIZONS, WorldLearner
from ..models.actor_critic import Actor
from ..models.checkpoints import Interface, LoadedWorld, build_world
from ..models.world_model import WorldModel
from ..processes import cores

# About, on two cores of an AMD EPYC (Zen 4); collecting with `mixture`, 64 x 64.
_DECISIONS_AN_EPISODE = 60
_BYTES_A_PIXEL = 0.4
_DRAWING = 20.0  # seconds
_STARTING = 6.0  # seconds until the workers drive
_FILMING = 12.0  # seconds for a drive

# Resident memory at its largest, GiB, at the default sizes.
_RECORDER_GIB = 0.15  # a process that collects, and the one that writes
_TORCH_GIB = 0.4
_UPDATE_GIB = 0.7 / 2**10  # for a picture of 64 x 64 in a batch
_LOOK_GIB = 0.5 / 2**10  # for one of the held-out pictures, without gradients
_DREAM_GIB = 32 / 2**20  # for an imagined state
_ENCODING_GIB = 0.4
_DRAWING_GIB = 1.0
_DRIVER_GIB = 0.5  # a process that drives, and the one that counts


@dataclass(frozen=True)
class Forecast:
    """What a command would do.

    Attributes:
        command: as it is typed, without its options.
        settings: those that it depends on, by their dotted names.
        sizes: how much there is to do, part of a sentence.
        seconds: that it would take, about.
        memory_gib: that it would take, of all its processes at once, about.
    """

    command: str
    settings: dict[str, Any]
    sizes: str
    seconds: float
    memory_gib: float


def show(forecast: Forecast) -> None:
    """Print the settings, and in one line what it would take."""
    rows = [[name, str(value)] for name, value in forecast.settings.items()]
    console.table(f"{forecast.command} would use", ["setting", "value"], rows)
    duration, memory = _cost(forecast.seconds, forecast.memory_gib)
    console.say(f"{forecast.sizes}; about {duration} and {memory} of memory; nothing written")


def show_total(forecasts: Sequence[Forecast]) -> None:
    """Print what each of several commands would take, and all of them one after the other."""
    rows = [[one.command, *_cost(one.seconds, one.memory_gib)] for one in forecasts]
    total = _cost(sum(one.seconds for one in forecasts), max(one.memory_gib for one in forecasts))
    console.table("dreamer run would take about", ["command", "time", "memory"], [*rows, ["all", *total]])


def _cost(seconds: float, memory_gib: float) -> tuple[str, str]:
    return console.duration(seconds), f"{memory_gib:.1f} GiB"


def whole_run(
    settings: Settings,
    *,
    run: Run,
    data: Path,
    device: torch.device,
    minutes: float | None = None,
    video: bool = False,
    workers: int | None = None,
    fresh: bool = False,
) -> list[Forecast]:
    """All five stages in order, each with what the ones before would leave.

    Args:
        settings: all count.
        run: the run's folder.
        data: the data set's.
        device: for the networks.
        minutes: for each fit, instead of its number of updates.
        video: whether drives are filmed.
        workers: processes that collect and drive; by default one a core.
        fresh: whether data set and run are replaced.

    Raises:
        StageError: see `collect`.
    """
    collected = collect(settings, data=data, workers=workers, fresh=fresh)
    anew = fresh or collected.seconds > 0  # a model counts for nothing once its data have changed
    found, there = (None, None) if anew else (run, data)
    return [
        collected,
        fit_world(settings, run=found, data=there, device=device, minutes=minutes),
        show_encodings(settings),
        fit_policy(settings, run=found, data=there, device=device, minutes=minutes),
        evaluate(settings, run=found, video=video, workers=workers, device=device),
    ]


def collect(
    settings: Settings, *, data: Path, workers: int | None = None, fresh: bool = False, driver: Run | None = None
) -> Forecast:
    """Foresee `dreamer collect`.

    Args:
        settings: `seed`, `view` and `collect` count.
        data: the data set's folder; the decisions in it need not be recorded.
        workers: processes that drive; by default one a core.
        fresh: whether the data set is replaced.
        driver: the run whose policy drives; None for random actions.

    Raises:
        StageError: the data set was collected with other settings, or is damaged; or the run is not finished.
    """
    there = _recorded(settings, data, driver, fresh=fresh)
    decisions = max(0, settings.collect.decisions - there)
    workers = (workers or cores()) if decisions else 0
    sizes = f"{there} decisions there, nothing to record"
    if decisions:
        megabytes = decisions * _BYTES_A_PIXEL * settings.view.size**2 / 1e6
        beside = f" beside the {there} there" if there else ""
        pace = _pace(settings) if driver is None else _driven_pace(settings, driver)
        episodes = int(decisions // pace.episode)
        sizes = f"{decisions} decisions to record{beside}, about {episodes} episodes and {megabytes:.0f} MB"
    return Forecast(
        "dreamer collect",
        settings.section_values(STAGE_SECTIONS["collect"]),
        sizes,
        decisions / pace.decisions_a_second / workers if decisions else 0.0,
        (1 + workers) * (_RECORDER_GIB if driver is None else _DRIVER_GIB),
    )


def fit_world(
    settings: Settings,
    *,
    run: Run | None,
    data: Data | None,
    device: torch.device,
    minutes: float | None = None,
    fresh: bool = False,
) -> Forecast:
    """Foresee `dreamer fit-world`.

    Args:
        settings: `seed`, `model` and `world` count; `view` and `collect` where there is no data set.
        run: whose `world/` may have been begun; None for a new one.
        data: folder of the data set; None where it will be another one than is there.
        device: to fit on.
        minutes: given instead of `world.updates`.
        fresh: whether `world/` is replaced.

    Raises:
        StageError: the data set or the manifest is damaged.
        UsageError: the environment has no mirror.
    """
    settings = _with_data(settings, data)
    mirror_of(settings.view, wanted=settings.model.mirror)  # which the stage refuses where there is none
    settings = settings.with_value("world.precision", resolve_precision(settings.world.precision, device))
    model, world, size = _untrained(settings, device), settings.world, settings.view.size
    train, held_out = (_blank_windows(settings, rows) for rows in (world.length, CONTEXT + max(HORIZONS)))
    learner = WorldLearner(model, world, train, held_out, settings.seed)
    begun = None if fresh or run is None else run.world
    work, seconds = _fitting(learner, settings, "world", begun, minutes)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    look = HELD_OUT_WINDOWS * held_out.length * _LOOK_GIB
    working = max(world.batch * world.length * _UPDATE_GIB, look) * (size / 64) ** 2
    return Forecast(
        "dreamer fit-world",
        settings.section_values(STAGE_SECTIONS["fit-world"]),
        f"{settings.collect.decisions} decisions to learn from, {parameters:.2f} M parameters on {device}, {work}",
        seconds,
        _TORCH_GIB + _frames_gib(settings, world.validation_share) + working,
    )


def show_encodings(settings: Settings) -> Forecast:
    """Foresee `dreamer show-encodings`, which takes about as long whatever the settings."""
    values = settings.section_values(STAGE_SECTIONS["show-encodings"])
    sizes = "1 figure and 1 film of held-out episodes"
    return Forecast("dreamer show-encodings", values, sizes, _DRAWING, _DRAWING_GIB)


def fit_policy(
    settings: Settings,
    *,
    run: Run | None,
    data: Data | None,
    device: torch.device,
    minutes: float | None = None,
    fresh: bool = False,
) -> Forecast:
    """Foresee `dreamer fit-policy`, the encoding of the data included.

    Args:
        settings: `seed` and `policy` count; the others where there is no world model or no data set.
        run: whose `world/` gives the sizes, and whose `policy/` may have been begun; None for a new one.
        data: folder of the data set; None where it will be another one than is there.
        device: to fit on.
        minutes: given instead of `policy.updates`.
        fresh: whether `policy/` is replaced.

    Raises:
        StageError: the data set, the world model's settings or the manifest is damaged.
    """
    settings = _with_data(_with_world(settings, run), data)
    settings = settings.with_value("policy.precision", resolve_precision(settings.policy.precision, device))
    policy, decisions = settings.policy, settings.collect.decisions
    model = _untrained(settings, device).requires_grad_(False)
    learner = _blank_policy_learner(model, settings)
    begun = None if fresh or run is None else run.policy
    work, seconds = _fitting(learner, settings, "policy", begun, minutes)
    bytes_of_z = 1 if settings.model.latent == "categorical" else 4
    state = 4 * model.dynamics.deter_width + bytes_of_z * model.dynamics.stoch_width
    states = min(decisions * state / 2**30, policy.states_gib)
    encoding = _frames_gib(settings) + states + _ENCODING_GIB
    return Forecast(
        "dreamer fit-policy",
        settings.section_values(STAGE_SECTIONS["fit-policy"]),
        f"{decisions} states to start from, {work} on {device}",
        seconds + (_encoding_seconds(model, settings) if seconds else 0.0),
        _TORCH_GIB + max(encoding, states + policy.starts * policy.horizon * _DREAM_GIB),
    )


def evaluate(
    settings: Settings,
    *,
    run: Run | None,
    video: bool = False,
    workers: int | None = None,
    device: torch.device | str = "cpu",
) -> Forecast:
    """Foresee `dreamer evaluate`: at most, for a drive may end early.

    Args:
        settings: `seed` and `evaluate` count; `view`, `model` and `policy` where there is no world model.
        run: whose `world/` gives the sizes; None for a new one.
        video: whether drives are filmed.
        workers: processes that drive; by default one a core.
        device: where the policy computes.

    Raises:
        StageError: the world model's settings are damaged.
    """
    settings = _with_world(settings, run)
    pace, interface = _pace(settings), _interface(settings)
    adapter = adapter_of(settings.view.env)
    baselines = adapter.baselines(discrete=interface.discrete)
    tracks, planning = settings.evaluate.tracks, settings.evaluate.planner
    drivers = 2 + planning + len(baselines)
    workers = min(workers or cores(), drivers * tracks)
    films = min(3, tracks) if video else 0
    decision = _acting_seconds(settings, device)
    # Each track: as many decisions imagined as acted, and the simulator for all drivers.
    searched = settings.planner.iterations * settings.planner.horizon * decision if planning else 0.0
    track = pace.drive * (2 * decision + searched + drivers * pace.simulated)
    filmed = f", {films} of them filmed" if films else ""
    return Forecast(
        "dreamer evaluate",
        settings.section_values(STAGE_SECTIONS["evaluate"]),
        f"{tracks} {adapter.score_type.PLACE}s{filmed}, each for {drivers} drivers in {workers} processes",
        _STARTING + tracks * track / workers + films * _FILMING,
        (1 + workers) * _DRIVER_GIB,
    )


def _recorded(settings: Settings, data: Path, driver: Run | None, *, fresh: bool) -> int:
    """Decisions in a data set that is to be extended. Raises StageError where other settings or drivers made it."""
    policy = None
    if driver is not None:
        from ..driving import driving_policy, open_garage  # which import gymnasium

        policy = driving_policy(open_garage(driver, stochastic=settings.collect.actions == "stochastic"))
    if fresh or not EpisodeStore.has_episodes(data):
        return 0
    with EpisodeStore.open(data) as store:
        store.origin.require(Origin.of(settings, driver=policy), data)
        return store.steps


def _with_data(settings: Settings, data: Data | None) -> Settings:
    """The settings with the view and the decisions of the data, where they are there."""
    if data is None or not have_episodes(data):
        return settings
    with open_data(data) as store:
        collected = settings.collect.model_copy(update={"decisions": store.steps})
        return settings.model_copy(update={"view": store.view_settings, "collect": collected})


def _with_world(settings: Settings, run: Run | None) -> Settings:
    """The settings with what the run's world model was fitted with, where it was begun."""
    fitted = run.recorded_settings(run.world) if run is not None else None
    if fitted is None:
        return settings
    return settings.model_copy(update={name: getattr(fitted, name) for name in ("view", "collect", "model", "world")})


def _pace(settings: Settings) -> Pace:
    """Where the adapter does not know it, measured by an episode that is thrown away."""
    known = adapter_of(settings.view.env).pace
    if known is not None:
        return known
    from ..episodes.recording import record_episode  # which makes the environment

    started = time.monotonic()
    length = len(record_episode(settings, 0))
    seconds = time.monotonic() - started
    return Pace(length / seconds, length, length, seconds / length)


def _driven_pace(settings: Settings, driver: Run) -> Pace:
    """That of a policy that decides at each step, over whole drives."""
    pace = _pace(settings)
    stochastic = settings.collect.actions == "stochastic"
    seconds = _acting_seconds(_with_world(settings, driver), "cpu", stochastic=stochastic) + pace.simulated
    return replace(pace, decisions_a_second=1 / seconds, episode=pace.drive)


def _interface(settings: Settings) -> Interface:
    described = adapter_of(settings.view.env).describe(settings.view)
    return Interface(described.view, described.actions.low, described.actions.high)


def _blank_windows(settings: Settings, length: int) -> BlankWindows:
    return BlankWindows(length, settings.view.size, len(_interface(settings).low))


def _untrained(settings: Settings, device: torch.device | str) -> WorldModel:
    """A world model of these sizes: it computes as long with any weights."""
    return build_world(settings.model, _interface(settings)).to(device)


def _blank_policy_learner(model: WorldModel, settings: Settings) -> PolicyLearner:
    """A learner that starts from as many states as it takes in an update, in which nothing has happened."""
    policy = settings.policy
    count = max(policy.starts, policy.replay_length)
    zeros = torch.zeros(count, device=model.device)
    states = model.dynamics.initial(count, device=model.device)
    return PolicyLearner(model, states, _beginner(model, settings), policy, Rows(zeros, zeros.bool(), zeros.bool()))


def _beginner(model: WorldModel, settings: Settings) -> Actor:
    """An untrained actor for the model."""
    interface = _interface(settings)
    neutral = torch.zeros(len(interface.low))
    actor = Actor(model.features, settings.model, settings.policy, neutral, neutral + 0.5, interface.discrete)
    return actor.to(model.device)


def _fitting(
    learner: Learner, settings: Settings, section: str, begun: StageFolder | None, minutes: float | None
) -> tuple[str, float]:
    """What there is to fit, in words, and about how many seconds that takes.

    Args:
        learner: fresh, of no use afterwards.
        settings: as asked for.
        section: of the settings, which has the updates: 'world' or 'policy'.
        begun: the folder that the stage may have begun to fill; None where that does not count.
        minutes: given instead of the number of updates.
    """
    manifest = begun.read_manifest() if begun is not None else None
    done = manifest.done if manifest is not None else 0
    if minutes is not None and not done:
        return f"{planned_updates(learner, minutes, settings.seed)} updates in {minutes:g} minutes", 60 * minutes
    if minutes is not None and begun is not None:
        settings = begun.read_settings()  # the updates were planned when it began
    updates: int = getattr(settings, section).updates
    if done >= updates:
        return f"already fitted with {done} updates", 0.0
    seconds = 3600 * (updates - done) / planned_updates(learner, 60.0, settings.seed)
    return f"{updates - done} updates to go after {done}" if done else f"{updates} updates", seconds


def _frames_gib(settings: Settings, held_out: float = 0.0) -> float:
    """Memory that the pictures take, the held-out share of them apart: what exceeds the budget stays on disk."""
    whole = settings.collect.decisions * 3 * settings.view.size**2 / 2**30
    parts = (whole * (1 - held_out), whole * held_out)
    return sum(part for part in parts if part <= settings.world.memory_gib)


@torch.no_grad()
def _encoding_seconds(model: WorldModel, settings: Settings) -> float:
    """About how long the whole data set takes to become states, by timing the model on a few black episodes."""
    windows = _blank_windows(settings, _DECISIONS_AN_EPISODE)  # about as long as any
    batch = windows.sample(np.random.default_rng(settings.seed), 16).to(model.device)
    with autocast(model.device, settings.policy.precision):
        for _ in range(2):  # the first one is slow
            started = time.monotonic()
            float(model.observe(batch.observation, batch.action, batch.is_first).deter.sum())  # wait for the device
    return (time.monotonic() - started) * settings.collect.decisions / batch.reward.numel()


def _acting_seconds(settings: Settings, device: torch.device | str, *, stochastic: bool = False) -> float:
    """About how long the agent takes for a decision, on the one thread that it has when it drives."""
    from ..agent import Agent  # which imports gymnasium
    from ..driving import one_thread

    model, size, timed = _untrained(settings, device).requires_grad_(False), settings.view.size, 20
    world, particles = LoadedWorld(model, settings.model, _interface(settings)), settings.evaluate.particles
    agent = Agent(world, _beginner(model, settings), stochastic, particles=particles)
    blank = np.zeros((3, size, size), dtype=np.uint8)
    with one_thread():
        agent.act(blank)
        started = time.monotonic()
        for _ in range(timed):
            agent.act(blank)
    return (time.monotonic() - started) / timed
