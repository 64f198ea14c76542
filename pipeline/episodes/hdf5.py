"""An episode in HDF5, in Minari's layout, and the guard that every object passes before it is read.

    /episode_<i>                      attributes: id, total_steps, seed, policy, track_tiles, sha256
        observations                  (T + 1, 3, S, S) uint8, gzip-1, chunks of 16 pictures
        actions                       (T, A) float32, or discrete ones (T,) int64
        rewards                       (T,) float32
        terminations, truncations     (T,) bool
        infos/                        (T,) each: what the environment's adapter gives, see docs/data.md

A data file may come from a stranger, and HDF5 can point outside itself in three ways (soft and external links,
external storage, virtual datasets), name plug-ins as filters, declare terabytes in a kilobyte, and unfold into them.
Nothing here is opened but through a hard link, one name at a time, and no array is read whose type, shape and storage
are not just those that `write_episode` makes. Pictures are inflated here, into the room that they may take: HDF5 would
go on for as long as there is something to inflate.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..reading import require_file
from .episode import COLUMNS, Decisions, Episode

_CHUNK = 16  # pictures; the best of 1, 16, 50 and whole episodes for reading short windows
_MAX_EPISODE_BYTES = 2**31  # 43,000 pictures of 128 x 128: more than forty times the longest lap
_MAX_TEXT = 200  # characters of an attribute
_DIGEST = re.compile("[0-9a-f]{64}")

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01\0\0\0"  # where a collection of texts begins
_ATTRIBUTE, _CONTINUED, _ELSEWHERE = 0x0C, 0x10, 0x15  # messages in an object's header
_INTEGER, _FLOAT, _TEXT = b"\x10", b"\x11", b"\x19\x01"  # how the type of an attribute begins
_MAX_CLAIM = 2**16  # bytes of a text
_MAX_HEADER, _MAX_BLOCKS = 2**16, 8  # bytes of an object's header, in each of its pieces
_BLOCK = 2**24  # bytes of a file that are looked through at a time

_Arrays = dict[str, h5py.h5d.DatasetID]


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
        infos: names and types of the infos, in their order.
    """

    action: int
    size: int
    discrete: bool = False
    infos: Mapping[str, np.dtype[Any]] = field(default_factory=dict)

    def fit(self, actions: NDArray[Any]) -> bool:
        """Whether an episode's actions are such actions."""
        if self.discrete:
            return actions.ndim == 1 and bool((actions < self.action).all())
        return actions.shape[1:] == (self.action,)


def group_name(index: int) -> str:
    """Name of episode `index`."""
    return f"episode_{index}"


def open_file(path: Path) -> h5py.File:
    """Open a data file to read. Without HDF5's lock: no file of ours changes once it has its name.

    Raises OSError or ForeignError.
    """
    require_file(path)
    _check_heaps(path)
    return h5py.File(path, "r", locking=False)


