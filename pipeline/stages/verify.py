"""`dreamer verify`: whether a data set or a run is whole. All of it is read, and nothing is changed.

A run's `training_state.pt` is left closed: it is for the machine that wrote it alone, and no other stage reads it.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts import Manifest, Run, StageFolder, check_name, file_hash
from ..console import Meter, read_lines
from ..driving import read_report
from ..episodes.joined import open_data
from ..episodes.store import EpisodeStore, read_pending
from ..errors import DreamerError, StageError, UsageError
from ..models.checkpoints import LoadedWorld, load_actor, load_critic, load_world, world_of
from ..reading import read_json
from ..scores import MAX_BYTES

_MAX_METADATA = 2**24  # bytes


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        path: what was looked at.
        kind: "data set" or "run".
        fine: what is as it should be, a sentence each.
        warnings: what can be used, with care.
        faults: what is damaged, missing, stale or not to be trusted.
    """

    path: str
    kind: str
    fine: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """Plain lists and mappings."""
        return {"sound": self.sound, **asdict(self)}

    @contextmanager
    def finding(self) -> Iterator[None]:
        """What a reader refuses here is a fault."""
        try:
            yield
        except (DreamerError, OSError) as error:
            self.faults.append(str(error))


def verify(path: Path, data: Path = Path("data")) -> Verdict:
    """Check a data set or a run from end to end.

    Args:
        path: its folder.
        data: the folder of data sets, where that of a run is looked for.

    Raises:
        UsageError: the folder holds neither.
    """
    is_data = EpisodeStore.exists(path)
    if not is_data and not any((path / name).is_dir() for name in ("world", "encodings", "policy", "evaluation")):
        raise UsageError(f"{path} is neither a data set nor a run; name a folder such as data/demo or artifacts/demo")
    verdict = Verdict(str(path), "data set" if is_data else "run")
    verdict.faults.extend(_ways_out(path))
    if verdict.faults:  # reading on would follow them
        return verdict
    with verdict.finding():
        if is_data:
            _check_data(path, verdict)
        else:
            _check_run(Run(path), data, verdict)
    return verdict


def _ways_out(folder: Path) -> Iterator[str]:
    """What in a folder is no file of its own: links that leave it, and pipes and devices, which may never end."""
    root = folder.resolve()
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                yield f"{path} is a link that leads out of {folder}; remove it"
            elif path.exists() and not stat.S_IFMT(path.stat().st_mode) & (stat.S_IFREG | stat.S_IFDIR):
                yield f"{path} is neither a file nor a folder; remove it"


def _check_data(path: Path, verdict: Verdict) -> None:
    episodes = 0
    if EpisodeStore.has_episodes(path):
        with EpisodeStore.open(path) as store:
            episodes = len(store)
            _check_episodes(store, verdict)
            if store.warning:
                verdict.warnings.append(store.warning)
            if not (path / "pending").exists():
                _check_totals(path, store, verdict)
    waiting = sum(1 for _ in read_pending(path, episodes))
    if waiting:
        verdict.warnings.append(
            f"{waiting} whole episodes wait in {path / 'pending'}; `dreamer collect --data {path.name}` takes them in"
        )
    elif not episodes:
        verdict.warnings.append(f"{path} holds no episodes yet; run `dreamer collect --data {path.name}`")


def _check_episodes(store: EpisodeStore, verdict: Verdict) -> None:
    """Read every episode, whatever is wrong with others."""
    damaged = 0
    with Meter("Reading", len(store), "episodes") as meter:
        for index in range(len(store)):
            before = len(verdict.faults)
            with verdict.finding():
                store.read(index)
            damaged += len(verdict.faults) - before
            meter.advance_to(index + 1)
    whole = len(store) - damaged
    verdict.fine.append(f"{whole:,} of {len(store):,} episodes are what was recorded, by their SHA-256")
    verdict.fine.append(f"{store.steps:,} decisions; the content as a whole is {store.fingerprint}")


def _check_totals(path: Path, store: EpisodeStore, verdict: Verdict) -> None:
    """What `metadata.json` tells other readers."""
    try:
        tree = read_json(path / "metadata.json", _MAX_METADATA)
    except ValueError as error:
        raise StageError(f"{path / 'metadata.json'} cannot be read: {error}") from error
    if (tree.get("total_episodes"), tree.get("total_steps")) != (len(store), store.steps):
        verdict.faults.append(
            f"{path / 'metadata.json'} does not tell the number of episodes and steps that there are; "
            f"`dreamer collect --data {path.name}` with more --decisions writes it anew"
        )


def _check_run(run: Run, data: Path, verdict: Verdict) -> None:
    manifests: dict[str, Manifest] = {}
    for folder in (run.world, run.encodings, run.policy, run.evaluation):
        with verdict.finding():
            manifest = _check_stage(folder, verdict)
            if manifest is not None:
                manifests[folder.path.name] = manifest
    world = _check_world(run.world, manifests, verdict)
    if world is not None and "policy" in manifests:
        with verdict.finding():
            _check_policy(run.policy, world, manifests, verdict)
    if "evaluation" in manifests:
        with verdict.finding():
            _check_report(run.evaluation, manifests["evaluation"])
    _check_lineage(run, manifests, data, verdict)


