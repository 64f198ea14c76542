"""The look at held-out episodes: which rows it compares, and which weights it keeps."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo.utils
from torch import Tensor

from pipeline.config import VARIANTS, ModelSettings, ViewSettings, WorldSettings, resolve
from pipeline.episodes.episode import Batch
from pipeline.learning import world_learner
from pipeline.learning.world_learner import CONTEXT, HORIZONS, WorldLearner, held_out_errors, whole_windows
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.distributions import Pixels
from pipeline.models.world_model import WorldModel

SIZES = ModelSettings(deter=8, groups=2, classes=4, hidden=8, units=8, depth=2, ensemble=2, ensemble_units=4)
ROWS = CONTEXT + max(HORIZONS)


def make_model(settings: ModelSettings = SIZES) -> WorldModel:
    torch.manual_seed(0)
    return build_world(settings, Interface(ViewSettings(), (-1.0,), (1.0,)))


def numbered_batch(b: int = 3) -> Batch:
    """Pictures as bright as their row's number, rewards of 1."""
    rows = torch.arange(ROWS, dtype=torch.uint8)[None, :, None, None, None]
    return Batch(
        observation=rows.expand(b, ROWS, 3, 64, 64).contiguous(),
        action=torch.rand(b, ROWS, 1),
        reward=torch.ones(b, ROWS),
        is_first=torch.zeros(b, ROWS, dtype=torch.bool),
        is_terminal=torch.zeros(b, ROWS, dtype=torch.bool),
    )


