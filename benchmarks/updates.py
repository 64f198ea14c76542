"""What an update costs: ours, and the same model written plainly, side by side on the same batches.

The plain version has the same parameters, losses, optimizers and allocator, and is what one would write first: float32,
pictures channels first, every product of a step at that step, differentiated automatically, heads and ensemble asked
state by state and head by head. The losses of both are compared before they are timed, turn by turn.

    python -m benchmarks.updates --batch 16 --length 32 --starts 512
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.allocator import keep_memory
from pipeline.config import PolicySettings, Settings, WorldSettings, resolve
from pipeline.envs.car_racing.actions import action_bounds
from pipeline.episodes.windows import Batch
from pipeline.learning.imagination import Dream, Outcomes
from pipeline.learning.policy_learner import PolicyLearner
from pipeline.learning.precision import autocast, resolve_precision
from pipeline.learning.world_learner import CONTEXT, HORIZONS, WorldLearner
from pipeline.learning.world_loss import world_loss
from pipeline.models.actor_critic import Actor
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.dynamics import Latent, NormedDynamics, PriorEnsemble, stack
from pipeline.models.pictures import PatchDecoder, PatchEncoder, to_picture
from pipeline.models.world_model import WorldModel

CPU = torch.device("cpu")
Update = Callable[[int], object]


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise the channels of maps (N, C, height, width)."""
    normed: Tensor = norm(x.permute(0, 2, 3, 1))
    return normed.permute(0, 3, 1, 2).contiguous()


class PlainEncoder(PatchEncoder):
    """Convolutions alone, channels first."""

    def forward(self, observation: Tensor) -> Tensor:
        """See `PatchEncoder`."""
        first = self.first.weight.unflatten(1, (-1, self.patch, self.patch, 3)).permute(0, 1, 4, 2, 3).flatten(1, 2)
        x = to_picture(observation.contiguous()) - 0.5
        if self.fine:
            folds = (((observation.float() + shift) % 32 - 15.5).abs() / 16 - 0.5 for shift in (0, 8))
            x = torch.cat([x, *folds], 1)  # (N, 9, S, S)
        x = F.conv2d(x, first, self.first.bias, self.patch)
        x = self.activation(_normed(self.norms[0], x))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            x = self.activation(_normed(norm, convolution(x)))
        flat: Tensor = x.permute(0, 2, 3, 1).flatten(1)
        return flat


class PlainDecoder(PatchDecoder):
    """The same."""

    def forward(self, feature: Tensor) -> Tensor:
        """See `PatchDecoder`."""
        x = self.start(feature).unflatten(-1, self.map).permute(0, 3, 1, 2).contiguous()
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = convolution(self.activation(_normed(norm, x)))
        x = self.last(self.activation(_normed(self.norms[-1], x)).permute(0, 2, 3, 1))  # (N, S/p, S/p, p p 3)
        x = x.unflatten(-1, (self.patch**2, 3)).transpose(-1, -2).flatten(3).permute(0, 3, 1, 2)
        return self.colours(F.pixel_shuffle(x.contiguous(), self.patch))


class PlainDynamics(NormedDynamics):
    """One step after the other."""

    def observe(self, embedding: Tensor, action: Tensor, is_first: Tensor) -> tuple[Latent, Tensor]:
        """See `Dynamics.observe`."""
        b, t = is_first.shape
        latent, noise = self.initial(b), self._noise(t, b, device=embedding.device)
        states, logits = [], []
        for i in range(t):
            projected = self.project(embedding[:, i])
            latent, found = self.observe_step(latent, action[:, i], projected, is_first[:, i], noise[i])
            states.append(latent)
            logits.append(found)
        return stack(states, 1), torch.stack(logits, 1)

    def priors(self, states: Latent, action: Tensor, is_first: Tensor) -> Tensor:
        """See `Dynamics.priors`."""
        return torch.stack([self.prior(deter) for deter in states.deter.unbind(1)], 1)


class PlainEnsemble(PriorEnsemble):
    """One head after the other."""

    def forward(self, deter: Tensor) -> Tensor:
        """See `PriorEnsemble.forward`."""
        parts = zip(self.hidden.weight.chunk(len(self.out)), self.hidden.bias.chunk(len(self.out)), strict=True)
        hidden = [F.silu(F.linear(deter, weight, bias)) for weight, bias in parts]
        logits = [x @ out + bias for x, out, bias in zip(hidden, self.out, self.bias, strict=True)]
        shaped: Tensor = torch.stack(logits).unflatten(-1, self.shape)
        return shaped


