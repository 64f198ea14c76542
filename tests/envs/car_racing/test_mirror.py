from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config import ViewSettings
from pipeline.envs import kept_view, mirror_of
from pipeline.envs.car_racing.actions import LEFT, RIGHT
from pipeline.envs.car_racing.mirror import mirror
from pipeline.errors import UsageError


@pytest.mark.parametrize("size", [64, 96, 128])
def test_twice_is_not_at_all(size: int) -> None:
    seen, done = torch.randint(256, (2, 3, 3, size, size), dtype=torch.uint8), torch.randn(2, 3, 3)
    again = mirror(*mirror(seen, done))
    assert torch.equal(again[0], seen) and torch.equal(again[1], done)


def test_left_becomes_right_above_the_bar_and_the_foot_stays() -> None:
    seen, done = torch.randint(256, (3, 64, 64), dtype=torch.uint8), torch.tensor([0.3, 0.5, 0.1])
    other, action = mirror(seen, done)
    assert torch.equal(other[:, :56], seen[:, :56].flip(-1))
    assert torch.equal(other[:, 56:, :24], seen[:, 56:, :24]) and torch.equal(other[:, 56:, 56:], seen[:, 56:, 56:])
    assert action.tolist() == pytest.approx([-0.3, 0.5, 0.1])


def test_discrete_steering_changes_sides() -> None:
    one_hot = torch.eye(5)
    _, done = mirror(torch.zeros(5, 3, 64, 64, dtype=torch.uint8), one_hot)
    expected = list(range(5))
    expected[LEFT], expected[RIGHT] = RIGHT, LEFT
    assert done.argmax(-1).tolist() == expected


def test_the_bar_in_the_mirror_is_that_of_the_other_steering() -> None:
    """From a standstill, a car that is steered left does what one that is steered right does."""
    view = kept_view(ViewSettings())
    bars: list[Tensor] = []
    for steer in (-0.4, 0.4):
        view.reset(7)
        for _ in range(12):
            step = view.step(np.array([steer, 0.5, 0.0], np.float32))
        bars.append(torch.from_numpy(step.observation.copy()))
    marks = slice(24, 56)  # of steering and yaw rate
    left, right = (picture[:, 56:, marks].int() for picture in bars)
    mirrored = mirror(bars[0], torch.zeros(3))[0][:, 56:, marks].int()
    assert (left - right).abs().max() > 100
    assert (mirrored - right).abs().max() <= 64  # a mark ends within a pixel


def test_only_where_the_world_is_the_same_in_a_mirror() -> None:
    assert mirror_of(ViewSettings(), wanted=True) is mirror and mirror_of(ViewSettings(), wanted=False) is None
    assert mirror_of(ViewSettings(env="Pendulum-v1"), wanted=False) is None
    with pytest.raises(UsageError, match=r"Pendulum-v1 is not known .* --set model\.mirror=false"):
        mirror_of(ViewSettings(env="Pendulum-v1"), wanted=True)
