"""`dreamer export`: a fitted run as a small copy to pass on, with a model card and without what is private.

The copy is made in a hidden folder and gets its name once it is whole, so that an export that was killed leaves none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from .. import console
from ..artifacts import Manifest, Run, StageFolder, atomic_path, file_hash, load_weights, save_weights, write_text
from ..errors import DreamerError, StageError, UsageError
from ..lineage import trace
from ..locks import Lock, reading
from ..models.checkpoints import load_actor, load_critic, load_world
from ..viewing.card import CARD, model_card
from ..viewing.report import read_evaluation

_BESIDE = ("settings.toml", "metrics.jsonl", "curves.png")
"""What of a stage goes along as it is."""

_MARK = "exported"
"""The fact in both manifests by which a copy is told from a run: its run, and the SHA-256 of the weights there."""


def export(run: Run, to: str, *, fresh: bool = False) -> Run:
    """Copy what acting, dreaming and reporting need of a run; weights become half precision.

    Args:
        run: whose world model and policy are complete.
        to: name of the copy, a folder beside the run's.
        fresh: replace an earlier copy of this name, if nothing has been added to it since.

    Returns:
        The copy.

    Raises:
        StageError: the world model or the policy is missing, unfinished, damaged or stale.
        BusyError: another command writes them, or uses the copy that is to be replaced.
        UsageError: the name cannot be a folder's, or is taken.
        DreamerError: a weight is beyond half precision.
    """
    copy, command = Run.named(to, run.root.parent), f"dreamer export {run.root.name} --to {to}"
    read = ((stage.lock, stage.path) for stage in (run.world, run.policy, run.evaluation))
    with reading(command, *read), _replacing(run, copy, command, fresh=fresh) as new:
        _fill(new, run, to)
    size = sum(path.stat().st_size for path in copy.root.rglob("*") if path.is_file())
    console.say(f"Copied {run.root} in half precision, {size / 1e6:.1f} MB in all: {copy.root}")
    console.say(f"Model card: {copy.root / CARD}")
    console.say(f"Next: dreamer evaluate --run {to} --tracks 100 --video")
    return copy


@contextmanager
def _replacing(run: Run, copy: Run, command: str, *, fresh: bool) -> Iterator[Run]:
    """Give an empty run to fill, which then becomes the copy. Raises UsageError where its name is taken."""
    hidden = copy.root.with_name(f".{copy.root.name}.export")
    with ExitStack() as held:
        held.enter_context(Lock(copy.root.with_name(f".{copy.root.name}.lock"), copy.root, command))
        there = copy.root.exists() or copy.root.is_symlink()
        if there:
            _require_replaceable(run, copy, fresh=fresh)
            for stage in (copy.world, copy.policy):
                held.enter_context(stage.writing())
        shutil.rmtree(hidden, ignore_errors=True)  # of an export that was killed
        held.callback(shutil.rmtree, hidden, ignore_errors=True)
        yield Run(hidden / "new")
        if there:
            copy.root.rename(hidden / "old")
        (hidden / "new").rename(copy.root)


def _require_replaceable(run: Run, copy: Run, *, fresh: bool) -> None:
    """Raise UsageError where a folder is not to be replaced, or holds anything that no export wrote."""
    if not fresh or copy.root.is_symlink() or copy.root.samefile(run.root):
        raise UsageError(
            f"{copy.root} is there already; choose another --to (--fresh replaces an earlier export alone)"
        )
    stages = (copy.world, copy.policy)
    manifests = [stage.read_manifest() for stage in stages]
    if not all(manifest is not None and _MARK in manifest.facts for manifest in manifests):
        raise UsageError(f"{copy.root} was not made by `dreamer export`, and is not replaced; choose another --to")
    known = {copy.root / CARD, copy.evaluation.lock}
    for stage in stages:
        names = ("manifest.json", stage.weights.name, stage.critic.name, *_BESIDE)
        known |= {stage.path, stage.lock, *(stage.path / name for name in names)}
    added = min(set(copy.root.rglob("*")) - known, default=None)
    if added is not None:
        raise UsageError(
            f"{added} was added to an export, and would be lost with it; move it away, or choose another --to"
        )


def _fill(new: Run, run: Run, name: str) -> None:
    """Write the copy, its manifests and its card."""
    weights = run.world.weights.name
    manifest = run.world.require({})
    original = manifest.outputs[weights]
    policy_manifest = run.policy.require({"world": original})
    world = load_world(run.world.weights)
    _copy_stage(run.world, new.world, manifest, {weights: world.model}, {})
    networks: dict[str, nn.Module] = {weights: load_actor(run.policy.weights, world)}
    if run.policy.critic.name in policy_manifest.outputs:
        networks[run.policy.critic.name] = load_critic(run.policy.critic, world).critic
    renamed = {original: file_hash(new.world.weights)}
    _copy_stage(run.policy, new.policy, policy_manifest, networks, renamed)
    chain = trace(run, {})
    evaluation = chain.links["evaluation"]
    evaluated = evaluation.state == "ready"
    if not evaluated and evaluation.state != "missing":
        console.warn(
            f"The card leaves out the score, for the evaluation is {evaluation.state}; run `{evaluation.cure}`"
        )
    write_text(new.root / CARD, model_card(chain, name, *(read_evaluation(run) if evaluated else (None, {}))))


def _copy_stage(
    source: StageFolder,
    target: StageFolder,
    manifest: Manifest,
    networks: Mapping[str, nn.Module],
    renamed: Mapping[str, str],
) -> None:
    """Write a stage of the copy.

    Args:
        source, target: the stage's folders.
        manifest: of the source.
        networks: that its weights files hold, by the files' names.
        renamed: hashes of what it was made from, there and in the copy, where they differ.
    """
    for name, network in networks.items():
        _halve(source, target.path / name, network, renamed)
    for name in _BESIDE:
        path = source.path / name
        if path.is_symlink() or (path.exists() and not path.is_file()):  # it may have come from somebody else
            raise StageError(f"{path} is a link, a pipe or a folder, and not to be passed on; remove it")
        if path.exists():
            with atomic_path(target.path / name) as temporary:
                shutil.copyfile(path, temporary)
    inputs = {name: renamed.get(digest, digest) for name, digest in manifest.inputs.items()}
    outputs = {name: file_hash(target.path / name) for name in networks}
    mark = {"run": source.path.parent.name, "outputs": {name: manifest.outputs[name] for name in networks}}
    target.write_manifest(replace(manifest, inputs=inputs, outputs=outputs, facts={**manifest.facts, _MARK: mark}))


def _halve(source: StageFolder, target: Path, network: nn.Module, renamed: Mapping[str, str]) -> None:
    """Write a weights file with its parameters in float16, 11 significant bits; buffers, such as bounds, stay exact.

    Args:
        source: the stage that has a file of the same name.
        target: the file to write.
        network: that the file holds.
        renamed: see `_copy_stage`.

    Raises:
        StageError: the file names another world model than the one it goes with.
        DreamerError: a weight is beyond +-65504.
    """
    path = source.path / target.name
    tensors, header = load_weights(path)
    for name, _ in network.named_parameters():
        half = tensors[name].to(torch.float16)
        if not torch.isfinite(half).all():
            raise DreamerError(
                f"{path} has a weight of {float(tensors[name].abs().max()):.3g} in {name}, and half precision "
                f"ends at 65504; run `{source.command} --fresh` with a lower learning rate (--set)"
            )
        tensors[name] = half
    if "world" in header:
        if header["world"] not in renamed:
            raise StageError(f"{path} names another world model than there is; run `{source.command} --fresh`")
        header["world"] = renamed[header["world"]]
    save_weights(target, tensors, header)
