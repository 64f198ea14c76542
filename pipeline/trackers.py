"""Services that show metrics as they come, beside the JSONL that is always written. Each is an extra to install."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from .errors import UsageError


class Tracker(Protocol):
    """A service that is given the lines of one stage's metrics; made with the folder of the stage."""

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics after `step` units of work."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """Event files in `tensorboard/` beside the metrics, for `tensorboard --logdir artifacts`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Step 0 hides what an earlier, interrupted command wrote there: its lines come again.
        self._writer: Any = SummaryWriter(str(_own(folder / "tensorboard")), purge_step=0)

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar a metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases a start of a stage, in the project `dreamer`; WANDB_MODE=offline keeps it here."""

    def __init__(self, folder: Path) -> None:
        import wandb

        _own(folder / "wandb")  # where it writes
        settings = folder / "settings.toml"
        self._run: Any = wandb.init(
            project="dreamer",
            name=f"{folder.parent.name}/{folder.name}",
            group=folder.parent.name,
            job_type=folder.name,
            dir=str(folder),
            config=tomllib.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {},
        )

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log them together."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Upload what is left."""
        self._run.finish()


def _own(path: Path) -> Path:
    """The path. Raises UsageError where it is a link: it may have come with somebody else's run."""
    if path.is_symlink():
        raise UsageError(f"{path} is a link that leads elsewhere; remove it")
    return path


TRACKERS: dict[str, type[TensorBoard] | type[WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}
"""By the name of the option, the extra and the package that they need."""


def require(name: str) -> type[TensorBoard] | type[WandB]:
    """The tracker of this name. Raises UsageError where its package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"--{name} needs the package {name}; run `pip install {name}`")
    return TRACKERS[name]
