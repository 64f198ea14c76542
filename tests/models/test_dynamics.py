"""The recurrent state-space model and the ensemble of priors."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, kl_divergence

from pipeline.config import ModelSettings
from pipeline.models.distributions import OneHot
from pipeline.models.dynamics import Latent, PriorEnsemble, RecurrentDynamics

SIZES = ModelSettings(deter=8, groups=3, classes=4, hidden=8, units=8, depth=2, bins=11, ensemble=3, ensemble_units=5)


@pytest.fixture
def dynamics() -> RecurrentDynamics:
    torch.manual_seed(0)
    return RecurrentDynamics(SIZES, actions=2, embedding=5)


def observe(dynamics: RecurrentDynamics, embedding: torch.Tensor, action: torch.Tensor, first: torch.Tensor) -> Latent:
    torch.manual_seed(1)
    return dynamics.observe(embedding, action, first)[0]


def test_shapes(dynamics: RecurrentDynamics) -> None:
    first = torch.zeros(7, 4, dtype=torch.bool)
    states, logits = dynamics.observe(torch.randn(7, 4, 5), torch.randn(7, 4, 2), first)
    assert states.deter.shape == (7, 4, 8)
    assert states.stoch.shape == (7, 4, 12)
    assert states.feature.shape == (7, 4, 20)
    assert logits.shape == (7, 4, 3, 4)
    assert states[:, -1].deter.shape == (7, 8)


def test_nothing_before_is_first_matters(dynamics: RecurrentDynamics) -> None:
    """Neither observations nor actions left of an episode's first row, nor the action on that row, bitwise."""
    embedding, action = torch.randn(2, 6, 5), torch.randn(2, 6, 2)
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[:, 3] = True
    before = observe(dynamics, embedding, action, first)
    embedding, action = embedding.clone(), action.clone()
    embedding[:, :3], action[:, :4] = torch.randn(2, 3, 5), torch.randn(2, 4, 2)
    after = observe(dynamics, embedding, action, first)
    assert torch.equal(before.deter[:, 3:], after.deter[:, 3:])
    assert torch.equal(before.stoch[:, 3:], after.stoch[:, 3:])
    assert not torch.equal(before.deter[:, :3], after.deter[:, :3])


def test_first_row_starts_from_zeros(dynamics: RecurrentDynamics) -> None:
    embedding, action = torch.randn(1, 1, 5), torch.randn(1, 1, 2)
    first = observe(dynamics, embedding, action, torch.tensor([[True]]))
    zero = observe(dynamics, embedding, torch.zeros(1, 1, 2), torch.tensor([[False]]))
    assert torch.equal(first.deter, zero.deter)


def test_a_row_knows_the_action_that_led_to_it_and_none_later(dynamics: RecurrentDynamics) -> None:
    embedding, action = torch.randn(1, 5, 5), torch.randn(1, 5, 2)
    first = torch.zeros(1, 5, dtype=torch.bool)
    before = observe(dynamics, embedding, action, first)
    action = action.clone()
    action[:, 2] += 1
    after = observe(dynamics, embedding, action, first)
    assert torch.equal(before.deter[:, :2], after.deter[:, :2])
    assert not torch.equal(before.deter[:, 2], after.deter[:, 2])


def test_a_sequence_is_its_steps(dynamics: RecurrentDynamics) -> None:
    """Step by step, as an agent goes, the states are those of the whole sequence."""
    embedding, action = torch.randn(2, 4, 5), torch.randn(2, 4, 2)
    first = torch.tensor([[True, False, False, False], [False, False, True, False]])
    torch.manual_seed(1)
    states, logits = dynamics.observe(embedding, action, first)
    torch.manual_seed(1)
    noise = torch.rand(4, 2, 3)
    latent, projected = dynamics.initial(2), dynamics.project(embedding)
    for t in range(4):
        latent, step = dynamics.observe_step(latent, action[:, t], projected[:, t], first[:, t], noise[t])
        assert torch.allclose(latent.feature, states[:, t].feature, atol=1e-6)
        assert torch.allclose(step, logits[:, t], atol=1e-5)


