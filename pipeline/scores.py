"""What an evaluation comes to: the score of an episode, the summary of many, and dreamt beside real rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike
from pydantic import Field, TypeAdapter

MAX_BYTES = 2**26
"""Of a report as JSON that is read."""

Points = Annotated[float, Field(ge=-1e9, le=1e9)]
Count = Annotated[int, Field(ge=0, le=10**9)]
"""What `Report.from_json` takes for a sum of rewards and for a number of things: no more than can be drawn."""

_RESAMPLES = 9999
_CONFIDENCE = 0.95

_ENOUGH = 10
"""Tracks from which on a correlation tells anything."""

_TOLERATED_SHARE, _TOLERATED = 0.2, 5.0
"""How much a dream may promise beyond the real sum of rewards, as a share of it and in points, before it flatters."""


@dataclass(frozen=True)
class EpisodeScore:
    """One whole episode. An adapter may know more of it than this.

    Attributes:
        track: seed of the episode; of CarRacing, of its track.
        score: sum of all rewards.
        decisions: actions chosen.
        truncated: the time limit ended the episode.
        PLACE: what its seed makes, in a word.
        YARDSTICK: a score to compare with, a sentence; empty where none is known.
    """

    PLACE: ClassVar[str] = "seed"
    YARDSTICK: ClassVar[str] = ""

    track: int
    score: Points
    decisions: Count
    truncated: bool = field(kw_only=True)

    @property
    def foreseeable(self) -> bool:
        """The episode ended in a way that a dream should have foreseen."""
        return not self.truncated

    @property
    def special(self) -> dict[str, str]:
        """Further columns of a table."""
        return {}

    @property
    def result(self) -> str:
        """What came of it, for a title."""
        return f"score {self.score:.0f}"

    @property
    def ending(self) -> str:
        """How it ended."""
        return "Time is up" if self.truncated else "The end"

    @staticmethod
    def summarise(episodes: Sequence[Any]) -> Scores:
        """Sum up episodes of this kind, at least one."""
        return Summary(
            **statistics(episodes),
            decisions=float(np.mean([episode.decisions for episode in episodes])),
            ended=sum(not episode.truncated for episode in episodes),
        )


@dataclass(frozen=True)
class Scores:
    """Many scores in a few numbers. What one alone cannot tell is NaN.

    Attributes:
        episodes: how many.
        mean: mean score.
        std: standard deviation of the scores, with n - 1.
        low, high: 95 % bootstrap interval of the mean, see `mean_interval`.
        iqm: interquartile mean: the mean without the lowest and the highest quarter of the scores.
        minimum, maximum: lowest and highest score.
    """

    episodes: int
    mean: float
    std: float
    low: float
    high: float
    iqm: float
    minimum: float
    maximum: float

    @property
    def special(self) -> dict[str, str]:
        """Further columns of a table."""
        return {}


@dataclass(frozen=True)
class Summary(Scores):
    """Many episodes in a few numbers.

    Attributes:
        decisions: mean length.
        ended: episodes that ended before the time limit.
    """

    decisions: float
    ended: int

    @property
    def special(self) -> dict[str, str]:
        """See `Scores.special`."""
        return {"decisions": f"{self.decisions:.0f}", "ended": str(self.ended)}


def mean_interval(values: ArrayLike) -> tuple[float, float]:
    """95 % confidence interval of the mean: percentile bootstrap, always with the same resamples.

    Scores are skewed and of few tracks; resampling assumes no bell curve (Agarwal et al. 2021, arXiv 2108.13264).

    Args:
        values: (n,) numbers.

    Returns:
        Lower and upper end; NaN for a single value, which says nothing about its spread.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))  # so that their order makes no difference
    if len(sample) < 2:
        return float("nan"), float("nan")
    result = scipy.stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        batch=1000,  # a batch of resamples is held in memory at once
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def statistics(episodes: Sequence[EpisodeScore]) -> dict[str, Any]:
    """The fields of `Scores`."""
    scores = np.array([episode.score for episode in episodes])
    low, high = mean_interval(scores)
    return {
        "episodes": len(episodes),
        "mean": float(scores.mean()),
        "std": float(scores.std(ddof=1)) if len(episodes) > 1 else float("nan"),
        "low": low,
        "high": high,
        "iqm": float(scipy.stats.trim_mean(scores, 0.25)),
        "minimum": float(scores.min()),
        "maximum": float(scores.max()),
    }


