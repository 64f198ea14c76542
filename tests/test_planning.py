"""The planner: its weights and its update by hand, a dream in which it finds what the actor would not do, refusals."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.agent import Agent, load_agent
from pipeline.artifacts import Run
from pipeline.config import PlannerSettings, PolicySettings
from pipeline.errors import StageError, UsageError
from pipeline.models.actor_critic import Critic
from pipeline.models.checkpoints import LoadedCritic
from pipeline.models.dynamics import Latent
from pipeline.planning import Planner, load_planner, updated, weights

VALUE = 5.0


def test_weights_are_those_of_the_paper() -> None:
    score, temperature = torch.tensor([3.0, 1.0, 2.0]), 0.5
    best = math.exp(0) + math.exp(-2 / temperature) + math.exp(-1 / temperature)
    expected = [1 / best, math.exp(-4) / best, math.exp(-2) / best]
    torch.testing.assert_close(weights(score, temperature), torch.tensor(expected))
    torch.testing.assert_close(weights(score + 1000, temperature), torch.tensor(expected))


def test_the_plan_is_the_mean_of_the_elite() -> None:
    """Of three sequences two count: weights 3/4 and 1/4, so mean .75 * .8 + .25 * .4 and deviation sqrt(3)/4 * .4."""
    actions = torch.tensor([[[0.8], [-1.0], [0.4]], [[0.1], [-1.0], [0.1]]])  # (H, K, A)
    score = torch.tensor([math.log(3), -50.0, 0.0])
    plan = updated(actions, score, PlannerSettings(sequences=3, elites=2, temperature=1.0, min_noise=0.05))
    torch.testing.assert_close(plan.mean, torch.tensor([[0.7], [0.1]]))
    torch.testing.assert_close(plan.deviation, torch.tensor([[0.1 * math.sqrt(3)], [0.05]]))


class Line:
    """A dream in which h is a place that the first action moves by a tenth of itself, and is paid for there."""

    def initial(self, place: float = 0.0) -> Latent:
        return Latent(torch.full((1, 1), place), torch.zeros(1, 0))

    def imagine_step(
        self, latent: Latent, action: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Latent:
        assert temperature == 1.0
        return Latent(latent.deter + action[:, :1] / 10, latent.stoch)


def planner(settings: PlannerSettings, policy: PolicySettings, reward: float = 1.0) -> Planner:
    """Of a car on a `Line`, with an actor that goes back a little, whatever it sees."""
    model = SimpleNamespace(
        dynamics=Line(),
        device=torch.device("cpu"),
        settings=SimpleNamespace(ensemble=2, cost=True),
        reward=lambda feature: SimpleNamespace(mean=reward * feature[..., 0]),
        goes_on=lambda feature: SimpleNamespace(mean=torch.full(feature.shape[:-1], 0.5)),
        ensemble=SimpleNamespace(disagreement=lambda deter: 0.1 * torch.ones(deter.shape[:-1])),
        cost=lambda feature: SimpleNamespace(mean=torch.full(feature.shape[:-1], 0.25)),
    )
    world = SimpleNamespace(
        model=model, interface=SimpleNamespace(discrete=False), settings=SimpleNamespace(goes_on="hard")
    )

    def actor(feature: Tensor) -> SimpleNamespace:
        mean = torch.full((len(feature), 2), -0.2)
        return SimpleNamespace(
            executed_mean=mean, sample=lambda random: mean + torch.empty_like(mean).normal_(0, 0.1, generator=random)
        )

    def critic(feature: Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=torch.full(feature.shape[:-1], VALUE))

    return Planner(world, actor, LoadedCritic(critic, policy), settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["next", "present"])
def test_it_finds_what_the_actor_would_not_do(value: str) -> None:
    settings = PlannerSettings(iterations=8, horizon=4, temperature=0.01, min_noise=0.2)
    policy = PolicySettings.model_validate({"value": value, "utility": "linear"})
    forwards = planner(settings, policy).plan(Line().initial())
    assert forwards.shape == (4, 2) and (forwards.abs() <= 1).all()
    assert forwards[0, 0] > 0.9  # where the actor goes back
    assert planner(settings, policy, reward=-1.0).plan(Line().initial())[0, 0] < -0.9


@pytest.mark.parametrize(
    ("value", "end"), [("next", 0.36 * (0.2 - 0.2 - 0.1) + 0.36 * 0.36 * VALUE), ("present", 0.36 * VALUE)]
)
def test_a_sequence_is_worth_its_discounted_utilities_and_what_the_critic_says_of_its_end(
    value: Literal["next", "present"], end: float
) -> None:
    """Places .1, .2, then the critic; half of the episodes end each time; disagreement .1 (2), cost .25 (.4 each)."""
    policy = PolicySettings(utility="linear", value=value, discount=0.8, penalty=2.0, cost=0.4, cost_ends=0.4)
    found = planner(PlannerSettings(sequences=2, elites=2), policy)
    latent = Latent(torch.tensor([0.0, 0.1, 0.2])[:, None, None], torch.zeros(3, 1, 0))
    trajectory = SimpleNamespace(latents=latent, actions=torch.ones(2, 1, 2))
    torch.testing.assert_close(found.score(trajectory), torch.tensor([0.1 - 0.2 - 0.1 + end]))  # type: ignore[arg-type]


def test_the_next_search_begins_with_the_last_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    found = planner(PlannerSettings(horizon=3, iterations=1, noise=1e-6), PolicySettings())
    first = found.plan(Line().initial())
    seen: list[Tensor] = []
    monkeypatch.setattr(found, "score", lambda trajectory: seen.append(trajectory.actions) or torch.zeros(64))
    found.plan(Line().initial())
    around = seen[0][:, 32:].mean(1)  # those that are not the actor's
    torch.testing.assert_close(around[:2], first[1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(around[2], torch.full((2,), -0.2), atol=1e-4, rtol=0)
    found.reset()
    seen.clear()
    found.plan(Line().initial())
    torch.testing.assert_close(seen[0][:, 32:].mean(1), torch.full((3, 2), -0.2), atol=1e-4, rtol=0)


def test_the_actor_proposes_its_mean_and_its_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    found = planner(PlannerSettings(sequences=64, actor_share=0.25), PolicySettings())
    seen: list[Tensor] = []
    monkeypatch.setattr(found, "score", lambda trajectory: seen.append(trajectory.actions) or torch.zeros(64))
    found.plan(Line().initial())
    assert (seen[0][:, 0] == -0.2).all()
    deviations = seen[0].std((0, 2))
    drawn, noise = deviations[1:16], deviations[16:]
    assert ((drawn > 0.05) & (drawn < 0.18)).all() and (noise > 0.18).all()


# On a run


def make_planner(run: Run, **policy: object) -> tuple[Agent, Planner]:
    agent = load_agent(run.root)
    settings = PolicySettings.model_validate(policy)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = Critic(agent.world.model.features, agent.world.settings, settings)
    found = PlannerSettings(sequences=8, elites=4, horizon=3)
    return agent, Planner(agent.world, agent.actor, LoadedCritic(critic, settings), found)


def test_an_agent_with_a_planner_acts_alike_by_the_same_seed_alone(tiny_run: Run) -> None:
    plain, planner = make_planner(tiny_run)
    agent = Agent(plain.world, plain.actor, planner=planner)
    assert agent.particles == 1
    pictures = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)

    def actions(agent: Agent, seed: int) -> list[list[float]]:
        agent.reset(seed)
        return [np.asarray(agent.act(picture)).tolist() for picture in pictures]

    first = actions(agent, 1)
    torch.rand(7)
    assert actions(agent, 1) == first
    assert actions(agent, 2) != first != actions(plain, 1)


def test_a_planner_draws_nothing_from_torchs_own_generator(tiny_run: Run) -> None:
    agent, planner = make_planner(tiny_run)
    agent.act(np.zeros((96, 96, 3), np.uint8))
    assert agent.latent is not None
    torch.manual_seed(0)
    before = torch.get_rng_state()
    planner.plan(agent.latent)
    assert torch.equal(torch.get_rng_state(), before)


def test_discrete_actions_are_refused(discrete_run: Run) -> None:
    with pytest.raises(UsageError, match=r"^A planner searches actions that are numbers.*leave --planner out$"):
        make_planner(discrete_run)


def test_a_policy_without_a_critic_names_the_command_that_adds_it(tiny_run: Run) -> None:
    agent = load_agent(tiny_run.root)
    with pytest.raises(StageError, match=r"before critics were kept.* run `dreamer fit-policy --run tiny --fresh`$"):
        load_planner(tiny_run.policy, agent.world, agent.actor, PlannerSettings())