class PlainDream(Dream):
    """Asked at each step."""

    def outcomes(self, latents: Latent) -> Outcomes:
        """See `Dream.outcomes`."""
        found = [super(PlainDream, self).outcomes(latents[t]) for t in range(len(latents.deter))]
        return Outcomes(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def plainly(model: WorldModel) -> WorldModel:
    """The same model, with the same weights, written plainly."""
    plain = deepcopy(model)
    plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    parts = {plain.encoder: PlainEncoder, plain.decoder: PlainDecoder, plain.dynamics: PlainDynamics}
    for part, kind in (parts | {plain.ensemble: PlainEnsemble}).items():
        part.__class__ = kind
    return plain


class RandomWindows:
    """One window of noise, again and again."""

    def __init__(self, batch: int, length: int) -> None:
        torch.manual_seed(0)
        frames = torch.randint(256, (batch, length, 64, 64, 3), dtype=torch.uint8).permute(0, 1, 4, 2, 3)
        nothing = torch.zeros(batch, length, dtype=torch.bool)
        self.batch = Batch(frames, torch.rand(batch, length, 3), torch.randn(batch, length), nothing, nothing)

    def sample(self, rng: np.random.Generator, batch: int) -> Batch:
        """The window, whatever is asked for."""
        return self.batch

    def batches(self, seed: int, start: int, stop: int, batch: int) -> list[Batch]:
        """The same."""
        return [self.batch] * (stop - start)


def side_by_side(updates: Mapping[str, Update], rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns, after two turns that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for index in range(rounds + 2):
        for name, update in updates.items():
            started = time.perf_counter()
            update(index)
            seconds[name].append(time.perf_counter() - started)
    return {name: median(each[2:]) for name, each in seconds.items()}


def multiply_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    a = torch.randn(2048, 2048).to(dtype)
    best = min(side_by_side({"": lambda _: a @ a}, 5).values())
    return 2 * 2048**3 / best


def settings_for(batch: int, length: int, starts: int, *, fine: bool = True) -> Settings:
    """The default settings with other batches, in the precision that is the fastest here."""
    precision = resolve_precision("auto", CPU)
    values = [("world.batch", batch), ("world.length", length), ("policy.starts", starts), ("model.fine", fine)]
    return resolve(values=[*values, ("world.precision", precision), ("policy.precision", precision)])


def new_model(settings: Settings) -> WorldModel:
    """A world model of these settings, for CarRacing."""
    torch.manual_seed(0)
    return build_world(settings.model, Interface(settings.view, *action_bounds(True)))


def world_update(model: WorldModel, settings: WorldSettings, rounds: int) -> Update:
    """An update of the world model, which can be called so many times."""
    windows = RandomWindows(settings.batch, settings.length)
    held_out = RandomWindows(64, CONTEXT + max(HORIZONS))
    settings = settings.model_copy(update={"updates": rounds})
    learner = WorldLearner(model, settings, windows, held_out, 0)  # type: ignore[arg-type]
    learner._batches = iter(windows.batches(0, 0, rounds, 0))
    return learner.update


def policy_update(model: WorldModel, settings: PolicySettings, dream: type[Dream] = Dream) -> Update:
    """An update of actor and critic."""
    own = deepcopy(model).requires_grad_(False)
    if settings.penalty == 0:
        own.settings = own.settings.model_copy(update={"ensemble": 0})
    torch.manual_seed(0)
    actor = Actor(own.features, own.settings, settings, torch.zeros(3), torch.full((3,), 0.5))
    learner = PolicyLearner(own, own.dynamics.initial(4096), actor, settings)
    learner.dream = dream(own, settings.temperature)
    return learner.update


def world_updates(model: WorldModel, settings: Settings, rounds: int) -> Mapping[str, Update]:
    """An update of the world model in each way; checks that they have one loss."""
    batch = RandomWindows(settings.world.batch, settings.world.length).batch
    single, whole = {"precision": "float32"}, {"precision": "float32", "decode_share": 1.0}
    found, updates = {}, {}
    for name, own, changed in (
        ("ours", model, {}),
        ("ours, float32", deepcopy(model), single),
        ("plain, float32", plainly(model), single),
        ("plain, float32, every picture decoded", plainly(model), whole),
    ):
        world = settings.world.model_copy(update=changed)
        torch.manual_seed(0)
        with autocast(CPU, world.precision), torch.no_grad():
            found[name] = float(world_loss(own, batch, world).total)
        updates[name] = world_update(own, world, rounds)
    same = abs(found["ours, float32"] - found["plain, float32"]) / abs(found["plain, float32"])
    assert same < 1e-5, found
    print(f"world model, the same loss in float32 within {same:.0e}, in {settings.world.precision} ", end="")
    print(f"within {abs(found['ours'] - found['plain, float32']) / found['plain, float32']:.0e}")
    return updates


def policy_updates(model: WorldModel, settings: Settings) -> Mapping[str, Update]:
    """An update of actor and critic in each way, with and without the penalty."""
    single = settings.policy.model_copy(update={"precision": "float32"})
    return {
        "ours, no penalty": policy_update(model, settings.policy.model_copy(update={"penalty": 0.0})),
        "ours": policy_update(model, settings.policy),
        "plain, float32": policy_update(plainly(model), single, PlainDream),
    }


def table(title: str, updates: Mapping[str, Update], rounds: int, rate: float) -> None:
    """Time them and print."""
    with FlopCounterMode(display=False) as counter:
        updates["ours"](0)
    operations = counter.get_total_flops()
    seconds = side_by_side(updates, rounds)
    print(f"\n| {title}, {operations / 1e9:.0f} GFLOP | ms | times ours | share of the product's rate |")
    print("|---|---|---|---|")
    for name, each in seconds.items():
        print(f"| {name} | {1e3 * each:.0f} | {each / seconds['ours']:.2f} | {operations / each / rate:.0%} |")


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--starts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--plain-inputs", action="store_true", help="colours as they are, without fine inputs")
    args = parser.parse_args()

    kept = keep_memory()
    settings = settings_for(args.batch, args.length, args.starts, fine=not args.plain_inputs)
    precision = settings.world.precision
    rate = multiply_rate(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, memory kept: {kept}, ", end="")
    print(f"{precision} products at {rate / 1e9:.0f} GFLOP/s")
    model = new_model(settings)
    worlds = world_updates(deepcopy(model), settings, args.rounds + 3)
    table(f"world update, {args.batch} x {args.length}", worlds, args.rounds, rate)
    policies = policy_updates(model, settings)
    table(f"policy update, {args.starts} x {settings.policy.horizon}", policies, args.rounds, rate)


if __name__ == "__main__":
    main()
