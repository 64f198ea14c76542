"""Every setting, its default, its bounds and its meaning, in one place; and the presets, which change a few of them.

Settings are frozen. They come, each overriding the one before, from the defaults below (the `full` preset), a
preset, a TOML file (`--config`) and single values (`--set section.key=value`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import UsageError, did_you_mean


class Section(BaseModel):
    """A group of settings: immutable, and no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ViewSettings(Section):
    """The agent's view of the environment."""

    action_repeat: int = Field(4, ge=1, le=16, description="environment steps for which an action is held")
    size: int = Field(64, ge=64, le=128, multiple_of=32, description="height and width of an observation, pixels")


RandomPolicyName = Literal["mixture", "smooth", "brownian", "uniform"]


class CollectSettings(Section):
    """Random driving."""

    decisions: int = Field(150_000, ge=1, le=100_000_000, description="decisions to record, at least")
    policy: RandomPolicyName = Field("mixture", description="random process that drives")
    patience: int = Field(
        20, ge=1, le=1000, description="decisions from the last wheel leaving the road to the end of the episode"
    )
    limit: int = Field(250, ge=1, le=1000, description="longest episode, decisions")


class ModelSettings(Section):
    """Sizes and parts of the world model (DreamerV3, arXiv 2301.04104, appendix B)."""

    deter: int = Field(256, ge=8, le=16384, description="width of the recurrent (deterministic) state h")
    groups: int = Field(16, ge=1, le=128, description="categorical variables in the stochastic state z")
    classes: int = Field(16, ge=2, le=256, description="classes of each categorical variable")
    hidden: int = Field(256, ge=8, le=8192, description="width of the layers around the recurrent state")
    units: int = Field(256, ge=8, le=8192, description="width of the reward, continue, actor and critic networks")
    depth: int = Field(
        16, ge=1, le=256, description="channels of a feature map half the picture's height; doubled at each halving"
    )
    patch: Literal[2, 4, 8] = Field(4, description="patches of pixels that encoder and decoder begin and end with")
    unimix: float = Field(0.01, ge=0, le=0.5, description="share of the uniform in every categorical latent")
    bins: int = Field(255, ge=3, le=1023, description="bins of the symexp two-hot reward and critic; odd")
    ensemble: int = Field(5, ge=0, le=32, description="extra prior heads whose disagreement measures uncertainty")
    ensemble_units: int = Field(128, ge=1, le=4096, description="width of each extra prior head")

    @field_validator("bins")
    @classmethod
    def _odd(cls, bins: int) -> int:
        if bins % 2 == 0:
            raise ValueError("bins must be odd, so that one lies at 0")
        return bins


class WorldSettings(Section):
    """How the world model is fitted."""

    updates: int = Field(8000, ge=1, le=10_000_000, description="gradient updates")
    batch: int = Field(8, ge=1, le=4096, description="windows in a batch")
    length: int = Field(32, ge=2, le=1024, description="steps in a window")
    decode_share: float = Field(0.5, gt=0, le=1, description="share of the frames whose reconstruction is learned from")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW step size between warm-up and annealing")
    weight_decay: float = Field(1e-6, ge=0, le=1, description="AdamW weight decay")
    warmup: int = Field(100, ge=0, le=1_000_000, description="updates in which the step size rises to its value")
    anneal: float = Field(0.4, ge=0, le=1, description="last share of the updates, in which the step size falls to 0")
    clip: float = Field(100.0, gt=0, description="largest global norm of the gradient")
    free_nats: float = Field(1.0, ge=0, le=100, description="KL below this many nats a step is not reduced further")
    dynamics_scale: float = Field(1.0, ge=0, description="weight of KL(sg(posterior) || prior), trains the prior")
    representation_scale: float = Field(
        0.1, ge=0, description="weight of KL(posterior || sg(prior)), trains the encoder"
    )
    validation_share: float = Field(0.05, gt=0, le=0.5, description="share of the episodes held out")
    validate_every: int = Field(400, ge=1, description="updates between two looks at the held-out episodes")
    save_every: int = Field(250, ge=1, description="updates between two checkpoints")
    memory_gib: float = Field(
        4.0, gt=0, description="frames are kept in memory up to this many GiB, else read from disk"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the large layers; auto takes bfloat16 where it is faster"
    )


