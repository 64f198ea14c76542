"""The data set on disk: a folder that Minari and h5py can read too, and that a kill cannot hurt.

    data/<name>/metadata.json      how the episodes came about, and Minari's own facts
                main_data.hdf5     the episodes (see `hdf5`)
                pending/           episodes recorded since, one HDF5 file each
                .lock              held by the process that adds episodes, or by those that read (see `locks`)

HDF5 changes a file in place, in many small writes, and a process killed between two of them can leave a file that
nobody can open. So the data file is never changed. A new episode is a file of its own, complete before it
gets its name; when the writer closes, a copy of the data file with the new episodes takes its place. At
every moment each finished episode is either in the data file or beside it, and readers see whole data.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ..artifacts import Source, atomic_path, remove_partial
from ..config import ViewSettings, describe
from ..envs import adapter_of
from ..errors import StageError
from ..locks import Lock
from . import hdf5
from .episode import Decisions, Episode
from .hdf5 import Entry, ForeignError, Shapes
from .metadata import ForeignDataError, Origin, View, read_origin, write_metadata

_DATA = "main_data.hdf5"
_METADATA = "metadata.json"
_PENDING = "pending"
_LEAST_BYTES = 16  # of a decision in the file: what is not compressed takes 23 and more


class EpisodeStore:
    """A data set to read. A context manager; may be read from several threads.

    Attributes:
        path: the folder.
        origin: how the episodes came about.
        lengths: (E,) rows of each episode: its decisions and one.
    """

    def __init__(self, path: Path, origin: Origin, file: h5py.File, entries: Sequence[Entry]) -> None:
        self.path = path
        self.origin = origin
        self.lengths = np.array([entry.steps + 1 for entry in entries], np.int64)
        self._file = file
        self._entries = entries
        self._shapes = _shapes(origin)

    @classmethod
    def open(cls, path: Path) -> EpisodeStore:
        """Open the data set in a folder to read it.

        Raises:
            StageError: it is missing or damaged, or holds what this project does not write.
        """
        if not EpisodeStore.has_episodes(path):
            if (path / "data" / _DATA).exists():
                raise _foreign(path)
            state = "holds no episodes yet" if (path / _METADATA).exists() else "is missing"
            raise StageError(f"{path} {state}; run `dreamer collect --data {path.name}`")
        origin = _origin(path)
        file = _open_file(path, path / _DATA)
        try:
            return cls(path, origin, file, _entries(path, file, origin))
        except BaseException:
            file.close()
            raise

    @staticmethod
    def has_episodes(path: Path) -> bool:
        """Whether the folder holds a data set that can be opened to read, damage aside."""
        return (path / _DATA).exists()

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether the folder holds a data set, or what is left of one."""
        return any((path / name).exists() for name in (_METADATA, _DATA, _PENDING))

    @staticmethod
    def create(path: Path, origin: Origin, *, replace: bool = False) -> EpisodeWriter:
        """Begin a data set in a folder.

        Args:
            path: the folder, made where it is missing; its name is the data set's.
            origin: how the episodes will come about.
            replace: delete the data set that is there.

        Raises:
            StageError: there is one and it shall not be replaced, or another process writes it.
        """
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            if EpisodeStore.exists(path):
                if not replace:
                    raise StageError(f"{path} exists; use another --data name, or replace it with --fresh")
                _delete(path)
            write_metadata(path / _METADATA, path.name, origin, 0, 0, 0.0)
            return EpisodeWriter(path, origin, [], 0, lock)
        except BaseException:
            lock.close()
            raise

    @staticmethod
    def extend(path: Path) -> EpisodeWriter:
        """Open a data set to add episodes, those that a killed writer left beside the data file included.

        Raises:
            StageError: it is missing or damaged, or another process writes it.
        """
        if not EpisodeStore.exists(path):
            raise StageError(f"{path} is missing; run `dreamer collect --data {path.name}`")
        lock = _lock(path)
        try:
            origin = _origin(path)
            entries: list[Entry] = []
            if (path / _DATA).exists():
                with _open_file(path, path / _DATA) as file:
                    entries += _entries(path, file, origin)
            merged = len(entries)
            entries += _pending_entries(path, merged, _shapes(origin))
            return EpisodeWriter(path, origin, entries, merged, lock)
        except BaseException:
            lock.close()
            raise

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def steps(self) -> int:
        """Decisions in all episodes."""
        return int(self.lengths.sum()) - len(self)

    @property
    def view(self) -> View:
        """How the agent saw the environment: `action_repeat`, `size`, `continuous`, `action_low`, `action_high`."""
        return self.origin.view

    @property
    def view_settings(self) -> ViewSettings:
        """The settings that ask for this view. Raises StageError where no model here can have it."""
        view = self.view
        try:
            settings = self.origin.view_settings
        except ValidationError as error:
            raise StageError(
                f"{self.path}: no world model here has such a view (view.{describe(error)}); use another --data"
            ) from error
        try:
            adapter_of(settings.env).check_bounds(view.action_low, view.action_high, discrete=not view.continuous)
        except ValueError as error:
            raise StageError(
                f"{self.path} has other actions than {settings.env}: {error}; use another --data"
            ) from error
        return settings

    def require_view(self, view: ViewSettings) -> None:
        """Raise StageError where the episodes were recorded with another view than this one, a world model's."""
        if self.view_settings != view:
            raise StageError(
                f"{self.path} was recorded with another view than the world model was fitted to; use another --data"
            )

    @property
    def warning(self) -> str | None:
        """What to say where the pictures come from another version of gymnasium than there is here."""
        recorded, here = self.origin.gymnasium, version("gymnasium")
        if recorded == here:
            return None
        env = self.origin.environment
        differ = adapter_of(env).differing or f"{env} may differ"
        return (
            f"{self.path} was recorded with gymnasium {recorded}, here is {here}; their {differ}, "
            "so a policy would not act in what it has learned from"
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over the content of all episodes in their order, however they are stored."""
        return hashlib.sha256("\n".join(entry.digest for entry in self._entries).encode()).hexdigest()

    @property
    def sources(self) -> tuple[Source, ...]:
        """What a model that is fitted to it tells of it."""
        driver = self.origin.driver.run if self.origin.driver else None
        return (Source(self.path.name, self.fingerprint, self.steps, self.origin.kind, driver, self.origin.seed),)

    def read(self, index: int) -> Episode:
        """Read an episode. Raises StageError where it is not what was written."""
        return _read(self.path, self._file, index, self._entries[index], self._shapes)

    def read_decisions(self, index: int) -> Decisions:
        """Read all of an episode but its pictures. Raises StageError."""
        with _refusing(self.path):
            return hdf5.read_decisions(self._file, index, self._entries[index], self._shapes)

    def read_frames(self, index: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the observations of rows `start` to `stop` of an episode, (rows, 3, S, S). Raises StageError."""
        frames = np.empty((stop - start, 3, self._shapes.size, self._shapes.size), np.uint8)
        with _refusing(self.path):
            rows = slice(start, stop)
            hdf5.read_frames(self._file, index, self._entries[index], self._shapes, rows, frames)
        return frames

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_pending(path: Path, first: int) -> Iterator[Episode]:
    """Read the episodes that wait beside the data file, from number `first`. Raises StageError."""
    shapes = _shapes(_origin(path))
    for index, entry in enumerate(_pending_entries(path, first, shapes), first):
        with _open_file(path, _pending_path(path, index)) as file:
            yield _read(path, file, index, entry, shapes)


class EpisodeWriter:
    """Adds episodes to a data set; made by `EpisodeStore.create` and `EpisodeStore.extend`. A context manager.

    An episode is safe once `append` returns. Readers see it once the writer is closed.

    Attributes:
        path: the folder.
        origin: how the episodes come about.
        steps: decisions in all episodes, those in the data file included.
    """

    def __init__(self, path: Path, origin: Origin, entries: list[Entry], merged: int, lock: Lock) -> None:
        self.path = path
        self.origin = origin
        self.steps = sum(entry.steps for entry in entries)
        self._entries = entries
        self._merged = merged
        self._lock = lock

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, episode: Episode) -> None:
        """Add an episode; it is on disk when this returns. Raises ValueError where it does not fit the others."""
        shapes, size = _shapes(self.origin), episode.observations.shape[-1]
        alike = list(episode.info_types.items()) == list(shapes.infos.items())
        if size != shapes.size or not shapes.fit(episode.actions) or not alike:
            actions = f"{episode.actions.dtype} actions {episode.actions.shape}, infos {', '.join(episode.infos)}"
            raise ValueError(f"the data set holds {shapes}, the episode has {actions} and pictures of size {size}")
        index = len(self)
        with h5py.File("episode", "w", driver="core", backing_store=False) as file:  # in memory: on a full disk, HDF5
            entry = hdf5.write_episode(file, index, episode)  # cannot close a file, and may take the process with it
            file.flush()
            image = file.id.get_file_image()
        with atomic_path(_pending_path(self.path, index)) as temporary:
            temporary.write_bytes(image)
        self._entries.append(entry)
        self.steps += entry.steps

    def merge(self) -> None:
        """Bring the episodes beside the data file into it, and the metadata up to date."""
        data, pending = self.path / _DATA, self.path / _PENDING
        if not pending.exists():
            return
        if self._merged < len(self):
            with atomic_path(data) as temporary:
                self._copy_to(temporary)
            self._merged = len(self)
        size = data.stat().st_size if data.exists() else 0
        write_metadata(self.path / _METADATA, self.path.name, self.origin, len(self), self.steps, size / 1e6)
        shutil.rmtree(pending)  # last: as long as it is there, a killed merge is done again

    def _copy_to(self, temporary: Path) -> None:
        """Write the data file as it is, with the pending episodes behind. Raises OSError where the disk is full."""
        parts = [self.path / _DATA, *(_pending_path(self.path, index) for index in range(self._merged, len(self)))]
        if sum(part.stat().st_size for part in parts if part.exists()) >= shutil.disk_usage(self.path).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # HDF5 had better not be the first to notice
        if self._merged:
            shutil.copyfile(self.path / _DATA, temporary)
        with h5py.File(temporary, "r+" if self._merged else "w") as target, _refusing(self.path):
            for index in range(self._merged, len(self)):
                with _open_file(self.path, _pending_path(self.path, index)) as source:
                    hdf5.copy_episode(source, target, index, self._entries[index], _shapes(self.origin))

    def close(self) -> None:
        """Merge, and let others write. The episodes are safe even where this is never reached."""
        try:
            self.merge()
        finally:
            self.release()

    def release(self) -> None:
        """Let others write, and leave everything as it is."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(path: Path, file: h5py.File, index: int, entry: Entry, shapes: Shapes) -> Episode:
    """Read a whole episode. Raises StageError where it is not what was written."""
    with _refusing(path):
        episode = hdf5.read_episode(file, index, entry, shapes)
    if episode.digest() != entry.digest:
        raise _refused(path, f"{hdf5.group_name(index)} has changed since it was recorded")
    return episode


def _shapes(origin: Origin) -> Shapes:
    view = origin.view
    width, discrete = len(view.action_low), not view.continuous
    return Shapes(action=width, size=view.size, discrete=discrete, infos=origin.infos)


def _pending_path(path: Path, index: int) -> Path:
    return path / _PENDING / f"{hdf5.group_name(index)}.hdf5"


def _refused(path: Path, reason: str) -> StageError:
    """The error for a data set that cannot be used, with its cure."""
    return StageError(f"{path}: {reason}; collect it anew with `dreamer collect --data {path.name} --fresh`")


def _foreign(path: Path) -> StageError:
    """The error for a data set that is another program's. Its cure leaves it alone."""
    return StageError(
        f"{path} is another program's Minari data set, without what is needed to check and align it; use another "
        "--data, made by `dreamer collect`"
    )


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what the guard finds, and what HDF5 stumbles over, into the user's error."""
    try:
        yield
    except (ForeignError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _refused(path, str(error)) from error


def _origin(path: Path) -> Origin:
    try:
        return read_origin(path / _METADATA)
    except ForeignDataError as error:
        raise _foreign(path) from error
    except (OSError, ValueError) as error:
        raise _refused(path, f"{_METADATA} cannot be read ({error})") from error


def _open_file(path: Path, file: Path) -> h5py.File:
    """Open an HDF5 file to read."""
    try:
        return hdf5.open_file(file)
    except (OSError, ForeignError) as error:
        raise _refused(path, f"{file.name} is not an HDF5 file, or damaged ({error})") from error


def _entries(path: Path, file: h5py.File, origin: Origin) -> list[Entry]:
    """Check that the file holds `episode_0`, `episode_1`, ... and nothing else, and what each says of itself."""
    with _refusing(path):
        entries = [hdf5.read_entry(file, index, _shapes(origin)) for index in range(len(file))]
        steps = sum(entry.steps for entry in entries)
        if steps * _LEAST_BYTES > file.id.get_filesize():
            raise ForeignError(f"{_DATA} claims to hold {steps} decisions, more than a file of its size can")
    return entries


def _pending_entries(path: Path, first: int, shapes: Shapes) -> Iterator[Entry]:
    """The episodes beside the data file that follow on those within, from number `first`."""
    for index in itertools.count(first):
        pending = _pending_path(path, index)
        if not pending.exists():
            return
        with _open_file(path, pending) as file, _refusing(path):
            yield hdf5.read_entry(file, index, shapes)


def _delete(path: Path) -> None:
    """Delete a data set. The metadata goes first: what a kill leaves then is refused, not taken for whole."""
    for name in (_METADATA, _DATA):
        (path / name).unlink(missing_ok=True)
    if (path / _PENDING).exists():
        shutil.rmtree(path / _PENDING)


def lock_of(path: Path) -> Path:
    """The file of the lock of a data set."""
    return path / ".lock"


def _lock(path: Path) -> Lock:
    """Keep others out until the lock is closed, or this process ends however it ends; and clear up after a dead one.

    Raises StageError where episodes would be written elsewhere.
    """
    if (path / _PENDING).is_symlink():
        raise StageError(f"{path / _PENDING} is a link that leads elsewhere; remove it")
    lock = Lock(lock_of(path), path, f"dreamer collect --data {path.name}")
    remove_partial(path)
    return lock