def summarise(episodes: Sequence[EpisodeScore]) -> Scores:
    """Sum up episodes of one kind. Raises ValueError where there is none."""
    if not episodes:
        raise ValueError("there is no episode to sum up")
    return episodes[0].summarise(episodes)


@dataclass(frozen=True)
class Difference:
    """How far one driver is ahead of another on the same seeds.

    Attributes:
        mean: mean of the differences of their scores.
        low, high: 95 % bootstrap interval of it; the seeds being the same, what makes some harder cancels out.
    """

    mean: float
    low: float
    high: float


def ahead(one: Sequence[EpisodeScore], other: Sequence[EpisodeScore]) -> Difference:
    """Compare two drivers, seed by seed. Raises ValueError where their seeds differ."""
    if [episode.track for episode in one] != [episode.track for episode in other]:
        raise ValueError("the two have not acted on the same seeds")
    differences = [mine.score - theirs.score for mine, theirs in zip(one, other, strict=True)]
    return Difference(float(np.mean(differences)), *mean_interval(differences))


@dataclass(frozen=True)
class Promise:
    """What the dream promised from one state on, beside what the real drive then brought.

    Attributes:
        track: seed of the track.
        decisions: decisions that both sums span.
        dreamt: expected sum of rewards in imagination.
        real: sum of the rewards that came.
    """

    track: int
    decisions: Count
    dreamt: Points
    real: Points


def compare(track: int, dreamt: Sequence[float], real: Sequence[float], horizon: int, foreseeable: bool) -> Promise:
    """Compare dreamt and real rewards over a horizon.

    The sums end where the real episode ended, if by something that no dream of random driving could know: the time
    limit, CarRacing's last tile. What it should foresee, such as that a car leaves the playfield, does not end the
    dream's sum.

    Args:
        track: seed of the track.
        dreamt: expected rewards of the decisions after a state, at least `horizon` of them.
        real: rewards of the real decisions after it, to the end of the drive.
        horizon: decisions to compare, at most.
        foreseeable: see `EpisodeScore`.
    """
    decisions = horizon if foreseeable else min(horizon, len(real))
    return Promise(track, decisions, float(np.sum(dreamt[:decisions])), float(np.sum(real[:decisions])))


@dataclass(frozen=True)
class Trust:
    """Dreamt beside real rewards, over many tracks.

    Attributes:
        dreamt, real: mean sums.
        excess: mean of dreamt - real.
        low, high: 95 % bootstrap interval of `excess`; NaN for one track.
        correlation: of the two sums over the tracks (Pearson); NaN for less than ten, or where either is constant.
    """

    dreamt: float
    real: float
    excess: float
    low: float
    high: float
    correlation: float

    @property
    def flatters(self) -> bool:
        """The dream clearly promises too much: the whole interval lies above 20 % of the real sum, and above 5."""
        return self.low > max(_TOLERATED_SHARE * abs(self.real), _TOLERATED)


def weigh(promises: Sequence[Promise]) -> Trust:
    """Sum up promises. Raises ValueError where there is none."""
    if not promises:
        raise ValueError("there is no promise to sum up")
    dreamt = np.array([promise.dreamt for promise in promises])
    real = np.array([promise.real for promise in promises])
    telling = len(promises) >= _ENOUGH and np.ptp(dreamt) > 0 and np.ptp(real) > 0
    low, high = mean_interval(dreamt - real)
    return Trust(
        dreamt=float(dreamt.mean()),
        real=float(real.mean()),
        excess=float((dreamt - real).mean()),
        low=low,
        high=high,
        correlation=float(np.corrcoef(dreamt, real)[0, 1]) if telling else float("nan"),
    )


