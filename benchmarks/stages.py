"""What a whole run costs: minutes and memory of each stage, from random driving to the score.

Each stage is the command that a user would type, in a process of its own.

    python -m benchmarks.stages --preset demo --name bench
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence


def commands(preset: str, name: str, seed: int) -> Iterator[Sequence[str]]:
    """The five stages of a new run."""
    run, settings = ("--run", name), ("--preset", preset, "--seed", str(seed))
    yield ("collect", "--data", name, *settings)
    yield ("fit-world", *run, "--data", name, *settings)
    yield ("show-encodings", *run)
    yield ("fit-policy", *run)
    yield ("evaluate", *run, "--video")


def cost(command: Sequence[str]) -> tuple[float, float]:
    """Seconds that a command took, and the most memory that its own process held, MiB. Raises SystemExit."""
    started = time.monotonic()
    process = os.posix_spawn(sys.executable, [sys.executable, "-m", "pipeline", *command], os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"dreamer {' '.join(command)} failed")
    return time.monotonic() - started, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Run them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo", help="tiny, demo or full")
    parser.add_argument("--name", default="bench", help="of the data set and the run, which are to be new")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    costs = {command[0]: cost(command) for command in commands(args.preset, args.name, args.seed)}
    print("| stage | minutes | peak memory, MiB |\n|---|---|---|")
    for stage, (seconds, mebibytes) in costs.items():
        print(f"| {stage} | {seconds / 60:.1f} | {mebibytes:.0f} |")
    print(f"| together | {sum(seconds for seconds, _ in costs.values()) / 60:.1f} | |")


if __name__ == "__main__":
    main()
