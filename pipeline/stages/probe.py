"""`dreamer probe`: how much of what moves the car can be read off the world model's states by a weighted sum.

Reads the data and the world model alone; no environment is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import console
from ..artifacts import Run
from ..config import Settings
from ..devices import deterministic
from ..episodes.joined import Data, locks_of, open_data
from ..episodes.store import EpisodeStore
from ..episodes.windows import Windows, split
from ..errors import StageError
from ..learning.encoding import side_by_side
from ..learning.probing import Linear, Numbers, RidgeRegression, r_squared
from ..locks import reading
from ..models.checkpoints import load_world
from ..models.world_model import WorldModel
from ..randomness import Stream, seed_torch

UNITS = {"speed": "units/s", "yaw_rate": "rad/s", "track_offset": "units"}
"""What is probed for, as far as the data hold it; the distance from the road's middle where a wheel is on the road."""

_HELD_OUT = 0.25  # of data that the world model has not met


@dataclass(frozen=True)
class Finding:
    """What probes of one quantity came to, on episodes held out from them. What cannot be told is NaN.

    Attributes:
        quantity, unit: what it is.
        rows: held-out decisions.
        spread: standard deviation of the quantity.
        error: root mean square error of the probe of the whole state.
        state, h, z: share of the variance (R2) that is explained by the whole state, or by one part of it alone.
    """

    quantity: str
    unit: str
    rows: int
    spread: float
    error: float
    state: float
    h: float
    z: float


def probe(settings: Settings, *, run: Run, data: Data, device: torch.device) -> list[Finding]:
    """Fit ridge regressions from posterior states to what `collect` recorded, and try them on other episodes.

    Held out are, of the data that the world model was fitted to, just the episodes that it was not fitted to; of other
    data a quarter, the same of every world model.

    Args:
        settings: `seed` counts: of the states that the model draws.
        run: whose `world/` is read.
        data: folder of a data set seen as the world model sees, or of several.
        device: for the world model.

    Raises:
        StageError: the data set or the world model is missing or damaged, or they do not go together.
        BusyError: another command is at work on them.
    """
    command = f"dreamer probe --run {run.root.name}"
    with (
        deterministic(settings.deterministic),
        reading(command, *locks_of(data), (run.world.lock, run.world.path)),
    ):
        manifest = run.world.require({})
        world, fitted = load_world(run.world.weights, device), run.world.read_settings()
        with open_data(data) as store:
            store.require_view(world.interface.view)
            quantities = [name for name in UNITS if name in store.origin.infos]
            if not quantities:
                env = store.origin.environment
                raise StageError(f"{store.path}: nothing is recorded of {env} to probe for, as speed is of CarRacing")
            own = manifest.inputs.get("data") == store.fingerprint
            chance = (fitted.world.validation_share, fitted.seed) if own else (_HELD_OUT, 0)
            train, held_out = split(len(store), *chance)
            seed_torch(settings.seed, Stream.ENCODING)
            regressions = {name: RidgeRegression(world.model.features) for name in quantities}
            for features, targets in _labelled(world.model, store, train, quantities):
                for name, regression in regressions.items():
                    regression.add(*_known(features, targets[name]))
            tried = list(_labelled(world.model, store, held_out, quantities))
    deter = world.model.dynamics.deter_width
    parts = {"state": slice(None), "h": slice(0, deter), "z": slice(deter, None)}
    return [_finding(name, regression, parts, tried) for name, regression in regressions.items()]


def _labelled(
    model: WorldModel, store: EpisodeStore, episodes: NDArray[np.int64], quantities: Sequence[str]
) -> Iterator[tuple[Numbers, dict[str, Numbers]]]:
    """States of some episodes after another, (N, F), and what was recorded with each, (N,), NaN where nothing was."""
    with console.Meter("Looking at the data", len(episodes), "episodes") as meter, torch.no_grad():
        together = side_by_side(int(store.lengths[episodes].max()))
        for first in range(0, len(episodes), together):
            chosen = episodes[first : first + together]
            batch, mask = Windows(store, chosen, 2, memory_gib=1.0).episode_batch(chosen)
            batch = batch.to(model.device)
            states = model.observe(batch.observation, batch.action, batch.is_first)
            labels = {name: np.full(mask.shape, np.nan) for name in quantities}
            for row, episode in enumerate(chosen):
                infos = store.read_decisions(int(episode)).infos
                for name, label in labels.items():
                    seen = infos["on_road"] > 0 if name == "track_offset" else np.True_
                    label[row, 1 : len(infos[name]) + 1] = np.where(seen, infos[name], np.nan)
            yield states.feature.cpu().double().numpy()[mask], {name: label[mask] for name, label in labels.items()}
            meter.advance_to(first + len(chosen))


def _known(features: Numbers, target: Numbers) -> tuple[Numbers, Numbers]:
    known = ~np.isnan(target)
    return features[known], target[known]


def _finding(
    name: str,
    regression: RidgeRegression,
    parts: dict[str, slice],
    tried: Sequence[tuple[Numbers, dict[str, Numbers]]],
) -> Finding:
    """Try the probes of one quantity on the episodes that were held out."""
    pairs = [_known(features, targets[name]) for features, targets in tried]
    target = np.concatenate([pair[1] for pair in pairs])
    if not len(target) or not regression.rows:
        return Finding(name, UNITS[name], len(target), *[float("nan")] * 5)

    def predict(part: slice) -> Numbers:
        if not regression.width(part):  # without memory there is no h
            return np.full(len(target), np.nan)
        fitted: Linear = regression.solve(part)
        return np.concatenate([fitted(features[:, part]) for features, _ in pairs])

    predicted = {part: predict(columns) for part, columns in parts.items()}
    error = float(np.sqrt(np.mean(np.square(predicted["state"] - target))))
    shares = {part: r_squared(values, target) for part, values in predicted.items()}
    return Finding(name, UNITS[name], len(target), float(target.std()), error, **shares)


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON has them: null for what cannot be told."""
    return [
        {name: None if value != value else value for name, value in asdict(finding).items()} for finding in findings
    ]


def show(findings: Sequence[Finding], run: Run) -> None:
    """Print a table, and how to get what is missing."""
    rows = []
    for it in findings:
        shares = (it.state, it.h, it.z)
        numbers = [f"{it.error:.3g}", f"{it.spread:.3g}", str(it.rows)]
        rows.append([f"{it.quantity}, {it.unit}", *map(_share, shares), *numbers])
    columns = ["R2 on held-out episodes", "[h, z]", "h", "z", "error", "spread", "decisions"]
    console.table(f"What a weighted sum reads off the states of {run.root}", columns, rows)
    if len(findings) < len(UNITS):
        console.say(
            "These data hold the speed alone; for the rest run `dreamer collect --data truth --decisions 10000 "
            f"--set collect.truth=true`, then `dreamer probe --run {run.root.name} --data truth`"
        )


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
