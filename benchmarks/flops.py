"""What an update computes: parameters and floating-point operations, counted, on shapes alone, so for any size.

A multiplication and an addition count as two; only matrix products and convolutions count. The figures are for one
picture of a batch and for one imagined decision, of which an update has world.batch x world.length and policy.starts x
policy.horizon.

    python -m benchmarks.flops --variant v3 --size 200m
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import Settings, resolve
from pipeline.envs.car_racing.actions import action_bounds
from pipeline.episodes.windows import BlankWindows
from pipeline.learning.encoding import Rows
from pipeline.learning.imagination import Dream, imagine
from pipeline.learning.policy_loss import Critics, policy_loss
from pipeline.learning.returns import ReturnScale
from pipeline.learning.world_loss import world_loss
from pipeline.models.actor_critic import Actor, Critic
from pipeline.models.checkpoints import Interface, build_world
from pipeline.models.world_model import WorldModel

SHAPES_ALONE = torch.device("meta")


def count_world(model: WorldModel, settings: Settings) -> tuple[float, float]:
    """Operations for a picture of a batch, there and back, and for one that is only encoded."""
    actions, world = len(model.scale.low), settings.world
    windows = BlankWindows(world.length, settings.view.size, actions)
    batch = windows.sample(np.random.default_rng(0), world.batch).to(SHAPES_ALONE)
    with FlopCounterMode(display=False) as fitting:
        world_loss(model, batch, world).total.backward()
    with FlopCounterMode(display=False) as encoding, torch.no_grad():
        model.observe(batch.observation, batch.action, batch.is_first)
    pictures = world.batch * world.length
    return fitting.get_total_flops() / pictures, encoding.get_total_flops() / pictures


def count_policy(model: WorldModel, settings: Settings) -> float:
    """Operations for an imagined decision, with all that the actor and the critic learn from it."""
    policy, neutral = settings.policy, torch.zeros(len(model.scale.low))
    actor = Actor(model.features, model.settings, policy, neutral, neutral + 0.5).to(SHAPES_ALONE)
    critic, slow = (Critic(model.features, model.settings, policy).to(SHAPES_ALONE) for _ in range(2))
    critics = Critics(critic, slow.requires_grad_(False), ReturnScale(policy.return_rate).to(SHAPES_ALONE))
    windows = (policy.replay_length, policy.starts // policy.replay_length)
    nothing = torch.zeros(windows, device=SHAPES_ALONE)
    rows = Rows(nothing, nothing.bool(), nothing.bool()) if policy.replay_scale else None
    soft, dream = model.settings.goes_on == "soft", Dream(model, policy.temperature)
    with FlopCounterMode(display=False) as dreaming:
        with torch.set_grad_enabled(policy.gradient != "reinforce"):
            start = model.dynamics.initial(policy.starts, device=SHAPES_ALONE)
            trajectory = imagine(dream, actor, start, policy.horizon)
            outcomes = dream.outcomes(trajectory.latents[1 if policy.value == "next" else 0 :])
        loss = policy_loss(actor, critics, trajectory, outcomes, policy, policy.entropy, soft=soft, rows=rows)
        (loss.actor + loss.critic).backward()
    operations: int = dreaming.get_total_flops()
    return operations / (policy.starts * policy.horizon)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="laptop")
    parser.add_argument("--size")
    args = parser.parse_args()
    precise = [("world.precision", "float32"), ("policy.precision", "float32")]
    settings = resolve(variant=args.variant, size=args.size, values=precise)
    model = build_world(settings.model, Interface(settings.view, *action_bounds(True))).to(SHAPES_ALONE)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    picture, encoded = count_world(model, settings)
    decision = count_policy(model.requires_grad_(False), settings)
    world, policy = settings.world, settings.policy
    fitting, dreaming = picture * world.batch * world.length, decision * policy.starts * policy.horizon
    print(f"world model            {parameters / 1e6:10.2f} M parameters")
    print(f"a picture of a batch   {picture / 1e9:10.3f} GFLOP, forward and backward")
    print(f"a picture encoded      {encoded / 1e9:10.3f} GFLOP")
    print(f"an imagined decision   {decision / 1e9:10.3f} GFLOP, all that an update makes of it")
    print(f"a world update         {fitting / 1e12:10.3f} TFLOP, {world.batch} x {world.length} pictures")
    print(f"a policy update        {dreaming / 1e12:10.3f} TFLOP, {policy.starts} x {policy.horizon} decisions")


if __name__ == "__main__":
    main()
