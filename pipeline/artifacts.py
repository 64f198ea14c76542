"""A run on disk: the folder of each stage, its weights, its manifest, and what each stage was made from.

    artifacts/<run>/world       model.safetensors  last.safetensors  training_state.pt  curves.png
                    encodings   encodings.png  dream.mp4
                    policy      model.safetensors  critic.safetensors  training_state.pt  curves.png
                    evaluation  evaluation.json  drive.mp4
    and in each     settings.toml  metrics.jsonl  manifest.json

A manifest names what the stage read, by content hash, so that the next stage can tell a stale input from a fresh one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import Field, TypeAdapter, ValidationError

from . import distributed
from .config import FORMER, MAX_BYTES, Settings, describe, validate
from .errors import DreamerError, StageError, UsageError, of_the_machine
from .locks import Lock
from .reading import parse_json, read_json, read_toml, require_file

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PARTIAL = re.compile(r"\..+(\.\w+)\.\w+\1")  # as `atomic_path` names what is not complete yet
_MAY_CHANGE = {"updates", "save_every", "validate_every", "memory_gib"}  # "updates" not while it is under way
_MAX_MANIFEST = 2**20  # bytes
_MAX_HEADER = 2**20  # bytes that describe the tensors of a weights file
_FITTED = ("world", "policy")  # folders with weights
FORMAT = 1
"""Version of the files below; raised when they change so that old ones cannot be read."""


def is_name(name: str) -> bool:
    """Whether a run or a data set may have this name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, what: str = "run") -> str:
    """Return `name` if it may become a folder's name, else raise UsageError."""
    if not is_name(name):
        raise UsageError(
            f"'{name}' cannot name a {what}: use up to 64 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the place of `path` only once it is complete and on disk.

    Raises DreamerError where the disk is full, or does not let this user write.
    """
    try:
        with _temporary_path(path) as temporary:
            yield temporary
    except DreamerError:
        raise
    except Exception as error:
        if (lacking := of_the_machine(error, path)) is not None:
            raise lacking from error
        raise


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as stream:  # Windows syncs only what it may write
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _discard(folder: Path) -> None:
    """Remove a folder, or a link to one."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def remove_partial(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder. For who holds its lock."""
    for path in folder.glob(".*"):
        if _PARTIAL.fullmatch(path.name):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Source:
    """A data set that a model was fitted to. What was not recorded is None.

    Attributes:
        name: of the data set, as it was then.
        sha256: of its content.
        decisions: in it.
        kind: who acted: a random process, a policy that had been fitted before, or whoever was at `dreamer play`.
        driver: name of the run whose policy it was.
        seed: that it was collected with.
    """

    name: str
    sha256: str
    decisions: Annotated[int, Field(ge=1, le=10**8)] | None = None
    kind: Literal["random", "driven", "played"] | None = None
    driver: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None


def learned_from(sources: Sequence[Source]) -> str | None:
    """What these are in words, such as "random data only"; None where it is not recorded of all of them."""
    kinds = [source.kind for source in sources]
    if not kinds or None in kinds:
        return None
    counts = {kind: sum(source.decisions or 0 for source in sources if source.kind == kind) for kind in kinds}
    words = {
        "random": "random data" if len(counts) > 1 else "random data only",
        "driven": f"{counts.get('driven', 0):,} decisions driven by a policy",
        "played": f"{counts.get('played', 0):,} decisions played",
    }
    return " and ".join(said for kind, said in words.items() if kind in kinds)


@dataclass(frozen=True)
class Manifest:
    """What a stage made, from what, and how far it got.

    Attributes:
        stage: name of the command.
        inputs: content hash of everything the stage read, by name ("data", "world", "policy").
        outputs: SHA-256 of every file another stage may read, by file name.
        done: units of work finished (updates, episodes).
        complete: whether the stage reached its end.
        facts: what is worth telling, such as versions, seconds, hardware; "data": the data sets, see `sources`.
    """

    stage: str
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    done: int = 0
    complete: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def sources(self) -> tuple[Source, ...]:
        """The data sets that the stage read; none where it read none, or did not say."""
        data = self.facts.get("data", ())
        if isinstance(data, str):  # the name alone, as it was before there could be several
            return (Source(data, self.inputs.get("data", "")),)
        return TypeAdapter(tuple[Source, ...]).validate_python(data)

    def with_sources(self, sources: Sequence[Source]) -> Manifest:
        """A copy that tells these data sets."""
        return replace(self, facts={**self.facts, "data": [asdict(source) for source in sources]})


def _parse_manifest(path: Path) -> Manifest:
    """Read a manifest, of any version. Raises OSError or ValueError."""
    tree = read_json(path, _MAX_MANIFEST)
    unknown = set(tree) - {one.name for one in fields(Manifest)}
    if unknown:
        raise ValueError(f"it has an unknown entry {min(unknown)!r:.80}")
    try:
        manifest = TypeAdapter(Manifest).validate_python(tree)
        _ = manifest.sources
    except ValidationError as error:
        raise ValueError(describe(error)) from error
    wrong = next((name for name in manifest.outputs if not is_name(name)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r:.80} cannot be the name of a file that a stage made")
    return manifest


@dataclass(frozen=True)
class StageFolder:
    """The folder that one stage of one run writes to."""

    path: Path
    command: str
    """What to type to make it, such as `dreamer fit-world --run demo`."""

    @property
    def anew(self) -> str:
        """What to type to make it once more from the beginning."""
        return f"{self.command} --fresh" if self.path.name in _FITTED else self.command

    @property
    def weights(self) -> Path:
        """The weights that the next stage reads."""
        return self.path / "model.safetensors"

    @property
    def critic(self) -> Path:
        """The critic's weights, which only a planner reads."""
        return self.path / "critic.safetensors"

    @property
    def state(self) -> Path:
        """The checkpoint from which fitting goes on. It is private: nobody else's is read."""
        return self.path / "training_state.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def lock(self) -> Path:
        """The file of its lock, beside it: `--fresh` replaces the folder."""
        return self.path.with_name(f".{self.path.name}.lock")

    @property
    def replaced(self) -> Path:
        """Where what `--fresh` replaces waits until there is something in its place."""
        return self.path.with_name(f".{self.path.name}.replaced")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be alone with the folder; the first of several processes for all. What a killed command left is cleared up.

        Raises BusyError where another command has it.
        """
        with ExitStack() as held:
            distributed.once(lambda: self._hold(held))
            yield

    def _hold(self, held: ExitStack) -> None:
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(Lock(self.lock, self.path, self.command))
        remove_partial(self.path)
        self._settle()
        held.callback(self._settle)

    def _settle(self) -> None:
        """Let go what `--fresh` has replaced once a checkpoint is there; put it back where none came to be."""
        if not os.path.lexists(self.replaced):
            return
        if self.state.exists():
            _discard(self.replaced)
        else:
            _discard(self.path)
            self.replaced.rename(self.path)

    def read_manifest(self) -> Manifest | None:
        """The manifest, or None where the stage has not started. Raises StageError where it is unreadable."""
        path = self.path / "manifest.json"
        if not path.exists():
            return None
        try:
            manifest = _parse_manifest(path)
        except (OSError, ValueError) as error:
            raise StageError(f"{path} is damaged ({error}); run `{self.anew}`") from error
        if manifest.format != FORMAT:
            raise StageError(f"{path} has format {manifest.format}, this version reads {FORMAT}; run `{self.anew}`")
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest atomically."""
        write_text(self.path / "manifest.json", json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n")

    def read_settings(self) -> Settings:
        """The settings that the stage ran with. Raises StageError where they are missing or damaged."""
        path = self.path / "settings.toml"
        try:
            told = read_toml(path, MAX_BYTES)
            for section, former in FORMER.items():
                if isinstance(told.get(section), dict):
                    told[section] = former | told[section]
            return validate(told)
        except (OSError, ValueError, UsageError) as error:
            raise StageError(f"{path} cannot be read ({error}); run `{self.anew}`") from error

    def write_settings(self, settings: Settings) -> None:
        """Write all settings as TOML."""
        write_text(self.path / "settings.toml", tomli_w.dumps(settings.model_dump()))

    def start(
        self,
        settings: Settings,
        sections: Collection[str],
        inputs: Mapping[str, str],
        *,
        minutes: float | None = None,
        fresh: bool = False,
    ) -> tuple[Manifest, Settings]:
        """Begin to fill the folder, or go on where an earlier run of the command stopped.

        Args:
            settings: as asked for now.
            sections: the names of the settings that this stage depends on.
            inputs: content hashes of what it reads.
            minutes: given where the number of updates was left to the time.
            fresh: replace what is there; until the first checkpoint it comes back if the stage fails.

        Returns:
            The manifest so far, and the settings to work with, in which what an earlier run has measured
            (`precision`, and the updates that fit in the minutes) is filled in. `write_settings` is left to `fit`, once
            there is something to go on from.

        Raises:
            StageError: the inputs have changed since, or there are weights that nothing tells the inputs of.
            UsageError: other settings are asked for than those it was begun with.
        """
        if fresh and os.path.lexists(self.path):
            self.path.rename(self.replaced)
        manifest = self.read_manifest()
        if manifest is None and (self.state.exists() or self.weights.exists()):
            raise StageError(f"{self.path} has weights, but no manifest.json; run `{self.anew}`")
        if manifest is None or not (manifest.done or self.state.exists()):  # written a moment before the manifest
            self.write_settings(settings)
            manifest = Manifest(self.command.split()[1], dict(inputs))
            self.write_manifest(manifest)
            return manifest, settings
        for name, digest in inputs.items():
            if manifest.inputs.get(name) != digest:
                raise StageError(
                    f"{self.path} was begun with another {name} than there is now; run `{self.command} --fresh`"
                )
        return manifest, self._reconcile(settings, sections, manifest, minutes)

    def _reconcile(
        self, settings: Settings, sections: Collection[str], manifest: Manifest, minutes: float | None
    ) -> Settings:
        under_way = not manifest.complete  # its step sizes are those of its length
        before = self.read_settings().section_values(sections)
        for name, value in settings.section_values(sections).items():
            key = name.split(".")[-1]
            if (key == "precision" and value == "auto") or (key == "updates" and minutes is not None):
                settings = settings.with_value(name, before[name])
            elif before[name] != value and (key not in _MAY_CHANGE or (key == "updates" and under_way)):
                raise UsageError(
                    f"{self.path} was begun with {name} = {before[name]}, not {value}; choose another --run, "
                    "or start anew by the same command with --fresh"
                )
        return settings

    def require(self, inputs: Mapping[str, str]) -> Manifest:
        """The manifest of a finished stage whose inputs are still what it read and whose outputs are unchanged.

        Args:
            inputs: content hashes, as they are now, of (some of) what the stage read.

        Raises:
            StageError: it is missing, unfinished, stale or changed; the message names the command that mends it.
        """
        manifest = self.read_manifest()
        if manifest is None:
            raise StageError(f"{self.path} is missing; run `{self.command}`")
        if not manifest.complete:
            raise StageError(f"{self.path} is unfinished ({manifest.done} done); run `{self.command}` to go on")
        for name, digest in inputs.items():
            if manifest.inputs.get(name) != digest:
                raise StageError(
                    f"{self.path} was made from another {name} than there is now; run `{self.command} --fresh`"
                )
        if self.path.name in _FITTED and self.weights.name not in manifest.outputs:
            raise StageError(
                f"{self.path / 'manifest.json'} does not name {self.weights.name}; run `{self.command} --fresh`"
            )
        for name, digest in manifest.outputs.items():
            path = self.path / name
            if not path.is_file() or file_hash(path) != digest:
                raise StageError(f"{path} is missing or changed since it was made; run `{self.command} --fresh`")
        return manifest


@dataclass(frozen=True)
class Run:
    """A run: one folder with a folder for each stage."""

    root: Path

    @classmethod
    def named(cls, name: str, root: Path = Path("artifacts")) -> Run:
        """The run in the folder `root/name`. Raises UsageError where the name cannot be a folder's."""
        return cls(root / check_name(name))

    def _stage(self, folder: str, command: str) -> StageFolder:
        path = self.root / folder
        if path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve().parent):
            raise StageError(f"{path} is a link to a folder beyond the runs, where no stage may write; remove it")
        return StageFolder(path, f"dreamer {command} --run {self.root.name}")

    def recorded_settings(self, *stages: StageFolder, fresh: bool = False) -> Settings | None:
        """The settings of the first of these stages that has any.

        Args:
            stages: the folders to look at.
            fresh: pass over what cannot be read, for it is to be replaced.

        Raises:
            StageError: they cannot be read.
        """
        for stage in stages:
            if (stage.path / "settings.toml").exists():
                try:
                    return stage.read_settings()
                except StageError:
                    if not fresh:
                        raise
        return None

    @property
    def world(self) -> StageFolder:
        """Left by `dreamer fit-world`."""
        return self._stage("world", "fit-world")

    @property
    def encodings(self) -> StageFolder:
        """Left by `dreamer show-encodings`."""
        return self._stage("encodings", "show-encodings")

    @property
    def policy(self) -> StageFolder:
        """Left by `dreamer fit-policy`."""
        return self._stage("policy", "fit-policy")

    @property
    def evaluation(self) -> StageFolder:
        """Left by `dreamer evaluate`."""
        return self._stage("evaluation", "evaluate")


def save_weights(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, atomically, with `header` as JSON in the file's metadata."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata={"dreamer": json.dumps(dict(header))})


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote: tensors by name, and the header. Raises StageError on any damage.

    The tensors take no more memory than the file is long: safetensors lets none overlap another or leave a gap.
    """
    from safetensors import SafetensorError, safe_open

    try:
        require_file(path)
        with path.open("rb") as stream:
            if int.from_bytes(stream.read(8), "little") > _MAX_HEADER:
                raise ValueError(f"its tensors take more than {_MAX_HEADER} bytes to describe")
        with safe_open(path, framework="pt") as stream:
            header = parse_json((stream.metadata() or {})["dreamer"])
            return {name: stream.get_tensor(name) for name in stream.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StageError(
            f"{path} is not a weights file of this project ({error}); run the stage that made it again with --fresh"
        ) from error