class PolicySettings(Section):
    """How the actor and the critic are fitted, in imagination alone."""

    updates: int = Field(3000, ge=1, le=10_000_000, description="gradient updates")
    starts: int = Field(256, ge=1, le=65536, description="imagined trajectories in an update")
    horizon: int = Field(15, ge=1, le=200, description="imagined decisions in a trajectory")
    carry: float = Field(
        0.75,
        ge=0,
        lt=1,
        description="probability that a trajectory goes on where one of the update before ended, else from a record",
    )
    discount: float = Field(0.99, gt=0, le=1, description="discount per decision, gamma")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of the lambda-return")
    entropy: float = Field(3e-4, ge=0, le=1, description="weight of the actor's entropy")
    penalty: float = Field(5.0, ge=0, le=100, description="weight of the ensemble's disagreement, taken off the reward")
    actor_rate: float = Field(1e-3, gt=0, le=1, description="actor's AdamW step size, before annealing")
    critic_rate: float = Field(1e-3, gt=0, le=1, description="critic's AdamW step size, before annealing")
    anneal: float = Field(0.4, ge=0, le=1, description="last share of the updates, in which the step sizes fall to 0")
    clip: float = Field(100.0, gt=0, description="largest global norm of each gradient")
    slow_rate: float = Field(0.02, gt=0, le=1, description="share of the critic mixed into its slow copy an update")
    slow_scale: float = Field(1.0, ge=0, description="weight of the critic's loss towards its slow copy")
    return_rate: float = Field(0.01, gt=0, le=1, description="share of the new percentiles in the return scale")
    average_rate: float = Field(0.05, gt=0, le=1, description="share of the actor mixed into the acting copy an update")
    layers: int = Field(2, ge=1, le=8, description="hidden layers of the actor and of the critic")
    save_every: int = Field(250, ge=1, description="updates between two checkpoints")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the large layers; auto takes bfloat16 where it is faster"
    )


class EvaluateSettings(Section):
    """How the score is measured."""

    tracks: int = Field(100, ge=1, le=100, description="tracks driven, the first of the list")
    list: Literal["report", "selection"] = Field(
        "report", description="published list of track seeds; use 'selection' to choose, 'report' to report"
    )


class Settings(Section):
    """All settings of a run."""

    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    view: ViewSettings = ViewSettings()
    collect: CollectSettings = CollectSettings()
    model: ModelSettings = ModelSettings()
    world: WorldSettings = WorldSettings()
    policy: PolicySettings = PolicySettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    def with_value(self, name: str, value: Any) -> Settings:
        """A copy in which the setting of this dotted name has another value. Raises UsageError."""
        return resolve(values=[*flatten(self.model_dump()).items(), (name, value)])

    def section_values(self, sections: Iterable[str]) -> dict[str, Any]:
        """Values by dotted name of some sections; `seed` counts as one."""
        flat = flatten(self.model_dump())
        return {name: value for name, value in flat.items() if name.split(".")[0] in sections}


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {},
    "demo": {
        "collect": {"decisions": 60_000},
        "world": {"updates": 3000},
        "policy": {"updates": 600, "slow_rate": 0.1},
        "evaluate": {"tracks": 20},
    },
    "tiny": {
        "collect": {"decisions": 300, "limit": 60, "patience": 10},
        "model": {"deter": 16, "groups": 4, "classes": 4, "hidden": 16, "units": 16, "depth": 2, "ensemble_units": 8},
        "world": {
            "updates": 6,
            "batch": 2,
            "length": 16,
            "validation_share": 0.5,
            "validate_every": 3,
            "save_every": 2,
        },
        "policy": {"updates": 6, "starts": 16, "horizon": 5, "save_every": 2},
        "evaluate": {"tracks": 2},
    },
}
"""What each preset changes: `tiny` ends in seconds, for tests; `demo` in minutes on two cores; `full` is the best."""


def _set_value(tree: dict[str, Any], name: str, value: Any) -> None:
    """Put `value` at the dotted `name` of the tree; refuse a name that is no setting."""
    valid = setting_names()
    if name not in valid:
        raise UsageError(f"There is no setting '{name}'{did_you_mean(name, valid)}")
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[key] = value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def setting_names() -> list[str]:
    """All settings by their dotted names, such as `world.updates`."""
    return list(flatten(Settings().model_dump()))


def parse_value(text: str) -> Any:
    """Read the right side of `--set name=value`: a TOML value, or else a plain string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def read_settings_file(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings. Raises UsageError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The settings file {path} is not TOML: {error}") from error


def resolve(
    preset: str = "full", file: Mapping[str, Any] | None = None, values: Iterable[tuple[str, Any]] = ()
) -> Settings:
    """Combine defaults, preset, file and single values into checked settings.

    Args:
        preset: name in `PRESETS`.
        file: nested tables as read from a TOML file.
        values: dotted names and values, the last word.

    Raises:
        UsageError: an unknown preset or name (with the nearest valid one), or a value out of bounds.
    """
    if preset not in PRESETS:
        raise UsageError(f"There is no preset '{preset}'{did_you_mean(preset, PRESETS)}")
    tree: dict[str, Any] = {}
    for name, value in (*flatten(PRESETS[preset]).items(), *flatten(file or {}).items(), *values):
        _set_value(tree, name, value)
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> Settings:
    """Check a nested mapping against bounds and names and give the settings. Raises UsageError."""
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"The setting {name} = {first['input']!r} is not valid: {first['msg'].lower()}") from error
