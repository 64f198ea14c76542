"""How well the variants drive: the same random data, the same minutes on the same machine, several seeds each.

Each gets the sizes and step sizes of `variants.toml` beside this file and what `_OWN` says below, fits its world model
and its policy for so many minutes, and drives the report tracks. With `--jobs 2`, two runs at a time have one thread
each. What is done already is not done again.

    dreamer collect --preset demo --data demo
    python -m benchmarks.variants --data demo --world-minutes 5 --policy-minutes 2 --jobs 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pipeline.artifacts import Run
from pipeline.config import VARIANTS
from pipeline.scores import mean_interval

_SETTINGS = Path(__file__).with_suffix(".toml")

_UNSCALED: dict[str, float | str] = {"policy.actor_rate": 1e-4, "policy.critic_rate": 3e-4, "policy.entropy": 0.03}
_SHARP: dict[str, float | str] = {"model.encoder": "patches", "world.learning_rate": 1e-3}
_CALM: dict[str, float | str] = {"policy.entropy": 0.4, "policy.discount": 0.95}
_OWN: dict[str, dict[str, float | str]] = {
    "laptop": {"model.mirror": False, "policy.distribution": "bounded-normal", "policy.cost_ends": 0.0},  # as measured
    "memoryless": _UNSCALED | _SHARP | _CALM,
    "v1": _UNSCALED,
    "v2": {"policy.slow_every": 20, "policy.entropy": 0.01},
    "v3": {"model.depth": 8, "world.batch": 4, "world.learning_rate": 1e-3, "policy.slow_rate": 0.1},
}
"""What a variant needs in minutes, found on the selection tracks; docs/variants.md has the measurements.

Where returns are not scaled, so much larger an entropy is what 3e-4 is where they are: without it the actor is at the
bounds for good in a hundred updates. Without a slow critic, larger steps let the values run away. A slow copy made
every 100 updates is made too seldom, and full convolutions of version 3's width allow too few updates. Without memory,
a picture must tell the speed, which takes many updates; and the dream does not know what jerks do to a fast car.
"""


@dataclass(frozen=True)
class Entry:
    """One run of a variant.

    Attributes:
        variant, seed: which.
        run: its folder.
    """

    variant: str
    seed: int
    run: Run

    def commands(self, args: argparse.Namespace) -> Iterator[Sequence[str]]:
        """The stages from the data to the score, as a user would type them."""
        run, workers = ("--run", self.run.root.name, "--quiet"), ("--workers", "1") if args.jobs > 1 else ()
        chosen = ("--variant", self.variant, "--config", str(_SETTINGS), "--seed", str(self.seed))
        own = {name: ("--set", f"{name}={value}") for name, value in _OWN[self.variant].items()}
        world = itertools.chain(*(option for name, option in own.items() if not name.startswith("policy.")))
        policy = itertools.chain(*(option for name, option in own.items() if name.startswith("policy.")))
        yield ("fit-world", *run, "--data", args.data, *chosen, *world, "--minutes", str(args.world_minutes))
        yield ("fit-policy", *run, *policy, "--minutes", str(args.policy_minutes))
        yield ("evaluate", *run, "--set", f"evaluate.tracks={args.tracks}", *workers)

    def drive(self, args: argparse.Namespace) -> None:
        """Run all stages, one after the other."""
        threads = {"OMP_NUM_THREADS": "1"} if args.jobs > 1 else {}
        for command in self.commands(args):
            print("dreamer", *command, flush=True)
            subprocess.run([sys.executable, "-m", "pipeline", *command], env={**os.environ, **threads}, check=True)

    def found(self) -> dict[str, Any]:
        """What its files say."""
        read = {name: json.loads((self.run.root / name).read_text()) for name in _FILES}
        world, policy, evaluation = (read[name] for name in _FILES)
        return {
            "scores": [episode["score"] for episode in evaluation["drives"]["policy"]["episodes"]],
            "laps": evaluation["drives"]["policy"]["summary"]["laps"],
            "world": (world["done"], world["facts"]["seconds"]),
            "policy": (policy["done"], policy["facts"]["seconds"]),
            "dream": [evaluation["dream"][horizon] for horizon in ("15", "250")],
        }


_FILES = ("world/manifest.json", "policy/manifest.json", "evaluation/evaluation.json")


def row(variant: str, entries: Sequence[Entry]) -> dict[str, str]:
    """A variant's runs together: a line of the table, by its headings."""
    runs = [entry.found() for entry in entries]
    scores = [score for run in runs for score in run["scores"]]
    low, high = mean_interval(scores)

    def fitted(stage: str) -> str:
        updates, seconds = (mean(run[stage][i] for run in runs) for i in (0, 1))
        return f"{updates:.0f} in {seconds / 60:.1f}"

    def promise(i: int) -> str:
        return " / ".join(f"{mean(run['dream'][i][name] for run in runs):.0f}" for name in ("dreamt", "real"))

    return {
        "variant": f"`{variant}`",
        "mean": f"{mean(scores):.0f}",
        "95 % interval": f"{low:.0f} .. {high:.0f}",
        "each seed": ", ".join(f"{mean(run['scores']):.0f}" for run in runs),
        "laps": f"{sum(run['laps'] for run in runs)} of {len(scores)}",
        "world updates, minutes": fitted("world"),
        "policy updates, minutes": fitted("policy"),
        "15 decisions, dreamt / real": promise(0),
        "250 decisions": promise(1),
    }


def main() -> None:
    """Fit, drive, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="data set, a folder in data/")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--world-minutes", type=float, default=5.0)
    parser.add_argument("--policy-minutes", type=float, default=2.0)
    parser.add_argument("--tracks", type=int, default=100, help="first report tracks to drive")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; more than one have one thread each")
    args = parser.parse_args()

    runs = {
        variant: [Entry(variant, seed, Run(Path("artifacts") / f"{variant}-{seed}")) for seed in args.seeds]
        for variant in args.variants
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda entry: entry.drive(args), [entry for entries in runs.values() for entry in entries]))
    rows = [row(variant, entries) for variant, entries in runs.items()]
    for cells in (rows[0], ["---"] * len(rows[0]), *(line.values() for line in rows)):
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