def trust_horizon(drives: Sequence[tuple[Sequence[float], Sequence[float]]]) -> int | None:
    """For how many decisions the dream may be trusted: until it has drifted past what is tolerated.

    It has where the sums of dreamt and of real rewards differ by more than 20 % of the real one, and more than 5, each
    as the mean of its size over the drives. Unlike `Trust.excess`, too much here and too little there do not cancel. A
    drive counts as long as it goes on.

    Args:
        drives: dreamt and real rewards of the decisions after a state, one pair a drive.

    Returns:
        Decisions, all that were dreamt where it never drifts as far; None where there is no drive.
    """
    steps = max((min(len(dreamt), len(real)) for dreamt, real in drives), default=0)
    if not steps:
        return None
    sums = np.full((2, len(drives), steps), np.nan)  # dreamt, real
    for index, pair in enumerate(drives):
        length = min(map(len, pair))
        sums[:, index, :length] = np.cumsum([rewards[:length] for rewards in pair], 1)
    dreamt, real = sums
    error, size = np.nanmean(np.abs(dreamt - real), 0), np.nanmean(np.abs(real), 0)
    drifted = error > np.maximum(_TOLERATED_SHARE * size, _TOLERATED)
    return int(drifted.argmax()) if drifted.any() else steps


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        question: what was asked: tracks, kind of actions, seed, and the weights by content hash.
        scores: of every drive, by driver.
        promises: of the dream, by horizon.
        trust_horizon: see the function; None where the dream was not asked, or by an earlier version.
    """

    question: dict[str, Any]
    scores: dict[str, list[EpisodeScore]]
    promises: dict[int, list[Promise]]
    trust_horizon: int | None = None

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], kind: type[EpisodeScore]) -> Self:
        """Read what `as_json` gave, of scores of this kind. Raises ValueError or KeyError where it is another thing."""
        question = TypeAdapter(dict[str, Any]).validate_python(tree["question"])
        drives = TypeAdapter(dict[str, dict[str, Any]]).validate_python(tree["drives"])
        dream = TypeAdapter(dict[int, dict[str, Any]]).validate_python(tree["dream"])
        scores, promises = TypeAdapter(list[kind]), TypeAdapter(list[Promise])  # type: ignore[valid-type]
        return cls(
            question,
            {driver: scores.validate_python(many["episodes"]) for driver, many in drives.items()},
            {horizon: promises.validate_python(many["tracks"]) for horizon, many in dream.items()},
            TypeAdapter(Count | None).validate_python(tree.get("trust_horizon")),
        )

    @property
    def place(self) -> str:
        """What each of the seeds makes, in a word."""
        return next(one.PLACE for many in self.scores.values() for one in many)

    @property
    def warning(self) -> str | None:
        """What to be wary of: the shortest horizon over which the dream flatters; None where it does not."""
        for horizon, trust in self.trusts.items():
            if trust.flatters:
                return (
                    f"The dream flatters: over {horizon} decisions it promises {trust.dreamt:.0f} where "
                    f"{trust.real:.0f} comes (the whole interval of the difference lies above 20 % of what comes). The "
                    "policy may live on the model's mistakes: more data, fewer policy updates or a larger "
                    "policy.penalty help"
                )
        return None

    @property
    def summaries(self) -> dict[str, Scores]:
        """The drives in a few numbers, by driver."""
        return {driver: summarise(scores) for driver, scores in self.scores.items()}

    @property
    def differences(self) -> dict[str, Difference]:
        """How far the first driver, which is the policy, is ahead of each other one."""
        first, *others = self.scores
        return {driver: ahead(self.scores[first], self.scores[driver]) for driver in others}

    @property
    def trusts(self) -> dict[int, Trust]:
        """Dreamt beside real rewards, by horizon; none where every drive was too short to ask."""
        return {horizon: weigh(promises) for horizon, promises in self.promises.items() if promises}

    def as_json(self) -> dict[str, Any]:
        """Plain lists and mappings; what is not a finite number becomes None."""
        drives = {
            driver: {"summary": asdict(summary), "episodes": [asdict(score) for score in self.scores[driver]]}
            for driver, summary in self.summaries.items()
        }
        dream = {
            str(horizon): {**asdict(trust), "tracks": [asdict(promise) for promise in self.promises[horizon]]}
            for horizon, trust in self.trusts.items()
        }
        differences = {driver: asdict(difference) for driver, difference in self.differences.items()}
        told = {"differences": differences, "dream": dream, "trust_horizon": self.trust_horizon}
        parts = {"question": self.question, "drives": drives, **told}
        plain: dict[str, Any] = _finite(parts)
        return plain


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
