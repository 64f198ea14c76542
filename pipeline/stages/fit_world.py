"""`dreamer fit-world`: from recorded episodes to a world model."""

from __future__ import annotations

from dataclasses import replace

import torch

from .. import console, distributed
from ..artifacts import Manifest, Run, StageFolder, file_hash, learned_from
from ..config import STAGE_SECTIONS, CollectSettings, Section, Settings, validate
from ..devices import deterministic, room_for_data
from ..envs import mirror_of
from ..episodes.joined import Data, locks_of, open_data
from ..episodes.store import EpisodeStore
from ..episodes.windows import DeviceWindows, Windows, place, split
from ..learning.fitting import Plan, begun, fit, planned_updates
from ..learning.precision import resolve_precision
from ..learning.watching import Watch
from ..learning.world_learner import CONTEXT, HORIZONS, WorldLearner
from ..locks import reading
from ..models.checkpoints import Interface, build_world, save_world
from ..randomness import Stream, seed_torch
from ..viewing.curves import WORLD_PANELS, draw_curves

_SHOWN = ("picture", "kl", f"held_out/open_loop_{HORIZONS[-1]}")


def fit_world(
    settings: Settings,
    *,
    run: Run,
    data: Data,
    device: torch.device,
    minutes: float | None = None,
    fresh: bool = False,
) -> Manifest:
    """Fit the world model of a run, or go on with it.

    Args:
        settings: `seed`, `model` and `world` count; several processes share out `world.batch`.
        run: where `world/` is written.
        data: folder of the data set, or of several.
        device: to fit on.
        minutes: fit for about this long instead of `world.updates`.
        fresh: start anew.

    Raises:
        StageError: a data set is missing, damaged, or seen otherwise than another; or the data are others than this run
            was begun with.
        UsageError: the run was begun with other settings.
        InterruptedRunError: after Ctrl-C; all saved.
        LostProcessError: this is one of several processes, and another one is gone.
    """
    folder = run.world
    with (
        deterministic(settings.deterministic, minutes),
        reading(folder.command, *locks_of(data)),
        open_data(data) as store,
    ):
        if store.warning:
            console.warn(store.warning)
        settings = validate(settings.model_dump() | recorded_sections(store, settings))
        windows = _windows(settings, store, device)  # before --fresh: bad data replace nothing
        inputs, sections = {"data": store.fingerprint}, STAGE_SECTIONS["fit-world"]
        with begun(folder, settings, sections, inputs, minutes=minutes, fresh=fresh) as (manifest, settings):
            if manifest.complete and manifest.done >= settings.world.updates:
                console.say(f"{folder.path} is already fitted, {manifest.done} updates; --fresh starts anew")
                return manifest
            manifest = manifest.with_sources(store.sources)
            precision = distributed.once(lambda: resolve_precision(settings.world.precision, device))
            settings = settings.with_value("world.precision", precision)
            if minutes is not None and not distributed.once(folder.state.exists):
                planned = planned_updates(_learner(settings, store, windows, device), minutes, settings.seed)
                settings = settings.with_value("world.updates", planned)
            console.say(f"Learning from {learned_from(store.sources)}")
            learner, world = _learner(settings, store, windows, device), settings.world
            plan = Plan("Fitting the world", world.updates, world.save_every, settings.seed, _SHOWN, _watches())
            manifest = fit(learner, plan, folder, manifest, settings)
            return distributed.once(lambda: _finish(learner, folder, manifest, interface_of(store)))


def _watches() -> tuple[Watch, ...]:
    """What goes wrong with a world model."""
    return (
        Watch(
            "kl",
            low=0.05,
            below="pictures hardly change what the model believes; a lower world.free_nats or "
            "world.representation_scale lets them (--set, --fresh)",
            high=1000.0,
            above="the prior does not follow the posterior; a lower world.learning_rate may help (--set, --fresh)",
        ),
        Watch(
            "gradient",
            growth=100.0,
            above="that is more than a hundred times what it was; a lower world.learning_rate or world.clip may help "
            "(--set, --fresh)",
        ),
    )


def recorded_sections(store: EpisodeStore, settings: Settings) -> dict[str, Section]:
    """The sections of the settings that the data set decides: how it was collected, whatever was asked for."""
    origin = store.origin
    collected = settings.collect.model_dump() | {
        "decisions": store.steps,
        "policy": origin.policy if origin.kind == "random" else settings.collect.policy,
        "patience": origin.patience or settings.collect.patience,
        "limit": origin.limit or settings.collect.limit,
    }
    return {"view": interface_of(store).view, "collect": CollectSettings.model_validate(collected)}


def interface_of(store: EpisodeStore) -> Interface:
    """What joins a model to the environment that the episodes come from."""
    view = store.view
    return Interface(store.view_settings, view.action_low, view.action_high)


def _windows(settings: Settings, store: EpisodeStore, device: torch.device) -> tuple[Windows | DeviceWindows, Windows]:
    """What to learn from, as near to the device as it fits, and what to hold out."""
    train, held_out = split(len(store), settings.world.validation_share, settings.seed)
    budget, share = settings.world.memory_gib, distributed.rows(settings.world.batch, "world.batch")
    mirror = mirror_of(settings.view, wanted=settings.model.mirror)
    windows = Windows(store, train, settings.world.length, budget, share, mirror)
    placed = place(windows, device, room_for_data(device))
    if isinstance(placed, DeviceWindows):
        console.say(f"The data set lies on {device}, where it takes {windows.memory_bytes / 2**30:.1f} GiB")
    return placed, Windows(store, held_out, CONTEXT + max(HORIZONS), budget)


def _learner(
    settings: Settings, store: EpisodeStore, windows: tuple[Windows | DeviceWindows, Windows], device: torch.device
) -> WorldLearner:
    """A learner with the weights that the seed gives."""
    seed_torch(settings.seed, Stream.WORLD_WEIGHTS)
    model = build_world(settings.model, interface_of(store)).to(device)
    return WorldLearner(model, settings.world, *windows, settings.seed)


def _finish(learner: WorldLearner, folder: StageFolder, manifest: Manifest, interface: Interface) -> Manifest:
    """Write the best and the last weights, the curves, and the manifest that calls them complete."""
    last = folder.path / "last.safetensors"
    save_world(last, learner.model, interface)
    learner.model.load_state_dict(learner.best_model)
    save_world(folder.weights, learner.model, interface)
    lines = console.read_lines(folder.metrics)
    draw_curves(lines, folder.path / "curves.png", "World model", WORLD_PANELS)
    outputs = {path.name: file_hash(path) for path in (folder.weights, last)}
    manifest = replace(manifest, outputs=outputs, complete=True)
    folder.write_manifest(manifest)
    _report(lines, manifest)
    return manifest


def _report(lines: list[dict[str, float]], manifest: Manifest) -> None:
    """The errors on held-out episodes, of the last update and of the best one, which the next stages use."""
    checked = [line for line in lines if "held_out/loss" in line]
    best = min(checked, key=lambda line: line["held_out/loss"])
    names = [name for name in checked[-1] if name.startswith("held_out/")]
    rows = [
        [name.removeprefix("held_out/"), console.short(best[name]), console.short(checked[-1][name])] for name in names
    ]
    console.table(
        f"Held-out episodes after {manifest.done} updates, {console.duration(manifest.facts['seconds'])}",
        ["error", f"best (update {best['step']})", "last"],
        rows,
    )
