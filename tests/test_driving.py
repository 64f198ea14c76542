from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.artifacts import Run
from pipeline.driving import (
    HORIZONS,
    POLICY,
    RANDOM,
    Drive,
    Garage,
    Job,
    agent_of,
    decisions,
    dreamt_rewards,
    drive,
    drive_all,
    make_driver,
    one_thread,
    open_garage,
)
from pipeline.envs.car_racing.actions import GAS
from pipeline.envs.car_racing.fast_car_racing import FastCarRacing
from pipeline.envs.car_racing.view import CarRacingView
from pipeline.errors import DreamerError
from pipeline.models.distributions import symexp_bins
from pipeline.models.dynamics import Latent
from pipeline.models.world_model import WorldModel

STRAIGHT = "straight"
JOBS = [Job(STRAIGHT, 1000), Job(POLICY, 1000), Job(STRAIGHT, 1001), Job(POLICY, 1001)]


@pytest.fixture
def garage(tiny_run: Run) -> Garage:
    return open_garage(tiny_run)


@pytest.fixture
def discrete_garage(discrete_run: Run) -> Garage:
    return open_garage(discrete_run)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def test_straight_gas_leaves_the_field(garage: Garage) -> None:
    result = drive(garage, JOBS[0])
    assert result.score.left_field and not result.score.lap_finished and not result.score.truncated
    assert result.rewards[-1] < -99
    assert result.score.score == pytest.approx(sum(result.rewards))
    assert result.score.decisions == len(result.rewards) < 250
    # -0.1 a step, 1000 / N a tile, -100 in place of the last step's -0.1
    steps = result.score.decisions * 4
    tiles = result.score.tiles * 1000 / result.score.track_tiles
    assert result.score.score == pytest.approx(tiles - 0.1 * steps - 100, abs=0.5)
    assert result.dream_start is None and result.dreamt == ()


def test_straight_gas_leaves_the_field_by_discrete_actions_too(discrete_garage: Garage) -> None:
    driver = make_driver(discrete_garage, JOBS[0])
    assert {driver(np.zeros((3, 64, 64), np.uint8)) for _ in range(3)} == {GAS}
    result = drive(discrete_garage, JOBS[0])
    assert result.score.left_field and result.score.decisions < 250


