"""The world model's loss: where its gradients go, what it is blind to, and which row is which."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from pipeline.config import VARIANTS, ModelSettings, ViewSettings, WorldSettings, resolve
from pipeline.episodes.episode import Batch
from pipeline.learning.world_loss import balanced_kl, continue_target, picture_loss, world_loss
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.distributions import DiagonalNormal, OneHot
from pipeline.models.world_model import WorldModel

SIZES = ModelSettings(deter=32, groups=4, classes=8, hidden=32, units=32, depth=4, ensemble=2, ensemble_units=8)


def random_batch(b: int = 2, t: int = 5) -> Batch:
    return Batch(
        observation=torch.randint(0, 256, (b, t, 3, 64, 64), dtype=torch.uint8),
        action=torch.rand(b, t, 2) * 2 - 1,
        reward=torch.randn(b, t),
        is_first=torch.zeros(b, t, dtype=torch.bool),
        is_terminal=torch.zeros(b, t, dtype=torch.bool),
    )


def make_model(seed: int = 0, settings: ModelSettings = SIZES) -> WorldModel:
    torch.manual_seed(seed)
    return build_world(settings, Interface(ViewSettings(), (-1.0, -1.0), (1.0, 1.0)))


class TestBalancedKl:
    posterior = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    prior = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))

    def test_both_halves_have_the_value_of_the_kl(self) -> None:
        q, p = (Independent(Categorical(logits=logits), 1) for logits in (self.posterior, self.prior))
        for half in balanced_kl(OneHot(self.posterior), OneHot(self.prior), 0.0):
            assert torch.allclose(half, kl_divergence(q, p), atol=1e-5)

    def test_each_half_moves_its_own_side_only(self) -> None:
        q, p = self.posterior.clone().requires_grad_(), self.prior.clone().requires_grad_()
        dynamics, representation = balanced_kl(OneHot(q), OneHot(p), 0.0)
        to_q, to_p = torch.autograd.grad(dynamics.sum(), [q, p], allow_unused=True)
        assert to_q is None and to_p.abs().sum() > 0
        to_q, to_p = torch.autograd.grad(representation.sum(), [q, p], allow_unused=True)
        assert to_p is None and to_q.abs().sum() > 0

    def test_below_the_free_nats_there_is_no_gradient(self) -> None:
        q, p = self.posterior.clone().requires_grad_(), self.prior.clone().requires_grad_()
        losses = balanced_kl(OneHot(q), OneHot(p), 50.0)
        sum(loss.sum() for loss in losses).backward()
        assert [loss.tolist() for loss in losses] == [[50.0] * 4] * 2
        assert not q.grad.any() and not p.grad.any()

    def test_free_nats_count_a_step_not_the_mean(self) -> None:
        """One step far apart and one collapsed: the clamp lifts the collapsed one, whatever the mean is."""
        q = torch.tensor([[[9.0, 0.0]], [[0.0, 0.0]]])
        p = torch.tensor([[[0.0, 9.0]], [[0.0, 0.0]]])
        dynamics, _ = balanced_kl(OneHot(q), OneHot(p), 1.0)
        assert dynamics[1].item() == 1.0
        assert dynamics[0].item() == pytest.approx(9.0, abs=0.01)

    def test_free_nats_of_the_mean_golden(self) -> None:
        """The same two steps, 9 and 0 nats: of each step max(1, .) is (9, 1), of the mean 4.5 it is 4.5.

        With 5 free nats the mean gives 5 and no gradient, while the step far apart still has one of its own.
        """
        p = torch.tensor([[[0.0, 9.0]], [[0.0, 0.0]]])
        for free, nats, expected, learns in (
            ("step", 1.0, [9.0, 1.0], True),
            ("mean", 1.0, 4.5, True),
            ("step", 5.0, [9.0, 5.0], True),
            ("mean", 5.0, 5.0, False),
        ):
            q = torch.tensor([[[9.0, 0.0]], [[0.0, 0.0]]], requires_grad=True)
            _, representation = balanced_kl(OneHot(q), OneHot(p), nats, free)
            assert representation.tolist() == pytest.approx(expected, abs=0.01)
            representation.sum().backward()
            assert bool(q.grad.any()) == learns

    @pytest.mark.parametrize(("free", "learns"), [(3.0, True), (500.0, False)])
    def test_v1_has_the_gradient_of_the_whole_kl(self, free: float, learns: bool) -> None:
        """max(3, mean KL(q || p)) in the mean over steps, of Gaussians, against torch; below the free nats none."""
        raw = [torch.randn(7, 5, 8, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3)]
        q, p = (value.clone().requires_grad_() for value in raw)
        sum(balanced_kl(DiagonalNormal(q), DiagonalNormal(p), free, "mean")).backward()
        theirs = [value.clone().requires_grad_() for value in raw]
        normals = []
        for value in theirs:
            mean, s = value.chunk(2, -1)
            normals.append(Independent(Normal(mean, torch.nn.functional.softplus(s) + 0.1), 1))
        whole = kl_divergence(*normals).mean()
        assert whole.item() > 3
        whole.clamp_min(free).backward()
        for given, expected in zip((q, p), theirs, strict=True):
            assert torch.allclose(given.grad, expected.grad, atol=1e-6)
            assert bool(given.grad.any()) == learns


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_of_every_variant_learns(variant: str) -> None:
    settings = resolve("tiny", variant=variant, values=[("world.free_nats", 0.0)])
    model = make_model(settings=settings.model)
    loss = world_loss(model, random_batch(), settings.world)
    names = ["picture", "reward", "continue", "dynamics", "representation"]
    names += [name for name in ("cost", "ensemble") if getattr(settings.model, name)]
    assert loss.total.item() == pytest.approx(sum(loss.parts[name].item() for name in names), rel=1e-5)
    assert all(torch.isfinite(part) for part in loss.parts.values())
    loss.total.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_reset_makes_every_variant_forget(variant: str) -> None:
    """From observations to heads: what lies left of an episode's first row changes nothing right of it, bitwise."""
    settings = resolve("tiny", variant=variant).model
    model, batch = make_model(settings=settings), random_batch(2, 6)
    batch.is_first[:, 3] = True
    features = []
    for other in (batch, random_batch(2, 6)):
        observation, action = other.observation.clone(), other.action.clone()
        observation[:, 3:], action[:, 4:] = batch.observation[:, 3:], batch.action[:, 4:]
        torch.manual_seed(1)
        features.append(model.observe(observation, action, batch.is_first).feature)
    assert torch.equal(features[0][:, 3:], features[1][:, 3:])
    assert not torch.equal(features[0][:, :3], features[1][:, :3])


