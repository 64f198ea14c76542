"""`dreamer fit-policy`: from a world model to an actor, in imagination alone. No environment is ever imported here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .. import console
from ..artifacts import Manifest, Run, StageFolder, file_hash
from ..config import STAGE_SECTIONS, Settings
from ..episodes.store import EpisodeStore
from ..episodes.windows import Windows
from ..learning.encoding import EncodedData, encode
from ..learning.fitting import Plan, fit, planned_updates
from ..learning.policy_learner import PolicyLearner
from ..learning.precision import resolve_precision
from ..models.actor_critic import Actor
from ..models.checkpoints import LoadedWorld, load_world, save_actor
from ..randomness import Stream, seed_torch
from ..viewing.curves import Panel, draw_curves

_SHOWN = ("return", "reward", "value", "entropy", "disagreement")
_PANELS = (
    Panel("Imagined return (lambda; of utility, penalised)", ("return",)),
    Panel("Imagined reward a decision", ("reward",)),
    Panel("Value", ("value",)),
    Panel("Actor's entropy, nats", ("entropy",)),
    Panel("Ensemble disagreement", ("disagreement",)),
    Panel("Scale of returns", ("scale",)),
)


def fit_policy(
    settings: Settings,
    *,
    run: Run,
    data: Path,
    device: torch.device,
    minutes: float | None = None,
    fresh: bool = False,
) -> Manifest:
    """Fit the actor and the critic of a run, or go on with them.

    Args:
        settings: `seed` and `policy` count.
        run: whose `world/` is read and whose `policy/` is written.
        data: folder of the data set that the world model was fitted to.
        device: to fit on.
        minutes: fit for about this long instead of `policy.updates`.
        fresh: start anew.

    Raises:
        StageError: the data set or the world model is missing, damaged or stale.
        UsageError: the run was begun with other settings.
        InterruptedRunError: after Ctrl-C; all saved.
    """
    with EpisodeStore.open(data) as store:
        world_manifest = run.world.require({"data": store.fingerprint})
        world = load_world(run.world.weights, device)
        folder = run.policy
        fitted = run.world.read_settings()
        settings = settings.model_copy(
            update={name: getattr(fitted, name) for name in ("view", "collect", "model", "world")}
        )
        inputs = {"data": store.fingerprint, "world": world_manifest.outputs[run.world.weights.name]}
        manifest, settings = folder.start(settings, STAGE_SECTIONS["fit-policy"], inputs, minutes=minutes, fresh=fresh)
        if manifest.complete and manifest.done >= settings.policy.updates:
            console.say(f"{folder.path} is already fitted, {manifest.done} updates; --fresh starts anew")
            return manifest
        settings = settings.with_value("policy.precision", resolve_precision(settings.policy.precision, device))
        encoded = encode_data(world, store, settings)
    if minutes is not None and not manifest.done:
        planned = planned_updates(_learner(settings, world, encoded), minutes, settings.seed)
        settings = settings.with_value("policy.updates", planned)
    folder.write_settings(settings)
    learner = _learner(settings, world, encoded)
    plan = Plan("Fitting the policy", settings.policy.updates, settings.policy.save_every, settings.seed, _SHOWN)
    manifest = fit(learner, plan, folder, manifest)
    save_actor(folder.weights, learner.acting, settings.policy, inputs["world"])
    return _finish(folder, manifest)


def encode_data(world: LoadedWorld, store: EpisodeStore, settings: Settings) -> EncodedData:
    """The states of all episodes; the same however often the run is resumed."""
    seed_torch(settings.seed, Stream.ENCODING)
    policy = settings.policy
    with_rows = policy.replay_scale > 0
    windows = Windows(store, range(len(store)), policy.replay_length if with_rows else 2, settings.world.memory_gib)
    return encode(world.model, windows, policy.precision, with_rows=with_rows)


def _learner(settings: Settings, world: LoadedWorld, encoded: EncodedData) -> PolicyLearner:
    """A learner with the weights that the seed gives."""
    seed_torch(settings.seed, Stream.POLICY_WEIGHTS)
    policy, discrete = settings.policy, world.interface.discrete
    if world.settings.goes_on == "soft":
        policy = policy.model_copy(update={"discount": settings.world.discount})  # the one that its head has learned
    actor = Actor(world.model.features, world.settings, policy, encoded.action_mean, encoded.action_std, discrete)
    return PolicyLearner(world.model, encoded.states, actor.to(world.model.device), policy, encoded.rows)


def _finish(folder: StageFolder, manifest: Manifest) -> Manifest:
    """Draw the curves, and write the manifest that calls them and the weights complete."""
    lines = console.read_lines(folder.metrics)
    draw_curves(lines, folder.path / "curves.png", "Actor and critic, in imagination", _PANELS)
    manifest = replace(manifest, outputs={folder.weights.name: file_hash(folder.weights)}, complete=True)
    folder.write_manifest(manifest)
    last = lines[-1]
    console.table(
        f"In imagination after {manifest.done} updates, {console.duration(manifest.facts['seconds'])}",
        ["", "first", "last"],
        [[name, console.short(lines[0][name]), console.short(last[name])] for name in (*_SHOWN, "scale")],
    )
    return manifest
