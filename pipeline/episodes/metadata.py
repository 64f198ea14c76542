"""The `metadata.json` of a data set: Minari's own keys, and under `dreamer` how the episodes came about."""

from __future__ import annotations

import importlib.metadata
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, ValidationError

from ..artifacts import write_text
from ..config import RandomPolicyName, Section, Settings, ViewSettings, describe, flatten
from ..envs.actions import action_bounds
from ..errors import StageError
from ..reading import read_json

FORMAT: Final = 1
"""Version of the data format; raised when it changes, so that old data cannot be misread."""

PLAYED: Final = "played"
"""What stands for the random policy where somebody drove, by hand or by a policy, in `dreamer play`."""

_MINARI_VERSION = "0.5.0"  # whose layout this is; later ones read it too
_MAX_BYTES = 2**24  # the observation space alone is 0.1 MB, for Minari spells out the bounds of every pixel


class ForeignDataError(ValueError):
    """The data set may be whole, but another program recorded it."""


class View(Section):
    """How the agent saw the environment, and what it could do.

    Attributes:
        action_repeat: environment steps for which an action was held.
        size: height and width of an observation, pixels.
        resize: how the picture was made smaller.
        continuous: whether an action is several numbers; else it is the number of one of several actions.
        action_low: smallest action; of a discrete one's one-hot vector, zeros.
        action_high: largest action; of a discrete one's one-hot vector, ones.
    """

    action_repeat: int = Field(ge=1, le=1000)
    size: int = Field(ge=1, le=1024)
    resize: str = Field("cv2.INTER_AREA of the 96x96 picture", max_length=200)
    continuous: bool = True
    action_low: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=64)
    action_high: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=64)

    @property
    def settings(self) -> ViewSettings:
        """The settings that ask for this view."""
        return ViewSettings(action_repeat=self.action_repeat, size=self.size, continuous=self.continuous)


class Origin(Section):
    """How a data set came about. Episode i is the same in all data sets of one origin.

    Attributes:
        format: version of the data format.
        environment: gymnasium's name of it.
        gymnasium: its version; the text in the picture differs between versions.
        view: how the agent saw it.
        policy: the random process that drove, `CollectSettings.policy`; or `PLAYED`.
        patience: see `CollectSettings.patience`.
        limit: see `CollectSettings.limit`.
        seed: of tracks and drivers.
        alignment: which action and reward belong to which observation, in words.
        shard: which part of a data set it is, such as "2/8" (see `shards`); None for a whole.
        truth: True where `CollectSettings.truth` was asked for, else None.
    """

    format: Literal[1] = FORMAT
    environment: str = Field("CarRacing-v3", max_length=200)
    gymnasium: str = Field(max_length=200)
    view: View
    policy: Literal[RandomPolicyName, "played"]
    patience: int = Field(ge=1, le=1000)
    limit: int = Field(ge=1, le=1000)
    seed: int
    alignment: str = Field(
        "actions[t] was chosen at observations[t] and led to observations[t+1]; "
        "rewards[t], terminations[t], truncations[t] and infos[t] came with observations[t+1]",
        max_length=1000,
    )
    shard: str | None = Field(None, max_length=20)
    truth: Literal[True] | None = None

    @classmethod
    def of(cls, settings: Settings, shard: str | None = None) -> Self:
        """The origin of data, or of a shard of them, collected here and now with these settings."""
        low, high = action_bounds(settings.view.continuous)
        return cls(
            gymnasium=importlib.metadata.version("gymnasium"),
            view=View(**settings.view.model_dump(), action_low=low, action_high=high),
            policy=settings.collect.policy,
            patience=settings.collect.patience,
            limit=settings.collect.limit,
            seed=settings.seed,
            shard=shard,
            truth=settings.collect.truth or None,
        )

    def difference(self, other: Origin) -> str | None:
        """What this one has first that `other` has not, such as "policy 'smooth', not 'mixture'"; None if nothing."""
        theirs = flatten(other.model_dump())
        for name, value in flatten(self.model_dump()).items():
            if value != theirs[name]:
                return f"{name} {value!r}, not {theirs[name]!r}"
        return None

    def require(self, wanted: Origin, path: Path) -> None:
        """Raise StageError where the data set at `path`, which this is the origin of, was to be collected otherwise."""
        difference = self.difference(wanted)
        if difference is not None:
            raise StageError(
                f"{path} was collected with {difference}; use another --data name, or replace it with "
                f"`dreamer collect --data {path.name} --fresh`"
            )


def write_metadata(path: Path, name: str, origin: Origin, episodes: int, steps: int, megabytes: float) -> None:
    """Write `metadata.json`, atomically.

    Args:
        path: the file.
        name: of the data set.
        origin: how the episodes came about.
        episodes: how many there are.
        steps: decisions in all of them.
        megabytes: size of the HDF5 file, 10^6 bytes.
    """
    picture = (3, origin.view.size, origin.view.size)
    tree = {
        "dataset_id": f"dreamer/{re.sub('[^-_a-zA-Z0-9]', '_', name)}-v0",
        "minari_version": _MINARI_VERSION,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": episodes,
        "total_steps": steps,
        "dataset_size": round(megabytes, 1),
        "algorithm_name": "played" if origin.policy == PLAYED else f"random driving ({origin.policy})",
        "dreamer": origin.model_dump(mode="json", exclude_none=True),
        "env_spec": _environment_spec(origin),
        "action_space": _action_space(origin.view),
        "observation_space": _box(np.full(picture, 0, np.uint8), np.full(picture, 255, np.uint8)),
    }
    write_text(path, json.dumps(tree, indent=2) + "\n")


def read_origin(path: Path) -> Origin:
    """Read how the episodes came about. Raises OSError or ValueError."""
    tree = read_json(path, _MAX_BYTES)
    if not isinstance(tree.get("dreamer"), dict):
        raise ForeignDataError("it does not say how the episodes came about")
    version = tree["dreamer"].get("format")
    if version != FORMAT:
        raise ValueError(f"it has data format {version!r:.20}, this version reads {FORMAT}")
    try:
        origin = Origin.model_validate(tree["dreamer"])
    except ValidationError as error:
        raise ValueError(describe(error)) from error
    low, high = origin.view.action_low, origin.view.action_high
    if len(low) != len(high):
        raise ValueError("the bounds of an action differ in length")
    if not origin.view.continuous and (set(low), set(high)) != ({0.0}, {1.0}):
        raise ValueError("the bounds of discrete actions are not those of one-hot vectors")
    if not all(bottom < top for bottom, top in zip(low, high, strict=True)):
        raise ValueError("an action's lower bound is not below its upper one")
    return origin


def _environment_spec(origin: Origin) -> str:
    """The stock environment, from which Minari's `recover_environment` makes one."""
    import gymnasium

    spec = gymnasium.spec(origin.environment)
    if not origin.view.continuous:
        spec = replace(spec, kwargs={**spec.kwargs, "continuous": False})
    return spec.to_json()


def _action_space(view: View) -> str:
    """As Minari serialises it."""
    if view.continuous:
        return _box(np.array(view.action_low, np.float32), np.array(view.action_high, np.float32))
    return json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": len(view.action_low)})


def _box(low: NDArray[Any], high: NDArray[Any]) -> str:
    """A box space as Minari serialises it."""
    return json.dumps(
        {
            "type": "Box",
            "dtype": str(low.dtype),
            "shape": low.shape,
            "low": low.tolist(),
            "high": high.tolist(),
        }
    )
