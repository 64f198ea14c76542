"""What a data set covers: a table, a figure, and a plain word where it is too poor to learn driving from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .. import console
from ..artifacts import atomic_path
from ..envs.actions import ACTION_NAMES, GAS, LEFT, RIGHT
from ..episodes.episode import Decisions
from ..episodes.store import EpisodeStore

FIGURE = "coverage.png"

MIN_ON_ROAD = 0.3
"""Share of decisions with a wheel on the road. Drivers that spin on the grass have 0.06, and teach grass."""
FAST = 40.0
"""Units a second. A good lap is driven at about 60; a speed that is not in the data cannot be imagined."""
MIN_FAST = 0.01
"""Share of decisions at `FAST` or more: below, a model sees fewer than one in three batches of 16 x 32."""
MIN_TILES = 3.0
"""Mean of the tiles visited in an episode: the only reward there is, and the first two or three lie under the car."""
MIN_EPISODES = 20
"""Each is another track; and of fewer, the one held out is no fair sample."""

OFF_FIELD, LAP, OFF_ROAD, LIMIT = (
    "left the playfield",
    "finished the lap",
    "cut short off the road",
    "cut short by limit",
)
_ENDS = (OFF_FIELD, LAP, OFF_ROAD, LIMIT)
_RARE = -10.0  # leaving the field gives -100 and would squeeze all else into a line
_BINS = 40
_BLUE, _RED = "#20639b", "#d1495b"


@dataclass(frozen=True, eq=False)
class Coverage:
    """What the N decisions of E episodes cover.

    Attributes:
        speed: (N,) units a second, after each decision.
        actions: (N, 3) `[steer, gas, brake]`, or (N,) the numbers of discrete ones.
        wheels: (N,) on the road, 0 to 4.
        rewards: (N,).
        lengths: (E,) decisions.
        scores: (E,) sums of rewards.
        tiles: (E,) visited.
        ends: how many episodes ended in which way.
    """

    speed: NDArray[np.float32]
    actions: NDArray[np.float32] | NDArray[np.int64]
    wheels: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    lengths: NDArray[np.int64]
    scores: NDArray[np.float64]
    tiles: NDArray[np.int32]
    ends: Counter[str]

    @property
    def discrete(self) -> bool:
        """Whether the actions are the environment's discrete ones."""
        return self.actions.ndim == 1

    @property
    def action_shares(self) -> NDArray[np.float64]:
        """Share of each discrete action in the decisions of each episode, (E, 5)."""
        chosen = np.eye(len(ACTION_NAMES))[self.actions]  # (N, 5)
        first = np.cumsum(self.lengths) - self.lengths
        shares: NDArray[np.float64] = np.add.reduceat(chosen, first) / self.lengths[:, None]
        return shares

    @property
    def on_road(self) -> float:
        """Share of decisions with a wheel on the road."""
        return float((self.wheels > 0).mean())

    @property
    def fast(self) -> float:
        """Share of decisions at `FAST` or more."""
        return float((self.speed >= FAST).mean())


