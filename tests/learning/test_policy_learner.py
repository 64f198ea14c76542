"""Updates of actor and critic: where they start, what they keep, and a policy that finds the best action."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch._dynamo.utils
from torch import Tensor

from pipeline import distributed
from pipeline.config import VARIANTS, ModelSettings, PolicySettings, Settings, ViewSettings, resolve
from pipeline.learning.encoding import Rows
from pipeline.learning.imagination import Dream, Outcomes
from pipeline.learning.optimizers import LaProp
from pipeline.learning.policy_learner import PolicyLearner
from pipeline.learning.policy_loss import PolicyLoss, policy_loss
from pipeline.models.actor_critic import Actor
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.dynamics import Latent
from pipeline.models.world_model import WorldModel

NEUTRAL = torch.zeros(2), torch.full((2,), 0.5)


def numbered_rows(count: int) -> Rows:
    """Episodes of 10 rows, of which every other one ended for good; the reward is the row's number."""
    number = torch.arange(count)
    return Rows(number.float(), number % 20 == 19, number % 10 == 9)


def make_learner(model: WorldModel, recorded: Latent | None = None, **settings: object) -> PolicyLearner:
    torch.manual_seed(0)
    values = {
        "starts": 8, "horizon": 3, "carry": 0.75, "precision": "float32", "actor_layers": 1, "critic_layers": 1,
        **settings,
    }  # fmt: skip
    chosen = PolicySettings.model_validate(values)
    actor = Actor(model.features, model.settings, chosen, *NEUTRAL)
    recorded = model.dynamics.initial(40) if recorded is None else recorded
    return PolicyLearner(model, recorded, actor, chosen, numbered_rows(len(recorded.deter)))


