"""Fitting with torchrun, on two processes of this machine: they do what one does, stop together, and end together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_fitting_stages import write_data

import pipeline
from pipeline import console
from pipeline.artifacts import Run

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
BATCH, STARTS, LENGTH = 10, 24, 4

JOB = f"""
import shutil, sys
from pathlib import Path
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from pipeline import console, distributed
from pipeline.artifacts import Run
from pipeline.config import resolve
from pipeline.learning import fitting
from pipeline.learning.policy_learner import PolicyLearner
from pipeline.learning.world_learner import WorldLearner
from pipeline.stages.fit_policy import fit_policy
from pipeline.stages.fit_world import fit_world


class OneDraw(TorchFunctionMode):
    "Within it, random numbers are drawn as one process draws them for all rows, and the process' own rows are taken."

    def __init__(self, own):
        self.own = own
        super().__init__()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.rand, torch.randn):
            fill = Tensor.uniform_ if function is torch.rand else Tensor.normal_
            return self.draw(args if isinstance(args[0], int) else args[0], fill)
        if function is torch.rand_like:
            return self.draw(args[0].shape, Tensor.uniform_)
        if function in (Tensor.uniform_, Tensor.normal_):
            return args[0].copy_(self.draw(args[0].shape, function))
        return function(*args, **(kwargs or {{}}))

    def draw(self, shape, fill):
        whole = list(shape)
        assert whole.count(len(self.own)) == 1, whole  # or else it cannot be told which axis the rows are
        axis = whole.index(len(self.own))
        whole[axis] *= distributed.size()
        return fill(torch.empty(whole)).index_select(axis, self.own)


def share_draws(learner, update, own):
    def in_one_draw(self, index):
        with OneDraw(own):
            return update(self, index)

    learner.update = in_one_draw


