"""The dynamics, each with every kind of state it may have, their cells, and the ensemble of priors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from pipeline.config import ModelSettings
from pipeline.models.distributions import DiagonalNormal, OneHot
from pipeline.models.dynamics import (
    BlockDynamics,
    Dynamics,
    Latent,
    MemorylessDynamics,
    NormedDynamics,
    PlainDynamics,
    PriorEnsemble,
    RecurrentDynamics,
    make_dynamics,
)
from pipeline.models.networks import initialise

SIZES = ModelSettings(deter=8, groups=3, classes=4, hidden=8, units=8, depth=2, bins=11, ensemble=3, ensemble_units=5)


def changed(**values: object) -> ModelSettings:
    return ModelSettings.model_validate({**SIZES.model_dump(), **values})


GAUSSIAN = {"latent": "gaussian", "stoch": 6}
KINDS = {
    "laptop": SIZES,
    "v1": changed(**GAUSSIAN, cell="plain", norm="none", activation="elu"),
    "v2": changed(norm="none", activation="elu", unimix=0.0),
    "v3": changed(cell="blocks", norm="rms", blocks=4),
    "memoryless": changed(**GAUSSIAN, dynamics="memoryless", norm="none", activation="elu"),
    "memoryless, categorical": changed(dynamics="memoryless"),
    "normed, Gaussian": changed(**GAUSSIAN),
    "blocks, Gaussian": changed(**GAUSSIAN, cell="blocks", norm="layer", blocks=2),
}
MEMORYLESS = ["memoryless", "memoryless, categorical"]
RECURRENT = [kind for kind in KINDS if kind not in MEMORYLESS]


def make(kind: str) -> Dynamics:
    torch.manual_seed(0)
    return make_dynamics(KINDS[kind], actions=2, embedding=5)


@pytest.fixture(params=KINDS)
def dynamics(request: pytest.FixtureRequest) -> Dynamics:
    return make(request.param)


@pytest.fixture(params=RECURRENT)
def recurrent(request: pytest.FixtureRequest) -> RecurrentDynamics:
    dynamics = make(request.param)
    assert isinstance(dynamics, RecurrentDynamics)
    return dynamics


@pytest.fixture(params=MEMORYLESS)
def memoryless(request: pytest.FixtureRequest) -> MemorylessDynamics:
    dynamics = make(request.param)
    assert isinstance(dynamics, MemorylessDynamics)
    return dynamics


def observe(dynamics: Dynamics, embedding: Tensor, action: Tensor, first: Tensor) -> Latent:
    torch.manual_seed(1)
    return dynamics.observe(embedding, action, first)[0]


def sequence(b: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, actions, and flags of which none is set."""
    return torch.randn(b, t, 5), torch.randn(b, t, 2), torch.zeros(b, t, dtype=torch.bool)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("laptop", NormedDynamics),
        ("v1", PlainDynamics),
        ("v2", NormedDynamics),
        ("v3", BlockDynamics),
        ("memoryless", MemorylessDynamics),
    ],
)
def test_the_settings_name_the_dynamics(kind: str, expected: type[Dynamics]) -> None:
    assert type(make(kind)) is expected


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind: str) -> None:
    dynamics, settings = make(kind), KINDS[kind]
    deter = 0 if kind in MEMORYLESS else 8
    stoch, logits_shape = (6, (12,)) if settings.latent == "gaussian" else (12, (3, 4))
    embedding, action, first = sequence(7, 4)
    states, logits = dynamics.observe(embedding, action, first)
    assert (dynamics.deter_width, dynamics.stoch_width) == (deter, stoch)
    assert states.deter.shape == (7, 4, deter)
    assert states.stoch.shape == (7, 4, stoch)
    assert states.feature.shape == (7, 4, deter + stoch)
    assert logits.shape == dynamics.priors(states, action, first).shape == (7, 4, *logits_shape)
    assert dynamics.distribution(logits).kl(dynamics.distribution(logits)).shape == (7, 4)
    assert dynamics.initial(7).feature.shape == (7, deter + stoch)
    assert dynamics.imagine_step(states[:, -1], action[:, 0]).feature.shape == (7, deter + stoch)


