"""What an update costs beside NaturalDreamer's on as many pictures: each as it comes, in its own process, in turns.

Theirs are its networks and updates from a clone, of the sizes that it ships for CarRacing but for the recurrent state,
which is as large as ours. Ours are the default settings, with which half of the pictures are decoded, but for fine
inputs: both see colours as they are.

    git clone https://github.com/InexperiencedMe/NaturalDreamer
    python -m benchmarks.peers NaturalDreamer
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch

from benchmarks.updates import new_model, policy_update, settings_for, world_update
from pipeline.allocator import keep_memory

Update = Callable[[], object]

_PLAIN = {"activation": "Tanh", "hiddenSize": 200, "numLayers": 2, "uniformMix": 0.01}
_WIDE = _PLAIN | {"hiddenSize": 400, "bins": 255}
_PICTURES = {"activation": "Tanh", "depth": 16, "stride": 2}
_SIZES: dict[str, Any] = {
    "recurrentSize": 256,
    "latentLength": 16,
    "latentClasses": 16,
    "encodedObsSize": 1024,
    "useContinuationPrediction": False,
    "imaginationHorizon": 15,
    "actorLR": 4e-5,
    "criticLR": 1e-4,
    "worldModelLR": 2e-4,
    "gradientNormType": 2,
    "gradientClip": 100,
    "discount": 0.997,
    "lambda_": 0.95,
    "freeNats": 1,
    "betaPrior": 1.0,
    "betaPosterior": 0.1,
    "entropyScale": 3e-4,
    "buffer": {"capacity": 1},
    "encoder": _PICTURES | {"kernelSize": 4},
    "decoder": _PICTURES | {"kernelSize": 5},
    "recurrentModel": _PLAIN,
    "priorNet": _PLAIN,
    "posteriorNet": _PLAIN,
    "reward": _WIDE,
    "actor": _WIDE,
    "critic": _WIDE | {"numLayers": 3},
}
"""NaturalDreamer's configs/car-racing-v3.yml, as far as an update reads it."""


def theirs(clone: str, batch: int, length: int) -> tuple[Update, Update]:
    """NaturalDreamer's updates of the world model, and of actor and critic from as many states."""
    sys.path.insert(0, clone)
    needless = ("attridict", "imageio", "pandas", "plotly", "plotly.graph_objects", "yaml")
    with patch.dict(sys.modules, {name: MagicMock() for name in needless}):
        dreamer_class = importlib.import_module("dreamer").Dreamer
    sizes = {name: SimpleNamespace(**part) if isinstance(part, dict) else part for name, part in _SIZES.items()}
    config = SimpleNamespace(**sizes, batchSize=batch, batchLength=length)
    dreamer = dreamer_class((3, 64, 64), 3, [-1.0, 0, 0], [1.0, 1, 1], "cpu", config)
    data = SimpleNamespace(
        observation=torch.rand(batch, length, 3, 64, 64),
        action=torch.rand(batch, length, 3),
        reward=torch.randn(batch, length, 1),
        done=torch.zeros(batch, length, 1),
    )
    states, _ = dreamer.worldModelTraining(data)
    return lambda: dreamer.worldModelTraining(data), lambda: dreamer.behaviorTraining(states)


def ours(batch: int, length: int) -> tuple[Update, Update]:
    """The same of ours."""
    keep_memory()
    settings = settings_for(batch, length, starts=batch * (length - 1), fine=False)
    model = new_model(settings)
    policy = policy_update(model, settings.policy)
    world = world_update(model, settings.world, rounds=1000)
    return lambda: world(0), lambda: policy(0)


def timed(args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each update, after two that do not count."""
    torch.manual_seed(0)
    whose = ours(args.batch, args.length) if args.clone is None else theirs(args.clone, args.batch, args.length)
    seconds = {}
    for name, update in zip(("world", "policy"), whose, strict=True):
        each = []
        for _ in range(args.rounds + 2):
            started = time.perf_counter()
            update()
            each.append(time.perf_counter() - started)
        seconds[name] = median(each[2:])
    return seconds


def main() -> None:
    """Take turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", nargs="?", help="folder of NaturalDreamer; without it, time ours and print seconds")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once or args.clone is None:
        print(json.dumps(timed(args)))
        return
    sizes = ("--once", "--batch", str(args.batch), "--length", str(args.length), "--rounds", str(args.rounds))
    found: dict[str, list[dict[str, float]]] = {"ours": [], "NaturalDreamer": []}
    for _ in range(args.turns):
        for name, clone in (("ours", ()), ("NaturalDreamer", (args.clone,))):
            command = [sys.executable, "-m", "benchmarks.peers", *clone, *sizes]
            found[name].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    print(f"| {args.batch} x {args.length} | world, ms | times ours | policy, ms | times ours |\n|---|---|---|---|---|")
    best = {name: {key: median(each[key] for each in turns) for key in turns[0]} for name, turns in found.items()}
    for name, each in best.items():
        cells = (f"{1e3 * each[key]:.0f} | {each[key] / best['ours'][key]:.1f}" for key in ("world", "policy"))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
