"""The five stages, and all of them in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import console, distributed
from ..artifacts import Run
from ..errors import UsageError
from .options import (
    NAME,
    ActingPolicy,
    AsJson,
    DataName,
    Decisions,
    Env,
    EnvKwargs,
    Fresh,
    Merge,
    Minutes,
    Planner,
    RunDataName,
    RunDataNames,
    RunName,
    ShardText,
    Shared,
    Stochastic,
    TensorBoard,
    TrackList,
    Tracks,
    Updates,
    Video,
    WandB,
    Workers,
    Yes,
    allow_replacing,
    command,
    data_path,
    data_paths,
    driving_run,
    log_to,
    own_workers,
    recorded_environment,
    recorded_view,
    refuse_two_lengths,
)

if TYPE_CHECKING:
    from ..scores import Report


@command(
    "dreamer collect",
    "dreamer collect --env ALE/Freeway-v5 --data freeway",
    "dreamer collect --data more --decisions 300000 --policy smooth --seed 1",
    "dreamer collect --data more --decisions 300000 --shard 2/8",
    "dreamer collect --data round2 --decisions 50000 --policy artifacts/mine",
    shares=True,
)
def collect(
    shared: Shared,
    data: DataName = NAME,
    env: Env = None,
    env_kwargs: EnvKwargs = None,
    policy: ActingPolicy = None,
    decisions: Decisions = None,
    workers: Workers = None,
    shard: ShardText = None,
    merge: Merge = None,
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Record random actions, or those of a policy; asking for more extends what is there."""
    driver = driving_run(policy)
    there = recorded_view(driver) if driver else {} if fresh else recorded_environment(data_path(data))
    process = None if driver else policy
    given = {"view.env": env, "view.env_kwargs": env_kwargs, "collect.policy": process, "collect.decisions": decisions}
    settings = shared.settings("collect", given, environment=there)
    from ..episodes.shards import Shard

    if distributed.size() > 1 and not shard:
        shard = f"{distributed.rank() + 1}/{distributed.size()}"
    part = Shard.parse(shard) if shard else None
    if part and (merge or shared.dry_run):
        raise UsageError("A part of a data set is neither merged nor foreseen; leave --merge, --dry-run or --shard out")
    path = data_path(part.name(data) if part else data)
    allow_replacing(shared, fresh, yes, path)
    if shared.dry_run:
        from ..stages import forecast

        forecast.show(forecast.collect(settings, data=path, workers=workers, fresh=fresh, driver=driver))
        return
    from ..stages.collect import collect

    workers = own_workers(workers)
    collect(
        settings,
        name=data,
        root=path.parent,
        workers=workers,
        fresh=fresh,
        shard=part,
        merge=merge or 0,
        driver=driver,
    )


@command(
    "dreamer fit-world --run mine",
    "dreamer fit-world --minutes 60 --set model.deter=512 --set world.batch=32",
    "dreamer fit-world --run mine --tensorboard",
    "dreamer fit-world --run again --data mine --data round2",
    shares=True,
)
def fit_world(
    shared: Shared,
    run: RunName = NAME,
    data: RunDataNames = None,
    updates: Updates = None,
    minutes: Minutes = None,
    fresh: Fresh = False,
    yes: Yes = False,
    tensorboard: TensorBoard = False,
    wandb: WandB = False,
) -> None:
    """Fit the world model to the data; the same command goes on after an interruption."""
    refuse_two_lengths(updates, minutes)
    folder = Run.named(run)
    paths, recorded = data_paths(data, folder, fresh=fresh), folder.recorded_settings(folder.world, fresh=fresh)
    settings = shared.settings("fit-world", {"world.updates": updates}, recorded, recorded_environment(paths[0]))
    log_to(tensorboard=tensorboard, wandb=wandb)
    allow_replacing(shared, fresh, yes, folder.world.path)
    device = shared.torch_device()
    if shared.dry_run:
        from ..stages import forecast

        forecast.show(forecast.fit_world(settings, run=folder, data=paths, device=device, minutes=minutes, fresh=fresh))
        return
    from ..stages.fit_world import fit_world

    fit_world(settings, run=folder, data=paths, device=device, minutes=minutes, fresh=fresh)


@command("dreamer show-encodings --run mine")
def show_encodings(shared: Shared, run: RunName = NAME, data: RunDataNames = None) -> None:
    """Draw what the world model sees and what it dreams beside what was recorded."""
    folder = Run.named(run)
    settings = shared.settings("show-encodings", recorded=folder.recorded_settings(folder.world))
    paths = data_paths(data, folder)
    device = shared.torch_device()
    if shared.dry_run:
        from ..stages import forecast

        forecast.show(forecast.show_encodings(settings))
        return
    from ..stages.show_encodings import show_encodings

    show_encodings(settings, run=folder, data=paths, device=device)