def _check_heaps(path: Path) -> None:
    """Make sure that the texts in a file can be walked through: on some that cannot, HDF5 never comes back.

    A piece of free space that claims to have no size is one (HDFGroup/hdf5#1707, open in 2.0). Raises ForeignError.
    """
    with path.open("rb") as stream:
        start = stream.read(32).ljust(32)
        # Version 0, addresses and lengths of 8 bytes, counted from the beginning of the file.
        if (start[:9], start[13:15], start[24:]) != (_SIGNATURE + b"\0", b"\x08\x08", bytes(8)):
            raise ForeignError("it is not an HDF5 file, or one of another version than this project writes")
        for place in _heaps(path):
            stream.seek(place + 8)
            (size,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
            heap = stream.read(min(size, _BLOCK) - 16) if size >= 16 else b""
            if len(heap) + 16 != size:
                raise ForeignError("a collection of texts in it is damaged")
            at = 0
            while at + 16 <= len(heap):
                number, length = struct.unpack_from("<H6xQ", heap, at)
                step = 16 + -(-length // 8) * 8 if number else length
                if not 16 <= step <= len(heap) - at:
                    raise ForeignError("a collection of texts in it is damaged")
                at += step


def _heaps(path: Path) -> Iterator[int]:
    """Where the file has collections of texts. Eight bytes are never mistaken for the beginning of one by chance."""
    with path.open("rb") as stream:
        place, kept = 0, b""
        while block := stream.read(_BLOCK):
            content = kept + block
            yield from (place - len(kept) + match.start() for match in re.finditer(re.escape(_HEAP), content))
            place, kept = place + len(block), content[-len(_HEAP) + 1 :]


def write_episode(file: h5py.File, index: int, episode: Episode) -> Entry:
    """Write an episode as a group of its own."""
    entry = Entry(len(episode), episode.digest())
    frames = _create(file, index, episode, entry, episode.observations.shape)
    frames[:] = episode.observations
    return entry


def _create(file: h5py.File, index: int, decisions: Decisions, entry: Entry, pictures: tuple[int, ...]) -> h5py.Dataset:
    """Write all of an episode but its pictures, and give the array of that shape for them."""
    group = file.create_group(group_name(index))
    group.attrs.update(
        id=index,
        total_steps=entry.steps,
        seed=decisions.seed,
        policy=decisions.policy,
        track_tiles=decisions.track_tiles,
        sha256=entry.digest,
    )
    frames = group.create_dataset(
        "observations", pictures, np.uint8, chunks=_chunks(pictures), compression="gzip", compression_opts=1
    )
    for name in COLUMNS:
        group.create_dataset(name, data=getattr(decisions, name))
    infos = group.create_group("infos")
    for name, array in decisions.infos.items():
        infos.create_dataset(name, data=array)
    return frames


def read_entry(file: h5py.File, index: int, shapes: Shapes) -> Entry:
    """Read what the group says of episode `index`. Raises ForeignError."""
    group = _group(file, group_name(index))
    _check_texts(group)
    steps, digest = _attribute(group, "total_steps", int), _attribute(group, "sha256", str)
    if not 1 <= steps < _MAX_EPISODE_BYTES // (3 * shapes.size**2):
        raise ForeignError(f"{group.name} claims to have {steps} decisions")
    if not _DIGEST.fullmatch(digest):
        raise ForeignError(f"{group.name} has no SHA-256 for a sha256")
    return Entry(steps, digest)


def read_episode(file: h5py.File, index: int, entry: Entry, shapes: Shapes) -> Episode:
    """Read episode `index`. Raises ForeignError."""
    frames = np.empty((entry.steps + 1, 3, shapes.size, shapes.size), np.uint8)
    group = _group(file, group_name(index))
    arrays, infos = _arrays(group, entry, shapes)
    decisions = _decisions(group, arrays, infos, shapes)
    _unfold(arrays["observations"], slice(0, len(frames)), frames)
    return Episode(observations=frames, **vars(decisions))


def read_decisions(file: h5py.File, index: int, entry: Entry, shapes: Shapes) -> Decisions:
    """Read all of episode `index` but its pictures. Raises ForeignError."""
    group = _group(file, group_name(index))
    return _decisions(group, *_arrays(group, entry, shapes), shapes)


def _decisions(group: h5py.Group, arrays: _Arrays, infos: _Arrays, shapes: Shapes) -> Decisions:
    """The same, from arrays that are open."""
    try:
        decisions = Decisions(
            **{name: _values(arrays[name]) for name in COLUMNS},
            infos={name: _values(array) for name, array in infos.items()},
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


def _values(array: h5py.h5d.DatasetID) -> NDArray[Any]:
    """All of an array."""
    values = np.zeros(array.shape, array.dtype)
    array.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def read_frames(file: h5py.File, index: int, entry: Entry, shapes: Shapes, rows: slice, out: NDArray[np.uint8]) -> None:
    """Read the pictures of the rows into `out`, (rows, 3, S, S) uint8, contiguous. Raises ForeignError."""
    group = _group(file, group_name(index))
    _unfold(_array(group, "observations", *_schema(entry, shapes)["observations"]), rows, out)


def _unfold(frames: h5py.h5d.DatasetID, rows: slice, out: NDArray[np.uint8]) -> None:
    """The same, from an array that is open."""
    chunk = _chunks(frames.shape)
    length = chunk[0]
    for number in range(rows.start // length, -(-rows.stop // length)):
        first = number * length
        begin, end = max(rows.start, first), min(rows.stop, first + length)
        out[begin - rows.start : end - rows.start] = _inflate(frames, first, chunk)[begin - first : end - first]


def _inflate(frames: h5py.h5d.DatasetID, first: int, chunk: tuple[int, ...]) -> NDArray[np.uint8]:
    """The chunk of pictures that begins at this row, of which those beyond the last row are blank."""
    size, inflater = math.prod(chunk), zlib.decompressobj()
    try:
        pictures = inflater.decompress(_stored(frames, first, size), size + 1)
    except zlib.error as error:
        raise ForeignError(f"{_name(frames)} is damaged: {error}") from error
    if len(pictures) != size or not inflater.eof:
        raise ForeignError(f"{_name(frames)} is damaged: rows {first} on do not unfold to their size")
    return np.frombuffer(pictures, np.uint8).reshape(chunk)


def _stored(frames: h5py.h5d.DatasetID, first: int, size: int) -> bytes:
    """The same chunk, of this many bytes, as it is stored."""
    place = (first, 0, 0, 0)
    try:
        stored = frames.get_chunk_info_by_coord(place).size
        if not 0 < stored <= size + size // 8 + 1024:  # what does not compress grows by far less
            raise ForeignError(f"{_name(frames)} is damaged: rows {first} on take {stored} bytes")
        skipped, content = frames.read_direct_chunk(place)
    except (OSError, RuntimeError) as error:
        raise ForeignError(f"{_name(frames)} is damaged: {error}") from error
    if skipped:
        raise ForeignError(f"{_name(frames)} is damaged: rows {first} on are not compressed")
    return bytes(content)


def copy_episode(source: h5py.File, target: h5py.File, index: int, entry: Entry, shapes: Shapes) -> None:
    """Copy episode `index` into another file, its pictures as they are compressed. Raises ForeignError.

    Not by HDF5's own copy, which damaged files can crash.
    """
    group = _group(source, group_name(index))
    arrays, infos = _arrays(group, entry, shapes)
    frames = arrays["observations"]
    copy = _create(target, index, _decisions(group, arrays, infos, shapes), entry, frames.shape)
    for first in range(0, len(copy), copy.chunks[0]):
        copy.id.write_direct_chunk((first, 0, 0, 0), _stored(frames, first, math.prod(copy.chunks)))


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


def _arrays(group: h5py.Group, entry: Entry, shapes: Shapes) -> tuple[_Arrays, _Arrays]:
    """Open all arrays of an episode, and its infos, and make sure that there is nothing else."""
    schema = _schema(entry, shapes)
    infos = _group(group, "infos")
    for holder, names in ((group, {*schema, "infos"}), (infos, {*shapes.infos})):
        if set(holder) != names:
            raise ForeignError(f"{holder.name} does not hold just {', '.join(sorted(names))}")
    if h5py.h5a.get_num_attrs(infos.id):
        raise ForeignError(f"{infos.name} has attributes")
    return (
        {name: _array(group, name, dtype, shape) for name, (dtype, shape) in schema.items()},
        {name: _array(infos, name, dtype, (entry.steps,)) for name, dtype in shapes.infos.items()},
    )


def _open(parent: h5py.Group, name: str, kind: type[Any]) -> Any:
    """Open the object of that kind which `name`, one component, leads to by a hard link; as h5py's bare identifier.

    h5py's own `Dataset` asks the file again for all that it is asked: several times as long as reading takes.
    """

    def refused(reason: str) -> ForeignError:
        return ForeignError(f"{parent.name.rstrip('/')}/{name} {reason}")

    try:
        if parent.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise refused("is a link that leads elsewhere")
        opened = h5py.h5o.open(parent.id, name.encode())
    except (KeyError, OSError, RuntimeError) as error:
        raise refused("is missing or damaged") from error
    if not isinstance(opened, kind):
        raise refused(f"is not a {kind.__name__.removesuffix('ID').lower()}")
    return opened


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    return h5py.Group(_open(parent, name, h5py.h5g.GroupID))


def _array(parent: h5py.Group, name: str, dtype: Any, shape: tuple[int, ...]) -> h5py.h5d.DatasetID:
    """Open an array of exactly this type and shape that lies in this file, plain or deflated."""
    array = _open(parent, name, h5py.h5d.DatasetID)
    if h5py.h5a.get_num_attrs(array):
        raise ForeignError(f"{_name(array)} has attributes")
    if array.shape != shape or array.dtype != dtype:
        raise ForeignError(f"{_name(array)} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
    plan = array.get_create_plist()
    layout = plan.get_layout()
    if plan.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise ForeignError(f"{_name(array)} keeps its values elsewhere")
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    deflated = (
        layout == h5py.h5d.CHUNKED and plan.get_chunk() == _chunks(shape) and filters == [h5py.h5z.FILTER_DEFLATE]
    )
    plain = layout == h5py.h5d.CONTIGUOUS and not filters
    if not (deflated if name == "observations" else plain):
        raise ForeignError(f"{_name(array)} is stored in another way than this project stores it")
    return array


def _name(array: h5py.h5d.DatasetID) -> str:
    return str(h5py.Dataset(array).name)


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Pictures (T + 1, 3, S, S) are compressed in pieces of this shape."""
    return min(_CHUNK, shape[0]), *shape[1:]


def _check_texts(group: h5py.Group) -> None:
    """Make sure that no attribute claims to be a long text: HDF5 fills up to 4 GiB with zeros before it looks for it.

    What it claims is told by no function of HDF5, so the group's header is read here, as the format has it
    (version 1, the one that h5py writes). Raises ForeignError.
    """
    with Path(group.file.filename).open("rb") as stream:
        for kind, flags, content in _messages(stream, h5py.h5o.get_info(group.id).addr):
            if kind == _ELSEWHERE:
                raise ForeignError(f"{group.name} keeps its attributes elsewhere")
            if kind != _ATTRIBUTE:
                continue
            version, name, dtype, space = struct.unpack_from("<BxHHH", content.ljust(8, b"\0"))
            if version != 1 or flags:
                raise ForeignError(f"{group.name} has an attribute that h5py does not write")
            start = 8 + _padded(name)  # then its type, the rank after one byte of its shape, the length of a text
            rank, value = start + _padded(dtype) + 1, start + _padded(dtype) + _padded(space)
            of_type, claim = content[start : start + 2], int.from_bytes(content[value : value + 4], "little")
            if of_type == _TEXT and (content[rank : rank + 1] != b"\0" or claim > _MAX_CLAIM):
                raise ForeignError(f"{group.name} has an attribute that is not a short text")
            if of_type != _TEXT and of_type[:1] not in (_INTEGER, _FLOAT):
                raise ForeignError(f"{group.name} has an attribute that is neither a number nor a text")


def _messages(stream: IO[bytes], address: int) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and content of what the header of an object at this place says. Raises ForeignError."""
    stream.seek(address)
    version, size = struct.unpack("<B7xI4x", stream.read(16).ljust(16, b"\0"))
    blocks = [(address + 16, size)]
    for place, length in blocks:
        if version != 1 or length > _MAX_HEADER or len(blocks) > _MAX_BLOCKS:
            raise ForeignError("an object in it has another header than h5py writes")
        stream.seek(place)
        block, at = stream.read(length), 0
        while at + 8 <= len(block):
            kind, size, flags = struct.unpack_from("<HHB", block, at)
            content = block[at + 8 : at + 8 + size]
            if kind == _CONTINUED:
                place_and_length = struct.unpack("<QQ", content[:16].ljust(16, b"\0"))
                blocks.append((min(place_and_length[0], 2**62), place_and_length[1]))
            yield kind, flags, content
            at += 8 + size


def _padded(size: int) -> int:
    return -(-size // 8) * 8


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
    if kind is str and not value.isprintable():
        raise ForeignError(f"the attribute {name} of {group.name} holds characters that cannot be printed")
    return value
