from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline import Agent, load_agent
from pipeline.artifacts import Run
from pipeline.config import ViewSettings
from pipeline.envs.car_racing.actions import ACTION_HIGH, ACTION_LOW
from pipeline.envs.car_racing.view import CarRacingView
from pipeline.envs.view import shrink
from pipeline.errors import StageError, UsageError
from pipeline.models.dynamics import RecurrentDynamics


@pytest.fixture
def agent(tiny_run: Run) -> Agent:
    return load_agent(tiny_run.root)


@pytest.fixture
def copied_run(tiny_run: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(tiny_run.root, tmp_path / "tiny")))


def picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def first_actions(agent: Agent, count: int, seed: int = 0) -> list[list[float]]:
    agent.reset(seed)
    return [agent.act(picture(index)).tolist() for index in range(count)]


@pytest.mark.parametrize("stochastic", [False, True])
def test_actions_are_the_environments(tiny_run: Run, stochastic: bool) -> None:
    agent = load_agent(str(tiny_run.root), stochastic=stochastic)
    actions = [agent.act(picture(index)) for index in range(20)]
    assert all(action.shape == (3,) and action.dtype == np.float32 for action in actions)
    assert (np.array(actions) >= ACTION_LOW).all() and (np.array(actions) <= ACTION_HIGH).all()
    assert agent.action_repeat == 4


@pytest.mark.parametrize("stochastic", [False, True])
def test_discrete_actions_are_numbers(discrete_run: Run, stochastic: bool) -> None:
    agent = load_agent(discrete_run.root, stochastic=stochastic)
    actions = [agent.act(picture(index)) for index in range(60)]
    assert all(type(action) is int for action in actions)
    assert set(actions) == (
        {*range(5)} if stochastic else {3}
    )  # 3 is likeliest by far in an actor that has not learned
    agent.reset()
    assert [agent.act(picture(index)) for index in range(60)] == actions


def test_the_likeliest_discrete_action_is_taken_and_remembered(discrete_run: Run) -> None:
    agent = load_agent(discrete_run.root)
    agent.actor.network.out.weight.mul_(1000)  # which has an opinion of every state
    actions = []
    for index in range(40):
        action = agent.act(picture(index))
        assert agent.latent is not None
        likeliest = agent.actor(agent.latent.feature).log_prob(torch.eye(5)).argmax()
        assert action == likeliest
        assert agent._action.tolist() == torch.eye(5)[None, action].tolist()
        actions.append(action)
    assert len(set(actions)) > 1


def test_the_mean_of_what_several_states_ask_for_is_executed(tiny_run: Run) -> None:
    agent = load_agent(tiny_run.root, particles=5)
    agent.actor.network.out.weight.mul_(1000)
    given = agent.world.model.scale.to_environment
    for index in range(4):
        action = agent.act(picture(index))
        states, first = agent._states, agent.latent
        assert states is not None and first is not None
        each = agent.actor(states.feature).executed_mean
        assert each.shape == (5, 3) and each.std(0).max() > 0.01  # each is of another mind
        np.testing.assert_allclose(action, given(each.mean(0)).numpy(), atol=1e-6)
        assert torch.equal(first.feature, states.feature[:1])
        assert (len(states.deter.unique(dim=0)) > 1) == (index > 0)  # each remembers its own past


