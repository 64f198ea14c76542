"""The `metadata.json` of a data set: Minari's own keys, and under `dreamer` how the episodes came about."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..artifacts import write_text
from ..config import RandomPolicyName, Section, Settings, flatten

FORMAT: Final = 1
"""Version of the data format; raised when it changes, so that old data cannot be misread."""

_MINARI_VERSION = "0.5.0"  # whose layout this is; later ones read it too
_MAX_BYTES = 2**24  # the observation space alone is 0.1 MB, for Minari spells out the bounds of every pixel


class View(Section):
    """How the agent saw the environment, and what it could do.

    Attributes:
        action_repeat: environment steps for which an action was held.
        size: height and width of an observation, pixels.
        resize: how the picture was made smaller.
        action_low: smallest action.
        action_high: largest action.
    """

    action_repeat: int = Field(ge=1, le=1000)
    size: int = Field(ge=1, le=1024)
    resize: str = Field("cv2.INTER_AREA of the 96x96 picture", max_length=200)
    action_low: tuple[float, ...] = Field(min_length=1, max_length=64)
    action_high: tuple[float, ...] = Field(min_length=1, max_length=64)


class Origin(Section):
    """How a data set came about. Episode i is the same in all data sets of one origin.

    Attributes:
        format: version of the data format.
        environment: gymnasium's name of it.
        gymnasium: its version; the text in the picture differs between versions.
        view: how the agent saw it.
        policy: the random process that drove, `CollectSettings.policy`.
        patience: see `CollectSettings.patience`.
        limit: see `CollectSettings.limit`.
        seed: of tracks and drivers.
        alignment: which action and reward belong to which observation, in words.
    """

    format: Literal[1] = FORMAT
    environment: str = Field("CarRacing-v3", max_length=200)
    gymnasium: str = Field(max_length=200)
    view: View
    policy: RandomPolicyName
    patience: int = Field(ge=1, le=1000)
    limit: int = Field(ge=1, le=1000)
    seed: int
    alignment: str = Field(
        "actions[t] was chosen at observations[t] and led to observations[t+1]; "
        "rewards[t], terminations[t], truncations[t] and infos[t] came with observations[t+1]",
        max_length=1000,
    )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The origin of data collected here and now with these settings."""
        from ..envs.view import ACTION_HIGH, ACTION_LOW

        return cls(
            gymnasium=importlib.metadata.version("gymnasium"),
            view=View(
                action_repeat=settings.view.action_repeat,
                size=settings.view.size,
                action_low=tuple(ACTION_LOW.tolist()),
                action_high=tuple(ACTION_HIGH.tolist()),
            ),
            policy=settings.collect.policy,
            patience=settings.collect.patience,
            limit=settings.collect.limit,
            seed=settings.seed,
        )

    def difference(self, other: Origin) -> str | None:
        """What this one has first that `other` has not, such as "policy 'smooth', not 'mixture'"; None if nothing."""
        theirs = flatten(other.model_dump())
        for name, value in flatten(self.model_dump()).items():
            if value != theirs[name]:
                return f"{name} {value!r}, not {theirs[name]!r}"
        return None


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
    low, high = (np.array(bound, np.float32) for bound in (origin.view.action_low, origin.view.action_high))
    picture = (3, origin.view.size, origin.view.size)
    tree = {
        "dataset_id": f"dreamer/{re.sub('[^-_a-zA-Z0-9]', '_', name)}-v0",
        "minari_version": _MINARI_VERSION,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": episodes,
        "total_steps": steps,
        "dataset_size": round(megabytes, 1),
        "algorithm_name": f"random driving ({origin.policy})",
        "dreamer": origin.model_dump(mode="json"),
        "env_spec": _environment_spec(origin.environment),
        "action_space": _box(low, high),
        "observation_space": _box(np.full(picture, 0, np.uint8), np.full(picture, 255, np.uint8)),
    }
    write_text(path, json.dumps(tree, indent=2) + "\n")


def read_origin(path: Path) -> Origin:
    """Read how the episodes came about. Raises OSError or ValueError, which pydantic's errors are too."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    tree = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict) or not isinstance(tree.get("dreamer"), dict):
        raise ValueError("does not say how the episodes came about")
    version = tree["dreamer"].get("format")
    if version != FORMAT:
        raise ValueError(f"has data format {version}, this version reads {FORMAT}")
    origin = Origin.model_validate(tree["dreamer"])
    if len(origin.view.action_low) != len(origin.view.action_high):
        raise ValueError("the bounds of an action differ in length")
    return origin


def _environment_spec(environment: str) -> str:
    """The stock environment, from which Minari's `recover_environment` makes one."""
    import gymnasium

    return gymnasium.spec(environment).to_json()


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
