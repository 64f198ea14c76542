"""`dreamer fit-policy`: from a world model to an actor, in imagination alone. No environment is ever imported here."""

from __future__ import annotations

from dataclasses import replace

import torch

from .. import console, distributed
from ..allocator import release_memory
from ..artifacts import Manifest, Run, StageFolder, file_hash, learned_from
from ..config import STAGE_SECTIONS, Settings, validate
from ..devices import deterministic
from ..envs import mirror_of
from ..episodes.joined import Data, locks_of, open_data
from ..episodes.store import EpisodeStore
from ..episodes.windows import Windows
from ..errors import UsageError
from ..learning.encoding import EncodedData, encode, episodes_that_fit
from ..learning.fitting import Plan, begun, fit, planned_updates
from ..learning.policy_learner import PolicyLearner
from ..learning.precision import resolve_precision
from ..learning.watching import Watch
from ..learning.world_learner import HORIZONS
from ..locks import reading
from ..models.actor_critic import Actor
from ..models.checkpoints import LoadedWorld, load_world, save_actor, save_critic
from ..randomness import Stream, seed_torch
from ..viewing.curves import POLICY_PANELS, draw_curves

_SHOWN = ("return", "entropy", "disagreement")
_TOLD = ("return", "reward", "value", "entropy", "disagreement", "scale")  # in the end


def fit_policy(
    settings: Settings,
    *,
    run: Run,
    data: Data,
    device: torch.device,
    minutes: float | None = None,
    fresh: bool = False,
) -> Manifest:
    """Fit the actor and the critic of a run, or go on with them.

    Args:
        settings: `seed` and `policy` count; several processes share out `policy.starts`.
        run: whose `world/` is read and whose `policy/` is written.
        data: folder of the data set that the world model was fitted to, or of several.
        device: to fit on.
        minutes: fit for about this long instead of `policy.updates`.
        fresh: start anew.

    Raises:
        StageError: the data set or the world model is missing, damaged or stale.
        UsageError: the run was begun with other settings.
        InterruptedRunError: after Ctrl-C; all saved.
        LostProcessError: this is one of several processes, and another one is gone.
    """
    if settings.policy.compile and distributed.size() > 1:
        raise UsageError("policy.compile is for one process: in several, the range of the returns is a joint one")
    folder, source = run.policy, run.world
    with (
        deterministic(settings.deterministic, minutes),
        reading(folder.command, *locks_of(data), (source.lock, source.path)),
        open_data(data) as store,
    ):
        world_manifest = source.require({"data": store.fingerprint})
        world = load_world(source.weights, device)
        fitted = source.read_settings()
        known = {name: getattr(fitted, name) for name in ("view", "collect", "model", "world")}
        settings = validate(settings.model_dump() | known)
        inputs = {"data": store.fingerprint, "world": world_manifest.outputs[source.weights.name]}
        sections = STAGE_SECTIONS["fit-policy"]
        with begun(folder, settings, sections, inputs, minutes=minutes, fresh=fresh) as (manifest, settings):
            lacking = folder.critic.name not in manifest.outputs and distributed.once(folder.state.exists)
            if manifest.complete and manifest.done >= settings.policy.updates and not lacking:
                console.say(f"{folder.path} is already fitted, {manifest.done} updates; --fresh starts anew")
                return manifest
            manifest = manifest.with_sources(store.sources)
            precision = distributed.once(lambda: resolve_precision(settings.policy.precision, device))
            settings = settings.with_value("policy.precision", precision)
            encoded = encode_data(world, store, settings)
            if minutes is not None and not distributed.once(folder.state.exists):
                planned = planned_updates(_learner(settings, world, encoded), minutes, settings.seed)
                settings = settings.with_value("policy.updates", planned)
            console.say(f"Learning from {learned_from(store.sources)}, in imagination")
            learner, policy = _learner(settings, world, encoded), settings.policy
            watches = _watches(learner.actor)
            plan = Plan("Fitting the policy", policy.updates, policy.save_every, settings.seed, _SHOWN, watches)
            manifest = fit(learner, plan, folder, manifest, settings)
            manifest = distributed.once(lambda: _finish(learner, settings, folder, manifest))
            console.say(_caution(source))
            return manifest