def test_one_state_is_enough_where_no_mean_is_executed(tiny_run: Run, discrete_run: Run) -> None:
    assert load_agent(tiny_run.root).particles == 8
    assert load_agent(tiny_run.root, stochastic=True).particles == 1
    assert load_agent(discrete_run.root).particles == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"particles": 0}, "from 1 on, not 0"), ({"particles": 2.5}, "not 2.5"), ({"device": "gpu"}, "no device 'gpu'")],
)
def test_what_cannot_be_is_refused(tiny_run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_agent(tiny_run.root, **options)


def test_reset_forgets(agent: Agent) -> None:
    actions = first_actions(agent, 3)
    assert first_actions(agent, 3) == actions
    assert actions[1] != actions[0]


def test_the_agent_remembers(agent: Agent) -> None:
    """The same picture means something else after others: with the state kept and the random numbers begun anew."""
    fresh = agent.act(picture(5))
    for index in range(5):
        agent.act(picture(index))
    agent._random.manual_seed(0)
    assert agent.act(picture(5)).tolist() != fresh.tolist()


def test_what_else_is_drawn_and_what_is_done_to_an_action_do_not_matter(agent: Agent) -> None:
    actions = first_actions(agent, 4)
    agent.reset()
    for index in range(4):
        torch.manual_seed(index)
        action = agent.act(picture(index))
        assert action.tolist() == actions[index]
        action[:] = 7


@pytest.mark.parametrize("fixture", ["tiny_run", "discrete_run"])
def test_the_state_is_that_of_training(
    request: pytest.FixtureRequest, fixture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an agent makes of pictures and of its own actions, one by one, is what training makes of the whole drive."""
    agent = load_agent(request.getfixturevalue(fixture).root, stochastic=True)
    width = len(agent.world.interface.low)

    def draw(dynamics: RecurrentDynamics, logits: torch.Tensor, *_: object) -> torch.Tensor:
        return dynamics.distribution(logits).sample(torch.full(logits.shape[:-1], 0.5)).flatten(-2)

    def noise(dynamics: RecurrentDynamics, *batch: int, device: torch.device) -> torch.Tensor:
        return torch.full((*batch, dynamics.settings.groups), 0.5)

    monkeypatch.setattr(RecurrentDynamics, "_draw", draw)
    monkeypatch.setattr(RecurrentDynamics, "_noise", noise)
    pictures, actions, states = [shrink(picture(index)) for index in range(5)], [], []
    for small in pictures:
        action = agent.act(small)
        actions.append(np.eye(width, dtype=np.float32)[action] if isinstance(action, int) else action)
        assert agent.latent is not None
        states.append(agent.latent.deter[0])
    led = np.concatenate([np.zeros((1, width), np.float32), np.stack(actions)[:-1]])
    first = torch.tensor([[True, False, False, False, False]])
    with torch.no_grad():
        whole = agent.world.model.observe(
            torch.from_numpy(np.stack(pictures))[None], torch.from_numpy(led)[None], first
        )
    torch.testing.assert_close(torch.stack(states), whole.deter[0], atol=1e-5, rtol=1e-4)


def test_only_the_stochastic_agent_draws(tiny_run: Run) -> None:
    modes = first_actions(load_agent(tiny_run.root), 1)
    drawn = first_actions(load_agent(tiny_run.root, stochastic=True), 1)
    assert modes != drawn
    assert modes == first_actions(load_agent(tiny_run.root), 1)


def test_the_agent_drives_the_stock_environment_as_it_drives_its_view(tiny_run: Run) -> None:
    stock, stock_agent, view_agent = gym.make("CarRacing-v3"), load_agent(tiny_run.root), load_agent(tiny_run.root)
    observation, _ = stock.reset(seed=3)
    with CarRacingView() as view:
        seen = view.reset(3)
        for _ in range(8):
            action = stock_agent.act(observation)
            assert view_agent.act(seen).tolist() == action.tolist()
            for _ in range(stock_agent.action_repeat):
                observation, *_ = stock.step(action)
            seen = view.step(action).observation
    stock.close()


def test_a_discrete_agent_drives_the_stock_environment_too(discrete_run: Run) -> None:
    stock = gym.make("CarRacing-v3", continuous=False)
    stock_agent, view_agent = (load_agent(discrete_run.root, stochastic=True) for _ in range(2))
    observation, _ = stock.reset(seed=3)
    with CarRacingView(ViewSettings(continuous=False)) as view:
        seen = view.reset(3)
        for _ in range(8):
            action = stock_agent.act(observation)
            assert view_agent.act(seen) == action and action in stock.action_space
            for _ in range(stock_agent.action_repeat):
                observation, *_ = stock.step(action)
            seen = view.step(action).observation
    stock.close()


@pytest.mark.parametrize(
    "observation",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((96, 96), np.uint8),
        np.zeros((1, 96, 96, 3), np.uint8),
        np.zeros((96, 96, 3), np.float32),
        np.zeros((3, 32, 32), np.uint8),
    ],
)
def test_other_observations_are_refused(agent: Agent, observation: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match=r"must be uint8 of shape \(96, 96, 3\)"):
        agent.act(observation)


@pytest.mark.parametrize("stage", ["world", "policy"])
def test_a_missing_stage_names_its_command(copied_run: Run, stage: str) -> None:
    shutil.rmtree(copied_run.root / stage)
    with pytest.raises(StageError, match=f"dreamer fit-{stage} --run tiny"):
        load_agent(copied_run.root)


@pytest.mark.parametrize("stage", ["world", "policy"])
def test_changed_weights_are_refused(copied_run: Run, stage: str) -> None:
    weights = copied_run.root / stage / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(StageError, match="changed since"):
        load_agent(copied_run.root)


def test_a_policy_of_another_world_is_refused(copied_run: Run) -> None:
    manifest = copied_run.policy.read_manifest()
    assert manifest is not None
    manifest.inputs["world"] = "0" * 64
    copied_run.policy.write_manifest(manifest)
    with pytest.raises(StageError, match="another world"):
        load_agent(copied_run.root)


def test_swapped_weights_are_refused(copied_run: Run) -> None:
    """Even where the manifest vouches for them."""
    manifest = copied_run.world.read_manifest()
    assert manifest is not None
    shutil.copy(copied_run.world.weights, copied_run.policy.weights)
    copied_run.policy.write_manifest(replace(manifest, inputs={"world": manifest.outputs["model.safetensors"]}))
    with pytest.raises(StageError, match="'world'"):
        load_agent(copied_run.root)