def test_gru_golden(dynamics: RecurrentDynamics) -> None:
    """h' = u tanh(r c) + (1 - u) h, r = sigmoid(.), u = sigmoid(. - 1), worked out from the same layers."""
    latent = Latent(torch.randn(3, 8), torch.randn(3, 12))
    action = torch.randn(3, 2)
    x = dynamics.input(torch.cat([latent.stoch, action], -1))
    r, c, u = dynamics.gates(torch.cat([x, latent.deter], -1)).double().chunk(3, -1)
    keep = 1 / (1 + torch.exp(-(u - 1)))
    expected = keep * torch.tanh(c / (1 + torch.exp(-r))) + (1 - keep) * latent.deter
    assert torch.allclose(dynamics.advance(latent, action).double(), expected, atol=1e-6)


class TestPriorEnsemble:
    def test_equal_heads_do_not_disagree(self) -> None:
        ensemble = PriorEnsemble(SIZES)
        with torch.no_grad():
            ensemble.out.copy_(ensemble.out[:1].expand_as(ensemble.out))
            per_head = SIZES.ensemble_units
            ensemble.hidden.weight.copy_(ensemble.hidden.weight[:per_head].repeat(3, 1))
            ensemble.hidden.bias.copy_(ensemble.hidden.bias[:per_head].repeat(3))
        deter = torch.randn(4, 8, requires_grad=True)
        disagreement = ensemble.disagreement(deter)
        disagreement.sum().backward()
        assert disagreement.abs().max().item() < 1e-12
        assert torch.isfinite(deter.grad).all()

    def test_disagreement_golden_and_grows_with_noise(self) -> None:
        ensemble = PriorEnsemble(SIZES)
        deter = torch.randn(5, 8)
        probs = torch.softmax(ensemble(deter), -1)
        expected = ((probs - probs.mean(0)) ** 2).mean(0).sum((-2, -1))
        assert torch.allclose(ensemble.disagreement(deter), expected, atol=1e-6)
        before = ensemble.disagreement(deter).mean()
        with torch.no_grad():
            ensemble.bias.add_(torch.randn_like(ensemble.bias) * 3)
        assert ensemble.disagreement(deter).mean() > before

    def test_loss_is_the_cross_entropy_to_the_posterior(self) -> None:
        ensemble = PriorEnsemble(SIZES)
        deter, target = torch.randn(5, 8), OneHot(torch.randn(5, 3, 4), 0.01)
        heads = Independent(Categorical(logits=ensemble(deter)), 1)
        posterior = Independent(Categorical(probs=target.probs), 1)
        kl = torch.stack([kl_divergence(posterior, Independent(Categorical(logits=h), 1)) for h in ensemble(deter)])
        assert heads.batch_shape == (3, 5)
        assert torch.allclose(ensemble.loss(deter, target), kl.mean(0) + posterior.entropy(), atol=1e-4)

    def test_heads_disagree_where_they_have_learned_nothing(self) -> None:
        torch.manual_seed(0)
        ensemble, teacher = PriorEnsemble(SIZES), torch.nn.Linear(8, 12)
        optimizer = torch.optim.Adam(ensemble.parameters(), 0.02)

        def states(n: int) -> torch.Tensor:
            return torch.cat([torch.randn(n, 4), torch.zeros(n, 4)], -1)  # half of the axes are never visited

        for _ in range(150):
            seen = states(64)
            optimizer.zero_grad()
            ensemble.loss(seen, OneHot(teacher(seen).detach().unflatten(-1, (3, 4)))).mean().backward()
            optimizer.step()
        seen, unseen = states(256), states(256).roll(4, -1)
        assert ensemble.disagreement(unseen).mean() > 3 * ensemble.disagreement(seen).mean()