def test_every_part_learns_and_the_total_is_the_sum_of_the_losses() -> None:
    model = make_model()
    settings = WorldSettings(free_nats=0.0)
    loss = world_loss(model, random_batch(), settings)
    names = ("picture", "reward", "continue", "dynamics", "representation", "cost", "ensemble")
    assert loss.total.item() == pytest.approx(sum(loss.parts[name].item() for name in names), rel=1e-5)
    loss.total.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_scales_and_the_end_of_an_episode_golden() -> None:
    """The two halves of the KL carry their own weights; a head that says 3 for "goes on" pays for terminal rows."""
    model, batch = make_model(), random_batch(2, 6)
    batch.is_terminal[0, 5] = batch.is_terminal[1, 2] = True
    with torch.no_grad():
        model.continue_head.out.weight.zero_()
        model.continue_head.out.bias.fill_(3.0)
        parts = [
            world_loss(model, batch, WorldSettings(free_nats=100.0, dynamics_scale=a, representation_scale=b)).parts
            for a, b in ((0.5, 0.1), (2.0, 0.3))
        ]
    assert [(p["dynamics"].item(), p["representation"].item()) for p in parts] == [
        pytest.approx((50.0, 10.0)),
        pytest.approx((200.0, 30.0)),
    ]
    goes_on, ends = math.log1p(math.exp(-3.0)), math.log1p(math.exp(3.0))
    assert parts[0]["continue"].item() == pytest.approx((10 * goes_on + 2 * ends) / 12, rel=1e-5)


