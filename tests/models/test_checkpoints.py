"""Weights files: they come back as they were, and what does not fit is refused in one sentence."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.artifacts import load_weights, save_weights
from pipeline.config import VARIANTS, ModelSettings, PolicySettings, ViewSettings, resolve
from pipeline.envs.car_racing.actions import action_bounds
from pipeline.errors import StageError, UsageError
from pipeline.models import checkpoints
from pipeline.models.actor_critic import Actor, Critic
from pipeline.models.checkpoints import (
    Interface,
    build_world,
    load_actor,
    load_critic,
    load_world,
    save_actor,
    save_critic,
    save_world,
)

SIZES = ModelSettings(deter=8, groups=2, classes=4, hidden=8, units=8, depth=2, ensemble=2, ensemble_units=4)
INTERFACE = Interface(ViewSettings(action_repeat=3), *action_bounds(True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "demo" / "world" / "model.safetensors"
    save_world(path, build_world(SIZES, INTERFACE), INTERFACE)
    return path


def test_a_world_comes_back_with_all_that_is_needed_to_use_it(path: Path) -> None:
    world = load_world(path)
    assert world.settings == SIZES
    assert world.interface == INTERFACE
    tensors, _ = load_weights(path)
    assert all(torch.equal(tensors[name], value) for name, value in world.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in world.model.parameters())


def test_the_environment_is_named_where_it_is_not_carracing_as_it_comes(path: Path) -> None:
    assert load_weights(path)[1]["view"] == {"action_repeat": 3, "size": 64, "continuous": True}
    other = Interface(ViewSettings(env="Reach-v0", env_kwargs='{"speed": 2}', grey=True), (-1.0, 0.0), (1.0, 2.0))
    save_world(path, build_world(SIZES.model_copy(update={"cost": False}), other), other)
    assert load_world(path).interface == other


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_comes_back(variant: str, tmp_path: Path) -> None:
    settings, path = resolve("tiny", variant=variant).model, tmp_path / "model.safetensors"
    interface = Interface(ViewSettings(continuous=False), (0.0,) * 5, (1.0,) * 5)
    model = build_world(settings, interface)
    save_world(path, model, interface)
    world = load_world(path)
    assert (world.settings, world.interface) == (settings, interface)
    assert world.model.discrete
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in world.model.state_dict().items())


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "laptop"])
def test_the_weights_of_another_variant_are_refused(variant: str, path: Path) -> None:
    tensors, header = load_weights(path)
    header["model"] = resolve("tiny", variant=variant).model.model_dump()
    save_weights(path, tensors, header)
    with pytest.raises(StageError, match=r"^[^\n]*does not fit its own settings, in the tensor [^\n]*$"):
        load_world(path)


@pytest.mark.parametrize("distribution", ["wide-normal", "bounded-normal", "tanh-normal", "truncated-normal"])
def test_an_actor_comes_back(distribution: str, path: Path, tmp_path: Path) -> None:
    world = load_world(path)
    policy = PolicySettings.model_validate({"actor_layers": 3, "distribution": distribution})
    actor = Actor(world.model.features, SIZES, policy, torch.full((3,), 0.1), torch.full((3,), 0.3))
    save_actor(tmp_path / "actor.safetensors", actor, policy, "hash")
    loaded = load_actor(tmp_path / "actor.safetensors", world)
    feature = torch.randn(4, world.model.features)
    assert type(loaded(feature)) is type(actor(feature))
    assert torch.equal(loaded(feature).executed_mean, actor(feature).executed_mean)


def test_an_actor_of_discrete_actions_comes_back(tmp_path: Path) -> None:
    interface, policy = Interface(ViewSettings(continuous=False), (0.0,) * 5, (1.0,) * 5), PolicySettings()
    save_world(tmp_path / "world.safetensors", build_world(SIZES, interface), interface)
    world = load_world(tmp_path / "world.safetensors")
    actor = Actor(world.model.features, SIZES, policy, torch.zeros(5), torch.ones(5), discrete=True)
    save_actor(tmp_path / "actor.safetensors", actor, policy, "hash")
    feature = torch.randn(4, world.model.features)
    action = load_actor(tmp_path / "actor.safetensors", world)(feature).executed_mean
    assert torch.equal(action, actor(feature).executed_mean)
    assert torch.equal(action.sum(-1), torch.ones(4))


def test_an_actor_of_the_other_kind_of_actions_is_refused(path: Path, tmp_path: Path) -> None:
    world, policy = load_world(path), PolicySettings()
    actor = Actor(world.model.features, SIZES, policy, torch.zeros(5), torch.ones(5), discrete=True)
    save_actor(tmp_path / "actor.safetensors", actor, policy, "hash")
    with pytest.raises(StageError, match="does not fit its own settings"):
        load_actor(tmp_path / "actor.safetensors", world)


def test_half_precision_is_read(path: Path) -> None:
    tensors, header = load_weights(path)
    save_weights(path, {name: tensor.half() for name, tensor in tensors.items()}, header)
    assert next(load_world(path).model.parameters()).dtype == torch.float32


def test_models_of_before_there_were_mirrors_fine_inputs_and_costs_have_none(path: Path) -> None:
    interface = load_world(path).interface
    former = {"mirror": False, "fine": False, "cost": False}
    plain = SIZES.model_copy(update=former)
    save_world(path, build_world(plain, interface), interface)
    tensors, header = load_weights(path)
    assert [header["model"].pop(name) for name in former] == [False] * 3
    save_weights(path, tensors, header)
    assert load_world(path).settings == plain


def test_a_cost_head_that_has_nothing_to_learn_is_not_built_but_read(path: Path) -> None:
    tensors, header = load_weights(path)
    save_weights(path, tensors, header | {"view": header["view"] | {"env": "Pendulum-v1"}})
    world = load_world(path)
    assert world.model.cost_of is None
    with pytest.raises(UsageError, match=r"to be avoided in Pendulum-v1"):
        build_world(world.settings, world.interface)


def test_a_critic_comes_back_with_what_its_values_mean_and_one_of_before_the_symlog_was_steep(
    path: Path, tmp_path: Path
) -> None:
    world, kept = load_world(path), tmp_path / "critic.safetensors"
    policy = PolicySettings(steepness=3.0, discount=0.9, penalty=0.5, cost=2.0, cost_ends=0.5)
    critic = Critic(world.model.features, SIZES, policy)
    save_critic(kept, critic, policy, "hash")
    loaded, feature = load_critic(kept, world), torch.randn(4, world.model.features)
    assert loaded.settings == policy
    assert torch.equal(loaded.critic(feature).mean, critic(feature).mean)
    tensors, header = load_weights(kept)
    assert [header.pop(name) for name in ("steepness", "cost", "cost_ends")] == [3.0, 2.0, 0.5]
    save_weights(kept, tensors, header)
    assert load_critic(kept, world).settings == policy.model_copy(
        update={"steepness": 1.0, "cost": 0.0, "cost_ends": 0.0}
    )


Harm = Callable[[dict[str, Tensor], dict[str, Any]], object]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda tensors, header: header.update(format=99), "'world' of format 99"),
        (lambda tensors, header: header.update(kind="policy"), "holds 'policy' of format"),
        (lambda tensors, header: header.pop("model"), "damaged header"),
        (lambda tensors, header: header["model"].update(deter=10**9), r"damaged header .*model\.deter"),
        (lambda tensors, header: header["model"].update(surprise=1), "damaged header"),
        (lambda tensors, header: header.update(low="ab"), "damaged header"),
        (lambda tensors, header: header.update(low=[0, 0], high=[1, 1]), "its actions are not CarRacing's"),
        (lambda tensors, header: header.update(high=[1, 1, 1e308]), "its actions are not CarRacing's"),
        (lambda tensors, header: header["model"].update(deter=16), "does not fit its own settings"),
        (lambda tensors, header: tensors.pop("scale.low"), r"in the tensor scale\.low"),
        (lambda tensors, header: tensors.update(extra=torch.ones(1)), "in the tensor extra"),
        (lambda tensors, header: tensors.update({"scale.low": torch.ones(3).int()}), r"in the tensor scale\.low"),
        (lambda tensors, header: tensors["scale.low"].fill_(float("nan")), "not finite"),
        (lambda tensors, header: tensors["scale.low"].fill_(float("-inf")), "not finite"),
        (
            lambda tensors, header: tensors.update({"scale.low": tensors["scale.low"].to(torch.float8_e5m2)}),
            r"in the tensor scale\.low .*float8",
        ),
        (lambda tensors, header: header["model"].update(VARIANTS["v1"]["model"]), "describes a larger network"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, harm: Harm, message: str) -> None:
    tensors, header = load_weights(path)
    harm(tensors, header)
    save_weights(path, tensors, header)
    with pytest.raises(StageError, match=rf"model\.safetensors .*{message}.*dreamer fit-world --run demo --fresh"):
        load_world(path)


HUGE = {
    "deter": 16384, "hidden": 8192, "units": 8192, "layers": 8, "depth": 256, "groups": 128, "classes": 256,
    "ensemble": 32, "ensemble_units": 4096, "bins": 1023,
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_that_the_file_does_not_hold_is_not_built(variant: str, tmp_path: Path) -> None:
    """The largest that the bounds allow takes up to 46 GiB."""
    path, settings = tmp_path / "model.safetensors", resolve("tiny", variant=variant).model
    save_world(path, build_world(settings, INTERFACE), INTERFACE)
    tensors, header = load_weights(path)
    header["model"] |= HUGE | ({"ensemble": 0} if variant == "memoryless" else {})
    save_weights(path, tensors, header)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StageError, match="describes a larger network than it holds"):
        load_world(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "kB"


def test_a_network_beyond_the_machine_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = sum(tensor.numel() for tensor in build_world(SIZES, INTERFACE).state_dict().values())
    monkeypatch.setattr(checkpoints, "machine_memory", lambda: 2 * numbers)
    with pytest.raises(UsageError, match="take more than the 0 GiB of this machine"):
        build_world(SIZES, INTERFACE)


def test_reading_draws_as_many_random_numbers_as_building(path: Path) -> None:
    torch.manual_seed(0)
    build_world(SIZES, INTERFACE)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    load_world(path)
    assert torch.equal(torch.get_rng_state(), after), "what is random after it stays what it was"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("actor_layers", 0, "actor_layers"),
        ("actor_layers", 9, "actor_layers"),
        ("actor_layers", None, "actor_layers"),
        ("distribution", "normal", "distribution"),
    ],
)
def test_an_actor_with_an_odd_header_is_refused(
    name: str, value: object, message: str, path: Path, tmp_path: Path
) -> None:
    header = {"actor_layers": 2, "distribution": "bounded-normal", name: value}
    save_weights(tmp_path / "actor.safetensors", {}, {"format": 1, "kind": "policy", **header})
    with pytest.raises(StageError, match=f"damaged header .*{message}"):
        load_actor(tmp_path / "actor.safetensors", load_world(path))
    del header[name]
    save_weights(tmp_path / "actor.safetensors", {}, {"format": 1, "kind": "policy", **header})
    with pytest.raises(StageError, match=f"damaged header .*{name}"):
        load_actor(tmp_path / "actor.safetensors", load_world(path))
