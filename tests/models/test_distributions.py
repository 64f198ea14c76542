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
    Always,
    Bernoulli,
    DiagonalNormal,
    NormalPixels,
    OneHot,
    Pixels,
    SymexpTwoHot,
    UnitNormal,
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

    def test_temperature_golden(self) -> None:
        """Square roots of .1, .2, .7, divided by their sum 1.600; then the share of the uniform, as ever."""
        logits = torch.log(torch.tensor([[0.1, 0.2, 0.7]]))
        warm = OneHot(logits, temperature=2.0)
        assert warm.probs[0].tolist() == pytest.approx([0.1976, 0.2795, 0.5229], abs=1e-4)
        mixed = OneHot(logits, 0.1, temperature=2.0).probs[0].tolist()
        assert mixed == pytest.approx([0.2112, 0.2849, 0.5039], abs=1e-4)
        assert torch.equal(OneHot(logits, temperature=1.0).probs, OneHot(logits).probs)

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


def test_a_soft_target_is_learned_as_a_mean() -> None:
    """Cross-entropy -t ln p - (1 - t) ln (1 - p), least where p is the target itself: here .99."""
    target = torch.tensor(0.99)
    for p in (0.5, 0.9, 0.99):
        expected = -0.99 * math.log(p) - 0.01 * math.log(1 - p)
        assert Bernoulli(torch.logit(torch.tensor(p))).loss(target).item() == pytest.approx(expected, rel=1e-4)
    logit = torch.logit(torch.tensor(0.99)).requires_grad_()
    Bernoulli(logit).loss(target).backward()
    assert logit.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_always_is_certain_and_has_nothing_to_learn() -> None:
    always = Always(torch.randn(2, 3, 7))
    assert always.mean.tolist() == always.mode.tolist() == [[1.0] * 3] * 2
    assert always.loss(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_unit_normal_matches_torch() -> None:
    mean, target = torch.randn(5), torch.randn(5)
    assert torch.allclose(UnitNormal(mean).loss(target), -Normal(mean, 1.0).log_prob(target), atol=1e-6)
    assert UnitNormal(torch.zeros(())).loss(torch.zeros(())).item() == pytest.approx(0.9189385)


def test_pixels_sum_the_squared_error_over_the_picture() -> None:
    loss = Pixels(torch.full((2, 3, 4, 4), 0.5)).loss(torch.zeros(2, 3, 4, 4))
    assert loss.tolist() == pytest.approx([0.25 * 48] * 2)


class TestNormalPixels:
    def test_loss_golden(self) -> None:
        """Half a squared error of .25 for each of 12288 numbers, and their constant: 1536 + 12288 / 2 ln 2 pi."""
        loss = NormalPixels(torch.zeros(2, 3, 64, 64)).loss(torch.ones(2, 3, 64, 64))
        constant = 12288 * 0.5 * math.log(2 * math.pi)
        assert constant == pytest.approx(11292, abs=1)
        assert loss.tolist() == pytest.approx([1536 + constant] * 2, rel=1e-6)

    def test_loss_matches_torch(self) -> None:
        mean, target = torch.randn(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
        theirs = -Independent(Normal(mean, 1.0), 3).log_prob(target - 0.5)
        assert torch.allclose(NormalPixels(mean).loss(target), theirs, rtol=1e-5)

    def test_a_perfect_picture_is_drawn_as_it_was(self) -> None:
        target = torch.rand(1, 3, 8, 8)
        assert torch.allclose(NormalPixels(target - 0.5).mode, target, atol=1e-6)
        assert NormalPixels(torch.tensor([[[[-9.0, 9.0]]]])).mode.flatten().tolist() == [0.0, 1.0]


class TestDiagonalNormal:
    raw = torch.randn(6, 8, generator=torch.Generator().manual_seed(5)) * 2
    other = torch.randn(6, 8, generator=torch.Generator().manual_seed(6)) * 2

    @staticmethod
    def reference(raw: torch.Tensor) -> Independent:
        mean, s = raw.double().chunk(2, -1)
        return Independent(Normal(mean, torch.log1p(torch.exp(s)) + 0.1), 1)

    def test_kl_entropy_and_log_prob_match_torch(self) -> None:
        ours, theirs = DiagonalNormal(self.raw), self.reference(self.raw)
        kl = kl_divergence(theirs, self.reference(self.other))
        assert torch.allclose(ours.kl(DiagonalNormal(self.other)).double(), kl, rtol=1e-4)
        assert torch.allclose(ours.entropy().double(), theirs.entropy(), atol=1e-5)
        x = torch.randn(6, 4)
        assert torch.allclose(ours.log_prob(x).double(), theirs.log_prob(x), rtol=1e-4)
        assert torch.equal(ours.mode, self.raw[:, :4])

    def test_kl_golden(self) -> None:
        """KL(N(1, 2) || N(0, 1)) = (4 + 1 - 1) / 2 - ln 2, and none to itself."""
        q = DiagonalNormal(DiagonalNormal.raw(torch.tensor([1.0]), torch.tensor([2.0])))
        p = DiagonalNormal(DiagonalNormal.raw(torch.tensor([0.0]), torch.tensor([1.0])))
        assert q.kl(p).item() == pytest.approx(2 - math.log(2), rel=1e-5)
        assert q.kl(q).item() == 0.0

    def test_raw_is_the_inverse(self) -> None:
        mean, std = torch.randn(5), torch.rand(5) + 0.11
        normal = DiagonalNormal(DiagonalNormal.raw(mean, std))
        assert torch.equal(normal.mean, mean)
        assert torch.allclose(normal.std, std, atol=1e-5)

    def test_no_deviation_is_below_a_tenth(self) -> None:
        assert DiagonalNormal(torch.tensor([0.0, -100.0])).std.item() == pytest.approx(0.1)

    def test_a_temperature_of_four_doubles_the_deviation(self) -> None:
        warm, plain = DiagonalNormal(self.raw, temperature=4.0), DiagonalNormal(self.raw)
        assert torch.equal(warm.mean, plain.mean)
        assert torch.allclose(warm.std, 2 * plain.std)

    def test_samples_are_the_noise_moved_and_carry_both_gradients(self) -> None:
        raw = self.raw.clone().requires_grad_()
        noise = torch.randn(6, 4)
        sample = DiagonalNormal(raw).sample(noise)
        theirs = self.reference(self.raw).base_dist
        assert torch.allclose(sample.double(), theirs.mean + theirs.stddev * noise, atol=1e-5)
        sample.sum().backward()
        assert torch.allclose(raw.grad[:, :4], torch.ones(6, 4))
        assert torch.allclose(raw.grad[:, 4:], noise * torch.sigmoid(self.raw[:, 4:]), atol=1e-5)

    def test_a_generator_decides_what_is_drawn(self) -> None:
        normal = DiagonalNormal(self.raw)
        first, again = (normal.sample(generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, normal.sample())

    def test_moments_of_the_samples(self) -> None:
        torch.manual_seed(0)
        raw = DiagonalNormal.raw(torch.tensor([2.0]), torch.tensor([0.5]))
        sample = DiagonalNormal(raw.expand(50_000, 2)).sample()
        assert sample.mean().item() == pytest.approx(2.0, abs=0.02)
        assert sample.std().item() == pytest.approx(0.5, abs=0.02)

    def test_a_constant_copy_has_no_gradient(self) -> None:
        raw = self.raw.clone().requires_grad_()
        assert not DiagonalNormal(raw).detach().kl(DiagonalNormal(self.other)).requires_grad
