"""Other environments, each from random data alone: collect, fit-world, show-encodings, fit-policy, evaluate.

`environments.toml` beside this file says which, for how many minutes, and what differs from `--preset demo`. The policy
and the random one of its data act by the same 100 seeds, so that their difference has a paired interval. The imagined
strip of each is in `artifacts/<name>/encodings/encodings.png`. What is done already is not done again.

    python -m benchmarks.environments
    python -m benchmarks.environments --only pendulum --scale 0.01 --seeds 2     # to see that it works
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts import Run
from pipeline.episodes.store import EpisodeStore

_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Entry:
    """One environment.

    Attributes:
        name: of its data set and its run.
        env, env_kwargs: see `ViewSettings`.
        minutes: for the world model and for the policy.
        settings: by their dotted names, those of collecting.
    """

    name: str
    env: str
    minutes: tuple[float, float]
    env_kwargs: str = "{}"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def commands(self, args: argparse.Namespace) -> Iterator[Sequence[str]]:
        """The stages from nothing to the score, as a user would type them."""
        run, preset = ("--run", self.name), ("--preset", args.preset, "--seed", str(args.seed))
        environment = ("--env", self.env, "--env-kwargs", self.env_kwargs)
        scaled = {**self.settings, "collect.decisions": max(300, int(args.scale * self.settings["collect.decisions"]))}
        own = [word for name, value in scaled.items() for word in ("--set", f"{name}={value}")]
        world, policy = (str(max(0.1, args.scale * minutes)) for minutes in self.minutes)
        yield ("collect", "--data", self.name, *preset, *environment, *own)
        yield ("fit-world", *run, "--data", self.name, *preset, "--minutes", world)
        yield ("show-encodings", *run)
        yield ("fit-policy", *run, "--minutes", policy)
        yield ("evaluate", *run, "--tracks", str(args.seeds), "--video")

    def act(self, args: argparse.Namespace) -> None:
        """Run all stages, one after the other."""
        for command in self.commands(args):
            print("dreamer", *command, flush=True)
            subprocess.run([sys.executable, "-m", "pipeline", *command], check=True)

    def row(self) -> dict[str, str]:
        """A line of the table, by its headings."""
        run = Run(Path("artifacts") / self.name)
        world, policy = run.world.read_manifest(), run.policy.read_manifest()
        assert world is not None and policy is not None
        found = json.loads((run.evaluation.path / "evaluation.json").read_text())
        with EpisodeStore.open(Path("data") / self.name) as store:
            returns = [store.read_decisions(index).score for index in range(len(store))]
            decisions = store.steps
        means = {driver: found["drives"][driver]["summary"] for driver in ("policy", "random")}
        ahead, dream = found["differences"]["random"], found["dream"].get("15", {})
        return {
            "environment": f"`{self.env}`" + (f" `{self.env_kwargs}`" if self.env_kwargs != "{}" else ""),
            "random decisions, episodes": f"{decisions}, {len(returns)}",
            "policy": f"{means['policy']['mean']:.1f} ({_range(means['policy'])})",
            "random": f"{means['random']['mean']:.1f} ({_range(means['random'])})",
            "ahead by": f"{ahead['mean']:.1f} ({_range(ahead)})",
            "15 decisions, dreamt / real": f"{dream['dreamt']:.1f} / {dream['real']:.1f}" if dream else "-",
            "world updates, minutes": f"{world.done} in {world.facts['seconds'] / 60:.1f}",
            "policy updates, minutes": f"{policy.done} in {policy.facts['seconds'] / 60:.1f}",
        }


def _range(ends: Mapping[str, float | None]) -> str:
    return " .. ".join("-" if ends[end] is None else f"{ends[end]:.1f}" for end in ("low", "high"))


def entries() -> dict[str, Entry]:
    """All environments of the TOML file, by name."""
    return {name: Entry(name=name, **table) for name, table in _TABLES.items()}


def main() -> None:
    """Run them one after the other, and print a Markdown table."""
    known = entries()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(known), choices=list(known), metavar="NAME")
    parser.add_argument("--preset", default="demo", choices=("demo", "tiny"))
    parser.add_argument("--scale", type=float, default=1.0, help="of decisions and minutes")
    parser.add_argument("--seeds", type=int, default=100, help="first report seeds to act by")
    parser.add_argument("--seed", type=int, default=0, help="of everything else random")
    args = parser.parse_args()

    chosen = [known[name] for name in args.only]
    for entry in chosen:
        entry.act(args)
    rows = [entry.row() for entry in chosen]
    for cells in (rows[0], ["---"] * len(rows[0]), *(line.values() for line in rows)):
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
