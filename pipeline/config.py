"""Every setting, its default, its bounds and its meaning, in one place; and what changes a few of them together.

Settings are frozen. They come, each overriding the one before, from the defaults below (the variant `laptop` and the
preset `full`), what a preset changes `BENEATH` all others, the environment, a variant, a size, a preset, a TOML file
(`--config`) and single values (`--set section.key=value`).
"""

from __future__ import annotations

import json
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from .errors import UsageError, did_you_mean
from .reading import parse_json, read_toml


class Section(BaseModel):
    """A group of settings: immutable, and no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("input should be a number")
        return value


CAR_RACING = "CarRacing-v3"
"""The environment where none is named; what is special about it is in `envs.car_racing`."""


class ViewSettings(Section):
    """The environment, and the agent's view of it."""

    env: str = Field(
        CAR_RACING, min_length=1, max_length=200, description="Gymnasium's id of the environment, or module:id"
    )
    env_kwargs: str = Field("{}", max_length=2000, description="arguments that it is made with, a JSON object")
    action_repeat: int = Field(4, ge=1, le=16, description="environment steps for which an action is held")
    time_limit: int = Field(
        0, ge=0, le=1_000_000, description="environment steps after which an episode is cut off; 0: as the id says"
    )
    size: int = Field(64, ge=64, le=128, multiple_of=32, description="height and width of an observation, pixels")
    grey: bool = Field(False, description="observations without colour: three channels that are alike")
    continuous: bool = Field(
        True, description="actions are numbers, else one of several; a choice in CarRacing, a fact elsewhere"
    )

    @field_validator("env_kwargs", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        """The same arguments are the same text, from a table too."""
        try:
            arguments = parse_json(value) if isinstance(value, str) else value
            return json.dumps(dict(arguments), sort_keys=True, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError('not a JSON object, such as {"difficulty": 1}') from error

    @property
    def arguments(self) -> dict[str, Any]:
        """What the environment is made with."""
        arguments: dict[str, Any] = json.loads(self.env_kwargs)
        return arguments


RandomPolicyName = Literal["mixture", "smooth", "glance", "launch", "sticky", "brownian", "uniform"]


class CollectSettings(Section):
    """Acting at random."""

    decisions: int = Field(900_000, ge=1, le=100_000_000, description="decisions to record, at least")
    policy: RandomPolicyName = Field("mixture", description="random process that acts")
    patience: int = Field(
        10,
        ge=1,
        le=1000,
        description="decisions from the last wheel leaving the road to the end of CarRacing's drive; in one drive in "
        "ten, six times as many",
    )
    limit: int = Field(250, ge=1, le=1000, description="longest episode, decisions")
    actions: Literal["stochastic", "deterministic"] = Field(
        "stochastic", description="how a run's policy drives (`--policy artifacts/RUN`): actions drawn, or their mean"
    )
    truth: bool = Field(
        False,
        description="record CarRacing's yaw rate and distance from the middle of the road too, for `dreamer probe`",
    )


class ModelSettings(Section):
    """Parts and sizes of the world model."""

    dynamics: Literal["recurrent", "memoryless"] = Field(
        "recurrent", description="whether there is a recurrent state h, or each observation stands alone"
    )
    latent: Literal["categorical", "gaussian"] = Field("categorical", description="distribution of the state z")
    cell: Literal["normed", "plain", "blocks"] = Field(
        "normed", description="recurrent cell: with normalised gates (v2), the textbook GRU (v1), block-diagonal (v3)"
    )
    encoder: Literal["patches", "strided", "pooled"] = Field(
        "patches", description="encoder and decoder: of patches (fast), of strided (v1, v2) or pooled (v3) convolutions"
    )
    norm: Literal["layer", "rms", "none"] = Field("layer", description="normalisation before each activation")
    activation: Literal["silu", "elu"] = Field(
        "silu", description="activation; strided convolutions of a Gaussian model have ReLU instead (v1)"
    )
    picture: Literal["squared", "normal"] = Field(
        "squared", description="picture loss: squared error of a sigmoid, or -ln N(o; mean, 1) of colours -.5 .. .5"
    )
    reward: Literal["two-hot", "normal"] = Field("two-hot", description="distribution of the reward")
    goes_on: Literal["hard", "soft", "none"] = Field(
        "hard", description="continue head: learns 1 - terminal, discount times that, or is left out"
    )
    deter: int = Field(256, ge=8, le=16384, description="width of the recurrent (deterministic) state h")
    groups: int = Field(16, ge=1, le=128, description="categorical variables in the stochastic state z")
    classes: int = Field(16, ge=2, le=256, description="classes of each categorical variable")
    stoch: int = Field(32, ge=1, le=1024, description="width of a Gaussian state z")
    blocks: int = Field(8, ge=1, le=64, description="blocks of the block-diagonal cell; deter is a multiple of it")
    hidden: int = Field(256, ge=8, le=8192, description="width of the layers around the recurrent state")
    units: int = Field(256, ge=8, le=8192, description="width of the reward, continue, actor and critic networks")
    layers: int = Field(1, ge=1, le=8, description="hidden layers of the reward and continue heads")
    depth: int = Field(
        16, ge=1, le=256, description="channels of a feature map half the picture's height; doubled at each halving"
    )
    patch: Literal[2, 4, 8] = Field(4, description="patches of pixels that encoder and decoder begin and end with")
    mirror: bool = Field(
        True, description="whether half of what is learned from is seen in a mirror, left and right exchanged"
    )
    fine: bool = Field(
        True, description="whether the encoder also sees colours folded, in which two that are nearly alike differ"
    )
    cost: bool = Field(
        True, description="whether a head learns how much a picture shows of what is to be avoided: CarRacing's grass"
    )
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

    updates: int = Field(36_000, ge=1, le=10_000_000, description="gradient updates")
    batch: int = Field(8, ge=1, le=4096, description="windows in a batch")
    length: int = Field(32, ge=2, le=1024, description="steps in a window")
    decode_share: float = Field(0.5, gt=0, le=1, description="share of the frames whose reconstruction is learned from")
    optimizer: Literal["adam", "laprop"] = Field("adam", description="Adam (AdamW), or LaProp with adaptive clipping")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="step size between warm-up and annealing")
    eps: float = Field(1e-8, gt=0, le=1, description="the optimizer's epsilon")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay, not multiplied by the step size")
    warmup: int = Field(100, ge=0, le=1_000_000, description="updates in which the step size rises to its value")
    anneal: float = Field(0.4, ge=0, le=1, description="last share of the updates, in which the step size falls to 0")
    clip: float = Field(100.0, gt=0, description="largest global norm of the gradient, with Adam")
    agc: float = Field(0.3, gt=0, description="largest norm of a tensor's gradient, as a share of its own, with LaProp")
    free_nats: float = Field(1.0, ge=0, le=100, description="KL below this many nats is not reduced further")
    free: Literal["step", "mean"] = Field("step", description="free nats of each step, or of the mean over the batch")
    dynamics_scale: float = Field(1.0, ge=0, description="weight of KL(sg(posterior) || prior), trains the prior")
    representation_scale: float = Field(
        0.1, ge=0, description="weight of KL(posterior || sg(prior)), trains the encoder"
    )
    continue_scale: float = Field(1.0, ge=0, description="weight of the continue loss")
    discount: float = Field(0.99, gt=0, le=1, description="discount that a soft continue head learns, per decision")
    validation_share: float = Field(0.05, gt=0, le=0.5, description="share of the episodes held out")
    validate_every: int = Field(400, ge=1, description="updates between two looks at the held-out episodes")
    save_every: int = Field(250, ge=1, description="updates between two checkpoints")
    memory_gib: float = Field(
        4.0, gt=0, description="frames are kept in memory up to this many GiB, else read from disk"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the large layers; auto takes bfloat16 where it is faster"
    )
    compile: bool = Field(
        False, description="compile the update at its first call, which takes minutes; on a GPU into CUDA graphs"
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
    temperature: float = Field(
        1.0, gt=0, le=10, description="of the imagined states; above 1, less sure of what comes than the model is"
    )
    utility: Literal["linear", "symlog"] = Field(
        "linear",
        description="what is summed up: the reward as it is, or a symlog of it, to which twice is less than twice",
    )
    steepness: float = Field(
        15.0, gt=0, le=1e6, description="of the symlog near nothing: what the reward is multiplied by before"
    )
    discount: float = Field(
        0.99, gt=0, le=1, description="discount per decision, gamma; unused where a soft continue head holds it"
    )
    lam: float = Field(0.95, ge=0, le=1, description="lambda of the lambda-return")
    distribution: Literal["wide-normal", "bounded-normal", "tanh-normal", "truncated-normal"] = Field(
        "wide-normal", description="of continuous actions; discrete ones are categorical"
    )
    gradient: Literal["reinforce", "dynamics", "mixed"] = Field(
        "reinforce", description="actor's gradient: by the score function, through the imagined trajectory, or both"
    )
    mix: float = Field(0.1, ge=0, le=1, description="share of REINFORCE in the mixed gradient")
    value: Literal["next", "present"] = Field(
        "next", description="whether a state's value begins with the next reward (v3) or its own (v1, v2)"
    )
    critic: Literal["two-hot", "normal"] = Field("two-hot", description="distribution of the return")
    slow: Literal["regulariser", "target", "none"] = Field(
        "regulariser",
        description="use of the critic's slow copy: to be drawn towards (v3), in the returns (v2), none; where values "
        "begin with the present reward, the start's value is learned only with the second",
    )
    normalise: bool = Field(True, description="divide advantages by the range of the returns")
    replay_scale: float = Field(0.0, ge=0, description="weight of the critic's loss on recorded states and rewards")
    states_gib: float = Field(
        4.0,
        gt=0,
        description="recorded states are kept up to this many GiB; where all take more, those of some episodes",
    )
    replay_length: int = Field(16, ge=2, le=1024, description="recorded states in a row, where that weight is not 0")
    optimizer: Literal["adam", "laprop"] = Field("adam", description="Adam, or LaProp with adaptive clipping")
    eps: float = Field(1e-8, gt=0, le=1, description="the optimizers' epsilon")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay, not multiplied by the step size")
    warmup: int = Field(0, ge=0, le=1_000_000, description="updates in which the step sizes rise to their values")
    entropy: float = Field(1e-4, ge=0, le=1, description="weight of the actor's entropy")
    entropy_boost: float = Field(
        90.0, ge=1, le=1e6, description="how many times that it is at first; it falls until the step sizes do"
    )
    penalty: float = Field(2.5, ge=0, le=100, description="weight of the ensemble's disagreement, taken off the reward")
    cost: float = Field(
        0.0, ge=0, le=1000, description="weight of the cost head's cost (`model.cost`), taken off the reward"
    )
    cost_ends: float = Field(
        0.3, ge=0, le=1, description="probability that all ends in a state of cost 1, and no later reward counts"
    )
    actor_rate: float = Field(1e-3, gt=0, le=1, description="actor's step size, before annealing")
    critic_rate: float = Field(1e-3, gt=0, le=1, description="critic's step size, before annealing")
    anneal: float = Field(0.4, ge=0, le=1, description="last share of the updates, in which the step sizes fall to 0")
    clip: float = Field(100.0, gt=0, description="largest global norm of each gradient, with Adam")
    agc: float = Field(0.3, gt=0, description="largest norm of a tensor's gradient, as a share of its own, with LaProp")
    slow_rate: float = Field(0.02, gt=0, le=1, description="share of the critic mixed into its slow copy an update")
    slow_every: int = Field(1, ge=1, le=1_000_000, description="updates between two such mixings")
    slow_scale: float = Field(1.0, ge=0, description="weight of the critic's loss towards its slow copy")
    return_rate: float = Field(0.01, gt=0, le=1, description="share of the new percentiles in the return scale")
    average_rate: float = Field(0.05, gt=0, le=1, description="share of the actor mixed into the acting copy an update")
    actor_layers: int = Field(2, ge=1, le=8, description="hidden layers of the actor")
    critic_layers: int = Field(2, ge=1, le=8, description="hidden layers of the critic")
    save_every: int = Field(250, ge=1, description="updates between two checkpoints")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the large layers; auto takes bfloat16 where it is faster"
    )
    compile: bool = Field(
        False, description="compile the update at its first call, which takes minutes; on a GPU into CUDA graphs"
    )


class EvaluateSettings(Section):
    """How the score is measured."""

    tracks: int = Field(100, ge=1, le=100, description="seeds (CarRacing's tracks) to act on, the first of the list")
    list: Literal["report", "selection"] = Field(
        "report", description="published list of seeds; use 'selection' to choose, 'report' to report"
    )
    particles: int = Field(
        8,
        ge=1,
        le=1024,
        description="states drawn from the posterior side by side, the mean of whose actions is executed; one, where "
        "actions are drawn, searched for, or discrete",
    )
    planner: bool = Field(False, description="also drive by planning at each decision, see the group planner")


class PlannerSettings(Section):
    """How far and how widely is searched at each decision."""

    sequences: int = Field(64, ge=2, le=65536, description="action sequences imagined in an iteration")
    actor_share: float = Field(0.5, gt=0, le=1, description="share of them that the actor chooses as they unfold")
    horizon: int = Field(12, ge=2, le=200, description="decisions in a sequence; then the critic says what follows")
    iterations: int = Field(2, ge=1, le=100, description="times that the plan is made anew around the last one")
    elites: int = Field(16, ge=1, le=65536, description="best sequences, whose weighted mean the plan is")
    temperature: float = Field(
        1.0, gt=0, le=1e6, description="of the weights exp(score / temperature); the score is a discounted utility"
    )
    noise: float = Field(0.3, gt=0, le=1, description="first deviation from the plan, of actions within -1 .. 1")
    min_noise: float = Field(0.05, gt=0, le=1, description="least deviation from it in later iterations")


class Settings(Section):
    """All settings of a run."""

    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    deterministic: bool = Field(
        False, description="only algorithms that give bitwise the same again on the same machine; slower on a GPU"
    )
    view: ViewSettings = ViewSettings()
    collect: CollectSettings = CollectSettings()
    model: ModelSettings = ModelSettings()
    world: WorldSettings = WorldSettings()
    policy: PolicySettings = PolicySettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    planner: PlannerSettings = PlannerSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        """Refuse settings that are valid each but not together."""
        for refused, reason in _conflicts(self):
            if refused:
                raise ValueError(reason)
        return self

    def with_value(self, name: str, value: Any) -> Settings:
        """A copy in which the setting of this dotted name has another value. Raises UsageError."""
        return resolve(values=[*flatten(self.model_dump()).items(), (name, value)])

    def section_values(self, sections: Iterable[str]) -> dict[str, Any]:
        """Values by dotted name of some sections; `seed` counts as one."""
        flat = flatten(self.model_dump())
        return {name: value for name, value in flat.items() if name.split(".")[0] in sections}


def _conflicts(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Combinations that make no sense: whether it is there, and what to say of it."""
    model, policy = settings.model, settings.policy
    memoryless, discrete = model.dynamics == "memoryless", not settings.view.continuous
    yield (
        memoryless and model.ensemble > 0,
        "model.dynamics = memoryless has no h for a model.ensemble to read; set it to 0",
    )
    yield policy.penalty > 0 and model.ensemble == 0, "policy.penalty needs a model.ensemble that can disagree"
    for name in ("cost", "cost_ends"):
        idle = getattr(policy, name) > 0 and not model.cost
        yield idle, f"policy.{name} needs model.cost, whose head says what there is of it"
    yield model.cell == "blocks" and model.deter % model.blocks > 0, "model.deter must be a multiple of model.blocks"
    yield (
        discrete and policy.gradient != "reinforce",
        "discrete actions have no gradient but policy.gradient = reinforce; --set policy.gradient=reinforce",
    )
    wild = settings.collect.policy
    unfit = discrete and wild in ("brownian", "glance", "launch")
    yield unfit, f"collect.policy = {wild} draws continuous actions; choose mixture, smooth, sticky or uniform"
    divided = model.deter % model.blocks == 0 and 4 * model.depth % model.blocks == 0
    pooled = model.encoder == "pooled" and not memoryless
    yield (
        pooled and not divided,
        "model.encoder = pooled needs model.deter and 4 model.depth in multiples of model.blocks",
    )
    yield policy.value == "present" and policy.replay_scale > 0, "policy.replay_scale needs policy.value = next"
    odd = policy.replay_scale > 0 and policy.starts % policy.replay_length > 0
    yield odd, "policy.starts must be a multiple of policy.replay_length"
    brief = policy.value == "present" and policy.horizon < 2
    yield brief, "policy.value = present needs a policy.horizon of at least 2"
    few = settings.planner.elites > settings.planner.sequences
    yield few, "planner.elites cannot be more than planner.sequences"
    yield (
        policy.carry > 0 and policy.replay_scale > 0,
        "policy.replay_scale starts in recorded states; set policy.carry to 0",
    )
    for name in ("penalty", "cost", "cost_ends"):
        bare = policy.replay_scale > 0 and getattr(policy, name) > 0
        yield bare, f"policy.replay_scale learns recorded rewards as they are; set policy.{name} to 0"


STAGE_SECTIONS = {
    "collect": ("seed", "view", "collect"),
    "fit-world": ("seed", "deterministic", "view", "model", "world"),
    "show-encodings": ("seed",),
    "fit-policy": ("seed", "deterministic", "policy"),
    "evaluate": ("seed", "evaluate", "planner"),
}
"""The settings that each stage depends on, beside those that its inputs were made with."""

Changes = dict[str, dict[str, Any]]

_NO_EXTRAS: dict[str, Any] = {"mirror": False, "fine": False, "cost": False}
"""A world model without what only `laptop` has."""

_AS_PUBLISHED: dict[str, Any] = {
    "carry": 0.0,
    "utility": "linear",
    "penalty": 0.0,
    "cost_ends": 0.0,
    "entropy_boost": 1.0,
    "anneal": 0.0,
    "average_rate": 1.0,
}
"""A policy without what only `laptop` has."""

VARIANTS: dict[str, Changes] = {
    "laptop": {},
    "v1": {
        "model": {
            **_NO_EXTRAS,
            "cell": "plain",
            "latent": "gaussian",
            "encoder": "strided",
            "norm": "none",
            "activation": "elu",
            "picture": "normal",
            "reward": "normal",
            "goes_on": "none",
            "deter": 200,
            "stoch": 30,
            "hidden": 200,
            "units": 400,
            "layers": 2,
            "depth": 32,
            "ensemble": 0,
        },
        "world": {
            "updates": 8000,
            "decode_share": 1.0,
            "batch": 50,
            "length": 50,
            "learning_rate": 6e-4,
            "eps": 1e-7,
            "weight_decay": 0.0,
            "warmup": 0,
            "anneal": 0.0,
            "free_nats": 3.0,
            "free": "mean",
            "representation_scale": 1.0,
        },
        "policy": {
            **_AS_PUBLISHED,
            "starts": 2500,
            "distribution": "tanh-normal",
            "gradient": "dynamics",
            "value": "present",
            "critic": "normal",
            "slow": "none",
            "normalise": False,
            "entropy": 0.0,
            "actor_rate": 8e-5,
            "critic_rate": 8e-5,
            "eps": 1e-7,
            "actor_layers": 4,
            "critic_layers": 3,
        },
    },
    "v2": {
        "model": {
            **_NO_EXTRAS,
            "encoder": "strided",
            "norm": "none",
            "activation": "elu",
            "picture": "normal",
            "reward": "normal",
            "goes_on": "soft",
            "deter": 200,
            "groups": 32,
            "classes": 32,
            "hidden": 200,
            "units": 400,
            "layers": 4,
            "depth": 48,
            "unimix": 0.0,
            "ensemble": 0,
        },
        "world": {
            "updates": 8000,
            "decode_share": 1.0,
            "batch": 16,
            "length": 50,
            "learning_rate": 3e-4,
            "eps": 1e-5,
            "weight_decay": 1e-6,
            "warmup": 0,
            "anneal": 0.0,
            "free": "mean",
            "dynamics_scale": 0.8,
            "representation_scale": 0.2,
        },
        "policy": {
            **_AS_PUBLISHED,
            "distribution": "truncated-normal",
            "gradient": "dynamics",
            "value": "present",
            "critic": "normal",
            "starts": 800,
            "slow": "target",
            "slow_rate": 1.0,
            "slow_every": 100,
            "normalise": False,
            "entropy": 1e-4,
            "actor_rate": 8e-5,
            "critic_rate": 8e-5,
            "eps": 1e-5,
            "weight_decay": 1e-6,
            "actor_layers": 4,
            "critic_layers": 4,
        },
    },
    "v3": {
        "model": {
            **_NO_EXTRAS,
            "cell": "blocks",
            "encoder": "pooled",
            "norm": "rms",
            "goes_on": "soft",
            "deter": 2048,
            "groups": 32,
            "classes": 16,
            "hidden": 256,
            "units": 256,
            "depth": 16,
            "ensemble": 0,
        },
        "world": {
            "updates": 8000,
            "decode_share": 1.0,
            "batch": 16,
            "length": 64,
            "optimizer": "laprop",
            "learning_rate": 4e-5,
            "eps": 1e-20,
            "weight_decay": 0.0,
            "warmup": 1000,
            "anneal": 0.0,
            "discount": 1 - 1 / 333,
        },
        "policy": {
            **_AS_PUBLISHED,
            "distribution": "bounded-normal",
            "entropy": 3e-4,
            "optimizer": "laprop",
            "actor_rate": 4e-5,
            "critic_rate": 4e-5,
            "eps": 1e-20,
            "warmup": 1000,
            "starts": 1024,
            "replay_scale": 0.3,
            "replay_length": 64,
            "actor_layers": 3,
            "critic_layers": 3,
        },
    },
}
"""What each Dreamer changes: the three published (docs/variants.md lists what still differs), one without memory out of
the first one's parts, and `laptop`, our own: the third made small and fast, with what two phases need."""

VARIANTS["memoryless"] = {
    **VARIANTS["v1"],
    "model": VARIANTS["v1"]["model"] | {"dynamics": "memoryless", "stoch": 32},
    # With version 1's weight of 1, z leaves out how fast the car is (docs/variants.md).
    "world": VARIANTS["v1"]["world"] | {"free_nats": 1.0, "representation_scale": 0.1},
}

_SIZES = {  # deter, hidden, classes, depth and units alike, as published; 32 groups always
    "1m": (512, 64, 4, 4, 64),
    "12m": (2048, 256, 16, 16, 256),
    "25m": (3072, 384, 24, 24, 384),
    "50m": (4096, 512, 32, 32, 512),
    "100m": (6144, 768, 48, 48, 768),
    "200m": (8192, 1024, 64, 64, 1024),
    "400m": (12288, 1536, 96, 96, 1536),
}
SIZES: dict[str, Changes] = {
    name: {"model": {"groups": 32, **dict(zip(("deter", "hidden", "classes", "depth", "units"), sizes, strict=True))}}
    for name, sizes in _SIZES.items()
}
"""DreamerV3's sizes by its own names, which are not quite the millions of parameters."""

_ANY: Changes = {
    "view": {"action_repeat": 1},
    "collect": {"decisions": 300_000, "limit": 1000},
    "model": _NO_EXTRAS,
    "world": {"updates": 8000},
    "policy": {
        "carry": 0.75,
        "utility": "linear",
        "distribution": "bounded-normal",
        "entropy": 3e-4,
        "entropy_boost": 1.0,
        "penalty": 1.0,
        "cost_ends": 0.0,
    },
}
ENVIRONMENTS: dict[str, Changes] = {
    CAR_RACING: {},
    "ALE": _ANY | {"view": {"action_repeat": 4}, "policy": _ANY["policy"] | {"penalty": 0.1}},
    "LunarLander-v3": _ANY | {"view": {"action_repeat": 4}},
    "Pendulum-v1": _ANY | {"view": {"action_repeat": 2}},
}
"""What the settings are for other environments than CarRacing, by id or the namespace before its `/`. Any other has
`_ANY`: what is done to CarRacing's rewards and dreams was found out for CarRacing."""


def environment_changes(env: str) -> Changes:
    """What an environment changes, by its id or `module:id`. Raises UsageError where its version is left out."""
    name = env.rpartition(":")[2]
    known = next((one for one in ENVIRONMENTS if one.partition("-v")[0] == name != one), None)
    if known is not None:  # gymnasium would take its latest, without what is known of it here
        raise UsageError(f"{env} has several versions; did you mean '{known}'?")
    return ENVIRONMENTS.get(name, ENVIRONMENTS.get(name.partition("/")[0], _ANY))


FORMER: Changes = {
    "model": _NO_EXTRAS,
    "policy": {"steepness": 1.0, "cost": 0.0, "cost_ends": 0.0, "entropy_boost": 1.0},
    "evaluate": {"particles": 1},
}
"""Settings that came later, with what there was before: of files that do not tell."""

PRESETS: dict[str, Changes] = {
    "full": {},
    "demo": {
        "collect": {"decisions": 60_000},
        "model": {"mirror": False},
        "world": {"updates": 2800},
        "policy": {"updates": 1200},
        "evaluate": {"tracks": 20},
    },
    "tiny": {
        "collect": {"decisions": 300, "limit": 60},
        "model": {"deter": 16, "groups": 4, "classes": 4, "hidden": 16, "units": 16, "depth": 2, "ensemble_units": 8},
        "world": {
            "updates": 6,
            "batch": 2,
            "length": 16,
            "validation_share": 0.5,
            "validate_every": 3,
            "save_every": 2,
        },
        "policy": {"updates": 6, "starts": 16, "horizon": 5, "replay_length": 4, "save_every": 2},
        "evaluate": {"tracks": 2},
    },
}
"""What each preset changes: `tiny` ends in seconds, for tests; `demo` in minutes on two cores; `full` is the best."""

BENEATH: dict[str, Changes] = {
    "demo": {
        "policy": {
            "carry": 0.0,
            "entropy": 3e-4,
            "entropy_boost": 30.0,
            "distribution": "bounded-normal",
            "slow_rate": 0.1,
        },
    }
}
"""What a preset changes where neither environment nor variant does: dreams of a poor world are trusted less far."""

MAX_BYTES = 2**16
"""The most that a file of settings may take; all of them, with a remark each, take a quarter."""

_short = reprlib.Repr()  # a file may hold anything, of any length and depth
_short.maxstring = _short.maxother = 80


def _set_value(tree: dict[str, Any], name: str, value: Any) -> None:
    """Put `value` at the dotted `name` of the tree; refuse a name that is no setting."""
    valid = setting_names()
    if name not in valid:
        raise UsageError(f"There is no setting '{name:.80}'{did_you_mean(name, valid)}")
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
        return read_toml(path, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"Cannot read the settings file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"The settings file {path} is not TOML: {error}") from error


def resolve(
    preset: str = "full",
    file: Mapping[str, Any] | None = None,
    values: Iterable[tuple[str, Any]] = (),
    *,
    variant: str = "laptop",
    size: str | None = None,
) -> Settings:
    """Combine defaults, environment, variant, size, preset, file and single values into checked settings.

    Args:
        preset: name in `PRESETS`.
        file: nested tables as read from a TOML file.
        values: dotted names and values, the last word.
        variant: name in `VARIANTS`.
        size: name in `SIZES`; None for the variant's own.

    Raises:
        UsageError: an unknown name (with the nearest valid one), a value out of bounds, or values that do not go
            together.
    """
    last = [*flatten(file or {}).items(), *values]
    environment = environment_changes(str(dict(last).get("view.env", CAR_RACING)))
    chosen = [BENEATH.get(preset, {}), environment, _named("variant", variant, VARIANTS)]
    if size is not None:
        chosen.append(_named("size", size, SIZES))
    chosen.append(_named("preset", preset, PRESETS))
    tree: dict[str, Any] = {}
    for name, value in (*(item for changes in chosen for item in flatten(changes).items()), *last):
        _set_value(tree, name, value)
    return validate(tree)


def _named(kind: str, name: str, known: Mapping[str, Changes]) -> Changes:
    if name not in known:
        raise UsageError(f"There is no {kind} '{name}'{did_you_mean(name, known)}")
    return known[name]


def validate(tree: Mapping[str, Any]) -> Settings:
    """Check a nested mapping against bounds and names and give the settings. Raises UsageError."""
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        if not error.errors()[0]["loc"]:  # the settings do not go together, or are no table
            raise UsageError(describe(error)) from error
        raise UsageError(f"The setting {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """The first thing that is wrong, as `world.updates = -1 is not valid: input should be ...`."""
    first = error.errors()[0]
    reason, name = first["msg"].removeprefix("Value error, "), ".".join(str(part) for part in first["loc"])
    reason = reason[:1].lower() + reason[1:]
    if not name:
        return str(first.get("ctx", {}).get("error", reason))
    try:
        value = _short.repr(first["input"])
    except ValueError:  # Python writes out no number of thousands of digits
        value = "a huge number"
    return f"{name:.80} = {value} is not valid: {reason}"