def _check_stage(folder: StageFolder, verdict: Verdict) -> Manifest | None:
    """The manifest of a stage that is complete, after a look at the files it names, its settings and its metrics."""
    if not folder.path.exists():
        return None
    manifest = folder.read_manifest()
    if manifest is None:
        verdict.warnings.append(f"{folder.path} was never begun; run `{folder.command}`")
        return None
    folder.read_settings()
    steps = [line["step"] for line in read_lines(folder.metrics)]
    if steps != sorted(set(steps)):
        verdict.faults.append(f"{folder.metrics} has steps twice or out of order; it is not what the stage wrote")
    if not manifest.complete:
        verdict.warnings.append(f"{folder.path} is unfinished ({manifest.done} done); run `{folder.command}` to go on")
        return None
    for name, digest in manifest.outputs.items():
        path = folder.path / name
        if not path.is_file():
            raise StageError(f"{path} is missing; run `{_anew(folder)}`")
        if file_hash(path) != digest:
            raise StageError(f"{path} is damaged or was changed, by its SHA-256; run `{_anew(folder)}`")
    names = ", ".join(sorted(manifest.outputs)) or "no file"
    verdict.fine.append(f"{folder.path} is complete, {manifest.done:,} done; as it was written: {names}")
    return manifest


def _anew(folder: StageFolder) -> str:
    return f"{folder.command} --fresh" if folder.path.name in ("world", "policy") else folder.command


def _check_world(folder: StageFolder, manifests: Mapping[str, Manifest], verdict: Verdict) -> LoadedWorld | None:
    """The world model that the next stages read, after a look at all weights."""
    if "world" not in manifests:
        return None
    worlds = {}
    for name in sorted(manifests["world"].outputs):
        if name.endswith(".safetensors"):
            with verdict.finding():
                worlds[name] = load_world(folder.path / name)
                count = sum(tensor.numel() for tensor in worlds[name].model.state_dict().values())
                verdict.fine.append(f"{folder.path / name} fits its settings; its {count:,} numbers are finite")
    world = worlds.get(folder.weights.name)
    if world is not None:
        env = world.interface.view.env
        if world.interface.view != folder.read_settings().view:
            verdict.faults.append(
                f"{folder.weights} was fitted to another view than {folder.path / 'settings.toml'} tells"
            )
        if ":" in env:
            module = env.partition(":")[0]
            verdict.warnings.append(
                f"To evaluate or play it, the module {module} is imported, for its environment {env}"
            )
    return world


def _check_policy(folder: StageFolder, world: LoadedWorld, manifests: Mapping[str, Manifest], verdict: Verdict) -> None:
    actor = load_actor(folder.weights, world)
    count = sum(tensor.numel() for tensor in actor.state_dict().values())
    verdict.fine.append(f"{folder.weights} fits the world model; its {count:,} numbers are finite")
    if folder.critic.name in manifests["policy"].outputs:
        load_critic(folder.critic, world)
        verdict.fine.append(f"{folder.critic} fits the world model; its numbers are finite")
    if world_of(folder.weights) != manifests["policy"].inputs.get("world"):
        raise StageError(f"{folder.weights} names another world model than its manifest; run `{_anew(folder)}`")


def _check_report(folder: StageFolder, manifest: Manifest) -> None:
    """Whether the report's means are those of its drives, of the weights that its manifest names."""
    path = folder.path / "evaluation.json"
    try:
        tree = read_json(path, MAX_BYTES)
        for driver, scores in read_report(tree).scores.items():
            mean, given = float(np.mean([one.score for one in scores])), tree["drives"][driver]["summary"]["mean"]
            if not math.isclose(mean, given, abs_tol=1e-6):
                raise ValueError(f"a mean score is given as {given} where it is {mean}")
        if any(tree["question"][name] != manifest.inputs.get(name) for name in ("world", "policy")):
            raise ValueError("it names other weights than its manifest")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StageError(
            f"{path} is not what `{folder.command}` writes ({_first_line(error)}); run it again"
        ) from error


def _first_line(error: Exception) -> str:
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:200]


def _check_lineage(run: Run, manifests: Mapping[str, Manifest], data: Path, verdict: Verdict) -> None:
    """Whether each stage was made from what the stages before it left."""
    present = {}
    if "world" in manifests:
        world = manifests["world"]
        with verdict.finding():
            present = _check_origin(world, data, verdict)
        present["world"] = world.outputs.get(run.world.weights.name)
    if "policy" in manifests:
        present["policy"] = manifests["policy"].outputs.get(run.policy.weights.name)
    for folder in (run.world, run.encodings, run.policy, run.evaluation):
        manifest = manifests.get(folder.path.name)
        for name, digest in (manifest.inputs if manifest else {}).items():
            if name in present and present[name] != digest:
                verdict.faults.append(
                    f"{folder.path} was made from another {name} than there is now; run `{_anew(folder)}`"
                )


def _check_origin(world: Manifest, data: Path, verdict: Verdict) -> dict[str, str | None]:
    """The content of the data that the world model was fitted to: as it is now, else as the manifest has it."""
    paths = [data / check_name(source.name, "data set") for source in world.sources]
    missing = next((path for path in paths if not EpisodeStore.has_episodes(path)), None)
    if missing or not paths:
        what = missing or "its data set"
        verdict.warnings.append(f"{what} is not here, so that the run cannot be compared with its data")
        return {"data": world.inputs.get("data")}
    with open_data(paths) as store:
        return {"data": store.fingerprint}
