"""The learned world as a Gymnasium environment, for one driver or for many side by side.

Importing this module registers it, and so does naming it in the id:

    gymnasium.make("pipeline.dream_env:Dream/CarRacing-v0", run="artifacts/demo")
    gymnasium.make_vec("pipeline.dream_env:Dream/CarRacing-v0", num_envs=64, run="artifacts/demo")

Of another environment than CarRacing the dream is made by the same entry point under the id `Dream-v0`.
One step is one decision, as in `AgentView`. docs/dream-env.md has a worked example.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from .artifacts import Run, check_name
from .devices import named_device
from .envs import adapter_of
from .envs.actions import Action
from .envs.view import shrink
from .episodes.joined import Data, open_data
from .episodes.windows import Windows
from .errors import StageError, UsageError
from .learning.imagination import Dream
from .models.checkpoints import LoadedWorld, load_world
from .models.dynamics import Latent
from .randomness import Stream, numpy_stream, stream_seed

ID, ANY_ID = "Dream/CarRacing-v0", "Dream-v0"
"""Two names of one thing: the second is for the dream of any other environment."""

START_EPISODES = 16
"""Recorded episodes in whose states drives begin: a few thousand states, read within seconds."""

_ENLARGED = 6  # pixels of a rendered frame for each one of the picture


class DreamOptions(TypedDict, total=False):
    """What both environments take beside the run.

    Attributes:
        data: folder of the data set whose states drives begin in; by default those that the world model was fitted
            to, `data/<name>` beside the run's `artifacts/`.
        observation: "picture", (S, S, 3) uint8, or "latent", the features [h, z] of the state, (F,) float32, which are
            what Dreamer's own policy reads, and save the decoding.
        temperature: of the states drawn, see `Dream`.
        limit: decisions after which a drive is truncated; by default that of the recorded drives.
        device: where the world model computes.
    """

    data: str | Path | None
    observation: Literal["picture", "latent"]
    temperature: float
    limit: int | None
    device: str


class DreamEnv(gymnasium.Env[NDArray[Any], Action]):
    """One imagined drive at a time.

    Actions are the environment's own as a vector, such as `[steer, gas, brake]`, or the number of a discrete one, from
    0. The reward is what the world model expects. A drive terminates by chance, with the probability that the continue
    head gives (never, where the model has none). `info` has `goes_on`, one minus that probability, and `disagreement`,
    of the ensemble of priors: it is large where the model is guessing (0 without an ensemble). Also `cost`, how much of
    what is to be avoided there is (0 without a cost head).

    `reset` begins in a recorded state, drawn at random. `options={"observations": ..., "actions": ...}` begins after a
    real drive instead: T observations (T, H, W, 3) uint8, stock ones or as seen here, and the T - 1 actions between.

    Args:
        run: folder of a run that has a world model, such as `artifacts/demo`.
        render_mode: "rgb_array": `render` gives the picture enlarged, (6 S, 6 S, 3) uint8.
        options: see `DreamOptions`.

    Raises:
        StageError: the world model or the data set is missing or damaged, or they do not go together.
        UsageError: an option has a value that it cannot have.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 12.5}  # noqa: RUF012 (gymnasium's)

    def __init__(self, run: str | Path, render_mode: str | None = None, **options: Unpack[DreamOptions]) -> None:
        self._drives = _Drives(run, 1, **options)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": self._drives.pace}
        self.observation_space, self.action_space = self._drives.observation_space, self._drives.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """See `gymnasium.Env.reset` and above."""
        super().reset(seed=seed)
        self._drives.reset(self.np_random, options)
        return self._drives.observations()[0], {}

    def step(self, action: Action) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        came = self._drives.step(np.asarray(action)[None])
        info = {name: float(values[0]) for name, values in came.info.items()}
        observation = self._drives.observations()[0]
        return observation, float(came.reward[0]), bool(came.terminated[0]), bool(came.truncated[0]), info

    def render(self) -> NDArray[np.uint8] | None:
        """The picture of the present state, enlarged; None without `render_mode`."""
        return self._drives.frames()[0] if self.render_mode == "rgb_array" else None