def _watches(actor: Actor) -> tuple[Watch, ...]:
    """What goes wrong with a policy."""
    low, high = actor.entropy_bounds()
    margin = 0.02 * (high - low)
    explodes = "that is more than a hundred times what it was; a lower policy.{}_rate may help (--set, --fresh)"
    return (
        Watch(
            "entropy",
            low=low + margin,
            below="the actor varies its actions as little as it can, and finds out nothing new; a larger "
            "policy.entropy keeps it trying (--set, --fresh)",
            high=high - margin,
            above="the actor still acts at random; a lower policy.entropy, or a world model with a lower held-out "
            "reward error, gives it something to learn",
        ),
        Watch("actor_gradient", growth=100.0, above=explodes.format("actor")),
        Watch("critic_gradient", growth=100.0, above=explodes.format("critic")),
    )


def encode_data(world: LoadedWorld, store: EpisodeStore, settings: Settings) -> EncodedData:
    """The states of the episodes, or of as many as fit; the same in every process, however often the run is resumed."""
    policy = settings.policy
    episodes = episodes_that_fit(store.lengths, world.model, policy.states_gib, settings.seed)
    if len(episodes) < len(store):
        share = f"{len(episodes)} of {len(store)} episodes, drawn at random"
        console.say(f"Trajectories start from {share}: policy.states_gib = {policy.states_gib:g} holds no more states")
    seed_torch(settings.seed, Stream.ENCODING)
    with_rows = policy.replay_scale > 0
    length = policy.replay_length if with_rows else 2
    mirror = mirror_of(world.interface.view, wanted=world.settings.mirror)
    windows = Windows(store, episodes, length, settings.world.memory_gib, mirror=mirror)
    encoded = encode(world.model, windows, policy.precision, with_rows=with_rows)
    del windows  # the pictures, which are not looked at again
    release_memory()
    return encoded


def _learner(settings: Settings, world: LoadedWorld, encoded: EncodedData) -> PolicyLearner:
    """A learner with the weights that the seed gives."""
    seed_torch(settings.seed, Stream.POLICY_WEIGHTS)
    policy, discrete = settings.policy, world.interface.discrete
    if world.settings.goes_on == "soft":
        policy = policy.model_copy(update={"discount": settings.world.discount})  # the one that its head has learned
    actor = Actor(world.model.features, world.settings, policy, encoded.action_mean, encoded.action_std, discrete)
    return PolicyLearner(world.model, encoded.states, actor.to(world.model.device), policy, encoded.rows)


def _finish(learner: PolicyLearner, settings: Settings, folder: StageFolder, manifest: Manifest) -> Manifest:
    """Write the actor, the critic and the curves, and the manifest that calls them complete."""
    save_actor(folder.weights, learner.acting, settings.policy, manifest.inputs["world"])
    save_critic(folder.critic, learner.critic, learner.settings, manifest.inputs["world"])
    lines = console.read_lines(folder.metrics)
    draw_curves(lines, folder.path / "curves.png", "Actor and critic, in imagination", POLICY_PANELS)
    outputs = {path.name: file_hash(path) for path in (folder.weights, folder.critic)}
    manifest = replace(manifest, outputs=outputs, complete=True)
    folder.write_manifest(manifest)
    last = lines[-1]
    console.table(
        f"In imagination after {manifest.done} updates, {console.duration(manifest.facts['seconds'])}",
        ["", "first", "last"],
        [[name, console.short(lines[0][name]), console.short(last[name])] for name in _TOLD],
    )
    return manifest


def _caution(world: StageFolder) -> str:
    """How far to believe what was imagined."""
    horizon = HORIZONS[-1]
    errors = [line.get(f"held_out/open_loop_reward_{horizon}") for line in console.read_lines(world.metrics)]
    last = next((error for error in reversed(errors) if error is not None), None)
    known = (
        f"Over {horizon} decisions of recorded drives the dream's reward is off by {last:.1f}; "
        if last is not None
        else ""
    )
    return f"{known}whether it comes true for this policy, only `dreamer evaluate` tells"
