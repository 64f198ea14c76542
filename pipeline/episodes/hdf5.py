"""An episode in HDF5, in Minari's layout, and the guard that every object passes before it is read.

    /episode_<i>                      attributes: id, total_steps, seed, policy, track_tiles, sha256
        observations                  (T + 1, 3, S, S) uint8, gzip-1, chunks of 16 pictures
        actions                       (T, A) float32, or discrete ones (T,) int64
        rewards                       (T,) float32
        terminations, truncations     (T,) bool
        infos/                        (T,) each: of CarRacing speed, on_road, tiles, lap_finished

A data file may come from a stranger, and HDF5 can point outside itself in three ways (soft and external links,
external storage, virtual datasets), name plug-ins as filters, and declare terabytes in a kilobyte. Nothing here
is opened but through a hard link, one name at a time, and no array is read whose type, shape, storage or filter is
not one that `write_episode` makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .episode import COLUMNS, INFO_TYPES, Decisions, Episode

_CHUNK = 16  # pictures; the best of 1, 16, 50 and whole episodes for reading short windows
_MAX_CHUNK_BYTES = 2**24  # 16 pictures of 128 x 128 take 0.8 MB
_MAX_EPISODE_BYTES = 2**31  # 43,000 pictures of 128 x 128: more than forty times the longest lap
_MAX_TEXT = 200  # characters of an attribute


class ForeignError(ValueError):
    """The file holds something that this project does not write."""


@dataclass(frozen=True)
class Entry:
    """What the store knows of an episode without reading it.

    Attributes:
        steps: decisions, T.
        digest: SHA-256 of the content, as `Episode.digest` had it.
    """

    steps: int
    digest: str


@dataclass(frozen=True)
class Shapes:
    """What all episodes of a data set share.

    Attributes:
        action: numbers in an action, A; of discrete ones, how many there are to choose from.
        size: height and width of a picture, S.
        discrete: whether an action is a single number in 0 .. A - 1.
        infos: names and types of the infos.
    """

    action: int
    size: int
    discrete: bool = False
    infos: Mapping[str, np.dtype[Any]] = field(default_factory=lambda: INFO_TYPES)

    def fit(self, actions: NDArray[Any]) -> bool:
        """Whether an episode's actions are such actions."""
        if self.discrete:
            return actions.ndim == 1 and bool((actions < self.action).all())
        return actions.shape[1:] == (self.action,)


def group_name(index: int) -> str:
    """Name of episode `index`."""
    return f"episode_{index}"


def write_episode(file: h5py.File, index: int, episode: Episode) -> Entry:
    """Write an episode as a group of its own."""
    entry = Entry(len(episode), episode.digest())
    group = file.create_group(group_name(index))
    group.attrs.update(
        id=index,
        total_steps=entry.steps,
        seed=episode.seed,
        policy=episode.policy,
        track_tiles=episode.track_tiles,
        sha256=entry.digest,
    )
    chunks = (min(_CHUNK, len(episode) + 1), *episode.observations.shape[1:])
    group.create_dataset(
        "observations", data=episode.observations, chunks=chunks, compression="gzip", compression_opts=1
    )
    for name in COLUMNS:
        group.create_dataset(name, data=getattr(episode, name))
    infos = group.create_group("infos")
    for name, array in episode.infos.items():
        infos.create_dataset(name, data=array)
    return entry


def read_entry(file: h5py.File, index: int, shapes: Shapes) -> Entry:
    """Read what the group says of episode `index`. Raises ForeignError."""
    group = _open(file, group_name(index), h5py.Group)
    steps, digest = _attribute(group, "total_steps", int), _attribute(group, "sha256", str)
    if not 1 <= steps < _MAX_EPISODE_BYTES // (3 * shapes.size**2):
        raise ForeignError(f"{group.name} claims to have {steps} decisions")
    return Entry(steps, digest)


def read_decisions(file: h5py.File, index: int, entry: Entry, shapes: Shapes) -> Decisions:
    """Read all of episode `index` but its pictures. Raises ForeignError."""
    group = _open(file, group_name(index), h5py.Group)
    arrays, infos = _arrays(group, entry, shapes)
    try:
        decisions = Decisions(
            **{name: arrays[name][()] for name in COLUMNS},
            infos={name: array[()] for name, array in infos.items()},
            seed=_attribute(group, "seed", int),
            policy=_attribute(group, "policy", str),
            track_tiles=_attribute(group, "track_tiles", int),
        )
    except ForeignError:
        raise
    except (ValueError, OSError) as error:
        raise ForeignError(f"{group.name} is damaged: {error}") from error
    if not shapes.fit(decisions.actions):
        raise ForeignError(f"{group.name} has an action beyond the {shapes.action} that there are")
    return decisions