def measure(store: EpisodeStore) -> Coverage:
    """Read what a data set covers; no pictures are read."""
    episodes = [store.read_decisions(index) for index in range(len(store))]
    return Coverage(
        speed=np.concatenate([episode.infos["speed"] for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        wheels=np.concatenate([episode.infos["on_road"] for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        lengths=np.array([len(episode) for episode in episodes]),
        scores=np.array([episode.score for episode in episodes]),
        tiles=np.array([episode.infos["tiles"][-1] for episode in episodes]),
        ends=Counter(_end(episode, store.origin.patience) for episode in episodes),
    )


def _end(episode: Decisions, patience: int) -> str:
    """In which way the episode ended."""
    if episode.terminations[-1]:
        return LAP if episode.infos["lap_finished"][-1] else OFF_FIELD
    last = episode.infos["on_road"][-patience:]
    return OFF_ROAD if len(last) == patience and not last.any() else LIMIT


def weaknesses(coverage: Coverage) -> list[str]:
    """What makes the data poor, each a sentence; none where they are fit to learn driving from."""
    found = []
    if len(coverage.lengths) < MIN_EPISODES:
        found.append(f"There are only {len(coverage.lengths)} episodes, each of another track; collect more decisions.")
    if coverage.on_road < MIN_ON_ROAD:
        found.append(
            f"Only {coverage.on_road:.0%} of the decisions have a wheel on the road: a model will learn mostly grass; "
            "lower collect.patience or change collect.policy."
        )
    if coverage.fast < MIN_FAST:
        found.append(
            f"Only {coverage.fast:.1%} of the decisions are at {FAST:.0f} units/s or more: a model cannot imagine fast "
            "driving that it has never seen; change collect.policy."
        )
    if coverage.tiles.mean() < MIN_TILES:
        found.append(
            f"An episode visits {coverage.tiles.mean():.1f} tiles on average: there is hardly any reward to learn "
            "from; change collect.policy."
        )
    if not coverage.ends[OFF_FIELD] + coverage.ends[LAP]:
        found.append(
            "No episode ended for good: a model cannot learn that driving ends; collect more decisions or raise "
            "collect.patience."
        )
    return found


def report(store: EpisodeStore) -> Coverage:
    """Show what a data set covers: a table, warnings, and `coverage.png` in its folder."""
    coverage = measure(store)
    title = f"{store.path}: {len(coverage.rewards)} decisions in {len(store)} episodes"
    rows = [[name, *_summary(values)] for name, values in _quantities(coverage).items()]
    console.table(title, ["", "mean", "5 %", "median", "95 %", "largest"], rows)
    console.say(
        f"A wheel on the road in {coverage.on_road:.0%} of the decisions, {FAST:.0f} units/s or more in "
        f"{coverage.fast:.0%}. Episodes: " + ", ".join(f"{coverage.ends[end]} {end}" for end in _ENDS)
    )
    for weakness in weaknesses(coverage):
        console.warn(weakness)
    draw(coverage, store.path / FIGURE, title)
    console.say(f"Figure: {store.path / FIGURE}")
    return coverage


def _quantities(coverage: Coverage) -> dict[str, NDArray[Any]]:
    """The rows of the table; shares of the discrete actions are those in each episode."""
    if coverage.discrete:
        names = [f"share of '{name}'" for name in ACTION_NAMES]
        actions = dict(zip(names, coverage.action_shares.T, strict=True))
    else:
        actions = dict(zip(("steering, -1 to 1", "gas, 0 to 1", "brake, 0 to 1"), coverage.actions.T, strict=True))
    return {
        "speed, units/s": coverage.speed,
        **actions,
        "reward of a decision": coverage.rewards,
        "return of an episode": coverage.scores,
        "tiles of an episode": coverage.tiles,
        "decisions of an episode": coverage.lengths,
    }


def _summary(values: NDArray[Any]) -> list[str]:
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
    return [f"{value:.2f}" for value in (values.mean(), low, median, high, values.max())]


def draw(coverage: Coverage, path: Path, title: str) -> None:
    """Draw the distributions, three by three.

    Args:
        coverage: what to draw.
        path: the PNG to write, atomically.
        title: over the whole figure.
    """
    usual = coverage.rewards[coverage.rewards > _RARE]
    rare = len(coverage.rewards) - len(usual)
    figure = Figure((12, 9), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(3, 3).ravel()
    _histogram(grid[0], "Speed, units/s", [coverage.speed], "decisions")
    grid[0].axvline(FAST, color="black", linewidth=0.8, linestyle=":")
    _bars(grid[1], "Wheels on the road, share of decisions", list("01234"), np.bincount(coverage.wheels, minlength=5))
    _histogram(grid[2], f"Reward of a decision (left out: {rare} below {_RARE:.0f})", [usual], "decisions", log=True)
    _draw_actions(grid[3], grid[4], coverage)
    _histogram(grid[5], "Tiles visited", [coverage.tiles], "episodes")
    _histogram(grid[6], "Length, decisions", [coverage.lengths], "episodes")
    _histogram(grid[7], "Return", [coverage.scores], "episodes")
    _bars(grid[8], "End, share of episodes", list(_ENDS), np.array([coverage.ends[end] for end in _ENDS]))
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _draw_actions(left: Axes, right: Axes, coverage: Coverage) -> None:
    """What was done, in two plots."""
    if coverage.discrete:
        counts = np.bincount(coverage.actions, minlength=len(ACTION_NAMES))
        _bars(left, "Action, share of decisions", ACTION_NAMES, counts)
        shares = coverage.action_shares
        gas, steering = shares[:, GAS], shares[:, LEFT] + shares[:, RIGHT]
        _histogram(right, "Gas and steering, share of an episode", [gas, steering], "episodes", labels=("gas", "steer"))
    else:
        steer, gas, brake = coverage.actions.T
        _histogram(left, "Steering, left to right", [steer], "decisions", log=True)
        _histogram(right, "Gas and brake", [gas, brake], "decisions", log=True, labels=("gas", "brake"))


def _histogram(
    axes: Axes,
    title: str,
    values: Sequence[NDArray[Any]],
    unit: str,
    *,
    log: bool = False,
    labels: Sequence[str] = ("",),
) -> None:
    """One outline for each array, over common bins."""
    together = np.concatenate(values)
    if together.dtype.kind in "iu":  # as many whole numbers in each bin
        width = -(-int(np.ptp(together) + 1) // _BINS)
        bins = np.arange(together.min(), together.max() + 2 * width, width) - 0.5
    else:
        bins = np.histogram_bin_edges(together, bins=_BINS)
    for array, label, color in zip(values, labels, (_BLUE, _RED), strict=False):
        axes.hist(array, bins=bins.tolist(), color=color, alpha=0.55, label=label, log=log and array.size > 0)
    axes.set_ylabel(unit, fontsize=9)
    _style(axes, title)
    if len(values) > 1:
        axes.legend(fontsize=8, frameon=False)


def _bars(axes: Axes, title: str, names: Sequence[str], counts: NDArray[np.int64]) -> None:
    """Shares of a whole as horizontal bars, the first on top."""
    shares = counts / counts.sum()
    bars = axes.barh(names, shares, color=_BLUE, alpha=0.55)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=3, fontsize=8)
    axes.set_xlim(0, 1.15)
    axes.invert_yaxis()
    _style(axes, title)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.tick_params(which="both", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right"]].set_visible(False)
