"""A copy of a run does what the run does, holds nothing else, and is whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import Agent, load_agent
from pipeline.artifacts import Run, Source, file_hash, load_weights, save_weights
from pipeline.config import resolve
from pipeline.driving import open_garage
from pipeline.errors import BusyError, DreamerError, StageError, UsageError
from pipeline.lineage import run_names, trace
from pipeline.locks import Lock
from pipeline.models.actor_critic import Critic
from pipeline.models.checkpoints import load_world, save_critic
from pipeline.planning import load_planner
from pipeline.stages import export as stage
from pipeline.stages.export import export
from pipeline.stages.verify import verify
from pipeline.viewing.report import write_report

COPIED = {"manifest.json", "settings.toml", "metrics.jsonl", "curves.png", "model.safetensors"}


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Run:
    return whole(tiny_run, tmp_path / "own")


def whole(made: Run, folder: Path) -> Run:
    """A copy with all that the fitting stages leave, and a critic."""
    run = Run(Path(shutil.copytree(made.root, folder / "artifacts" / "demo")))
    world, policy = load_world(run.world.weights), run.policy.read_settings().policy
    with torch.random.fork_rng():
        torch.manual_seed(1)
        critic = Critic(world.model.features, world.settings, policy)
    save_critic(run.policy.critic, critic, policy, file_hash(run.world.weights))
    shutil.copy(run.world.weights, run.world.path / "last.safetensors")
    for folder_of in (run.world, run.policy):
        folder_of.state.write_bytes(b"private")
        lines = [{"step": step, "picture": 1 / step, "return": float(step)} for step in (1, 2, 3)]
        folder_of.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder_of.path / "curves.png").write_bytes(b"a picture")
        manifest = folder_of.read_manifest()
        assert manifest is not None
        outputs = {path.name: file_hash(path) for path in folder_of.path.glob("*.safetensors")}
        manifest = replace(manifest, outputs=outputs, facts={"seconds": 90.0})
        folder_of.write_manifest(manifest.with_sources([Source("drives", "a" * 64, 300, "random")]))
    return run


def content(root: Path) -> dict[Path, bytes]:
    """All files but locks."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(root): path.read_bytes() for path in files}


def actions(agent: Agent, count: int = 10) -> list[Any]:
    agent.reset(3)
    rng = np.random.default_rng(0)
    return [agent.act(rng.integers(0, 256, (3, 64, 64), np.uint8)) for _ in range(count)]


def test_it_holds_what_is_needed_and_nothing_private(run: Run) -> None:
    before = content(run.root)
    copy = export(run, "shared")
    assert copy.root == run.root.with_name("shared")
    expected = {Path("README.md"), Path("policy/critic.safetensors")}
    assert set(content(copy.root)) == expected | {Path(name, file) for name in ("world", "policy") for file in COPIED}
    assert content(run.root) == before
    for path in ("world/metrics.jsonl", "world/curves.png", "world/settings.toml", "policy/settings.toml"):
        assert content(copy.root)[Path(path)] == before[Path(path)]
    verdict = verify(copy.root, run.root.parent)
    assert verdict.sound and any("critic.safetensors fits" in line for line in verdict.fine)
    assert trace(copy, {}).next == "dreamer evaluate --run shared"
    write_report(copy)
    assert verify(copy.root, run.root.parent).sound


def test_it_acts_as_the_run_does_but_for_rounding(run: Run) -> None:
    copy = export(run, "shared")
    theirs, ours = (np.array(actions(load_agent(one.root))) for one in (run, copy))
    assert 0 < np.abs(theirs - ours).max() < 0.01
    for name in ("world/model", "policy/model", "policy/critic"):
        original, _ = load_weights(run.root / f"{name}.safetensors")
        tensors, _ = load_weights(copy.root / f"{name}.safetensors")
        for key, tensor in tensors.items():
            assert tensor.dtype == (torch.float32 if key.startswith("scale.") else torch.float16), key
            torch.testing.assert_close(tensor.float(), original[key], rtol=2**-11, atol=2**-24)
        sizes = [sum(tensor.nbytes for tensor in many.values()) for many in (tensors, original)]
        assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.01)


