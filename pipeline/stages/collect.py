"""`dreamer collect`: record random actions, or a policy's, with several processes into one data set.

Episode i depends on the settings, the policy and i alone, and the data set ends with the first episode that brings it
to the decisions asked for. So it is the same with any number of workers, and however often collecting was interrupted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .. import console
from ..artifacts import Run, check_name
from ..config import Settings, validate
from ..envs import adapter_of
from ..envs.actions import Actions
from ..episodes.episode import Episode
from ..episodes.metadata import DrivingPolicy, Origin
from ..episodes.recording import record_episode, use_one_thread
from ..episodes.shards import Shard, open_shards, take_over
from ..episodes.store import EpisodeStore, EpisodeWriter
from ..errors import InterruptedRunError, StageError, UsageError
from ..locks import reading
from ..processes import Interruption, cores, in_order
from ..viewing import coverage


def collect(
    settings: Settings,
    *,
    name: str,
    root: Path = Path("data"),
    workers: int | None = None,
    fresh: bool = False,
    shard: Shard | None = None,
    merge: int = 0,
    driver: Run | None = None,
) -> Path:
    """Record actions until the data set has `settings.collect.decisions`; nothing where it has them.

    Ends with a table of what the data cover, and warnings where they are poor.

    Args:
        settings: `seed`, `view` and `collect` count.
        name: of the data set.
        root: the folder that holds all data sets.
        workers: processes that drive; by default one a core.
        fresh: replace the data set of that name. Ask before.
        shard: record this part of the data set alone, into a data set of its own.
        merge: take over what so many shards have recorded, and record only what they lack.
        driver: the run whose policy drives, always on the CPU; None for random actions.

    Returns:
        The data set's folder, with `coverage.png` in it.

    Raises:
        UsageError: the name cannot be a folder's, or the policy knows another view.
        StageError: the data set or a shard was collected with other settings, is missing or damaged, or another process
            writes it; or the run's world model or policy is missing, unfinished or damaged.
        InterruptedRunError: after Ctrl-C or SIGTERM; all finished episodes are kept.
        DreamerError: a worker process died.
    """
    path = root / check_name(shard.name(name) if shard else name, "data set")
    wanted = shard.decisions(settings.collect.decisions) if shard else settings.collect.decisions
    with _recorder(settings, driver) as recorder:
        origin = Origin.of(settings, str(shard) if shard else None, recorder.policy)
        settings = validate(settings.model_dump() | {"view": origin.view_settings})  # which knows the kind of actions
        recorder.check(settings, origin)
        console.say(f"{origin.environment}: {origin.outlook}; {origin.actor}")
        with open_shards(path, merge, origin) as shards, _writer(origin, path, fresh) as writer:
            take_over(writer, shards, wanted)
            if writer.steps >= wanted:
                console.say(f"{path} already has {writer.steps} decisions in {len(writer)} episodes; nothing to record")
            else:
                numbers = (shard or Shard(1, 1)).episodes(len(writer))
                _record(recorder, settings, writer, workers or cores(), wanted, numbers)
    with EpisodeStore.open(path) as store:
        coverage.report(store)
    return path


@dataclass(frozen=True)
class _Recorder:
    """Who acts in the episodes.

    Attributes:
        record: gives the episode of a number; goes to the workers.
        prepare: called once in each worker.
        check: raises UsageError where nobody there can act in what these settings and this origin ask for.
        policy: that drives, as the data set names it; None for a random process.
    """

    record: Callable[[Settings, int], Episode]
    prepare: Callable[[], object]
    check: Callable[[Settings, Origin], None]
    policy: DrivingPolicy | None = None


@contextmanager
def _recorder(settings: Settings, driver: Run | None) -> Iterator[_Recorder]:
    """A random process, or the policy of a run, which nobody changes meanwhile."""
    if driver is None:
        yield _Recorder(record_episode, use_one_thread, _check_random_policy)
        return
    from ..driving import agent_of, driving_policy, open_garage, record_drive, settle_in  # which import torch

    stages = ((stage.lock, stage.path) for stage in (driver.world, driver.policy))
    with reading(f"dreamer collect --policy {driver.root}", *stages):
        garage = open_garage(driver, stochastic=settings.collect.actions == "stochastic")
        view = agent_of(garage).world.interface.view

        def check(settings: Settings, origin: Origin) -> None:
            if settings.view != view:
                raise UsageError(f"The policy of {driver.root} knows another view than is asked for; leave view.* out")

        yield _Recorder(partial(record_drive, garage), settle_in, check, driving_policy(garage))


def _check_random_policy(settings: Settings, origin: Origin) -> None:
    """Raise UsageError where nobody of that name acts at random in such an environment."""
    actions = Actions(origin.view.action_low, origin.view.action_high, not origin.view.continuous)
    adapter_of(origin.environment).random_policy(settings.collect.policy, np.random.default_rng(0), actions)


def _writer(origin: Origin, path: Path, fresh: bool) -> EpisodeWriter:
    """Open the data set to add episodes, or begin one."""
    if fresh or not EpisodeStore.exists(path):
        writer = EpisodeStore.create(path, origin, replace=fresh)
        (path / coverage.FIGURE).unlink(missing_ok=True)
        return writer
    writer = EpisodeStore.extend(path)
    try:
        writer.origin.require(origin, path)
    except StageError:
        writer.release()
        raise
    return writer


def _record(
    recorder: _Recorder, settings: Settings, writer: EpisodeWriter, workers: int, wanted: int, numbers: Iterator[int]
) -> None:
    """Record the episodes of these numbers, in their order, until there are enough decisions."""
    first = len(writer)
    totals: defaultdict[str, float] = defaultdict(float)
    with Interruption() as stop, console.Meter("Collecting", wanted, "decisions", writer.steps) as meter:
        function = partial(recorder.record, settings)
        episodes = in_order(function, numbers, workers, prepare=recorder.prepare, stopped=lambda: stop.asked)
        with closing(episodes):
            for episode in episodes:
                writer.append(episode)
                totals["mean return"] += episode.score
                if "tiles" in episode.infos:
                    totals["mean tiles"] += int(episode.infos["tiles"][-1])
                means = {name: total / (len(writer) - first) for name, total in totals.items()}
                meter.advance_to(min(writer.steps, wanted), {"episodes": len(writer), **means})
                if writer.steps >= wanted:
                    return
        raise InterruptedRunError(
            f"Stopped; {writer.path} keeps {writer.steps} of {wanted} decisions, and the same command goes on from "
            "there"
        )
