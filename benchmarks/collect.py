"""How fast CarRacing-v3 gives the agent its pictures: ours and gymnasium's, side by side.

Both are driven by the same random actions on the same tracks. They take turns of some decisions, so that whatever
else the machine does meets both, while the processor's caches belong to one at a time, as they do in use. Every
picture that the agent sees is compared, whole (96x96).

    python -m benchmarks.collect --episodes 8
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import NamedTuple

import gymnasium
import numpy as np

from pipeline.config import ViewSettings
from pipeline.envs.actions import Action
from pipeline.envs.car_racing.drivers import POLICIES, make_policy
from pipeline.envs.car_racing.view import CarRacingView
from pipeline.envs.tracks import episode_seed
from pipeline.envs.view import AgentView
from pipeline.episodes.recording import record

WHOLE = 96  # pixels: the observation is compared before it is made smaller
TURN = 11  # decisions


class Outcome(NamedTuple):
    """What came of a decision, with the picture (96, 96, 3)."""

    picture: np.ndarray
    reward: float
    over: bool


Step = Callable[[Action], Outcome]


@dataclass
class Tally:
    """Seconds of each decision, by ours and by gymnasium; and what was compared."""

    ours: list[float] = field(default_factory=list)
    stock: list[float] = field(default_factory=list)
    frames: int = 0
    differing_pixels: int = 0
    differing_rewards: int = 0

    def compare(self, ours: np.ndarray, stock: np.ndarray) -> None:
        """Count the pixels in which two pictures differ."""
        self.frames += 1
        self.differing_pixels += int((ours != stock).any(axis=2).sum())


def our_step(view: AgentView) -> Step:
    """A decision in our environment."""

    def step(action: Action) -> Outcome:
        found = view.step(action)
        return Outcome(found.observation.transpose(1, 2, 0), found.reward, found.terminated or found.truncated)

    return step


def stock_step(env: gymnasium.Env[np.ndarray, Action], repeat: int) -> Step:
    """A decision in gymnasium's own: `repeat` steps, or until the episode ends."""

    def step(action: Action) -> Outcome:
        total, left, over = 0.0, repeat, False
        while left and not over:
            picture, reward, terminated, truncated, _ = env.step(action)
            total, left, over = total + float(reward), left - 1, terminated or truncated
        return Outcome(picture, total, over)

    return step


def drive(step: Step, actions: Sequence[Action], seconds: list[float]) -> list[Outcome]:
    """Decide until the actions or the episode are at their end, and note how long each decision takes."""
    outcomes: list[Outcome] = []
    for action in actions:
        start = time.perf_counter()
        outcomes.append(step(action))
        seconds.append(time.perf_counter() - start)
        if outcomes[-1].over:
            break
    return outcomes


def measure(view: AgentView, stock: gymnasium.Env[np.ndarray, Action], args: argparse.Namespace) -> Tally:
    """Drive both for `args.episodes` episodes."""
    tally = Tally()
    ours, theirs = our_step(view), stock_step(stock, args.action_repeat)
    for episode in range(args.episodes):
        policy = make_policy(args.policy, np.random.default_rng([args.seed, episode]))
        track = episode_seed(args.seed, episode)
        actions = list(record(view, policy, track, policy=policy.name, limit=args.decisions).actions)
        tally.compare(view.reset(track).transpose(1, 2, 0), stock.reset(seed=track)[0])
        for first in range(0, len(actions), TURN):
            turn = actions[first : first + TURN]
            both = drive(ours, turn, tally.ours), drive(theirs, turn, tally.stock)
            for one, other in zip(*both, strict=True):
                tally.compare(one.picture, other.picture)
                tally.differing_rewards += one[1:] != other[1:]
            if one.over:
                break
    return tally


def report(tally: Tally, action_repeat: int) -> str:
    """The figures as text."""
    lines = [f"{'env steps/s, one core':<34}{'median':>9}{'mean':>9}"]
    for name, times in (
        ("gym.make, stepped", tally.stock),
        (f"ours, every {action_repeat}th step drawn", tally.ours),
    ):
        lines.append(f"{name:<34}{action_repeat / median(times):>9.0f}{action_repeat / mean(times):>9.0f}")
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

    with CarRacingView(ViewSettings(action_repeat=args.action_repeat, size=WHOLE)) as view:
        stock = gymnasium.make("CarRacing-v3")
        tally = measure(view, stock, args)
        stock.close()
    print(report(tally, args.action_repeat))


if __name__ == "__main__":
    main()
