"""How fast CarRacing-v3 gives the agent its pictures: ours and gymnasium's, side by side.

Both environments are driven by the same random actions on the same tracks, in turns, decision by decision, so
that whatever else the machine does meets both. Every picture that the agent sees is compared, whole (96x96).

    python -m benchmarks.collect --episodes 8
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean, median
from typing import TypeVar

import gymnasium
import numpy as np

from pipeline.envs.actions import Action
from pipeline.envs.random_policies import POLICIES, make_policy
from pipeline.envs.tracks import episode_seed
from pipeline.envs.view import AgentView

WHOLE = 96  # pixels: the observation is compared before it is made smaller
T = TypeVar("T")


@dataclass
class Tally:
    """Seconds an environment step, of each decision, by ours and by gymnasium; and what was compared."""

    ours: list[float] = field(default_factory=list)
    stock: list[float] = field(default_factory=list)
    frames: int = 0
    differing_pixels: int = 0
    differing_rewards: int = 0

    def compare(self, ours: np.ndarray, stock: np.ndarray) -> None:
        """Count the pixels in which ours, (3, 96, 96), is not gymnasium's, (96, 96, 3)."""
        self.frames += 1
        self.differing_pixels += int((ours.transpose(1, 2, 0) != stock).any(axis=2).sum())


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """Call, and return the result and the seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def drive(view: AgentView, stock: gymnasium.Env[np.ndarray, Action], args: argparse.Namespace, tally: Tally) -> None:
    """Drive both for `args.episodes` episodes."""

    def stock_step() -> tuple[np.ndarray, float, bool, int]:
        reward, taken = 0.0, 0
        over = False
        while not over and taken < args.action_repeat:
            frame, step_reward, terminated, truncated, _ = stock.step(action)
            reward += float(step_reward)
            taken += 1
            over = terminated or truncated
        return frame, reward, over, taken

    for episode in range(args.episodes):
        policy = make_policy(args.policy, np.random.default_rng([args.seed, episode]))
        track = episode_seed(args.seed, episode)
        tally.compare(view.reset(track), stock.reset(seed=track)[0])
        for _ in range(args.decisions):
            action = policy()
            step, our_seconds = timed(lambda: view.step(action))  # noqa: B023
            (frame, reward, over, taken), stock_seconds = timed(stock_step)
            tally.ours.append(our_seconds / taken)
            tally.stock.append(stock_seconds / taken)
            tally.compare(step.observation, frame)
            tally.differing_rewards += step.reward != reward
            if over:
                break


def report(tally: Tally, action_repeat: int) -> str:
    """The figures as text."""
    lines = [f"{'env steps/s, one core':<34}{'median':>9}{'mean':>9}"]
    for name, times in (
        ("gym.make, stepped", tally.stock),
        (f"ours, every {action_repeat}th step drawn", tally.ours),
    ):
        lines.append(f"{name:<34}{1 / median(times):>9.0f}{1 / mean(times):>9.0f}")
    ratios = (f"{f(tally.stock) / f(tally.ours):.1f}x" for f in (median, mean))
    lines.append("{:<34}{:>9}{:>9}".format("ratio", *ratios))
    lines.append(
        f"{tally.frames} pictures of 96x96 compared: {tally.differing_pixels} pixels differ,"
        f" {tally.differing_rewards} rewards differ"
    )
    return "\n".join(lines)


def main() -> None:
    """Parse the options, drive, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--decisions", type=int, default=66, help="of an episode, at most (default 66)")
    parser.add_argument("--action-repeat", type=int, default=4)
    parser.add_argument("--policy", choices=sorted(POLICIES), default="mixture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    tally = Tally()
    with AgentView(action_repeat=args.action_repeat, size=WHOLE) as view:
        stock = gymnasium.make("CarRacing-v3")
        drive(view, stock, args, tally)
        stock.close()
    print(report(tally, args.action_repeat))


if __name__ == "__main__":
    main()