def flat(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_a_policy_learns_in_a_dream_of_its_temperature(model: WorldModel) -> None:
    assert make_learner(model, temperature=1.7).dream.temperature == 1.7


@pytest.mark.parametrize(("value", "states"), [("next", 3), ("present", 4)])
def test_an_update_asks_the_dream_about_the_states_whose_rewards_count(
    model: WorldModel, value: str, states: int
) -> None:
    asked = []

    class Listening(Dream):
        def outcomes(self, latents: Latent) -> Outcomes:
            asked.append((latents.deter, self.latent))
            return super().outcomes(latents)

    learner = make_learner(model, value=value)
    learner.dream = Listening(model)
    learner.update(0)
    [(deter, last)] = asked
    assert deter.shape[:2] == (states, 8)
    assert last is not None and torch.equal(deter[-1], last.deter)
    assert bool(deter[0].any()) == (value == "next")  # the start is zeros


def test_the_weight_of_the_entropy_falls_from_update_to_update(model: WorldModel) -> None:
    learner = make_learner(model, entropy=0.25, entropy_boost=16.0, anneal=0.5, updates=4)
    weights = []

    def listening(*inputs: Any, **options: Any) -> PolicyLoss:
        weights.append(inputs[5].item())
        return policy_loss(*inputs, **options)

    learner._loss = listening
    for index in range(4):
        learner.update(index)
    assert weights == [4.0, 1.0, 0.25, 0.25]


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics", "mixed"])
def test_bfloat16_updates_reach_every_parameter(model: WorldModel, gradient: str) -> None:
    learner = make_learner(model, precision="bfloat16", gradient=gradient)
    learner.update(0)
    for network in (learner.actor, learner.critic):
        assert all(p.grad is not None for p in network.parameters())
    assert learner.actor.network.out.weight.grad.any()


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics", "mixed"])
@pytest.mark.parametrize("value", ["next", "present"])
def test_the_world_model_stays_as_it_is_in_every_mode(model: WorldModel, gradient: str, value: str) -> None:
    """Even one whose parameters want gradients gets none."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.requires_grad_(True)
    learner = make_learner(model, gradient=gradient, value=value)
    for index in range(2):
        learner.update(index)
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is None for p in learner.slow_critic.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_reinforce_keeps_no_graph_of_the_trajectory(model: WorldModel) -> None:
    learner = make_learner(model, gradient="reinforce")
    modes = []

    class Listening(Dream):
        def step(self, action: Tensor) -> Latent:
            modes.append(torch.is_grad_enabled())
            return super().step(action)

    learner.dream = Listening(model)
    learner.update(0)
    assert modes == [False] * 3


def test_everything_that_changes_is_saved(model: WorldModel) -> None:
    learner, other = make_learner(model), make_learner(model)
    assert set(learner.state()) == {
        "actor", "acting", "critic", "slow_critic", "scale", "actor_optimizer", "critic_optimizer",
        "deter", "stoch", "carried",
    }  # fmt: skip
    learner.scale.update(torch.linspace(-500, 500, 11))
    learner.update(0)
    other.restore(learner.state())
    assert other.scale.scale.item() == learner.scale.scale.item() > 1
    assert torch.equal(other.ends.deter, learner.ends.deter) and learner.ends.deter.any()
    assert torch.equal(other.ends.stoch, learner.ends.stoch) and torch.equal(other.carried, learner.carried)


def test_each_of_several_processes_goes_on_with_its_share_of_the_trajectories(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_learner(model, starts=24)
    whole.begin(0, 3)
    for index in range(3):
        whole.update(index)
    assert whole.carried.any() and not whole.carried.all()
    state = whole.state()
    for rank in range(3):
        monkeypatch.setattr(
            distributed, "rows", lambda count, _, rank=rank: slice(rank * count // 3, (rank + 1) * count // 3)
        )
        part = make_learner(model, starts=24)
        part.restore(state)
        own = slice(8 * rank, 8 * rank + 8)
        assert torch.equal(part.ends.deter, whole.ends.deter[own]) and torch.equal(
            part.ends.stoch, whole.ends.stoch[own]
        )
        assert torch.equal(part.carried, whole.carried[own])


@pytest.mark.parametrize("name", ["deter", "stoch", "carried"])
def test_trajectories_of_another_shape_are_refused(model: WorldModel, name: str) -> None:
    learner = make_learner(model)
    state = learner.state()
    with pytest.raises(ValueError, match="do not have this model's shape"):
        make_learner(model).restore(state | {name: state[name][..., 1:]})


def tiny(variant: str, **values: Any) -> Settings:
    settings = resolve("tiny", variant=variant)
    for name, value in {"policy.precision": "float32", **values}.items():
        settings = settings.with_value(name.replace("__", "."), value)
    return settings


def learner_of(settings: Settings, discrete: bool = False) -> PolicyLearner:
    """A learner of a variant, on random recorded states."""
    torch.manual_seed(0)
    actions = 5 if discrete else 3
    bounds = ((0.0,) * actions, (1.0,) * actions)
    model = build_world(settings.model, Interface(settings.view, *bounds)).requires_grad_(False)
    recorded = model.dynamics.initial(40)
    recorded = Latent(torch.tanh(torch.randn_like(recorded.deter)), torch.randn_like(recorded.stoch))
    mean, std = torch.full((actions,), 0.2), torch.full((actions,), 0.3)
    actor = Actor(model.features, settings.model, settings.policy, mean, std, discrete)
    return PolicyLearner(model, recorded, actor, settings.policy, numbered_rows(40))


def fit(learner: PolicyLearner, first: int, last: int) -> list[dict[str, float]]:
    """Updates first .. last - 1 of 4, each with random numbers of its own, as the loop takes them."""
    learner.begin(first, 4)
    metrics = []
    for index in range(first, last):
        torch.manual_seed(100 + index)
        metrics.append({name: value.item() for name, value in learner.update(index).items()})
    return metrics


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update_does_not_wait_for_the_device(
    variant: str, no_waiting: Callable[[], AbstractContextManager[object]]
) -> None:
    learner = learner_of(tiny(variant), False)
    learner.update(0)  # what is made once may wait
    with no_waiting():
        learner.update(1)


@pytest.mark.slow
def test_a_compiled_update_gives_the_same_losses() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    torch._dynamo.utils.counters.clear()
    small = {"policy.horizon": 2, "policy.cost": 1.0}  # returns near 1: what rounds otherwise is little
    plain, fast = (
        fit(learner_of(tiny("laptop", **{"policy.compile": chosen, **small}), False), 0, 3) for chosen in (False, True)
    )
    for one, other in zip(plain, fast, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_resumes_bitwise(variant: str, discrete: bool) -> None:
    values = {"policy.gradient": "reinforce"} if discrete else {}
    settings = tiny(variant, **values)
    whole = learner_of(settings, discrete)
    metrics = fit(whole, 0, 4)
    first = learner_of(settings, discrete)
    before = fit(first, 0, 2)
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = learner_of(settings, discrete)
    second.restore(torch.load(file, weights_only=True))
    assert before + fit(second, 2, 4) == metrics
    for one, other in ((whole.actor, second.actor), (whole.acting, second.acting), (whole.critic, second.critic)):
        assert torch.equal(flat(one), flat(other))
    assert torch.equal(flat(whole.slow_critic), flat(second.slow_critic))
    assert not torch.equal(flat(first.actor), flat(second.actor))


def test_variants_have_the_optimizers_of_their_settings_and_warm_up() -> None:
    v3, v2 = learner_of(tiny("v3")), learner_of(tiny("v2"))
    assert isinstance(v3.actor_optimizer, LaProp) and isinstance(v3.critic_optimizer, LaProp)
    assert isinstance(v2.critic_optimizer, torch.optim.AdamW)
    fit(v3, 0, 1)
    fit(v2, 0, 1)
    assert v3.critic_optimizer.param_groups[0]["lr"] == pytest.approx(4e-5 / 1000)
    assert v2.critic_optimizer.param_groups[0]["lr"] == pytest.approx(8e-5)


def starts_of(learner: PolicyLearner, updates: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each update: where its trajectories began, where those of the update before ended, which were carried on."""
    seen = []

    class Listening(Dream):
        def reset(self, start: Latent) -> Latent:
            seen.append((start.deter, learner.ends.deter, learner.carried))
            return super().reset(start)

    learner.dream = Listening(learner.model)
    for index in range(updates):
        learner.update(index)
    return seen


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_carried_trajectories_go_on_where_they_ended(model: WorldModel, gradient: str) -> None:
    learner = make_learner(model, starts=400, carry=0.75, gradient=gradient)  # the recorded states are zeros
    first, *later = starts_of(learner, 3)
    assert not first[2].any() and not first[0].any()
    for start, ends, carried in later:
        assert torch.equal(start[carried], ends[carried]) and start[carried].any(-1).all()
        assert not start[~carried].any() and not start.requires_grad
        assert carried.any() and not carried.all()


class Ending(Dream):
    """A dream in which episodes go on with a given probability after the last-but-one imagined state."""

    goes_on = 1.0

    def outcomes(self, latents: Latent) -> Outcomes:
        found = super().outcomes(latents)
        ended = torch.ones_like(found.goes_on)
        ended[-2] = self.goes_on  # within the trajectory, not at its end
        ended[:-3] = 0.0  # what is said of the start, in which an action was chosen, does not count
        return found._replace(goes_on=ended)


@pytest.mark.parametrize(("carry", "goes_on", "share"), [(0.0, 1.0, 0.0), (0.75, 1.0, 0.75), (0.75, 0.0, 0.0)])
@pytest.mark.parametrize("value", ["next", "present"])
def test_what_has_ended_is_not_carried_on(
    model: WorldModel, value: str, carry: float, goes_on: float, share: float
) -> None:
    learner = make_learner(model, starts=2000, carry=carry, value=value, cost_ends=0.0)
    learner.dream = Ending(model)
    learner.dream.goes_on = goes_on
    learner.update(0)
    assert learner.carried.float().mean().item() == pytest.approx(share, abs=0.05 if share else 0)


def test_where_it_costs_fewer_are_carried_on(model: WorldModel) -> None:
    """A fifth end in each of three states."""
    learner = make_learner(model, starts=4000, carry=0.75, cost_ends=0.4)

    class Costly(Dream):
        def outcomes(self, latents: Latent) -> Outcomes:
            found = super().outcomes(latents)
            return found._replace(goes_on=torch.ones_like(found.goes_on), cost=torch.full_like(found.goes_on, 0.5))

    learner.dream = Costly(model)
    learner.update(0)
    assert learner.carried.float().mean().item() == pytest.approx(0.75 * 0.8**3, abs=0.03)


def test_the_discount_in_a_soft_head_ends_no_episode(model: WorldModel) -> None:
    """The head's mean is 0.5 at best where the discount is: 0.5 ^ 3 of the trajectories would be carried on else."""
    learner = make_learner(model, starts=2000, carry=0.75, discount=0.5, cost_ends=0.0)
    learner.soft = True

    class Discounted(Dream):
        def outcomes(self, latents: Latent) -> Outcomes:
            found = super().outcomes(latents)
            return found._replace(goes_on=torch.full_like(found.goes_on, 0.5))

    learner.dream = Discounted(model)
    learner.update(0)
    assert learner.carried.float().mean().item() == pytest.approx(0.75, abs=0.05)


def test_where_the_critic_learns_from_records_starts_are_rows_in_a_row(model: WorldModel) -> None:
    """Windows of 4 rows of the record, and what was recorded with them."""
    recorded = Latent(torch.arange(40.0)[:, None].expand(40, 8), torch.zeros(40, 8))
    learner = make_learner(model, recorded, starts=4000, replay_scale=0.3, replay_length=4, carry=0.0)
    start, rows = learner._draw_starts()
    assert rows is not None
    number = start.deter[:, 0].reshape(4, 1000)
    assert torch.equal(number, number[0] + torch.arange(4.0)[:, None])
    assert set(number[0].int().tolist()) == set(range(37))
    assert torch.equal(rows.reward, number)
    assert torch.equal(rows.is_last, number % 10 == 9) and torch.equal(rows.is_terminal, number % 20 == 19)
    assert "replay" in learner.update(0)


def test_records_change_the_critic_and_leave_the_actors_update_alone(model: WorldModel) -> None:
    values = {"starts": 40, "replay_length": 40, "carry": 0.0}  # all rows are living ones: the reward alone counts
    learners = [make_learner(model, replay_scale=scale, **values) for scale in (1e-9, 3.0)]
    for learner in learners:
        torch.manual_seed(1)
        learner.update(0)
    assert torch.equal(flat(learners[0].actor), flat(learners[1].actor))
    assert not torch.equal(flat(learners[0].critic), flat(learners[1].critic))


def test_the_acting_copy_is_a_running_mean_at_first_and_the_slow_critic_lags(model: WorldModel) -> None:
    learner = make_learner(model, average_rate=0.05, slow_rate=0.25, actor_rate=0.1, critic_rate=0.1)
    seen, slow = [], flat(learner.slow_critic)
    for index in range(3):
        learner.update(index)
        seen.append(flat(learner.actor))
        slow = slow + 0.25 * (flat(learner.critic) - slow)
    assert torch.allclose(flat(learner.acting), torch.stack(seen).mean(0), atol=1e-6)
    assert torch.allclose(flat(learner.slow_critic), slow, atol=1e-6)


def test_version_2_copies_its_target_every_100_updates_from_the_first_on() -> None:
    learner = learner_of(tiny("v2"))
    learner.begin(0, 202)
    copied = []
    for index in range(202):
        before = flat(learner.slow_critic)
        learner.update(index)
        if not torch.equal(flat(learner.slow_critic), before):
            copied.append(index)
            assert torch.equal(flat(learner.slow_critic), flat(learner.critic))
    assert copied == [0, 100, 200]


def test_version_1_has_no_slow_critic() -> None:
    learner = learner_of(tiny("v1"))
    before = flat(learner.slow_critic)
    fit(learner, 0, 2)
    assert torch.equal(flat(learner.slow_critic), before)


class SlopeDream(Dream):
    """A world whose reward is highest where the action is (0.5, -0.5), and whose state shows the last action."""

    def step(self, action: Tensor) -> Latent:
        assert self.latent is not None
        action = action.clamp(-1, 1)
        rest = torch.zeros(len(action), self.latent.deter.shape[1] - action.shape[1])
        self.latent = Latent(torch.cat([action, rest], -1), self.latent.stoch)
        return self.latent

    def outcomes(self, latents: Latent) -> Outcomes:
        best = torch.tensor([0.5, -0.5])
        reward = -5 * (latents.deter[..., :2] - best).square().sum(-1)
        return Outcomes(reward, torch.ones_like(reward), *torch.zeros(2, *reward.shape))


V1 = {"gradient": "dynamics", "value": "present", "slow": "none", "critic": "normal", "distribution": "tanh-normal"}
V2 = {**V1, "slow": "target", "slow_rate": 1.0, "slow_every": 20, "distribution": "truncated-normal"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "convention",
    [{}, V1, V2, {**V2, "gradient": "mixed", "mix": 0.5}, {**V2, "gradient": "reinforce"}],
    ids=["v3", "v1", "v2", "v2-mixed", "v2-reinforce"],
)
def test_the_policy_finds_the_best_action_in_imagination(model: WorldModel, convention: dict[str, Any]) -> None:
    values = {"penalty": 0.0, "entropy": 3e-4, "entropy_boost": 1.0, **convention}
    learner = make_learner(model, starts=64, horizon=5, carry=0.0, actor_rate=3e-3, critic_rate=3e-3, **values)
    learner.dream = SlopeDream(model)
    for index in range(250):
        learner.update(index)
    policy = learner.acting(model.dynamics.initial(1).feature)
    assert policy.executed_mean[0].tolist() == pytest.approx([0.5, -0.5], abs=0.15)


class Levers(Dream):
    """Three levers, of which the second one pays most; what is said of a state is which lever led to it."""

    def step(self, action: Tensor) -> Latent:
        assert self.latent is not None
        self.latent = Latent(torch.cat([action, torch.zeros(len(action), 5)], -1), self.latent.stoch)
        return self.latent

    def outcomes(self, latents: Latent) -> Outcomes:
        reward = latents.deter[..., :3] @ torch.tensor([0.0, 1.0, 0.3])
        return Outcomes(reward, torch.ones_like(reward), *torch.zeros(2, *reward.shape))


@pytest.mark.slow
@pytest.mark.parametrize("value", ["next", "present"])
def test_the_policy_finds_the_best_of_discrete_actions(sizes: ModelSettings, value: str) -> None:
    torch.manual_seed(0)
    interface = Interface(ViewSettings(continuous=False), (0.0,) * 3, (1.0,) * 3)
    model = build_world(sizes, interface).requires_grad_(False)
    settings = PolicySettings(
        starts=64, horizon=5, carry=0.0, actor_rate=1e-2, critic_rate=1e-2, penalty=0.0, precision="float32",
        actor_layers=1, critic_layers=1, value=value, entropy=3e-4, entropy_boost=1.0,
    )  # fmt: skip
    frequencies = torch.tensor([0.5, 0.2, 0.3])
    actor = Actor(model.features, model.settings, settings, frequencies, torch.zeros(3), discrete=True)
    learner = PolicyLearner(model, model.dynamics.initial(16), actor, settings)
    learner.dream = Levers(model)
    for index in range(150):
        learner.update(index)
    policy = learner.acting(model.dynamics.initial(1).feature)
    assert policy.executed_mean[0].tolist() == [0.0, 1.0, 0.0]
    assert policy.choice.probs[0, 0, 1].item() > 0.8