def test_the_chain_holds(run: Run) -> None:
    copy = export(run, "shared")
    world, policy = copy.world.require({}), copy.policy.require({"world": file_hash(copy.world.weights)})
    assert world.outputs == {"model.safetensors": file_hash(copy.world.weights)} and world.inputs == {"data": "0" * 64}
    assert set(policy.outputs) == {"model.safetensors", "critic.safetensors"}
    assert [load_weights(path)[1]["world"] for path in (copy.policy.weights, copy.policy.critic)] == [
        world.outputs["model.safetensors"]
    ] * 2
    assert policy.facts["exported"]["outputs"]["model.safetensors"] == file_hash(run.policy.weights)
    assert (world.done, world.sources) == (1, (Source("drives", "a" * 64, 300, "random"),))
    garage = open_garage(copy)
    load_planner(copy.policy, load_world(copy.world.weights), load_agent(copy.root).actor, resolve("tiny").planner)
    assert garage.world == world.outputs["model.safetensors"]


def test_a_copy_of_a_copy_has_the_same_weights(run: Run) -> None:
    first, second = export(run, "first"), export(Run(run.root.with_name("first")), "second")
    assert file_hash(first.world.weights) == file_hash(second.world.weights)
    assert file_hash(first.policy.weights) == file_hash(second.policy.weights)


def test_any_environment_and_any_actions(other_run: Run, discrete_run: Run, tmp_path: Path) -> None:
    for number, made in enumerate((other_run, discrete_run)):
        run = whole(made, tmp_path / str(number))
        copy = export(run, "shared")
        assert verify(copy.root).sound
        np.testing.assert_allclose(actions(load_agent(copy.root)), actions(load_agent(run.root)), atol=0.05)
        assert f"`{run.world.read_settings().view.env}`" in (copy.root / "README.md").read_text()


def test_an_older_run_has_no_critic(tiny_run: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(tiny_run.root, tmp_path / "demo")))
    copy = export(run, "shared")
    assert not copy.policy.critic.exists() and verify(copy.root).sound


def edit(run: Run, name: str, **changes: Any) -> None:
    path = run.root / name / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename_world(run: Run) -> None:
    tensors, header = load_weights(run.policy.weights)
    save_weights(run.policy.weights, tensors, header | {"world": "f" * 64})
    edit(run, "policy", outputs={"model.safetensors": file_hash(run.policy.weights)})


def link_curves(run: Run) -> None:
    (run.world.path / "curves.png").unlink()
    (run.world.path / "curves.png").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: shutil.rmtree(run.world.path), r"world is missing; run `dreamer fit-world --run demo`"),
        (lambda run: shutil.rmtree(run.policy.path), r"policy is missing; run `dreamer fit-policy --run demo`"),
        (
            lambda run: edit(run, "policy", complete=False),
            r"unfinished \(1 done\); run `dreamer fit-policy --run demo`",
        ),
        (lambda run: edit(run, "policy", inputs={"world": "1" * 64}), "made from another world than there is now"),
        (lambda run: run.policy.critic.write_bytes(b""), r"critic.safetensors is missing or changed"),
        (rename_world, "names another world model than there is; run `dreamer fit-policy --run demo --fresh`"),
        (link_curves, "curves.png is a link, a pipe or a folder, and not to be passed on; remove it"),
    ],
)
def test_what_is_not_whole_is_not_passed_on(run: Run, harm: Callable[[Run], object], message: str) -> None:
    harm(run)
    with pytest.raises(StageError, match=message):
        export(run, "shared")
    assert run_names(run.root.parent) in (["demo"], []) and not run.root.with_name("shared").exists()