def test_nothing_before_is_first_matters(dynamics: Dynamics) -> None:
    """Neither observations nor actions left of an episode's first row, nor the action on that row, bitwise."""
    embedding, action, first = sequence(2, 6)
    first[:, 3] = True
    before = observe(dynamics, embedding, action, first)
    prior_before = dynamics.priors(before, action, first)
    embedding, action = embedding.clone(), action.clone()
    embedding[:, :3], action[:, :4] = torch.randn(2, 3, 5), torch.randn(2, 4, 2)
    after = observe(dynamics, embedding, action, first)
    assert torch.equal(before.deter[:, 3:], after.deter[:, 3:])
    assert torch.equal(before.stoch[:, 3:], after.stoch[:, 3:])
    prior_after = dynamics.priors(after, action, first)
    assert torch.equal(prior_before[:, 3:], prior_after[:, 3:])
    assert not torch.equal(prior_before[:, 1:3], prior_after[:, 1:3])


def test_first_row_starts_from_zeros(recurrent: RecurrentDynamics) -> None:
    embedding, action, first = sequence(1, 1)
    flagged = observe(recurrent, embedding, action, ~first)
    zero = observe(recurrent, embedding, torch.zeros(1, 1, 2), first)
    assert torch.equal(flagged.deter, zero.deter)


def test_a_row_knows_the_action_that_led_to_it_and_none_later(dynamics: Dynamics) -> None:
    embedding, action, first = sequence(1, 5)
    before = dynamics.priors(observe(dynamics, embedding, action, first), action, first)
    action = action.clone()
    action[:, 2] += 1
    after = dynamics.priors(observe(dynamics, embedding, action, first), action, first)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2], after[:, 2])