@command("dreamer fit-policy --run mine", "dreamer fit-policy --minutes 10 --set policy.horizon=20", shares=True)
def fit_policy(
    shared: Shared,
    run: RunName = NAME,
    data: RunDataNames = None,
    updates: Updates = None,
    minutes: Minutes = None,
    fresh: Fresh = False,
    yes: Yes = False,
    tensorboard: TensorBoard = False,
    wandb: WandB = False,
) -> None:
    """Fit the actor and the critic in imagination alone; the same command goes on after an interruption."""
    refuse_two_lengths(updates, minutes)
    folder = Run.named(run)
    recorded = folder.recorded_settings(folder.policy, folder.world, fresh=fresh)
    settings = shared.settings("fit-policy", {"policy.updates": updates}, recorded)
    paths = data_paths(data, folder)
    log_to(tensorboard=tensorboard, wandb=wandb)
    allow_replacing(shared, fresh, yes, folder.policy.path)
    device = shared.torch_device()
    if shared.dry_run:
        from ..stages import forecast

        forecast.show(
            forecast.fit_policy(settings, run=folder, data=paths, device=device, minutes=minutes, fresh=fresh)
        )
        return
    from ..stages.fit_policy import fit_policy

    fit_policy(settings, run=folder, data=paths, device=device, minutes=minutes, fresh=fresh)


@command(
    "dreamer evaluate --run mine --video",
    "dreamer evaluate --list selection --tracks 20 --json",
    "dreamer evaluate --run mine --tracks 20 --planner",
    shares=True,
)
def evaluate(
    shared: Shared,
    run: RunName = NAME,
    tracks: Tracks = None,
    track_list: TrackList = None,
    video: Video = False,
    stochastic: Stochastic = False,
    planner: Planner = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Drive the real tracks: scores beside the baselines, and a video."""
    if as_json and shared.dry_run:
        raise UsageError("What --dry-run foresees is not JSON; leave --json or --dry-run out")
    if as_json:
        console.set_quiet(True)
    folder = Run.named(run)
    recorded = folder.recorded_settings(folder.policy, folder.world)
    given = {"evaluate.tracks": tracks, "evaluate.list": track_list, "evaluate.planner": planner or None}
    settings = shared.settings("evaluate", given, recorded)
    device = shared.torch_device()
    if shared.dry_run:
        from ..stages import forecast

        forecast.show(forecast.evaluate(settings, run=folder, video=video, workers=workers, device=device))
        return
    from ..stages.evaluate import evaluate

    _warn_of_stale(folder)
    workers = own_workers(workers)
    report = evaluate(settings, run=folder, video=video, stochastic=stochastic, workers=workers, device=device)
    _write_report(folder)
    if as_json and distributed.is_first():
        console.say_json(report.as_json())


def _warn_of_stale(run: Run) -> None:
    """Say that a run is driven as it was fitted, where what it was fitted to is another by now."""
    from ..lineage import data_sets, trace

    for name, link in trace(run, data_sets()).links.items():
        if name in ("world", "policy") and link.state == "stale":
            console.warn(f"The {name} of {run.root} {link.reason}; what is driven is what was fitted then")


@command("dreamer run --preset demo --video", "dreamer run --data mine --run mine --seed 1 --minutes 20")
def run(
    shared: Shared,
    run: RunName = NAME,
    data: RunDataName = None,
    env: Env = None,
    env_kwargs: EnvKwargs = None,
    minutes: Minutes = None,
    video: Video = False,
    workers: Workers = None,
    fresh: Fresh = False,
    yes: Yes = False,
    tensorboard: TensorBoard = False,
    wandb: WandB = False,
) -> None:
    """All five stages in order, from random driving to the score."""
    folder = Run.named(run)
    recorded = folder.recorded_settings(folder.policy, folder.world, fresh=fresh)
    path, *others = data_paths([data] if data else None, folder, fresh=fresh)
    if others:
        raise UsageError(
            f"{folder.root} was fitted to several data sets, and `dreamer run` collects one; run its stages one by one"
        )
    there = {} if fresh else recorded_environment(path)
    settings = shared.settings("run", {"view.env": env, "view.env_kwargs": env_kwargs}, recorded, there)
    log_to(tensorboard=tensorboard, wandb=wandb)
    allow_replacing(shared, fresh, yes, path, folder.root)
    device = shared.torch_device()
    if shared.dry_run:
        from ..stages import forecast

        forecasts = forecast.whole_run(
            settings, run=folder, data=path, device=device, minutes=minutes, video=video, workers=workers, fresh=fresh
        )
        for one in forecasts:
            forecast.show(one)
        forecast.show_total(forecasts)
        return
    from ..stages.collect import collect
    from ..stages.evaluate import evaluate
    from ..stages.fit_policy import fit_policy
    from ..stages.fit_world import fit_world
    from ..stages.show_encodings import show_encodings

    collect(settings, name=path.name, root=path.parent, workers=workers, fresh=fresh)
    fit_world(settings, run=folder, data=path, device=device, minutes=minutes, fresh=fresh)
    show_encodings(settings, run=folder, data=path, device=device)
    fit_policy(settings, run=folder, data=path, device=device, minutes=minutes, fresh=fresh)
    _print_results(folder, evaluate(settings, run=folder, video=video, workers=workers, device=device))


def _print_results(run: Run, report: Report) -> None:
    """What came of a run, and where it is."""
    from ..driving import POLICY

    places = f"{len(report.question['tracks'])} {report.question['list']} {report.place}s"
    score = report.summaries[POLICY]
    console.say(f"Score: {score.mean:.0f} (95 % interval {score.low:.0f} to {score.high:.0f}), mean over {places}")
    console.say(f"Figure: {run.encodings.path / 'encodings.png'}")
    for film in sorted(run.evaluation.path.glob("drive.*")):
        console.say(f"Video: {film}")
    console.say(f"Run folder: {run.root}")
    _write_report(run)


def _write_report(run: Run) -> None:
    """The page about a run, of which the first process alone speaks."""
    if distributed.is_first():
        from ..viewing.report import write_report

        console.say(f"Report: {write_report(run)}")
