"""Distributions of actions against torch.distributions, scipy and numerical integrals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import truncnorm
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    Normal,
    OneHotCategorical,
    TanhTransform,
    TransformedDistribution,
)

from pipeline.models.policies import (
    BoundedNormal,
    OneHotAction,
    TanhNormal,
    TruncatedNormal,
    WideNormal,
    action_distribution,
)

RAW = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
RAW_FLOATS = st.floats(-3, 3)


def test_the_setting_names_the_distribution_and_discrete_actions_are_categorical() -> None:
    names = {
        "wide-normal": WideNormal,
        "bounded-normal": BoundedNormal,
        "tanh-normal": TanhNormal,
        "truncated-normal": TruncatedNormal,
    }
    for name, distribution in names.items():
        assert action_distribution(name) is distribution
        assert action_distribution(name, discrete=True) is OneHotAction


@pytest.mark.parametrize("distribution", [WideNormal, BoundedNormal, TanhNormal, TruncatedNormal, OneHotAction])
def test_draws_come_from_the_generator_given(distribution: type) -> None:
    policy = distribution(RAW)
    first, second = (policy.sample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(0)
    own = policy.sample()
    torch.manual_seed(0)
    assert torch.equal(policy.sample(), own) and not torch.equal(own, first)


class TestBoundedNormal:
    @pytest.mark.parametrize(("kind", "bound"), [(BoundedNormal, 1.0), (WideNormal, 2.0)])
    def test_log_prob_and_entropy_match_torch(self, kind: type[BoundedNormal], bound: float) -> None:
        ours = kind(RAW)
        mean = bound * torch.tanh(RAW[:, :2] / bound)
        std = 0.9 / (1 + torch.exp(-(RAW[:, 2:] + 2))) + 0.1
        theirs = Independent(Normal(mean, std), 1)
        action = ours.sample()
        assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-5)
        assert torch.allclose(ours.entropy(), theirs.entropy(), atol=1e-5)
        assert torch.equal(ours.mean, mean)

    def test_means_reach_their_bound_and_no_further(self) -> None:
        for kind, bound in ((BoundedNormal, 1.0), (WideNormal, 2.0)):
            assert kind(torch.tensor([-99.0, 0.0])).mean.item() == -bound

    def test_who_wants_all_of_an_action_gets_it_with_a_large_deviation_too(self) -> None:
        # E[clip(X)] for X ~ N(m, .65), by hand: 1 - .65 f(0) and 1 - .65 (f(b) - b (1 - F(b))) with b = 1 / .65
        for kind, expected in ((BoundedNormal, 0.741), (WideNormal, 0.982)):
            raw = kind.raw(torch.zeros(1), torch.tensor([0.65]))
            raw[0] = 99.0
            assert kind(raw).executed_mean.item() == pytest.approx(expected, abs=2e-3)

    @given(st.floats(-1.95, 1.95), st.floats(0.12, 0.98))
    def test_the_executed_mean_is_the_integral_over_clipped_actions(self, mean: float, std: float) -> None:
        policy = WideNormal(WideNormal.raw(torch.tensor([mean]), torch.tensor([std])))
        x = np.linspace(mean - 9 * std, mean + 9 * std, 20_001)
        density = np.exp(-0.5 * ((x - mean) / std) ** 2)
        expected = float((np.clip(x, -1, 1) * density).sum() / density.sum())
        assert policy.executed_mean.item() == pytest.approx(expected, abs=1e-3)

    def test_clipped_samples_have_the_executed_mean(self) -> None:
        torch.manual_seed(0)
        policy = BoundedNormal(torch.tensor([-2.0, 0.3]).expand(100_000, 2))
        assert policy.sample().clamp(-1, 1).mean().item() == pytest.approx(policy.executed_mean[0].item(), abs=0.01)
        assert policy.executed_mean[0].item() > policy.mean[0].item() + 0.1

    @pytest.mark.parametrize("kind", [BoundedNormal, WideNormal])
    @given(mean=st.floats(-0.95, 0.95), std=st.floats(0.15, 0.95))
    def test_raw_is_the_inverse(self, kind: type[BoundedNormal], mean: float, std: float) -> None:
        policy = kind(kind.raw(torch.tensor([mean]), torch.tensor([std])))
        assert policy.mean.item() == pytest.approx(mean, abs=1e-5)
        assert policy.std.item() == pytest.approx(std, abs=1e-5)


def tanh_parameters(raw: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation before the tanh, in float64."""
    m, s = raw.double().numpy()[..., : raw.shape[-1] // 2], raw.double().numpy()[..., raw.shape[-1] // 2 :]
    return 5 * np.tanh(m / 5), np.log1p(np.exp(s + np.log(np.exp(5.0) - 1))) + 1e-4


def integrate(raw: Tensor, function) -> np.ndarray:
    """Expectation of function(x) over the normal before the tanh, by a fine sum in float64."""
    mean, std = tanh_parameters(raw)
    z = np.linspace(-8, 8, 40_001)
    density = np.exp(-0.5 * z**2)
    return (function(mean[..., None] + std[..., None] * z) * density).sum(-1) / density.sum()


class TestTanhNormal:
    narrow = torch.cat([RAW[:, :2], RAW[:, 2:] - 4.5], -1)  # deviations about 1, where float32 has no ends to round to

    def test_the_widths_are_the_papers(self) -> None:
        at_zero = TanhNormal(torch.zeros(2))
        assert at_zero.std.item() == pytest.approx(5.0 + 1e-4)
        assert TanhNormal(torch.tensor([1e9, 0.0])).mean.item() == 5.0
        mean, std = tanh_parameters(RAW)
        assert np.allclose(TanhNormal(RAW).mean.numpy(), mean, atol=1e-5)
        assert np.allclose(TanhNormal(RAW).std.numpy(), std, atol=1e-5)

    def test_log_prob_matches_torch(self) -> None:
        ours = TanhNormal(self.narrow)
        mean, std = (torch.from_numpy(x) for x in tanh_parameters(self.narrow))
        theirs = TransformedDistribution(Normal(mean, std), [TanhTransform()])
        action = torch.linspace(-0.999, 0.999, 6)[:, None].expand(6, 2)
        assert torch.allclose(ours.log_prob(action).double(), theirs.log_prob(action.double()).sum(-1), atol=1e-3)

    def test_actions_at_the_bounds_have_finite_densities_and_gradients(self) -> None:
        raw = torch.zeros(2, 4, requires_grad=True)
        policy = TanhNormal(raw)
        log_prob = policy.log_prob(torch.tensor([[1.0, -1.0], [0.99999994, -0.99999994]]))
        log_prob.sum().backward()
        assert log_prob[0].item() == log_prob[1].item()
        assert torch.isfinite(log_prob).all() and torch.isfinite(raw.grad).all()

    @pytest.mark.parametrize(("raw", "error"), [(RAW, 5e-3), (narrow, 1e-4)], ids=["wide", "narrow"])
    def test_entropy_and_moments_are_the_integrals(self, raw: Tensor, error: float) -> None:
        """The sum of 41 points is coarse for deviations above 5, where an action is almost always -1 or 1."""
        ours = TanhNormal(raw)
        _, std = tanh_parameters(raw)
        slope = integrate(raw, lambda x: 2 * (np.log(2) - np.logaddexp(x, -x)))  # ln(1 - tanh^2) = -2 ln cosh
        expected = (np.log(std) + 0.5 * np.log(2 * np.pi * np.e) + slope).sum(-1)
        assert np.allclose(ours.entropy().numpy(), expected, atol=4 * error)
        mean = integrate(raw, np.tanh)
        deviation = np.sqrt(integrate(raw, lambda x: np.tanh(x) ** 2) - mean**2)
        assert np.allclose(ours.executed_mean.numpy(), mean, atol=error)
        assert np.allclose(ours.moments()[1].numpy(), deviation, atol=error)

    def test_samples_have_the_moments_and_the_reparameterised_gradient(self) -> None:
        torch.manual_seed(0)
        raw = torch.tensor([0.4, -4.0], requires_grad=True)
        policy = TanhNormal(raw.expand(50_000, 2))
        sample = policy.sample()
        mean, deviation = TanhNormal(raw).moments()
        assert sample.mean().item() == pytest.approx(mean.item(), abs=0.01)
        assert sample.std().item() == pytest.approx(deviation.item(), abs=0.01)
        by_samples = torch.autograd.grad(sample.mean(), raw, retain_graph=True)[0]
        exact = torch.autograd.grad(mean.sum(), raw)[0]
        assert torch.allclose(by_samples, exact, atol=0.01)


def scipy_truncated(raw: Tensor):
    m, s = (part.double().numpy() for part in raw.chunk(2, -1))
    mean, std = np.tanh(m), 2 / (1 + np.exp(-s / 2)) + 0.1
    return truncnorm((-1 - mean) / std, (1 - mean) / std, loc=mean, scale=std)


class TestTruncatedNormal:
    wild = torch.tensor([[4.0, -3.0, -12.0, 12.0], [0.0, 1.0, -12.0, -12.0], [-9.0, 9.0, 0.0, 9.0]])

    @pytest.mark.parametrize("raw", [RAW, wild], ids=["usual", "wild"])
    def test_log_prob_entropy_and_moments_match_scipy(self, raw: Tensor) -> None:
        ours, theirs = TruncatedNormal(raw), scipy_truncated(raw)
        action = torch.linspace(-0.95, 0.95, len(raw))[:, None].expand(len(raw), 2)
        expected = theirs.logpdf(action.double().numpy()).sum(-1)
        assert np.allclose(ours.log_prob(action).numpy(), expected, rtol=1e-4, atol=1e-4)
        assert np.allclose(ours.entropy().numpy(), theirs.entropy().sum(-1), atol=1e-4)
        assert np.allclose(ours.executed_mean.numpy(), theirs.mean(), atol=1e-5)
        assert np.allclose(ours.moments()[1].numpy(), theirs.std(), rtol=1e-3)

    @pytest.mark.parametrize("raw", [RAW, wild], ids=["usual", "wild"])
    def test_samples_are_the_quantiles_of_their_noise(self, raw: Tensor) -> None:
        seed = torch.Generator().manual_seed(1)
        noise = torch.empty(len(raw), 2).uniform_(generator=seed)
        sample = TruncatedNormal(raw).sample(torch.Generator().manual_seed(1))
        expected = np.clip(scipy_truncated(raw).ppf(noise.double().numpy()), -1 + 1e-6, 1 - 1e-6)
        assert np.allclose(sample.numpy(), expected, atol=1e-4)

    def test_samples_stay_within_the_bounds_and_gradients_are_finite(self) -> None:
        torch.manual_seed(0)
        raw = self.wild.repeat(2000, 1).requires_grad_()
        sample = TruncatedNormal(raw).sample()
        assert 0.999 < sample.abs().max().item() < 1
        sample.sum().backward()
        assert torch.isfinite(raw.grad).all()

    @pytest.mark.parametrize("noise", [0.0, 1 - 2.0**-24])
    def test_the_ends_of_the_noise_are_finite(self, monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
        monkeypatch.setattr(Tensor, "uniform_", lambda drawn, generator=None: drawn.fill_(noise))
        raw = torch.cat([RAW, self.wild]).requires_grad_()
        sample = TruncatedNormal(raw).sample()
        assert (sample.abs() < 1).all()
        sample.sum().backward()
        assert torch.isfinite(raw.grad).all()

    def test_the_gradient_passes_the_clip_as_if_it_were_not_there(self) -> None:
        """Implicit differentiation in float64: da/dp = -(dF(a; p)/dp) / density, also for a sample that was clipped."""
        raw = torch.tensor([[0.5, 0.3]], requires_grad=True)

        class Edge(TruncatedNormal):
            margin = 0.5

        for family in (TruncatedNormal, Edge):
            sample = family(raw).sample(torch.Generator().manual_seed(1))  # noise of 0.76
            [gradient] = torch.autograd.grad(sample.sum(), raw)
            free = TruncatedNormal(raw).sample(torch.Generator().manual_seed(1)).double().item()
            for index in range(2):
                step = torch.zeros(1, 2, dtype=torch.float64)
                step[0, index] = 1e-5
                up, down = (scipy_truncated(raw.detach().double() + sign * step).cdf(free) for sign in (1, -1))
                expected = -(up - down) / 2e-5 / scipy_truncated(raw.detach()).pdf(free)
                assert gradient[0, index].item() == pytest.approx(expected.item(), rel=1e-3)
        assert sample.item() == pytest.approx(0.5) and free > 0.5


@given(st.floats(-0.85, 0.85), st.floats(0.05, 0.5))
def test_tanh_normal_actions_can_begin_like_recorded_ones(mean: float, std: float) -> None:
    std = min(std, 0.7 * (1 - mean**2) ** 0.5)  # without the 0.7, the most that a variable within -1 .. 1 can have
    found = TanhNormal(TanhNormal.raw(torch.tensor([mean]), torch.tensor([std]))).moments()
    assert [part.item() for part in found] == pytest.approx([mean, std], abs=0.02)


@given(st.floats(-0.75, 0.75), st.floats(0.12, 0.5))
def test_truncated_normal_actions_can_begin_like_recorded_ones(mean: float, std: float) -> None:
    std = min(std, 0.6 * (1 - abs(mean)))  # further from the bound than half of a normal cut off at it
    found = TruncatedNormal(TruncatedNormal.raw(torch.tensor([mean]), torch.tensor([std]))).moments()
    assert [part.item() for part in found] == pytest.approx([mean, std], abs=0.02)


@pytest.mark.parametrize("family", [TanhNormal, TruncatedNormal])
@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 1.0), (0.999, 0.0), (-1.0, 0.0), (-1.0, 0.3), (0.5, 0.86), (-0.93, 0.29)]
)
def test_where_a_beginning_is_impossible_the_mean_comes_first(family: type, mean: float, std: float) -> None:
    """(-0.93, 0.29) is the brake under smooth random driving; the mean matters, or the car does not move."""
    raw = family.raw(torch.tensor([mean]), torch.tensor([std]))
    assert raw.shape == (2,) and torch.isfinite(raw).all()
    assert family(raw).executed_mean.item() == pytest.approx(mean, abs=0.12)


