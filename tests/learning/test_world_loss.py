"""The world model's loss: where its gradients go, what it is blind to, and which row is which."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, kl_divergence

from pipeline.config import ModelSettings, ViewSettings, WorldSettings
from pipeline.episodes.episode import Batch
from pipeline.learning.world_loss import balanced_kl, picture_loss, world_loss
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.distributions import OneHot
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


def make_model(seed: int = 0) -> WorldModel:
    torch.manual_seed(seed)
    return build_world(SIZES, Interface(ViewSettings(), (-1.0, -1.0), (1.0, 1.0)))


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


def test_every_part_learns_and_the_total_is_the_sum_of_the_losses() -> None:
    model = make_model()
    settings = WorldSettings(free_nats=0.0)
    loss = world_loss(model, random_batch(), settings)
    names = ("picture", "reward", "continue", "dynamics", "representation", "ensemble")
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


def test_the_ensemble_does_not_shape_the_model() -> None:
    model = make_model()
    world_loss(model, random_batch(), WorldSettings()).parts["ensemble"].backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"ensemble"}


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
