from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ViewSettings
from pipeline.envs import cost_of, kept_view
from pipeline.envs.car_racing.grass import grass
from pipeline.envs.car_racing.mirror import mirror
from pipeline.errors import UsageError

GREEN, GREY, RED, WHITE = (102, 204, 102), (102, 102, 102), (255, 0, 0), (255, 255, 255)


def painted(colour: tuple[int, int, int], size: int = 64) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].repeat(1, size, size)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_all_grass_is_one_and_all_road_none(size: int) -> None:
    assert grass(painted(GREEN, size)).item() == 1.0
    for colour in (GREY, RED, WHITE, (0, 0, 0)):
        assert grass(painted(colour, size)).item() == 0.0


@given(st.integers(0, 40))
@settings(deadline=None, max_examples=20)
def test_an_edge_golden(column: int) -> None:
    """Of 12 rows and 8 columns, 28 to 35, less the car's 32 pixels: 12 more of 64 for each column of grass."""
    picture = painted(GREY)
    picture[:, :, 64 - column :] = painted(GREEN)[:, :, 64 - column :]
    columns = min(max(column - 28, 0), 8)
    assert grass(picture).item() == pytest.approx(min(12 * columns / 64, 1.0))


def test_leading_axes_and_the_mirror() -> None:
    pictures = torch.randint(256, (2, 5, 3, 64, 64), dtype=torch.uint8)
    found = grass(pictures)
    assert found.shape == (2, 5) and found.dtype == torch.float32
    assert grass(pictures[1, 2]) == found[1, 2]
    assert torch.equal(grass(mirror(pictures, torch.zeros(2, 5, 3))[0]), found)


def test_it_tells_how_many_wheels_are_on_the_road() -> None:
    """Across the edge of a real road and back, once the camera has zoomed in."""
    view = kept_view(ViewSettings())
    found: dict[int, list[float]] = {wheels: [] for wheels in range(5)}
    for track in (7, 8, 9):
        view.reset(track)
        for index in range(60):
            step = view.step(np.array([0.3 * np.sin(index / 4), 0.25, 0.0], np.float32))
            if index >= 13:
                cost = grass(torch.from_numpy(step.observation)).item()
                found[step.infos["on_road"]].append(cost)
    assert min(len(each) for wheels, each in found.items() if wheels in (0, 4)) >= 10
    assert np.median(found[0]) == 1.0 and np.median(found[4]) < 0.1
    between = [cost for wheels in (1, 2, 3) for cost in found[wheels]]
    assert between and 0.1 < np.median(between) < 1.0


def test_only_where_something_is_to_be_avoided() -> None:
    assert cost_of(ViewSettings(), wanted=True) is grass and cost_of(ViewSettings(), wanted=False) is None
    assert cost_of(ViewSettings(env="Pendulum-v1"), wanted=False) is None
    with pytest.raises(UsageError, match=r"to be avoided in Pendulum-v1; --set model\.cost=false"):
        cost_of(ViewSettings(env="Pendulum-v1"), wanted=True)
    for colourless in (ViewSettings(grey=True), ViewSettings(env_kwargs='{"domain_randomize": true}')):
        assert cost_of(colourless, wanted=False) is None
        with pytest.raises(UsageError, match=r"told by its colour.*; --set model\.cost=false"):
            cost_of(colourless, wanted=True)