class TestOneHotAction:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    def test_log_prob_and_entropy_match_torch(self) -> None:
        ours, theirs = OneHotAction(self.logits), OneHotCategorical(logits=self.logits)
        action = ours.sample()
        assert action.shape == (5, 4)
        assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-5)
        assert torch.allclose(ours.entropy(), Categorical(logits=self.logits).entropy(), atol=1e-5)

    def test_samples_are_constant_one_hot_vectors_as_frequent_as_likely(self) -> None:
        torch.manual_seed(0)
        raw = torch.log(torch.tensor([0.1, 0.2, 0.7])).expand(20_000, 3).requires_grad_()
        sample = OneHotAction(raw).sample()
        assert set(sample.unique().tolist()) == {0.0, 1.0} and not sample.requires_grad
        assert torch.equal(sample.sum(-1), torch.ones(20_000))
        assert sample.mean(0).tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.012)

    def test_what_is_executed_without_drawing_is_the_likeliest_action(self) -> None:
        policy = OneHotAction(self.logits)
        assert torch.equal(policy.executed_mean.argmax(-1), self.logits.argmax(-1))
        assert torch.equal(policy.executed_mean.sum(-1), torch.ones(5))

    def test_it_begins_with_the_recorded_frequencies_and_excludes_nothing(self) -> None:
        raw = OneHotAction.raw(torch.tensor([0.0, 0.25, 0.75]), torch.zeros(3))
        probabilities = OneHotAction(raw).choice.probs[0]
        assert probabilities.tolist() == pytest.approx([0.01 / 1.01, 0.25 / 1.01, 0.75 / 1.01], rel=1e-4)