def test_what_the_continue_head_is_to_say_golden() -> None:
    terminal = torch.tensor([[False, True]])
    expected = {"hard": [[1.0, 0.0]], "soft": [[pytest.approx(0.95), 0.0]], "none": [[1.0, 0.0]]}
    for goes_on, target in expected.items():
        model = make_model(settings=SIZES.model_copy(update={"goes_on": goes_on}))
        assert continue_target(model, terminal, 0.95).tolist() == target


def test_a_soft_continue_loss_golden() -> None:
    """A head that says .9 pays -.95 ln .9 - .05 ln .1 on rows that go on and -ln .1 on the last, times its weight."""
    model, batch = make_model(settings=SIZES.model_copy(update={"goes_on": "soft"})), random_batch(1, 4)
    batch.is_terminal[0, 3] = True
    with torch.no_grad():
        model.continue_head.out.weight.zero_()
        model.continue_head.out.bias.fill_(math.log(9))
        parts = world_loss(model, batch, WorldSettings(discount=0.95, continue_scale=5.0)).parts
    goes_on = -0.95 * math.log(0.9) - 0.05 * math.log(0.1)
    assert parts["continue"].item() == pytest.approx(5 * (3 * goes_on - math.log(0.1)) / 4, rel=1e-5)


def test_v1_golden() -> None:
    """Black pictures and no reward predicted: half the squared errors and the constants; the KL not below 3 nats."""
    settings = resolve("tiny", variant="v1")
    model, batch = make_model(settings=settings.model), random_batch()
    with torch.no_grad():
        for last in (model.reward_head.out, model.decoder.convolutions[-1]):
            last.weight.zero_()
            last.bias.zero_()
        parts = world_loss(model, batch, settings.world.model_copy(update={"free_nats": 90.0})).parts
    constant = 0.5 * math.log(2 * math.pi)
    squares = (batch.observation.double() / 255 - 0.5).square().sum((-3, -2, -1)).mean().item()
    assert parts["picture"].item() == pytest.approx(squares / 2 + 12288 * constant, rel=1e-5)
    assert parts["reward"].item() == pytest.approx(batch.reward.square().mean().item() / 2 + constant, rel=1e-5)
    assert parts["dynamics"].item() == parts["representation"].item() == 90.0
    assert parts["continue"].item() == 0.0


@pytest.mark.parametrize("free", ["step", "mean"])
def test_the_settings_say_what_free_nats_are_compared_with(free: str) -> None:
    """Just below the mean KL they leave the mean as it is, but lift the steps that lie below."""
    model, batch = make_model(), random_batch(2, 8)

    def parts(free_nats: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        settings = WorldSettings.model_validate({"free_nats": free_nats, "free": free, "representation_scale": 1.0})
        return dict(world_loss(model, batch, settings).parts)

    kl = parts(0.0)["kl"].item()
    for name in ("dynamics", "representation"):
        assert parts(0.0)[name].item() == pytest.approx(kl, rel=1e-5)
        assert (parts(0.99 * kl)[name].item() > 1.001 * kl) == (free == "step")


def test_without_memory_the_kl_is_to_the_prior_of_the_step_before() -> None:
    """The first row of every window against N(0, 1), each other one against p(z' | z, a), from torch's KL."""
    settings = resolve("tiny", variant="memoryless")
    model, batch = make_model(settings=settings.model), random_batch(2, 4)
    batch.is_first[0, 2] = True
    torch.manual_seed(3)
    given = world_loss(model, batch, settings.world).parts["kl"]
    torch.manual_seed(3)
    states, raw = model.dynamics.observe(model.encode(batch.observation), batch.action, batch.is_first)

    def normal(raw: torch.Tensor) -> Independent:
        mean, s = raw.chunk(2, -1)
        return Independent(Normal(mean, torch.nn.functional.softplus(s) + 0.1), 1)

    standard = Independent(Normal(torch.zeros(32), torch.ones(32)), 1)
    total = 0.0
    for row in range(2):
        for t in range(4):
            prior = standard
            if t > 0 and not batch.is_first[row, t]:
                prior = normal(model.dynamics.prior_logits(torch.cat([states.stoch[row, t - 1], batch.action[row, t]])))
            total += kl_divergence(normal(raw[row, t]), prior).item() / 8
    assert given.item() == pytest.approx(total, rel=1e-4)


def test_the_ensemble_does_not_shape_the_model() -> None:
    model = make_model()
    world_loss(model, random_batch(), WorldSettings()).parts["ensemble"].backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"ensemble"}


