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
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from ..artifacts import write_text
from ..config import CAR_RACING, RandomPolicyName, Section, Settings, ViewSettings, describe, flatten
from ..envs import adapter_of
from ..envs.adapter import MOST_ACTIONS
from ..errors import StageError, UsageError
from ..reading import read_json

FORMAT: Final = 1
"""Version of the data format; raised when it changes, so that old data cannot be misread."""

PLAYED: Final = "played"
"""What stands for the random policy where somebody drove, by hand or by a policy, in `dreamer play`."""

DRIVEN: Final = "driven"
"""What stands for the random policy where that of a run drove, see `DrivingPolicy`."""

_SHA256 = "^[0-9a-f]{64}$"
_MINARI_VERSION = "0.5.0"  # whose layout this is; later ones read it too
_MAX_BYTES = 2**24  # the observation space alone is 0.1 MB, for Minari spells out the bounds of every pixel


class ForeignDataError(ValueError):
    """The data set may be whole, but another program recorded it."""


class View(Section):
    """How the agent saw the environment, and what it could do.

    Attributes:
        env_kwargs: arguments of the environment, a JSON object; None for none.
        action_repeat: environment steps for which an action was held.
        time_limit: environment steps after which an episode was cut off; None for the environment's own limit.
        size: height and width of an observation, pixels.
        grey: True where the observations have no colours, else None.
        resize: what picture was made smaller, and how.
        continuous: whether an action is several numbers; else it is the number of one of several actions.
        action_low: smallest action; of a discrete one's one-hot vector, zeros.
        action_high: largest action; of a discrete one's one-hot vector, ones.
        action_names: of discrete actions; None where they are not known, or the environment's adapter knows them.
    """

    env_kwargs: str | None = Field(None, max_length=2000)
    action_repeat: int = Field(ge=1, le=1000)
    time_limit: int | None = Field(None, ge=1, le=1_000_000)
    size: int = Field(ge=1, le=1024)
    grey: Literal[True] | None = None
    resize: str = Field("cv2.INTER_AREA of the 96x96 picture", max_length=200)
    continuous: bool = True
    action_low: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=MOST_ACTIONS)
    action_high: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=MOST_ACTIONS)
    action_names: tuple[str, ...] | None = Field(None, max_length=MOST_ACTIONS)


class DrivingPolicy(Section):
    """The fitted policy that acted in a data set.

    Attributes:
        run: name of its run.
        world: SHA-256 of the weights of its world model, by which it sees.
        policy: SHA-256 of its own.
        actions: see `CollectSettings.actions`.
    """

    run: str = Field(max_length=64)
    world: str = Field(pattern=_SHA256)
    policy: str = Field(pattern=_SHA256)
    actions: Literal["stochastic", "deterministic"]