def read_frames(file: h5py.File, index: int, entry: Entry, shapes: Shapes, rows: slice, out: NDArray[np.uint8]) -> None:
    """Read the pictures of the rows into `out`, (rows, 3, S, S) uint8, contiguous. Raises ForeignError."""
    group = _open(file, group_name(index), h5py.Group)
    frames = _array(group, "observations", *_schema(entry, shapes)["observations"])
    try:
        frames.read_direct(out, rows)
    except OSError as error:
        raise ForeignError(f"{frames.name} is damaged: {error}") from error


def copy_episode(source: h5py.File, target: h5py.File, index: int, entry: Entry, shapes: Shapes) -> None:
    """Copy episode `index`, as it is stored, into another file. Raises ForeignError."""
    _arrays(_open(source, group_name(index), h5py.Group), entry, shapes)
    source.copy(group_name(index), target)


def _schema(entry: Entry, shapes: Shapes) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Type and shape of each array of an episode but its infos."""
    steps = entry.steps
    return {
        "observations": (np.uint8, (steps + 1, 3, shapes.size, shapes.size)),
        "actions": (np.int64, (steps,)) if shapes.discrete else (np.float32, (steps, shapes.action)),
        "rewards": (np.float32, (steps,)),
        "terminations": (np.bool_, (steps,)),
        "truncations": (np.bool_, (steps,)),
    }


def _arrays(group: h5py.Group, entry: Entry, shapes: Shapes) -> tuple[dict[str, h5py.Dataset], dict[str, h5py.Dataset]]:
    """Open all arrays of an episode, and its infos, and make sure that there is nothing else."""
    schema = _schema(entry, shapes)
    infos = _open(group, "infos", h5py.Group)
    for holder, names in ((group, {*schema, "infos"}), (infos, {*shapes.infos})):
        if set(holder) != names:
            raise ForeignError(f"{holder.name} does not hold just {', '.join(sorted(names))}")
    return (
        {name: _array(group, name, dtype, shape) for name, (dtype, shape) in schema.items()},
        {name: _array(infos, name, dtype, (entry.steps,)) for name, dtype in shapes.infos.items()},
    )


def _open(parent: h5py.Group, name: str, kind: type[Any]) -> Any:
    """Open the object of that kind which `name`, one component, leads to by a hard link."""
    where = f"{parent.name.rstrip('/')}/{name}"
    try:
        if parent.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise ForeignError(f"{where} is a link that leads elsewhere")
        opened = h5py.h5o.open(parent.id, name.encode())
    except (KeyError, OSError, RuntimeError) as error:
        raise ForeignError(f"{where} is missing or damaged") from error
    expected = h5py.h5g.GroupID if kind is h5py.Group else h5py.h5d.DatasetID
    if not isinstance(opened, expected):
        raise ForeignError(f"{where} is not a {kind.__name__.lower()}")
    return kind(opened)


def _array(parent: h5py.Group, name: str, dtype: Any, shape: tuple[int, ...]) -> h5py.Dataset:
    """Open an array of exactly this type and shape that lies in this file, plain or deflated."""
    array = _open(parent, name, h5py.Dataset)
    if array.shape != shape or array.dtype != dtype:
        raise ForeignError(f"{array.name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
    plan = array.id.get_create_plist()
    layout = plan.get_layout()
    if plan.get_external_count() or layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        raise ForeignError(f"{array.name} keeps its values elsewhere")
    if any(plan.get_filter(i)[0] != h5py.h5z.FILTER_DEFLATE for i in range(plan.get_nfilters())):
        raise ForeignError(f"{array.name} is stored with another filter than gzip")
    if layout == h5py.h5d.CHUNKED:
        chunk_bytes = array.dtype.itemsize * math.prod(plan.get_chunk())
        if chunk_bytes > _MAX_CHUNK_BYTES:
            raise ForeignError(f"{array.name} has chunks of {chunk_bytes} bytes")
    return array


def _attribute(group: h5py.Group, name: str, kind: type[Any]) -> Any:
    """Read a single integer or a short text."""
    try:
        attribute = h5py.h5a.open(group.id, name.encode())
        text = h5py.check_string_dtype(attribute.dtype)
        fits = text is not None and text.length is None if kind is str else attribute.dtype.kind in "iu"
        if attribute.shape != () or not fits:
            raise ForeignError(f"the attribute {name} of {group.name} is not of type {kind.__name__}")
        value = kind(group.attrs[name])
    except (KeyError, OSError, RuntimeError, UnicodeDecodeError) as error:
        raise ForeignError(f"the attribute {name} of {group.name} is missing or damaged") from error
    if kind is str and len(value) > _MAX_TEXT:
        raise ForeignError(f"the attribute {name} of {group.name} has {len(value)} characters")
    return value