def test_a_reward_that_is_not_finite_stops_the_drive(garage: Garage, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CarRacingView.step
    monkeypatch.setattr(CarRacingView, "step", lambda *parts: replace(step(*parts), reward=math.nan))
    with pytest.raises(DreamerError, match="The reward of decision 0 of 'straight' on track 1000 is nan"):
        drive(garage, JOBS[0])


@pytest.mark.parametrize("driver", [POLICY, RANDOM])
def test_discrete_drives(discrete_garage: Garage, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the end, and with all that the dream has to say."""
    monkeypatch.setattr("pipeline.envs.car_racing.view.TIME_LIMIT", 100)
    monkeypatch.setattr(
        "pipeline.driving.kept_view", lambda view, pictures=True: CarRacingView(view, pictures=pictures)
    )
    result = drive(discrete_garage, Job(driver, 1000))
    assert result.score.decisions == 25 and result.score.truncated
    assert len(result.dreamt) == (HORIZONS[-1] if driver == POLICY else 0)
    assert np.isfinite(result.dreamt).all()


@pytest.mark.parametrize("fixture", ["garage", "discrete_garage"])
def test_random_driver_differs_by_track_and_seed_alone(request: pytest.FixtureRequest, fixture: str) -> None:
    def actions(garage: Garage, track: int) -> list[list[float]]:
        driver = make_driver(garage, Job(RANDOM, track))
        return [np.asarray(driver(np.zeros((3, 64, 64), np.uint8))).tolist() for _ in range(20)]

    garage = request.getfixturevalue(fixture)
    other_seed = replace(garage, seed=1)
    assert actions(garage, 1000) == actions(garage, 1000)
    assert actions(garage, 1000) != actions(garage, 1001)
    assert actions(garage, 1000) != actions(other_seed, 1000)


def drawn_drive(garage: Garage, job: Job) -> Drive:
    """With every picture drawn."""
    with CarRacingView() as view:
        seen = [decision.step for decision in decisions(view, make_driver(garage, job), job.track)]
        rewards = tuple(step.reward for step in seen)
        return Drive(view.score(job.track, rewards, seen[-1]), rewards)


@pytest.mark.parametrize("driver", [RANDOM, STRAIGHT])
def test_drivers_who_look_at_nothing_drive_the_same_without_pictures(
    garage: Garage, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind, job = replace(garage, random_policy="smooth"), Job(driver, 1001)
    expected = drawn_drive(blind, job)
    monkeypatch.setattr(FastCarRacing, "_draw_state", lambda self: pytest.fail("drawn"))
    monkeypatch.setattr(FastCarRacing, "_first_picture", lambda self: pytest.fail("drawn"))
    assert drive(blind, job) == expected


def test_a_random_driver_who_looks_has_pictures(garage: Garage) -> None:
    glancing, job = replace(garage, random_policy="glance"), Job(RANDOM, 1001)
    assert drive(glancing, job) == drawn_drive(glancing, job)


def test_a_stochastic_drive_does_not_depend_on_what_came_before(garage: Garage) -> None:
    drawing = replace(garage, stochastic=True)
    first = drive(drawing, JOBS[1])
    torch.rand(7)
    drive(drawing, JOBS[2])
    assert drive(drawing, JOBS[1]) == first
    assert first.rewards != drive(garage, JOBS[1]).rewards


def test_other_weights_are_another_agent(garage: Garage) -> None:
    assert agent_of(garage) is agent_of(replace(garage))
    assert agent_of(garage) is not agent_of(replace(garage, policy="1" * 64))


def test_the_dream_is_asked_once_the_camera_has_zoomed_in(garage: Garage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Latent] = []

    def note(agent: object, start: Latent, discount: float) -> list[float]:
        asked.append(start)
        return [0.0]

    monkeypatch.setattr("pipeline.driving.dreamt_rewards", note)
    result = drive(garage, JOBS[1])
    assert result.dream_start == 13  # 13 decisions of 4 steps are the first beyond 50
    states: list[Latent] = []
    with CarRacingView() as view:
        for _ in decisions(view, make_driver(garage, JOBS[1]), 1000):
            latent = agent_of(garage).latent
            assert latent is not None
            states.append(latent)
    assert len(asked) == 1
    assert torch.equal(asked[0].feature, states[13].feature)


def test_a_dream_asked_for_first_leaves_nothing_that_cannot_be_learned_from(garage: Garage) -> None:
    """The bins of a reward are made once in a process; made in torch's inference mode, no gradient could use them."""
    agent = agent_of(garage)
    agent.reset()
    agent.act(np.zeros((96, 96, 3), np.uint8))
    symexp_bins.cache_clear()
    dreamt_rewards(agent, agent.latent)
    made = symexp_bins.cache_info().misses
    assert not symexp_bins(agent.world.settings.bins, torch.device("cpu")).is_inference()
    assert symexp_bins.cache_info().misses == made, "these are the ones that the dream has made"


def test_dreamt_rewards_count_as_far_as_the_dream_goes_on(garage: Garage, monkeypatch: pytest.MonkeyPatch) -> None:
    discount = 1.0

    def goes_on(self: WorldModel, feature: torch.Tensor) -> SimpleNamespace:
        later = torch.arange(len(feature))[:, None].expand(feature.shape[:-1])
        return SimpleNamespace(mean=discount * torch.where(later == 1, 0.5, torch.where(later == 3, 0.0, 1.0)))

    def reward(self: WorldModel, feature: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=torch.full(feature.shape[:-1], 2.0))

    monkeypatch.setattr(WorldModel, "goes_on", goes_on)
    monkeypatch.setattr(WorldModel, "reward", reward)
    agent = agent_of(garage)
    agent.reset()
    agent.act(np.zeros((96, 96, 3), np.uint8))
    assert agent.latent is not None
    expected = dreamt_rewards(agent, agent.latent)
    assert len(expected) == HORIZONS[-1]
    # A reward arrives with the very state after which the drive may end: the ends count from the next one on.
    assert expected[:6] == [2, 2, 1, 1, 0, 0]
    discount = 0.5  # a soft continue head's, which is no end
    assert dreamt_rewards(agent, agent.latent, discount) == expected


def test_a_garage_knows_the_discount_of_a_soft_continue_head(tiny_run: Run) -> None:
    assert open_garage(tiny_run).discount == 1.0
    settings = tiny_run.world.read_settings()
    soft = settings.with_value("model.goes_on", "soft").with_value("world.discount", 0.9)
    tiny_run.world.write_settings(soft)
    try:
        assert open_garage(tiny_run).discount == 0.9
    finally:
        tiny_run.world.write_settings(settings)


@pytest.mark.slow
def test_drives_in_workers_are_the_same_as_here_and_in_order(garage: Garage) -> None:
    here: list[Drive] = [drive(garage, job) for job in JOBS]
    assert list(drive_all(garage, JOBS, workers=2, stopped=bool)) == here
    assert [(one.score.track, one.dream_start) for one in here] == [(1000, None), (1000, 13), (1001, None), (1001, 13)]