class Origin(Section):
    """How a data set came about. Episode i is the same in all data sets of one origin.

    Attributes:
        format: version of the data format.
        environment: gymnasium's name of it.
        gymnasium: its version; the text in CarRacing's picture differs between versions.
        simulator: name and version of the package beside it that the environment comes from; None for gymnasium alone.
        view: how the agent saw it.
        policy: the random process that acted, `CollectSettings.policy`; or `PLAYED`, or `DRIVEN`.
        driver: who it was in the last case; else None.
        patience: see `CollectSettings.patience`; None where episodes are cut short by the environment alone.
        limit: see `CollectSettings.limit`; likewise.
        seed: of episodes and of what acted.
        alignment: which action and reward belong to which observation, in words.
        shard: which part of a data set it is, such as "2/8" (see `shards`); None for a whole.
        truth: True where `CollectSettings.truth` was asked for, else None.
    """

    format: Literal[1] = FORMAT
    environment: str = Field(CAR_RACING, max_length=200)
    gymnasium: str = Field(max_length=200)
    simulator: str | None = Field(None, max_length=200)
    view: View
    policy: Literal[RandomPolicyName, "played", "driven"]
    driver: DrivingPolicy | None = None
    patience: int | None = Field(None, ge=1, le=1000)
    limit: int | None = Field(None, ge=1, le=1000)
    seed: int = Field(ge=0, lt=2**31)
    alignment: str = Field(
        "actions[t] was chosen at observations[t] and led to observations[t+1]; "
        "rewards[t], terminations[t], truncations[t] and infos[t] came with observations[t+1]",
        max_length=1000,
    )
    shard: str | None = Field(None, max_length=20)
    truth: Literal[True] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Refuse a policy that is not named, and a random process that has no end."""
        if (self.driver is not None) != (self.policy == DRIVEN):
            raise ValueError(f"a policy named as driver and policy = {DRIVEN} go together")
        if self.driver is None and None in (self.patience, self.limit):
            raise ValueError("patience or limit is missing")
        return self

    @classmethod
    def of(cls, settings: Settings, shard: str | None = None, driver: DrivingPolicy | None = None) -> Self:
        """The origin of data, or of a shard of them, collected here and now with these settings, by a driver or not."""
        adapter = adapter_of(settings.view.env)
        described = adapter.describe(settings.view)
        view, actions = described.view, described.actions
        package = adapter.package
        if settings.collect.truth and not adapter.truth_types:
            raise UsageError(
                f"There is no truth of {view.env} to record beside what is seen of it; leave collect.truth out"
            )
        return cls(
            environment=view.env,
            gymnasium=importlib.metadata.version("gymnasium"),
            simulator=f"{package} {importlib.metadata.version(package)}" if package else None,
            view=View(
                env_kwargs=view.env_kwargs if view.arguments else None,
                action_repeat=view.action_repeat,
                time_limit=view.time_limit or None,
                size=view.size,
                grey=view.grey or None,
                resize=f"cv2.INTER_AREA of {described.picture}",
                continuous=view.continuous,
                action_low=actions.low,
                action_high=actions.high,
                action_names=(actions.names or None) if view.env != CAR_RACING else None,
            ),
            policy=DRIVEN if driver else settings.collect.policy,
            driver=driver,
            patience=None if driver else settings.collect.patience,
            limit=None if driver else settings.collect.limit,
            seed=settings.seed,
            shard=shard,
            truth=settings.collect.truth or None,
        )

    @property
    def view_settings(self) -> ViewSettings:
        """The settings that ask for this view of this environment."""
        view = self.view
        return ViewSettings(
            env=self.environment,
            env_kwargs=view.env_kwargs or "{}",
            action_repeat=view.action_repeat,
            time_limit=view.time_limit or 0,
            size=view.size,
            grey=bool(view.grey),
            continuous=view.continuous,
        )

    @property
    def kind(self) -> Literal["random", "driven", "played"]:
        """Who acted, see `artifacts.Source`."""
        return "driven" if self.policy == DRIVEN else "played" if self.policy == PLAYED else "random"

    @property
    def infos(self) -> dict[str, np.dtype[Any]]:
        """Names and types of the infos of every episode, in their order."""
        return adapter_of(self.environment).infos(bool(self.truth))

    @property
    def outlook(self) -> str:
        """What is seen and done, in words."""
        view = self.view
        seen = f"{'grey ' * bool(view.grey)}pictures of {view.size}x{view.size} from {view.resize.partition(' of ')[2]}"
        done = f"{len(view.action_low)} {'numbers' if view.continuous else 'actions to choose from'}"
        return f"{seen}; {done}, held for {view.action_repeat} environment step{'s' * (view.action_repeat > 1)}"

    @property
    def actor(self) -> str:
        """Who acted, in words."""
        if self.driver is not None:
            return f"policy of the run {self.driver.run} ({self.driver.policy[:8]}), {self.driver.actions}"
        if self.policy == PLAYED:
            return PLAYED
        return f"random {adapter_of(self.environment).acting} ({self.policy})"

    def difference(self, other: Origin) -> str | None:
        """What this one has first that `other` has not, such as "policy 'smooth', not 'mixture'"; None if nothing."""
        theirs = flatten(other.model_dump())
        for name, value in flatten(self.model_dump()).items():
            if value != theirs[name]:
                return f"{name} {value!r}, not {theirs[name]!r}"
        return None

    def mismatch(self, other: Origin) -> str | None:
        """What this one has first that `other` has not, of what data that are learned from together must have alike."""
        free = ("policy", "driver", "patience", "limit", "seed", "shard", "truth")
        return self.model_copy(update={name: getattr(other, name) for name in free}).difference(other)

    def require(self, wanted: Origin, path: Path) -> None:
        """Raise StageError where the data set at `path`, which this is the origin of, was to be collected otherwise."""
        difference = self.difference(wanted)
        if difference is not None:
            raise StageError(
                f"{path} was collected with {difference}; ask for the same to extend it, use another --data name, or "
                f"replace it with `dreamer collect --data {path.name} --fresh`"
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
        "algorithm_name": origin.actor,
        "dreamer": origin.model_dump(mode="json", exclude_none=True),
        **_environment_spec(origin),
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


def _environment_spec(origin: Origin) -> dict[str, str]:
    """The stock environment, from which Minari's `recover_environment` makes one; nothing where it cannot be told."""
    import gymnasium

    arguments = json.loads(origin.view.env_kwargs or "{}")
    if origin.environment == CAR_RACING and not origin.view.continuous:
        arguments |= {"continuous": False}
    try:
        spec = gymnasium.spec(origin.environment.rpartition(":")[2])
        return {"env_spec": replace(spec, kwargs={**spec.kwargs, **arguments}).to_json()}
    except (gymnasium.error.Error, ValueError, TypeError):  # not known here, or made by what is no text
        return {}


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
