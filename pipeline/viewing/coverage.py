"""What a data set covers: a table, a figure, and a plain word where it is too poor to learn from.

Rewards, returns, lengths and actions are shown of all environments, and of CarRacing what its adapter keeps besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .. import console
from ..artifacts import atomic_path
from ..config import CAR_RACING
from ..envs.car_racing.actions import ACTION_NAMES, GAS, LEFT, RIGHT
from ..episodes.episode import Decisions
from ..episodes.recording import PATIENT_TIMES
from ..episodes.store import EpisodeStore

FIGURE = "coverage.png"

MIN_EPISODES = 20
"""Each begins otherwise (in CarRacing: is another track); and of fewer, the one held out is no fair sample."""
MIN_REWARDED = 0.001
"""Share of decisions whose reward is another than the usual one; below, a batch of 16 x 32 has none in two."""

MIN_ON_ROAD = 0.3
"""Share of decisions with a wheel on the road. Drivers that spin on the grass have 0.06, and teach grass."""
FAST = 40.0
"""Units a second. A good lap is driven at about 60; a speed that is not in the data cannot be imagined."""
MIN_FAST = 0.01
"""Share of decisions at `FAST` or more: below, a model sees fewer than one in three batches of 16 x 32."""
MIN_TILES = 3.0
"""Mean of the tiles visited in an episode: the only reward there is, and the first two or three lie under the car."""

OFF_FIELD, LAP, OFF_ROAD, LIMIT = (
    "left the playfield",
    "finished the lap",
    "cut short off the road",
    "cut short by limit",
)
TERMINATED, CUT_SHORT = "ended for good", "cut short"
_RARE = -10.0  # leaving the field gives -100 and would squeeze all else into a line
_BINS = 40
_BLUE, _RED = "#20639b", "#d1495b"


@dataclass(frozen=True, eq=False, kw_only=True)
class Coverage:
    """What the N decisions of E episodes cover.

    Attributes:
        actions: (N, A), or (N,) the numbers of discrete ones.
        names: of the numbers of an action, or of the discrete ones, A of them.
        rewards: (N,).
        lengths: (E,) decisions.
        scores: (E,) sums of rewards.
        ends: how many episodes ended in which way, one of `ENDS`.
    """

    actions: NDArray[np.float32] | NDArray[np.int64]
    names: tuple[str, ...]
    rewards: NDArray[np.float32]
    lengths: NDArray[np.int64]
    scores: NDArray[np.float64]
    ends: Counter[str]

    ENDS: ClassVar[tuple[str, ...]] = (TERMINATED, CUT_SHORT)
    GRID: ClassVar[tuple[int, int]] = (2, 3)

    @classmethod
    def of(cls, episodes: Sequence[Decisions], names: tuple[str, ...], **special: Any) -> Self:
        """What these episodes cover; `special` are the fields of a subclass."""
        return cls(
            actions=np.concatenate([episode.actions for episode in episodes]),
            names=names,
            rewards=np.concatenate([episode.rewards for episode in episodes]),
            lengths=np.array([len(episode) for episode in episodes]),
            scores=np.array([episode.score for episode in episodes]),
            **({"ends": Counter(TERMINATED if one.terminations[-1] else CUT_SHORT for one in episodes)} | special),
        )

    @property
    def discrete(self) -> bool:
        """Whether the actions are discrete ones."""
        return self.actions.ndim == 1

    @property
    def action_shares(self) -> NDArray[np.float64]:
        """Share of each discrete action in the decisions of each episode, (E, A)."""
        chosen = np.eye(len(self.names))[self.actions]  # (N, A)
        first = np.cumsum(self.lengths) - self.lengths
        shares: NDArray[np.float64] = np.add.reduceat(chosen, first) / self.lengths[:, None]
        return shares

    @property
    def rewarded(self) -> float:
        """Share of decisions whose reward is another than the one that is most frequent."""
        _, counts = np.unique(self.rewards, return_counts=True)
        return float(1 - counts.max() / len(self.rewards))

    def quantities(self) -> dict[str, NDArray[Any]]:
        """The rows of the table; shares of discrete actions are those in each episode."""
        if self.discrete:
            names = [f"share of '{name}'" for name in self.names]
            actions = dict(zip(names, self.action_shares.T, strict=True))
        else:
            actions = dict(zip(self.names, self.actions.T, strict=True))
        return {
            **actions,
            "reward of a decision": self.rewards,
            "return of an episode": self.scores,
            "decisions of an episode": self.lengths,
        }

    def sentence(self) -> str:
        """What the table does not say."""
        ends = ", ".join(f"{self.ends[end]} {end}" for end in self.ENDS)
        return f"Another reward than the usual one in {self.rewarded:.1%} of the decisions. Episodes: {ends}"

    def weaknesses(self) -> list[str]:
        """What makes the data poor, each a sentence; none where they are fit to learn from."""
        found = []
        if len(self.lengths) < MIN_EPISODES:
            found.append(f"There are only {len(self.lengths)} episodes; collect more decisions.")
        if self.rewarded < MIN_REWARDED:
            found.append(
                f"Only {self.rewarded:.2%} of the decisions bring another reward than the usual one: a model can "
                "hardly learn what leads to it; collect more decisions or change collect.policy."
            )
        return found

    def draw(self, grid: Sequence[Axes]) -> None:
        """Draw the distributions into so many plots as `GRID` has."""
        _histogram(grid[0], "Reward of a decision", [self.rewards], "decisions", log=True)
        _histogram(grid[1], "Return", [self.scores], "episodes")
        _histogram(grid[2], "Length, decisions", [self.lengths], "episodes")
        if self.discrete:
            counts = np.bincount(self.actions, minlength=len(self.names))
            _bars(grid[3], "Action, share of decisions", self.names, counts)
            _histogram(grid[4], "Its most frequent action, share", [self.action_shares.max(1)], "episodes")
        else:
            first, *others = self.actions.T
            _histogram(grid[3], self.names[0].capitalize(), [first], "decisions")
            _histogram(grid[4], "All numbers of an action", [first, *others][:2], "decisions", labels=self.names[:2])
        _bars(grid[5], "End, share of episodes", list(self.ENDS), np.array([self.ends[end] for end in self.ENDS]))


@dataclass(frozen=True, eq=False, kw_only=True)
class DriveCoverage(Coverage):
    """The same of CarRacing.

    Attributes:
        speed: (N,) units a second, after each decision.
        wheels: (N,) on the road, 0 to 4.
        tiles: (E,) visited.
    """

    speed: NDArray[np.float32]
    wheels: NDArray[np.uint8]
    tiles: NDArray[np.int32]

    ENDS: ClassVar[tuple[str, ...]] = (OFF_FIELD, LAP, OFF_ROAD, LIMIT)
    GRID: ClassVar[tuple[int, int]] = (3, 3)

    @property
    def on_road(self) -> float:
        """Share of decisions with a wheel on the road."""
        return float((self.wheels > 0).mean())

    @property
    def fast(self) -> float:
        """Share of decisions at `FAST` or more."""
        return float((self.speed >= FAST).mean())

    def quantities(self) -> dict[str, NDArray[Any]]:
        """See `Coverage.quantities`."""
        rows = {"speed, units/s": self.speed} | super().quantities()
        lengths = rows.popitem()
        return rows | {"tiles of an episode": self.tiles} | dict([lengths])

    def sentence(self) -> str:
        """See `Coverage.sentence`."""
        return (
            f"A wheel on the road in {self.on_road:.0%} of the decisions, {FAST:.0f} units/s or more in "
            f"{self.fast:.0%}. Episodes: " + ", ".join(f"{self.ends[end]} {end}" for end in self.ENDS)
        )

    def weaknesses(self) -> list[str]:
        """See `Coverage.weaknesses`."""
        found = []
        if len(self.lengths) < MIN_EPISODES:
            found.append(f"There are only {len(self.lengths)} episodes, each of another track; collect more decisions.")
        if self.on_road < MIN_ON_ROAD:
            found.append(
                f"Only {self.on_road:.0%} of the decisions have a wheel on the road: a model will learn mostly grass; "
                "lower collect.patience or change collect.policy."
            )
        if self.fast < MIN_FAST:
            found.append(
                f"Only {self.fast:.1%} of the decisions are at {FAST:.0f} units/s or more: a model cannot imagine fast "
                "driving that it has never seen; change collect.policy."
            )
        if self.tiles.mean() < MIN_TILES:
            found.append(
                f"An episode visits {self.tiles.mean():.1f} tiles on average: there is hardly any reward to learn "
                "from; change collect.policy."
            )
        return found

    def draw(self, grid: Sequence[Axes]) -> None:
        """See `Coverage.draw`."""
        usual = self.rewards[self.rewards > _RARE]
        title = f"Reward of a decision (left out: {len(self.rewards) - len(usual)} below {_RARE:.0f})"
        _histogram(grid[0], "Speed, units/s", [self.speed], "decisions")
        grid[0].axvline(FAST, color="black", linewidth=0.8, linestyle=":")
        _bars(grid[1], "Wheels on the road, share of decisions", list("01234"), np.bincount(self.wheels, minlength=5))
        _histogram(grid[2], title, [usual], "decisions", log=True)
        self._draw_actions(grid[3], grid[4])
        _histogram(grid[5], "Tiles visited", [self.tiles], "episodes")
        _histogram(grid[6], "Length, decisions", [self.lengths], "episodes")
        _histogram(grid[7], "Return", [self.scores], "episodes")
        _bars(grid[8], "End, share of episodes", list(self.ENDS), np.array([self.ends[end] for end in self.ENDS]))

    def _draw_actions(self, left: Axes, right: Axes) -> None:
        """What was done, in two plots."""
        if self.discrete:
            counts = np.bincount(self.actions, minlength=len(self.names))
            _bars(left, "Action, share of decisions", self.names, counts)
            shares = self.action_shares
            pair = [shares[:, GAS], shares[:, LEFT] + shares[:, RIGHT]]
            _histogram(right, "Gas and steering, share of an episode", pair, "episodes", labels=("gas", "steer"))
        else:
            steer, gas, brake = self.actions.T
            _histogram(left, "Steering, left to right", [steer], "decisions", log=True)
            _histogram(right, "Gas and brake", [gas, brake], "decisions", log=True, labels=("gas", "brake"))


def measure(store: EpisodeStore) -> Coverage:
    """Read what a data set covers; no pictures are read."""
    episodes = [store.read_decisions(index) for index in range(len(store))]
    if store.origin.environment != CAR_RACING:
        kind = "number {}" if store.view.continuous else "action {}"
        names = store.view.action_names or tuple(kind.format(number) for number in range(len(store.view.action_low)))
        return Coverage.of(episodes, names)
    return DriveCoverage.of(
        episodes,
        ("steering, -1 to 1", "gas, 0 to 1", "brake, 0 to 1") if store.view.continuous else ACTION_NAMES,
        ends=Counter(_end(episode, store.origin.patience) for episode in episodes),
        speed=np.concatenate([episode.infos["speed"] for episode in episodes]),
        wheels=np.concatenate([episode.infos["on_road"] for episode in episodes]),
        tiles=np.array([episode.infos["tiles"][-1] for episode in episodes]),
    )


def _end(episode: Decisions, patience: int | None) -> str:
    """In which way a drive ended."""
    if episode.terminations[-1]:
        return LAP if episode.infos["lap_finished"][-1] else OFF_FIELD
    if patience is None:
        return LIMIT
    lost = int((np.cumsum(episode.infos["on_road"][::-1]) == 0).sum())  # decisions in a row, to the end
    return OFF_ROAD if lost in (patience, PATIENT_TIMES * patience) else LIMIT


def report(store: EpisodeStore) -> Coverage:
    """Show what a data set covers: a table, warnings, and `coverage.png` in its folder."""
    coverage = measure(store)
    title = f"{store.path}: {len(coverage.rewards)} decisions in {len(store)} episodes"
    rows = [[name, *_summary(values)] for name, values in coverage.quantities().items()]
    console.table(title, ["", "mean", "5 %", "median", "95 %", "largest"], rows)
    console.say(coverage.sentence())
    if store.origin.kind != "driven":  # which is learned from beside random data
        for weakness in coverage.weaknesses():
            console.warn(weakness)
    draw(coverage, store.path / FIGURE, title)
    console.say(f"Figure: {store.path / FIGURE}")
    return coverage


def _summary(values: NDArray[Any]) -> list[str]:
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
    return [f"{value:.2f}" for value in (values.mean(), low, median, high, values.max())]


def draw(coverage: Coverage, path: Path, title: str) -> None:
    """Draw the distributions side by side.

    Args:
        coverage: what to draw.
        path: the PNG to write, atomically.
        title: over the whole figure.
    """
    rows, columns = coverage.GRID
    figure = Figure((4 * columns, 3 * rows), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    coverage.draw(figure.subplots(rows, columns).ravel())
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


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