class DreamVectorEnv(gymnasium.vector.VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """Many imagined drives side by side, all in one pass of one world model.

    As `DreamEnv`, with a leading axis. A drive that has ended begins anew with the next step, whose action then counts
    for nothing (`AutoresetMode.NEXT_STEP`).

    Args:
        run: see `DreamEnv`.
        num_envs: drives.
        render_mode: "rgb_array": `render` gives a tuple of pictures.
        options: see `DreamOptions`.
    """

    metadata: dict[str, Any] = {**DreamEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, run: str | Path, num_envs: int = 1, render_mode: str | None = None, **options: Unpack[DreamOptions]
    ) -> None:
        self._drives = _Drives(run, num_envs, **options)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {**self.metadata, "render_fps": self._drives.pace}
        self.single_observation_space = self._drives.observation_space
        self.single_action_space = self._drives.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.reset`; one seed is of all drives, and of a list the first counts."""
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        self._drives.reset(self.np_random, options)
        self._over[:] = False
        return self._drives.observations(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.step`."""
        came, begun = self._drives.step(np.asarray(actions)), self._over
        if begun.any():
            self._drives.begin(begun, self.np_random)
        terminated, truncated = came.terminated & ~begun, came.truncated & ~begun
        self._over = terminated | truncated
        info = came.info | {f"_{name}": ~begun for name in came.info}
        return self._drives.observations(), np.where(begun, 0.0, came.reward), terminated, truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """The pictures of the present states, enlarged; None without `render_mode`."""
        return tuple(self._drives.frames()) if self.render_mode == "rgb_array" else None


class _Outcome(NamedTuple):
    """What came of a step, an entry for each of the N drives."""

    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    info: dict[str, NDArray[np.float64]]


class _Drives:
    """N imagined drives in one world model: what both environments are made of.

    Attributes:
        observation_space, action_space: of one drive.
        pace: decisions a second, at the speed of the real environment.
    """

    def __init__(self, run: str | Path, count: int, **options: Unpack[DreamOptions]) -> None:
        folder, device = Run(Path(run)), str(named_device(options.get("device", "cpu")))
        if not (temperature := options.get("temperature", 1.0)) > 0:
            raise UsageError(f"temperature must be above 0, not {temperature}")
        weights = folder.world.weights
        digest = folder.world.require({}).outputs[weights.name]
        self._world = _shared_world(weights, digest, device)
        settings = folder.world.read_settings()
        self._discount = settings.world.discount if settings.model.goes_on == "soft" else 1.0
        self._limit = options.get("limit") or settings.collect.limit
        named = options.get("data")
        data = (Path(named),) if named else recorded_data(folder)
        self._recorded = partial(_shared_states, weights, digest, device, data, settings.seed)
        self._generator = torch.Generator(device)
        self._dream = Dream(self._world.model, temperature, self._generator)
        self._kind = options.get("observation", "picture")
        self._count = count
        self._steps = np.zeros(count, np.int64)
        self.observation_space = _observation_space(self._world, self._kind)
        self.action_space = action_space(self._world)
        view = self._world.interface.view
        self.pace = adapter_of(view.env).steps_a_second / view.action_repeat

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None) -> None:
        """Begin all drives, and all that is random with them."""
        self._generator.manual_seed(int(rng.integers(2**63)))
        if options and "observations" in options:
            start = state_after(self._world, options["observations"], options.get("actions", ()), self._generator)
            self._dream.reset(start[[0] * self._count])
            self._steps[:] = 0
            return
        self._dream.latent = None
        self.begin(np.ones(self._count, np.bool_), rng)

    def begin(self, chosen: NDArray[np.bool_], rng: np.random.Generator) -> None:
        """Begin the drives that are chosen, (N,), in recorded states."""
        recorded = self._recorded()
        start = recorded[torch.from_numpy(rng.integers(len(recorded.stoch), size=self._count))]
        if self._dream.latent is not None:
            start = start.where(torch.from_numpy(chosen).to(start.deter.device), self._dream.latent)
        self._dream.reset(start)
        self._steps[chosen] = 0

    @torch.no_grad()
    def step(self, actions: NDArray[Any]) -> _Outcome:
        """Take one decision in each drive: (N, A), or (N,) numbers."""
        latent = self._dream.step(self._world.model.scale.to_model(as_vectors(self._world, actions)))
        said = self._dream.outcomes(latent)
        goes_on = (said.goes_on / self._discount).clamp_max(1)
        over = torch.empty_like(goes_on).uniform_(generator=self._generator) >= goes_on
        self._steps += 1
        terminated: NDArray[np.bool_] = over.cpu().numpy()
        info = {"goes_on": goes_on, "disagreement": said.disagreement, "cost": said.cost}
        return _Outcome(
            said.reward.double().cpu().numpy(),
            terminated,
            (self._steps >= self._limit) & ~terminated,
            {name: values.double().cpu().numpy() for name, values in info.items()},
        )

    @torch.no_grad()
    def observations(self) -> NDArray[Any]:
        """What the drivers see, (N, ...)."""
        if self._kind == "picture":
            return self._pictures()
        assert self._dream.latent is not None
        features: NDArray[np.float32] = self._dream.latent.feature.float().cpu().numpy()
        return features

    def frames(self) -> NDArray[np.uint8]:
        """The pictures enlarged, (N, 6 S, 6 S, 3) uint8."""
        return self._pictures().repeat(_ENLARGED, 1).repeat(_ENLARGED, 2)

    @torch.no_grad()
    def _pictures(self) -> NDArray[np.uint8]:
        assert self._dream.latent is not None, "reset comes first"
        pictures = self._world.model.pictures(self._dream.latent.feature).permute(0, 2, 3, 1)
        return np.ascontiguousarray(pictures.cpu().numpy())


@lru_cache(maxsize=1)
def _shared_world(weights: Path, digest: str, device: str) -> LoadedWorld:
    """A world model, once for all environments of a process that share it."""
    return load_world(weights, device)


@lru_cache(maxsize=1)
def _shared_states(weights: Path, digest: str, device: str, data: tuple[Path, ...], seed: int) -> Latent:
    """The states that its drives begin in, likewise."""
    return recorded_states(_shared_world(weights, digest, device), data, seed)


def _observation_space(world: LoadedWorld, kind: str) -> Box:
    if kind == "picture":
        size = world.interface.view.size
        return Box(0, 255, (size, size, 3), np.uint8)
    if kind == "latent":
        bound = np.inf if world.settings.latent == "gaussian" else 1.0  # h is a mean of tangents, z one-hot
        return Box(-bound, bound, (world.model.features,), np.float32)
    raise UsageError(f"observation is 'picture' or 'latent', not '{kind}'")


def action_space(world: LoadedWorld) -> Space[Any]:
    """The environment's own actions, as the world model's data have them."""
    if world.interface.discrete:
        return Discrete(len(world.interface.low))
    return Box(np.array(world.interface.low, np.float32), np.array(world.interface.high, np.float32))


def as_vectors(world: LoadedWorld, actions: Any) -> Tensor:
    """The environment's actions (N, A), or numbers (N,), as vectors (N, A) on the model's device."""
    tensor = torch.as_tensor(np.asarray(actions), device=world.model.device)
    if world.interface.discrete:
        return torch.nn.functional.one_hot(tensor.long(), len(world.interface.low)).float()
    return tensor.float()


def recorded_data(run: Run) -> tuple[Path, ...]:
    """The folders of the data sets that a run's world model was fitted to, beside the folder of the runs."""
    manifest = run.world.read_manifest()
    if manifest is None or not manifest.sources:
        raise StageError(f"{run.world.path} does not name its data set; give it as data=")
    root = run.root.parent.parent / "data"
    return tuple(root / check_name(source.name, "data set") for source in manifest.sources)


@torch.no_grad()
def recorded_states(world: LoadedWorld, data: Data, seed: int, episodes: int = START_EPISODES) -> Latent:
    """States of some recorded episodes, (N, ...), each after all that came before it; none that ends an episode.

    Args:
        world: the world model.
        data: folder of a data set whose pictures and actions are like those that the model knows, or of several.
        seed: of which episodes, and of the states drawn.
        episodes: how many, at most.

    Raises:
        StageError: the data set is missing or damaged, or was seen otherwise.
    """
    with open_data(data) as store:
        store.require_view(world.interface.view)
        chosen = numpy_stream(seed, Stream.ENCODING).permutation(len(store))[:episodes]
        batch, mask = Windows(store, chosen, 2, memory_gib=1.0).episode_batch(chosen)
    kept = (mask & ~batch.is_terminal).to(world.model.device)
    batch = batch.to(world.model.device)
    with torch.random.fork_rng([world.model.device] if world.model.device.type == "cuda" else []):
        torch.manual_seed(stream_seed(seed, Stream.ENCODING))
        return world.model.observe(batch.observation, batch.action, batch.is_first)[kept]


@torch.no_grad()
def state_after(world: LoadedWorld, observations: Any, actions: Any, generator: torch.Generator) -> Latent:
    """The state after a real drive, (1, ...).

    Args:
        world: the world model.
        observations: (T, H, W, 3) uint8, T >= 1.
        actions: the T - 1 decisions between them, (T - 1, A) or numbers (T - 1,).
        generator: of the states drawn.

    Raises:
        UsageError: they have other shapes.
    """
    frames, model = np.asarray(observations), world.model
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(actions) != len(frames) - 1:
        raise UsageError(
            "A drive to begin after is T observations (T, H, W, 3) uint8 and the T - 1 actions between, "
            f"not {frames.dtype} {frames.shape} and {len(actions)} actions"
        )
    view = world.interface.view
    small = np.stack([shrink(frame, view.size, view.grey) for frame in frames])
    projected = model.dynamics.project(model.encode(torch.from_numpy(small).to(model.device)))
    led = torch.zeros(len(frames), len(world.interface.low), device=model.device)
    if len(frames) > 1:
        led[1:] = as_vectors(world, actions)
    latent = model.dynamics.initial(1, device=model.device)
    for row, action in enumerate(model.scale.to_model(led)):
        is_first = torch.tensor([row == 0], device=model.device)
        step = action[None], projected[row][None], is_first
        latent, _ = model.dynamics.observe_step(latent, *step, generator=generator)
    return latent


def _register() -> None:
    where = f"{__name__}:"
    for name in {ID, ANY_ID} - gymnasium.registry.keys():
        gymnasium.register(name, where + "DreamEnv", vector_entry_point=where + "DreamVectorEnv")


_register()