def test_a_sequence_is_its_steps(dynamics: Dynamics) -> None:
    """Step by step, as an agent goes, the states are those of the whole sequence."""
    embedding, action, _ = sequence(2, 4)
    first = torch.tensor([[True, False, False, False], [False, False, True, False]])
    torch.manual_seed(1)
    states, logits = dynamics.observe(embedding, action, first)
    shape = (4, 2) if isinstance(dynamics, RecurrentDynamics) else (2, 4)
    torch.manual_seed(1)
    noise = torch.randn(*shape, 6) if dynamics.gaussian else torch.rand(*shape, 3)
    noise = noise if isinstance(dynamics, RecurrentDynamics) else noise.transpose(0, 1)
    latent, projected = dynamics.initial(2), dynamics.project(embedding)
    for t in range(4):
        latent, step = dynamics.observe_step(latent, action[:, t], projected[:, t], first[:, t], noise[t])
        assert torch.allclose(latent.feature, states[:, t].feature, atol=1e-5)
        assert torch.allclose(step, logits[:, t], atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_imagination_draws_from_the_prior(dynamics: Dynamics, temperature: float) -> None:
    """What a step imagines has the distribution that `priors` expects of the same step in a sequence."""
    embedding, action, first = sequence(1, 2)
    states = observe(dynamics, embedding, action, first)
    prior = dynamics.distribution(dynamics.priors(states, action, first)[0, 1], temperature)
    many = Latent(states.deter[0, :1].expand(8000, -1), states.stoch[0, :1].expand(8000, -1))
    with torch.no_grad():
        drawn = dynamics.imagine_step(many, action[0, 1:].expand(8000, -1), temperature).stoch
    if isinstance(prior, DiagonalNormal):
        assert torch.allclose(drawn.mean(0), prior.mean, atol=0.08)
        assert torch.allclose(drawn.std(0), prior.std, rtol=0.05)
    else:
        assert torch.allclose(drawn.mean(0), prior.probs.flatten(), atol=0.03)


def test_gradients_reach_the_action_through_an_imagined_state(dynamics: Dynamics) -> None:
    """By reparameterisation or straight through: what learning through the dream stands on."""
    action = torch.randn(3, 2, requires_grad=True)
    stoch = dynamics.imagine_step(dynamics.initial(3), action).stoch
    (stoch * torch.randn_like(stoch)).sum().backward()
    assert action.grad.abs().min() > 0


def test_straight_through_gradient_golden() -> None:
    """A one-hot state passes on the gradient of its mixed probabilities, to the logits it was drawn from."""
    dynamics, weight = make("laptop"), torch.randn(5, 12)
    embedding, action, first = sequence(5, 1)
    projected = dynamics.project(embedding[:, 0])
    state, logits = dynamics.observe_step(dynamics.initial(5), action[:, 0], projected, first[:, 0])
    (given,) = torch.autograd.grad((state.stoch * weight).sum(), logits, retain_graph=True)
    probs = (0.99 * torch.softmax(logits, -1) + 0.01 / 4).flatten(1)
    (expected,) = torch.autograd.grad((probs * weight).sum(), logits)
    assert set(state.stoch.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(given, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["laptop", "v2"])
def test_normed_cell_golden(kind: str) -> None:
    """h' = u tanh(r c) + (1 - u) h, r = sigmoid(.), u = sigmoid(. - 1), worked out from the same layers."""
    dynamics = make(kind)
    assert isinstance(dynamics, NormedDynamics)
    latent, action = Latent(torch.randn(3, 8), torch.randn(3, 12)), torch.randn(3, 2)
    x = dynamics.input(torch.cat([latent.stoch, action], -1))
    r, c, u = dynamics.gates(torch.cat([x, latent.deter], -1)).double().chunk(3, -1)
    keep = 1 / (1 + torch.exp(-(u - 1)))
    expected = keep * torch.tanh(c / (1 + torch.exp(-r))) + (1 - keep) * latent.deter
    assert torch.allclose(dynamics.advance(latent, action).double(), expected, atol=1e-6)


def test_plain_cell_is_torchs() -> None:
    dynamics = make("v1")
    assert isinstance(dynamics, PlainDynamics)
    theirs = torch.nn.GRUCell(8, 8)
    with torch.no_grad():
        for bias in (dynamics.input_gates.bias, dynamics.deter_gates.bias):
            bias.normal_()
        theirs.weight_ih.copy_(dynamics.input_gates.weight)
        theirs.weight_hh.copy_(dynamics.deter_gates.weight)
        theirs.bias_ih.copy_(dynamics.input_gates.bias)
        theirs.bias_hh.copy_(dynamics.deter_gates.bias)
    latent, action = Latent(torch.randn(3, 8), torch.randn(3, 6)), torch.randn(3, 2)
    linear = dynamics.input[0]
    x = torch.cat([latent.stoch, action], -1) @ linear.weight.T + linear.bias
    expected = theirs(torch.where(x > 0, x, torch.expm1(x)), latent.deter)
    assert torch.allclose(dynamics.advance(latent, action), expected, atol=1e-6)


def rms(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-4)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def test_block_cell_golden() -> None:
    """`_core` of DreamerV3's code, block by block."""
    dynamics = make("v3")
    assert isinstance(dynamics, BlockDynamics)
    initialise(dynamics)
    with torch.no_grad():
        for parameter in (dynamics.block[0].bias, dynamics.gates.bias):
            parameter.normal_()
    deter, stoch = torch.randn(3, 8), torch.randn(3, 12)
    action = torch.tensor([[0.5, -0.25], [3.0, -1.0], [-2.0, 7.0]])
    bounded = torch.tensor([[0.5, -0.25], [1.0, -1.0], [-1.0, 1.0]])
    x = torch.cat(
        [
            silu(rms(part @ layer[0].weight.T + layer[0].bias))
            for layer, part in zip(dynamics.inputs, (deter, stoch, bounded), strict=True)
        ],
        -1,
    )
    hidden, gates = dynamics.block[0], dynamics.gates
    rows = [torch.cat([deter[:, 2 * k : 2 * k + 2], x], -1) @ hidden.weight[k] + hidden.bias[k] for k in range(4)]
    rows = silu(rms(torch.cat(rows, -1)))
    expected = []
    for k in range(4):
        h = deter[:, 2 * k : 2 * k + 2]
        r, c, u = (rows[:, 2 * k : 2 * k + 2] @ gates.weight[k] + gates.bias[k]).chunk(3, -1)
        u = torch.sigmoid(u - 1)
        expected.append(u * torch.tanh(torch.sigmoid(r) * c) + (1 - u) * h)
    given = dynamics.advance(Latent(deter, stoch), action)
    assert torch.allclose(given, torch.cat(expected, -1), atol=1e-5)


@pytest.mark.parametrize(("kind", "layers"), [("laptop", 1), ("v1", 1), ("v2", 1), ("v3", 2), ("memoryless", 2)])
def test_layers_of_the_prior(kind: str, layers: int) -> None:
    hidden = make(kind).prior_logits.hidden
    assert sum(isinstance(layer, torch.nn.Linear) for layer in hidden) == layers


def test_posterior_is_a_layer_on_both_h_and_the_embedding() -> None:
    """V1's Dense([h, e]) with ELU, and a Dense, from the concatenation."""
    dynamics = make("v1")
    assert isinstance(dynamics, PlainDynamics)
    deter, embedding = torch.randn(3, 8), torch.randn(3, 5)
    weight = torch.cat([dynamics.from_deter.weight, dynamics.from_embedding.weight], 1)
    x = torch.cat([deter, embedding], 1) @ weight.T + dynamics.from_deter.bias
    last = dynamics.posterior_logits[-1]
    expected = torch.where(x > 0, x, torch.expm1(x)) @ last.weight.T + last.bias
    assert torch.allclose(dynamics.posterior(deter, dynamics.project(embedding)), expected, atol=1e-6)


def test_without_memory_the_latest_observation_decides_alone(memoryless: MemorylessDynamics) -> None:
    """No other row's observation, no action and no state before: bitwise, in a sequence and in a step."""
    embedding, action, first = sequence(2, 5)
    before = observe(memoryless, embedding, action, first)
    other, other_action, _ = sequence(2, 5)
    other[:, 3] = embedding[:, 3]
    after = observe(memoryless, other, other_action, ~first)
    assert torch.equal(before.stoch[:, 3], after.stoch[:, 3])
    assert not torch.equal(before.stoch[:, :3], after.stoch[:, :3])
    projected, noise = memoryless.project(embedding[:, 3]), torch.rand(2, 3 if not memoryless.gaussian else 6)
    steps = [
        memoryless.observe_step(latent, action[:, t], projected, first[:, t], noise)[0].stoch
        for t, latent in enumerate((memoryless.initial(2), before[:, 2]))
    ]
    assert torch.equal(steps[0], steps[1])


def test_without_memory_the_prior_is_of_the_state_before_and_the_action(memoryless: MemorylessDynamics) -> None:
    embedding, action, first = sequence(2, 4)
    first[1, 2] = True
    states = observe(memoryless, embedding, action, first)
    given = memoryless.priors(states, action, first)
    for row, t in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 3)):
        expected = memoryless.prior(states.stoch[row, t - 1], action[row, t])
        assert torch.allclose(given[row, t], expected, atol=1e-6)
    for row, t in ((0, 0), (1, 0), (1, 2)):  # nothing came before
        unknown = memoryless.distribution(given[row, t])
        if isinstance(unknown, DiagonalNormal):
            assert not unknown.mean.any()
            assert torch.allclose(unknown.std, torch.ones(6))
        else:
            assert torch.allclose(unknown.probs, torch.full((3, 4), 0.25))


def test_the_unknown_is_not_saved(memoryless: MemorylessDynamics) -> None:
    assert "unknown" not in memoryless.state_dict()


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

    def test_gaussian_heads_golden(self) -> None:
        """Disagreement: variance of the means; loss: the cross-entropy, from torch's KL and entropy."""
        ensemble = PriorEnsemble(changed(**GAUSSIAN))
        deter, target = torch.randn(5, 8), torch.randn(5, 12)
        mean, s = ensemble(deter).chunk(2, -1)
        assert mean.shape == (3, 5, 6)
        assert torch.allclose(ensemble.disagreement(deter), mean.var(0, unbiased=False).sum(-1), atol=1e-6)
        heads = Independent(Normal(mean, torch.log1p(torch.exp(s)) + 0.1), 1)
        target_mean, target_s = target.chunk(2, -1)
        posterior = Independent(Normal(target_mean, torch.log1p(torch.exp(target_s)) + 0.1), 1)
        expected = (kl_divergence(posterior.expand((3, 5)), heads) + posterior.entropy()).mean(0)
        assert torch.allclose(ensemble.loss(deter, DiagonalNormal(target)), expected, rtol=1e-4)
