"""What several processes agree on, and that one process alone agrees with itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline import distributed
from pipeline.errors import StageError, UsageError

JOB = """
import weakref
import torch
from pipeline import distributed
from pipeline.errors import StageError

with distributed.joined():
    rank = distributed.rank()
    assert distributed.size() == 2 and distributed.is_first() == (rank == 0)
    assert distributed.rows(6, "x") == slice(3 * rank, 3 * rank + 3)
    assert distributed.once(lambda: ("of", rank)) == ("of", 0)
    assert distributed.everyone(rank) == [0, 1]
    assert distributed.any_of(rank == 1) and not distributed.any_of(False)
    for dtype in (torch.float32, torch.bool, torch.uint8):
        part = torch.tensor([[rank, 1]]).to(dtype)
        assert distributed.gathered(part).tolist() == torch.tensor([[0, 1], [1, 1]]).to(dtype).tolist()

    try:
        distributed.once(lambda: (_ for _ in ()).throw(StageError("refused")))
    except StageError as error:
        assert str(error) == "refused"
    else:
        raise AssertionError("the error of the first process must reach all")

    # max(1, mean x^2 w) of all four rows, of which each process has two; only one of the two means is above 1
    w = torch.tensor(2.0, requires_grad=True)
    x = torch.tensor([[1.0, 2.0], [0.1, 0.2]])[rank]
    mean = distributed.mean((x.square() * w).mean())
    assert abs(mean.item() - 2 * 5.05 / 4) < 1e-6
    mean.clamp_min(1.0).backward()
    distributed.average_gradients([w, torch.zeros(3, requires_grad=True)])
    assert abs(w.grad.item() - 5.05 / 4) < 1e-6, w.grad

    torch.manual_seed(0)
    alone = torch.rand(3)
    torch.manual_seed(0)
    distributed.own_random_numbers()
    own = torch.rand(3)
    assert torch.equal(own, alone) == (rank == 0)
    assert len({tuple(numbers) for numbers in distributed.everyone(own.tolist())}) == 2

    # torch itself refers to the group if some of its modules are first imported here, as an optimizer does; gloo's
    # threads then live on, and end the process with an abort if they need the interpreter while it ends
    torch.optim.Adam([w]).step()
    group = weakref.ref(torch.distributed.group.WORLD)

    said = [distributed.first_to_say("hello"), distributed.first_to_say("hello")]
    distributed.everyone(None)
    assert sorted(sum(distributed.everyone(said), [])) == [False, False, False, True]
assert distributed.size() == 1 and group() is None
print("done")
"""


def test_two_processes_agree(tmp_path: Path) -> None:
    job = tmp_path / "job.py"
    job.write_text(JOB)
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2


LEFT = """
import signal, time
import torch
from pipeline import distributed

with distributed.joined():
    if distributed.rank() == 1:
        torch.distributed.destroy_process_group()
        time.sleep(2)  # or torchrun may end the other one before that has noticed
        signal.raise_signal(signal.SIGKILL)
    try:
        distributed.everyone(None)
    except distributed.LostProcessError:
        signal.raise_signal(signal.SIGTERM)  # as torchrun does
        print("still there", flush=True)
"""


def test_a_process_that_has_noticed_the_loss_of_another_is_given_the_time_to_say_so(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(LEFT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "job.py")]
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "still there" in done.stdout, done.stderr


def test_what_this_process_lacks_is_no_loss_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_lost", False)

    @distributed._collective
    def call(error: Exception) -> None:
        raise error

    with pytest.raises(torch.OutOfMemoryError):
        call(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not distributed._lost
    with pytest.raises(distributed.LostProcessError):
        call(RuntimeError("Connection closed by peer"))
    assert distributed._lost


def test_one_process_is_the_first_and_agrees_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not distributed.launched()
    with distributed.joined():
        value = torch.rand(3, requires_grad=True)
        assert (distributed.rank(), distributed.size(), distributed.is_first()) == (0, 1, True)
        assert distributed.rows(7, "world.batch") == slice(0, 7)
        assert distributed.mean(value) is value and distributed.gathered(value) is value
        assert distributed.any_of(True) and not distributed.any_of(False)
        assert distributed.once(lambda: 3) == 3 and distributed.everyone(3) == [3]
        assert distributed.first_to_say("a") and distributed.first_to_say("a")
        state = torch.get_rng_state()
        distributed.own_random_numbers()
        distributed.average_gradients([value])
        assert torch.equal(torch.get_rng_state(), state) and value.grad is None
        with pytest.raises(StageError):
            distributed.once(lambda: (_ for _ in ()).throw(StageError("refused")))


def test_rows_that_cannot_be_shared_out_evenly_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_size", 4)
    monkeypatch.setattr(distributed, "_rank", 3)
    assert distributed.rows(8, "world.batch") == slice(6, 8)
    with pytest.raises(
        UsageError, match=r"world\.batch = 10 cannot be shared out among 4 processes; choose a multiple"
    ):
        distributed.rows(10, "world.batch")
