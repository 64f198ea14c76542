"""What was recorded as values: an episode at rest, and a batch of rows in flight to the models."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..envs.adapter import Mirror

COLUMNS = ("actions", "rewards", "terminations", "truncations")
"""The arrays of `Decisions` beside its infos."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Decisions:
    """An episode without its pictures. T decisions; each array has one entry a decision, and T >= 1.

    Attributes:
        actions: (T, A) float32, the environment's own such as `[steer, gas, brake]`, or (T,) int64, the numbers of
            discrete ones; action t was chosen at observation t and led to observation t + 1.
        rewards: (T,) float32; reward t is what came of action t, and arrived with observation t + 1.
        terminations: (T,) bool; the episode ended for good. Only the last can be True.
        truncations: (T,) bool; the recording stopped there, although the episode could have gone on. Only the last
            can be True, and is just where `terminations[-1]` is not.
        infos: an array (T,) for each name that the adapter gives (`envs.adapter.Adapter.infos`), in that order, as it
            was after the action; none where it gives none.
        seed: of the episode; of CarRacing, of its track.
        policy: the random process that acted.
        track_tiles: tiles that make a lap; 0 where there is no track.
    """

    actions: NDArray[np.float32] | NDArray[np.int64]
    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    infos: dict[str, NDArray[Any]]
    seed: int
    policy: str
    track_tiles: int = 0

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        if steps < 1:
            raise ValueError("an episode has at least one decision")
        discrete = self.actions.ndim == 1
        _check("actions", self.actions, np.int64 if discrete else np.float32, (steps, *self.actions.shape[1:2]))
        _check("rewards", self.rewards, np.float32, (steps,))
        _check("terminations", self.terminations, np.bool_, (steps,))
        _check("truncations", self.truncations, np.bool_, (steps,))
        for name, array in self.infos.items():
            _check(name, array, array.dtype, (steps,))
        if not all(np.isfinite(column).all() for column in (self.actions, self.rewards, *self.infos.values())):
            raise ValueError("actions, rewards and infos are finite numbers")
        if discrete and (self.actions < 0).any():
            raise ValueError("discrete actions are numbers from 0 on")
        ends = self.terminations.astype(int) + self.truncations
        if ends[:-1].any() or ends[-1] != 1:
            raise ValueError("an episode ends at its last decision and only there, terminated or else truncated")

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def info_types(self) -> dict[str, np.dtype[Any]]:
        """Names and types of its infos."""
        return {name: array.dtype for name, array in self.infos.items()}

    @property
    def score(self) -> float:
        """Sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))


@dataclass(frozen=True, eq=False, kw_only=True)
class Episode(Decisions):
    """A recorded episode: T decisions and the T + 1 observations around them.

    Attributes:
        observations: (T + 1, 3, S, S) uint8, RGB, channel first.

    Raises:
        ValueError: an array's shape or type is not as said here and in `Decisions`, or the end is not at the end.
    """

    observations: NDArray[np.uint8]

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.observations.shape[-1]
        _check("observations", self.observations, np.uint8, (len(self) + 1, 3, size, size))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all the content, however it is stored."""
        facts = {"seed": self.seed, "policy": self.policy, "track_tiles": self.track_tiles}
        result = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        columns = {name: getattr(self, name) for name in ("observations", *COLUMNS)}
        for name, array in (columns | self.infos).items():
            result.update(f"{name} {array.dtype.str} {array.shape}".encode())
            result.update(np.ascontiguousarray(array).data)
        return result.hexdigest()


def _check(name: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of episodes as tensors: B sequences of T rows. A row holds what *arrives together*.

    An episode is stored by decision, and read by arrival: the action moves one to the right, to the observation
    it led to. That is what a world model needs: at each row, what has just been done, then what is seen now.

        stored    observations   o0    o1    o2    ...   oT
                  actions        a0    a1    a2    ...              chosen at o(t), leads to o(t+1)
                  rewards        r0    r1    r2    ...              earned by a(t)
                  terminations   d0    d1    d2    ...

        row                      0     1     2     ...   T
                  observation    o0    o1    o2    ...   oT
                  action         0     a0    a1    ...   a(T-1)     led to this observation
                  reward         0     r0    r1    ...   r(T-1)     arrived with it
                  is_first       1     0     0     ...   0
                  is_terminal    0     d0    d1    ...   d(T-1)

    Attributes:
        observation: (B, T, 3, S, S) uint8.
        action: (B, T, A) float32, the environment's own, a discrete one as a one-hot vector; zeros where `is_first`.
        reward: (B, T) float32; zero where `is_first`.
        is_first: (B, T) bool; an episode begins here, whatever is to the left belongs to another one.
        is_terminal: (B, T) bool; the episode ended here for good. An episode that was cut short is not terminal.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    is_first: Tensor
    is_terminal: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on the device of a model, which pinned memory reaches while the host goes on."""
        return Batch(**{field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)})

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU reads by itself."""
        return Batch(**{field.name: getattr(self, field.name).pin_memory() for field in fields(self)})

    def mirrored(self, mirror: Mirror | None, which: slice | list[int]) -> Batch:
        """The same batch with some of the sequences seen in a mirror, where there is one. On a GPU, give a slice."""
        if mirror is None:
            return self
        observation, action = self.observation.clone(), self.action.clone()
        observation[which], action[which] = mirror(observation[which], action[which])
        return replace(self, observation=observation, action=action)

    def select(self, sequences: Tensor) -> Batch:
        """Some of the sequences, by their numbers (N,)."""
        return Batch(**{field.name: getattr(self, field.name)[sequences] for field in fields(self)})
