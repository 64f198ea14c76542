"""Distributions against torch.distributions, float64 numpy and values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from pipeline.models.distributions import (
    Bernoulli,
    BoundedNormal,
    OneHot,
    Pixels,
    SymexpTwoHot,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
)

NUMBERS = st.floats(-1e4, 1e4)


@given(NUMBERS)
def test_symlog_and_symexp_are_inverse(x: float) -> None:
    number = torch.tensor(x, dtype=torch.float64)
    assert symexp(symlog(number)).item() == pytest.approx(x, rel=1e-9, abs=1e-9)


def test_symlog_golden() -> None:
    assert symlog(torch.tensor([math.e - 1, 1 - math.e, 0.0])).tolist() == pytest.approx([1.0, -1.0, 0.0])


class TestOneHot:
    logits = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))

    def reference(self, unimix: float) -> Independent:
        probs = (1 - unimix) * torch.softmax(self.logits, -1) + unimix / 4
        return Independent(Categorical(probs=probs), 1)

    @pytest.mark.parametrize("unimix", [0.0, 0.01])
    def test_kl_entropy_and_log_prob_match_torch(self, unimix: float) -> None:
        ours, other = OneHot(self.logits, unimix), OneHot(self.logits.flip(0), unimix)
        theirs = self.reference(unimix)
        flipped = Independent(Categorical(probs=theirs.base_dist.probs.flip(0)), 1)
        assert torch.allclose(ours.kl(other), kl_divergence(theirs, flipped), atol=1e-5)
        assert torch.allclose(ours.entropy(), theirs.entropy(), atol=1e-5)
        index = torch.randint(4, (5, 3))
        one_hot = torch.nn.functional.one_hot(index, 4).float()
        assert torch.allclose(ours.log_prob(one_hot), theirs.log_prob(index), atol=1e-5)

    def test_uniform_share_bounds_every_probability_from_below(self) -> None:
        probs = OneHot(torch.tensor([[[100.0, 0.0, 0.0, 0.0]]]), 0.01).probs
        assert probs.min().item() == pytest.approx(0.01 / 4)
        assert probs.sum().item() == pytest.approx(1.0)

    def test_samples_are_exactly_one_hot(self) -> None:
        sample = OneHot(self.logits, 0.01).sample()
        assert set(sample.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(sample.sum(-1), torch.ones(5, 3))

    def test_frequencies_are_the_probabilities(self) -> None:
        torch.manual_seed(0)
        one_hot = OneHot(torch.log(torch.tensor([[[0.1, 0.2, 0.7]]])).expand(20_000, 1, 3))
        assert one_hot.sample().mean((0, 1)).tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.012)

    def test_gradient_is_that_of_the_mixed_probabilities(self) -> None:
        weights = torch.randn(3, 4)
        logits = self.logits[0].clone().requires_grad_()
        (OneHot(logits, 0.01).sample() * weights).sum().backward()
        expected = self.logits[0].clone().requires_grad_()
        ((0.99 * torch.softmax(expected, -1) + 0.01 / 4) * weights).sum().backward()
        assert torch.allclose(logits.grad, expected.grad, atol=1e-6)

    def test_mode_is_the_likeliest_class(self) -> None:
        assert torch.equal(OneHot(self.logits).mode.argmax(-1), self.logits.argmax(-1))


class TestTwoHot:
    def test_bins_are_exactly_symmetric_and_rise(self) -> None:
        bins = symexp_bins(255)
        assert torch.equal(bins, -bins.flip(0))
        assert (bins.diff() > 0).all()
        assert bins[-1].item() == pytest.approx(math.exp(20) - 1, rel=1e-6)
        assert bins[127].item() == 0.0

    @given(st.floats(-1e4, 1e4))
    def test_encoding_keeps_the_number(self, x: float) -> None:
        bins = symexp_bins(255).double()
        upper, weight = two_hot(torch.tensor([x]), symexp_bins(255))
        decoded = (1 - weight.double()) * bins[upper - 1] + weight.double() * bins[upper]
        assert decoded.item() == pytest.approx(x, rel=1e-4, abs=1e-4)
        assert 0.0 <= weight.item() <= 1.0

    def test_equal_logits_predict_exactly_zero(self) -> None:
        assert SymexpTwoHot(torch.zeros(7, 255)).mean.tolist() == [0.0] * 7

    def test_mean_golden(self) -> None:
        logits = torch.randn(255, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.1
        logits[130:] -= 30
        logits[:120] -= 30
        x = np.linspace(-20, 20, 255)
        bins = np.sign(x) * np.expm1(np.abs(x))
        probs = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum()
        assert SymexpTwoHot(logits).mean.item() == pytest.approx(float((probs * bins).sum()), abs=1e-4)

    def test_loss_golden(self) -> None:
        """Between bins 0 and symexp(20/127): at a quarter of the way, three quarters of the weight stay at 0."""
        logits = torch.randn(255, generator=torch.Generator().manual_seed(2))
        step = math.exp(20 / 127) - 1
        log_probs = torch.log_softmax(logits, -1)
        expected = -(0.75 * log_probs[127] + 0.25 * log_probs[128])
        assert SymexpTwoHot(logits).loss(torch.tensor(step / 4)).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_targets_out_of_range_are_clamped_and_the_gradient_is_finite(self) -> None:
        logits = torch.zeros(2, 255, requires_grad=True)
        loss = SymexpTwoHot(logits).loss(torch.tensor([1e12, -1e12]))
        loss.sum().backward()
        assert torch.isfinite(logits.grad).all()
        assert logits.grad[0].argmin().item() == 254
        assert logits.grad[1].argmin().item() == 0


def test_bernoulli_golden() -> None:
    yes = Bernoulli(torch.tensor([0.0, math.log(3)]))
    assert yes.mean.tolist() == pytest.approx([0.5, 0.75])
    assert yes.loss(torch.tensor([1.0, 0.0])).tolist() == pytest.approx([math.log(2), -math.log(0.25)])


def test_pixels_sum_the_squared_error_over_the_picture() -> None:
    loss = Pixels(torch.full((2, 3, 4, 4), 0.5)).loss(torch.zeros(2, 3, 4, 4))
    assert loss.tolist() == pytest.approx([0.25 * 48] * 2)


class TestBoundedNormal:
    raw = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))

    def test_log_prob_and_entropy_match_torch(self) -> None:
        ours = BoundedNormal(self.raw)
        mean = torch.tanh(self.raw[:, :2])
        std = 0.9 / (1 + torch.exp(-(self.raw[:, 2:] + 2))) + 0.1
        theirs = Independent(Normal(mean, std), 1)
        action = ours.sample()
        assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-5)
        assert torch.allclose(ours.entropy(), theirs.entropy(), atol=1e-5)
        assert torch.equal(ours.mode, mean)

    @given(st.floats(-0.98, 0.98), st.floats(0.12, 0.98))
    def test_the_executed_mean_is_the_integral_over_clipped_actions(self, mean: float, std: float) -> None:
        policy = BoundedNormal(BoundedNormal.raw(torch.tensor([mean]), torch.tensor([std])))
        x = np.linspace(mean - 9 * std, mean + 9 * std, 20_001)
        density = np.exp(-0.5 * ((x - mean) / std) ** 2)
        expected = float((np.clip(x, -1, 1) * density).sum() / density.sum())
        assert policy.executed_mean.item() == pytest.approx(expected, abs=1e-3)

    def test_clipped_samples_have_the_executed_mean(self) -> None:
        torch.manual_seed(0)
        policy = BoundedNormal(torch.tensor([-2.0, 0.3]).expand(100_000, 2))
        assert policy.sample().clamp(-1, 1).mean().item() == pytest.approx(policy.executed_mean[0].item(), abs=0.01)
        assert policy.executed_mean[0].item() > policy.mode[0].item() + 0.1

    @given(st.floats(-0.95, 0.95), st.floats(0.15, 0.95))
    def test_raw_is_the_inverse(self, mean: float, std: float) -> None:
        policy = BoundedNormal(BoundedNormal.raw(torch.tensor([mean]), torch.tensor([std])))
        assert policy.mean.item() == pytest.approx(mean, abs=1e-5)
        assert policy.std.item() == pytest.approx(std, abs=1e-5)