def test_a_weight_beyond_half_precision_is_an_error(run: Run) -> None:
    tensors, header = load_weights(run.world.weights)
    tensors["reward_head.out.bias"][0] = 1e5
    save_weights(run.world.weights, tensors, header)
    outputs = {"model.safetensors": file_hash(run.world.weights)}
    edit(run, "world", outputs=outputs)
    edit(run, "policy", inputs={"world": outputs["model.safetensors"]})
    with pytest.raises(
        DreamerError, match=r"a weight of 1e\+05 in reward_head\.out\.bias, .* `dreamer fit-world --run"
    ):
        export(run, "shared")
    assert not run.root.with_name("shared").exists()


@pytest.mark.parametrize("name", ["load_actor", "_halve", "file_hash", "model_card"])
def test_an_export_cut_short_leaves_nothing_and_can_be_repeated(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stage, name, cut)
        export(run, "shared")
    assert {path.name for path in run.root.parent.iterdir()} == {"demo", ".shared.lock"}
    hidden = run.root.with_name(".shared.export") / "new" / "world"  # as SIGKILL would have left it
    shutil.copytree(run.world.path, hidden)
    assert run_names(run.root.parent) == ["demo"]
    copy = export(run, "shared")
    assert not hidden.exists() and "last.safetensors" not in {path.name for path in copy.world.path.iterdir()}


def test_what_is_there_is_not_replaced_unasked(run: Run) -> None:
    copy = export(run, "shared")
    before = content(copy.root)
    with pytest.raises(UsageError, match="shared is there already; choose another --to"):
        export(run, "shared")
    with pytest.raises(UsageError, match="cannot name a run"):
        export(run, "../shared")
    assert content(copy.root) == before


def test_fresh_replaces_an_export_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = export(run, "shared")
    before = content(copy.root)
    monkeypatch.setattr(stage, "model_card", lambda *_: "another card")
    copy = export(run, "shared", fresh=True)
    assert content(copy.root) == before | {Path("README.md"): b"another card"}
    monkeypatch.setattr(stage, "model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(run, "shared", fresh=True)
    assert (copy.root / "README.md").read_text() == "another card"
    with Lock(copy.world.lock, copy.world.path, "dreamer evaluate", to_read=True), pytest.raises(BusyError):
        export(run, "shared", fresh=True)


@pytest.mark.parametrize("added", ["evaluation/evaluation.json", "world/training_state.pt", "notes.txt"])
def test_fresh_loses_nothing_that_was_added(run: Run, added: str) -> None:
    copy = export(run, "shared")
    (copy.root / added).parent.mkdir(exist_ok=True)
    (copy.root / added).write_text("mine")
    before = content(copy.root)
    with pytest.raises(UsageError, match=r"shared/\S+ was added to an export, and would be lost with it"):
        export(run, "shared", fresh=True)
    assert content(copy.root) == before


def test_fresh_replaces_no_run_and_no_other_folder(run: Run, tiny_run: Run) -> None:
    shutil.copytree(tiny_run.root, run.root.with_name("other"))
    run.root.with_name("notes").mkdir()
    run.root.with_name("link").symlink_to(export(run, "shared").root)
    for name, message in (
        ("other", "not made by `dreamer export`"),
        ("notes", "not made by `dreamer export`"),
        ("link", "there already"),
        ("demo", "there already"),
    ):
        with pytest.raises(UsageError, match=message):
            export(run, name, fresh=True)
    names = {"demo", "link", "notes", "other", "shared"}
    assert {path.name for path in run.root.parent.iterdir() if not path.name.startswith(".")} == names


def test_nobody_else_may_write_the_run_meanwhile(run: Run) -> None:
    with run.policy.writing(), pytest.raises(BusyError, match="policy is in use"):
        export(run, "shared")


def test_the_score_of_other_weights_is_left_out(
    run: Run, finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run.evaluation.path, run.evaluation.path)
    copy = export(run, "shared")
    assert "450" not in (copy.root / "README.md").read_text()
    said = "The card leaves out the score, for the evaluation is stale; run `dreamer evaluate --run demo`"
    assert said in " ".join(capsys.readouterr().err.split())
    edit(run, "evaluation", inputs={"world": file_hash(run.world.weights), "policy": file_hash(run.policy.weights)})
    copy = export(run, "again")
    assert "| policy | 450 |" in (copy.root / "README.md").read_text()