def test_open_loop_errors_compare_with_the_row_that_many_steps_behind_the_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that always predicts black and no reward is as wrong as the recorded row is bright."""
    model = make_model()

    def black(feature: Tensor) -> Pixels:
        return Pixels(torch.zeros(*feature.shape[:-1], 3, 64, 64))

    monkeypatch.setattr(model, "decode", black)
    errors = held_out_errors(model, numbered_batch(), WorldSettings())
    for k in HORIZONS:
        assert errors[f"open_loop_{k}"] == pytest.approx(((CONTEXT + k - 1) / 255) ** 2, rel=1e-3)
        assert errors[f"open_loop_reward_{k}"] == pytest.approx(k, rel=1e-3)  # a fresh reward head says 0
    assert errors["reward_error"] == pytest.approx(1.0)


def test_the_ensemble_says_nothing_about_which_weights_are_the_best() -> None:
    """Its loss rises with what the states hold, so that weights of before the annealing would be kept."""
    errors = held_out_errors(make_model(), numbered_batch(), WorldSettings())
    of_the_model = ("picture", "reward", "continue", "dynamics", "representation", "cost")
    assert errors["ensemble"] > 1.0
    assert errors["loss"] == pytest.approx(sum(errors[name] for name in of_the_model), rel=1e-5)


class FakeWindows:
    """Windows of which every second one runs over the end of an episode; those to learn from have `rows`."""

    length = rows = ROWS

    def sample(self, rng: np.random.Generator, batch: int) -> Batch:
        sample = numbered_batch(batch)
        sample.is_first[::2, 7] = True
        return sample

    def batches(self, seed: int, start: int, stop: int, batch: int) -> Iterator[Batch]:
        for _ in range(start, stop):
            whole = numbered_batch(batch)
            yield Batch(**{name: part[:, : self.rows] for name, part in vars(whole).items()})


def test_held_out_windows_lie_within_an_episode() -> None:
    batch = whole_windows(FakeWindows(), 0)  # type: ignore[arg-type]
    assert len(batch.reward) == world_learner.HELD_OUT_WINDOWS
    assert not batch.is_first[:, 1:].any()


def test_the_weights_with_the_lowest_held_out_loss_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr(world_learner, "held_out_errors", lambda *_: {"loss": next(losses)})
    windows: Any = FakeWindows()
    settings = WorldSettings(batch=2, validate_every=1, precision="float32", warmup=0, anneal=0.0)
    learner = WorldLearner(make_model(), settings, windows, windows, 0)
    learner.begin(0, 3)
    kept = []
    for index in range(3):
        learner.update(index)
        assert learner.check(index + 1, False).keys() == {"held_out/loss"}
        kept.append({name: tensor.clone() for name, tensor in learner.model.state_dict().items()})
    assert learner.best == 1.0
    name = "reward_head.out.weight"
    assert torch.equal(learner.best_model[name], kept[1][name])
    assert not torch.equal(learner.best_model[name], kept[2][name])


@pytest.mark.parametrize("name", ["model", "best_model"])
def test_a_state_of_another_model_is_refused(name: str) -> None:
    windows: Any = FakeWindows()
    learner, other = (
        WorldLearner(make_model(sizes), WorldSettings(), windows, windows, 0)
        for sizes in (SIZES, SIZES.model_copy(update={"units": 9}))
    )
    learner.restore(learner.state())
    with pytest.raises(RuntimeError, match="size mismatch"):
        learner.restore(learner.state() | {name: other.state()[name]})


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_fitted_and_looked_at(variant: str, precision: str) -> None:
    """With its own optimizer, at a larger step size: the loss of what it is fitted to falls."""
    chosen = {"world.learning_rate": 3e-3, "world.warmup": 0, "world.precision": precision, "world.batch": 4}
    settings, windows = resolve("tiny", variant=variant, values=chosen.items()), FakeWindows()
    source: Any = windows
    learner = WorldLearner(make_model(settings.model), settings.world, source, source, 0)
    learner.begin(0, 8)
    losses = [learner.update(index)["loss"].item() for index in range(8)]
    assert losses[-1] < losses[0]
    errors = learner.check(8, True)
    assert {"held_out/open_loop_15", "held_out/kl"} <= errors.keys()
    assert all(np.isfinite(value) for value in errors.values())


def learner_of(variant: str, **values: object) -> WorldLearner:
    precise = {"world.precision": "float32", **{f"world.{name}": value for name, value in values.items()}}
    settings, windows = resolve("tiny", variant=variant, values=precise.items()), FakeWindows()
    source: Any = windows
    learner = WorldLearner(make_model(settings.model), settings.world, source, source, 0)
    learner.begin(0, 4)
    return learner


def test_what_would_wait_is_noticed(no_waiting: Callable[[], AbstractContextManager[object]]) -> None:
    numbers = torch.arange(3.0)
    for waits in (lambda: numbers[1].item(), lambda: numbers[numbers > 1], lambda: bool(numbers.sum() > 1)):
        with no_waiting(), pytest.raises(AssertionError, match="waits for the device"):
            waits()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update_does_not_wait_for_the_device(
    variant: str, no_waiting: Callable[[], AbstractContextManager[object]]
) -> None:
    learner = learner_of(variant)
    learner.update(0)  # what is made once may wait
    with no_waiting():
        learner.update(1)


@pytest.mark.slow
def test_a_compiled_update_gives_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    monkeypatch.setattr(FakeWindows, "rows", 3)  # the compiler unrolls the time
    torch._dynamo.utils.counters.clear()
    losses = []
    for chosen in (False, True):
        learner = learner_of("laptop", compile=chosen)
        seeds = enumerate((5, 6, 7))
        losses.append([float(torch.manual_seed(seed) and learner.update(index)["loss"]) for index, seed in seeds])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_what_cannot_be_compiled_runs_as_it_is_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch._dynamo.exc

    def no_compiler(function: object, **options: object) -> Callable[..., object]:
        def fail(*_: object) -> None:
            raise torch._dynamo.exc.InternalTorchDynamoError("no compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    losses = []
    for chosen in (False, True):
        torch.manual_seed(0)
        losses.append(float(learner_of("laptop", compile=chosen).update(0)["loss"]))
    assert losses[0] == losses[1]
    assert "torch.compile failed (InternalTorchDynamoError: no compiler)" in capsys.readouterr().err


def test_it_looks_when_it_is_time_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_learner, "held_out_errors", lambda *_: {"loss": 1.0})
    windows: Any = FakeWindows()
    learner = WorldLearner(make_model(), WorldSettings(validate_every=4), windows, windows, 0)
    assert [bool(learner.check(done, done == 6)) for done in range(1, 7)] == [False, False, False, True, False, True]