def test_the_cost_head_learns_what_its_own_row_costs_golden() -> None:
    """A head that says 3 (a probability of .9526) pays ln(1 + e^-3) where all is grass, 3 more where nothing is."""
    model, batch = make_model(), random_batch(1, 4)
    with torch.no_grad():
        model.cost_head.out.weight.zero_()
        model.cost_head.out.bias.fill_(3.0)
    green = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]
    batch.observation[0, 0], batch.observation[0, 1:] = green, 100
    assert world_loss(model, batch, WorldSettings()).parts["cost"].item() == pytest.approx(0.0486 + 3 * 3 / 4, abs=1e-4)
    assert model.cost(torch.zeros(2, model.features)).mean.tolist() == pytest.approx([0.9526] * 2, abs=1e-4)


def test_the_batch_is_left_as_it_was() -> None:
    batch = random_batch()
    before = {name: value.clone() for name, value in vars(batch).items()}
    world_loss(make_model(), batch, WorldSettings()).total.backward()
    assert all(torch.equal(getattr(batch, name), value) for name, value in before.items())


def test_a_share_of_the_frames_estimates_the_loss_of_all() -> None:
    model, batch = make_model(), random_batch(4, 8)
    with torch.no_grad():
        states = model.observe(batch.observation, batch.action, batch.is_first)
        whole = picture_loss(model, states, batch.observation, 1.0)
        torch.manual_seed(0)
        halves = torch.stack([picture_loss(model, states, batch.observation, 0.5).mean() for _ in range(40)])
    assert whole.shape == (32,)
    assert picture_loss(model, states, batch.observation, 0.5).shape == (16,)
    assert halves.mean().item() == pytest.approx(whole.mean().item(), rel=0.01)


def toy_batch(generator: torch.Generator, b: int = 16, t: int = 6) -> Batch:
    """A world whose picture shows the last action (its brightness) and whose reward is the last action."""
    action = torch.rand(b, t, 1, generator=generator) * 2 - 1
    action[:, 0] = 0
    brightness = ((action[..., 0] + 1) / 2 * 255).round().to(torch.uint8)
    first = torch.zeros(b, t, dtype=torch.bool)
    first[:, 0] = True
    return Batch(
        observation=brightness[..., None, None, None].expand(b, t, 3, 64, 64).contiguous(),
        action=action,
        reward=action[..., 0].clone(),
        is_first=first,
        is_terminal=torch.zeros(b, t, dtype=torch.bool),
    )


@pytest.mark.slow
def test_the_prior_predicts_what_the_action_does_on_the_row_it_leads_to() -> None:
    """Without looking: picture and reward of a row follow from the action on that row, not from a neighbour's."""
    torch.manual_seed(0)
    model = build_world(SIZES, Interface(ViewSettings(), (-1.0,), (1.0,)))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    settings = WorldSettings(free_nats=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        world_loss(model, toy_batch(generator), settings).total.backward()
        optimizer.step()
    with torch.no_grad():
        batch = toy_batch(generator, 64)
        states = model.observe(batch.observation[:, :3], batch.action[:, :3], batch.is_first[:, :3])
        imagined = model.dynamics.imagine_step(states[:, -1], batch.action[:, 3])
        brightness = model.decode(imagined.feature).mode.mean((-3, -2, -1)) * 2 - 1
        reward = model.reward(imagined.feature).mean

    def correlation(prediction: torch.Tensor, row: int) -> float:
        return torch.corrcoef(torch.stack([prediction, batch.action[:, row, 0]]))[0, 1].item()

    for prediction in (brightness, reward):
        assert correlation(prediction, 3) > 0.9
        assert abs(correlation(prediction, 2)) < 0.5
        assert abs(correlation(prediction, 4)) < 0.5