root, data, variants = Path(sys.argv[1]), Path("data/made"), sys.argv[2:]
updates, cpu = (WorldLearner.update, PolicyLearner.update), torch.device("cpu")
values = dict.fromkeys(("world.precision", "policy.precision"), "float32")
values |= {{"world.batch": {BATCH}, "world.warmup": 0, "world.decode_share": 1.0, "policy.starts": {STARTS}}}
values |= {{"model.reward": "normal", "policy.critic": "normal"}}  # bins up to 5e8 make much of the least rounding
distributed.own_random_numbers = lambda: None
fitting.LOG_EVERY = 1
with distributed.joined():
    console.set_mute(not distributed.is_first())
    for variant in variants:
        carried = {{"policy.carry": 0.75, "policy.cost_ends": 0.0}} if variant == "laptop" else {{}}
        settings = resolve("tiny", variant=variant, values=(values | carried).items())
        share_draws(WorldLearner, updates[0], torch.arange({BATCH})[distributed.rows({BATCH}, "batch")])
        fit_world(settings, run=Run(root / variant), data=data, device=cpu)
        starts = torch.arange({STARTS})
        if settings.policy.replay_scale:
            starts = starts.view({LENGTH}, -1)[:, distributed.rows({STARTS // LENGTH}, "windows")].flatten()
        else:
            starts = starts[distributed.rows({STARTS}, "starts")]
        share_draws(PolicyLearner, updates[1], starts)
        copy = Path("worlds") / variant  # so that both policies are fitted in the same world
        if distributed.size() == 1:
            shutil.copytree(root / variant, copy)
        shutil.copytree(copy, root / f"{{variant}}-{{distributed.rank()}}")
        distributed.everyone(None)
        fit_policy(settings, run=Run(root / f"{{variant}}-0"), data=data, device=cpu)
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and all that was printed."""
    output, errors = process.communicate(timeout=120)
    return process.returncode, output + errors


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """Given the same random numbers: the same losses, weights and checkpoints, but for rounding."""
    write_data(tmp_path / "data" / "made")
    (tmp_path / "job.py").write_text(JOB)
    variants = ("laptop", "v2", "v3")
    for launcher, root in (([sys.executable], "one"), (TORCHRUN, "two")):
        code, output = finish(start(tmp_path, *launcher, "job.py", root, *variants))
        assert code == 0, output
    for name, stage in ((f"{variant}{end}", stage) for variant in variants for end, stage in STAGES):
        one, two = (getattr(Run(tmp_path / root / name), stage) for root in ("one", "two"))
        lines = [console.read_lines(folder.metrics) for folder in (one, two)]
        assert len(lines[0]) == len(lines[1]) == 6
        for first, second in zip(*lines, strict=True):
            assert first == pytest.approx(second, rel=1e-3, abs=1e-5), (name, stage)
        states = [torch.load(folder.path / "training_state.pt")["learner"] for folder in (one, two)]
        for part in ("model",) if stage == "world" else ("actor", "acting", "critic", "slow_critic", "scale"):
            for tensor, weight in states[0][part].items():
                torch.testing.assert_close(states[1][part][tensor], weight, rtol=1e-3, atol=1e-5)
        if stage == "policy" and name != "v3-0":
            assert states[0]["deter"].shape == states[1]["deter"].shape == (STARTS, 16)
            assert torch.equal(states[0]["carried"], states[1]["carried"])
            assert name != "laptop-0" or 0 < states[0]["carried"].sum() < STARTS


STAGES = (("", "world"), ("-0", "policy"))


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists() and process.poll() is None


def children(process: subprocess.Popen[str]) -> Sequence[int]:
    """The processes of a job, in their order."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not listed.exists():
        pytest.skip("finds the processes of a job on Linux alone")
    return [int(number) for number in listed.read_text().split()]


@pytest.mark.slow
def test_stopped_or_with_a_process_killed_a_job_ends_with_a_sentence_and_goes_on(tmp_path: Path) -> None:
    write_data(tmp_path / "data" / "made")
    command = ["-m", "pipeline", "--", "fit-world", "--preset", "tiny", "--data", "made", "--run", "made"]
    command += ["--updates", "300", "--set", "world.save_every=4", "--set", "world.validate_every=1000"]
    command += ["--device", "cpu"]
    folder = Run(tmp_path / "artifacts" / "made").world
    checkpoint = folder.path / "training_state.pt"

    process = start(tmp_path, *TORCHRUN, *command)
    wait_for(checkpoint, process)
    process.send_signal(signal.SIGTERM)
    _, output = finish(process)
    assert output.count("Stopped after") == 1 and "all saved; the same command goes on from there" in output
    stopped = folder.read_manifest()
    assert stopped is not None and 0 < stopped.done < 300

    checkpoint.rename(checkpoint.with_suffix(".old"))
    shutil.copy(checkpoint.with_suffix(".old"), checkpoint)
    before = checkpoint.stat().st_mtime_ns
    process = start(tmp_path, *TORCHRUN, *command)
    while checkpoint.stat().st_mtime_ns == before and process.poll() is None:
        time.sleep(0.02)
    os.kill(children(process)[1], signal.SIGKILL)
    code, output = finish(process)
    assert code != 0
    assert output.count("Another process of this job ended") == 1, output
    killed = folder.read_manifest()
    assert killed is not None and stopped.done < killed.done < 300

    code, output = finish(start(tmp_path, sys.executable, *command))  # by one process
    assert code == 0, output
    assert folder.require({}).done == 300
    steps = [line["step"] for line in console.read_lines(folder.metrics)]
    assert steps == list(range(10, 301, 10))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit-world", "--set", "world.batch=3"], "world.batch = 3 cannot be shared out among 2 processes"),
        (["run"], "`dreamer run` is for one process"),
        (["fit-world", "--data", "nowhere"], "dreamer collect --data nowhere"),
    ],
)
def test_what_all_processes_refuse_is_said_once(words: list[str], said: str, tmp_path: Path) -> None:
    write_data(tmp_path / "data" / "made")
    command = ["-m", "pipeline", *words, "--preset", "tiny", "--device", "cpu"]
    command += [] if "--data" in words else ["--data", "made"]
    code, output = finish(start(tmp_path, *TORCHRUN, *command))
    assert code != 0
    assert output.count(said) == 1 and "Error" in output, output
    assert "pipeline/stages" not in output  # no traceback of ours
    assert not (tmp_path / "artifacts").exists()
