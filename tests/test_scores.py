from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.envs.car_racing.scores import DriveScore
from pipeline.scores import (
    EpisodeScore,
    Promise,
    Report,
    ahead,
    compare,
    mean_interval,
    summarise,
    trust_horizon,
    weigh,
)

NUMBERS = st.floats(-200, 1000)
SAMPLES = st.lists(NUMBERS, min_size=2, max_size=30)


def episode(score: float, track: int = 0, **fields: object) -> DriveScore:
    plain = {"decisions": 250, "tiles": 30, "track_tiles": 300}
    ending = {"lap_finished": False, "left_field": False, "truncated": True}
    return DriveScore(track, score, **{**plain, **ending, **fields})  # type: ignore[arg-type]


def test_summary_by_hand() -> None:
    lap = episode(1000, tiles=300, lap_finished=True, truncated=False)
    left = episode(0, tiles=0, left_field=True, truncated=False)
    summary = summarise([lap, episode(100), left, episode(200, tiles=60)])
    assert (summary.episodes, summary.laps, summary.left_field) == (4, 1, 1)
    assert (summary.mean, summary.minimum, summary.maximum) == (325, 0, 1000)
    assert summary.std == pytest.approx(math.sqrt((325**2 + 225**2 + 125**2 + 675**2) / 3))
    assert summary.iqm == 150  # of 100 and 200
    assert summary.tile_share == pytest.approx((1 + 0.1 + 0 + 0.2) / 4)
    assert summary.minimum < summary.low < summary.mean < summary.high < summary.maximum


def test_one_drive_has_no_spread() -> None:
    summary = summarise([episode(12.5)])
    assert summary.mean == summary.iqm == summary.minimum == summary.maximum == 12.5
    assert all(math.isnan(value) for value in (summary.std, summary.low, summary.high))


def test_nothing_cannot_be_summed_up() -> None:
    with pytest.raises(ValueError, match="no episode"):
        summarise([])
    with pytest.raises(ValueError, match="no promise"):
        weigh([])


def test_interval_of_a_normal_sample_is_the_textbook_one() -> None:
    sample = 800 + 120 * scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400)
    half = 1.96 * sample.std(ddof=1) / math.sqrt(400)
    assert mean_interval(sample) == pytest.approx((800 - half, 800 + half), abs=0.05 * half)


@settings(max_examples=25)
@given(SAMPLES, st.randoms(), NUMBERS)
def test_interval_properties(sample: list[float], random: object, shift: float) -> None:
    low, high = mean_interval(sample)
    assert min(sample) - 1e-9 <= low <= np.mean(sample) + 1e-9
    assert np.mean(sample) - 1e-9 <= high <= max(sample) + 1e-9
    shuffled = sample.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert mean_interval(shuffled) == (low, high)
    assert mean_interval(np.array(sample) + shift) == pytest.approx((low + shift, high + shift), abs=1e-6)


@given(NUMBERS, st.integers(2, 20))
def test_interval_of_equal_values_is_that_value(value: float, count: int) -> None:
    assert mean_interval([value] * count) == pytest.approx((value, value), abs=1e-9)


@settings(max_examples=25)
@given(st.lists(NUMBERS, min_size=4, max_size=20), st.floats(0, 1e5))
def test_interquartile_mean_ignores_the_best_drive(scores: list[float], luck: float) -> None:
    best = max(range(len(scores)), key=scores.__getitem__)
    lucky = [score + luck * (index == best) for index, score in enumerate(scores)]
    assert summarise([episode(s) for s in lucky]).iqm == pytest.approx(summarise([episode(s) for s in scores]).iqm)


def test_promise_ends_with_a_real_drive_that_time_or_the_last_tile_ended() -> None:
    dreamt, real = [1.0] * 250, [3.0, 3.0, -0.5]
    assert compare(7, dreamt, real, 2, foreseeable=False) == Promise(7, 2, 2.0, 6.0)
    assert compare(7, dreamt, real, 50, foreseeable=False) == Promise(7, 3, 3.0, 5.5)


def test_promise_goes_on_where_the_car_left_the_field() -> None:
    assert compare(7, [1.0] * 250, [3.0, -100.0], 50, foreseeable=True) == Promise(7, 50, 50.0, -97.0)


def promises(*pairs: tuple[float, float]) -> list[Promise]:
    return [Promise(track, 50, dreamt, real) for track, (dreamt, real) in enumerate(pairs)]


def test_trust_by_hand() -> None:
    trust = weigh(promises((10, 20), (20, 40), (30, 60)))
    assert (trust.dreamt, trust.real, trust.excess) == (20, 40, -20)
    assert -30 <= trust.low < -20 < trust.high <= -10
    assert not trust.flatters


@pytest.mark.parametrize(
    ("pairs", "flatters"),
    [
        ([(130, 100), (140, 100), (135, 100)], True),  # at least 30 % too much, always
        ([(110, 100), (115, 100), (112, 100)], False),  # too much, but by less than 20 %
        ([(300, 100), (20, 100), (100, 100)], False),  # too much on average, but it may be chance
        ([(4, 0), (4.5, 0), (4, 0)], False),  # less than 5 points
        ([(8, 0), (9, 0), (7, 0)], True),
        ([(1000, 0)], False),  # one track tells nothing
    ],
)
def test_flattery(pairs: list[tuple[float, float]], flatters: bool) -> None:
    assert weigh(promises(*pairs)).flatters is flatters


def test_correlation() -> None:
    tracks = [(float(k), 20.0 - 2 * k) for k in range(10)]
    assert weigh(promises(*tracks)).correlation == pytest.approx(-1)
    assert math.isnan(weigh(promises(*tracks[:9])).correlation)  # too few to tell
    assert math.isnan(weigh(promises(*[(1.0, real) for _, real in tracks])).correlation)  # constant


def test_trust_horizon_by_hand() -> None:
    real = [10.0] * 10
    assert trust_horizon([([11.0] * 10, real)]) == 10  # a tenth too much, for ever
    assert trust_horizon([([13.0] * 10, real)]) == 1  # 3 of 10 are no more than 5, 6 of 20 more than 5 and 20 %
    assert trust_horizon([([13.0] * 10, real), ([7.0] * 10, real)]) == 1  # too much and too little do not cancel
    assert trust_horizon([([13.0] * 10, real), (real, real)]) == 10
    late = [10.0] * 5 + [30.0] * 5
    assert trust_horizon([(late, real)]) == 5  # 20 of 60
    assert trust_horizon([(late, real[:4]), (real, real)]) == 10  # a drive that is over counts no more


def test_nothing_dreamt_has_no_trust_horizon() -> None:
    assert trust_horizon([]) is None and trust_horizon([([], [1.0])]) is None


def test_report_as_json_is_strict_and_complete() -> None:
    scores = {"policy": [episode(5, 1000)], "random": [episode(-5, 1000)]}
    report = Report({"tracks": [1000]}, scores, {15: promises((1, 2)), 50: []})
    content = report.as_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["drives"]["random"]["summary"]["mean"] == -5
    assert content["drives"]["policy"]["summary"]["std"] is None
    assert content["drives"]["policy"]["episodes"][0]["track"] == 1000
    assert list(content["dream"]) == ["15"]  # nobody drove 50 decisions
    assert content["dream"]["15"]["tracks"] == [{"track": 0, "decisions": 50, "dreamt": 1, "real": 2}]


def test_a_report_survives_json() -> None:
    promises = {15: [Promise(1, 15, 60.0, 50.0), Promise(2, 15, 40.0, 45.5)]}
    report = Report({"tracks": [1, 2]}, {"policy": [episode(1.5, 1), episode(2.5, 2)], "random": []}, promises, 7)
    report.scores["random"] = [episode(-1.0, 1), episode(-2.0, 2, left_field=True)]
    assert Report.from_json(json.loads(json.dumps(report.as_json())), DriveScore) == report


@pytest.mark.parametrize("damage", [{"drives": {}}, {"drives": None, "dream": {}}, {"drives": {"policy": {}}}])
def test_what_is_no_report_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Report.from_json({"question": {}, **damage}, EpisodeScore)


def test_a_report_warns_of_the_shortest_horizon_over_which_the_dream_flatters() -> None:
    honest = [Promise(track, 15, 100.0 + track, 100.0) for track in range(4)]
    flattering = [Promise(track, 50, 300.0 + track, 100.0) for track in range(4)]
    scores = {"policy": [episode(1.0)]}
    assert Report({}, scores, {15: honest}).warning is None
    warning = Report({}, scores, {15: honest, 50: flattering, 250: flattering}).warning
    assert warning is not None and "over 50 decisions it promises 302 where 100 comes" in warning


def plain(*scores: float, truncated: bool = True) -> list[EpisodeScore]:
    return [EpisodeScore(1000 + k, score, 10 * (k + 1), truncated=truncated) for k, score in enumerate(scores)]


def test_drivers_are_compared_seed_by_seed() -> None:
    easy_and_hard = np.linspace(-500, 500, 20)
    other, one = plain(*easy_and_hard), plain(*(easy_and_hard + np.tile([9.0, 11.0], 10)))
    difference = ahead(one, other)
    assert difference.mean == pytest.approx(10)
    assert 9 < difference.low < 10 < difference.high < 11  # what makes a seed hard cancels out
    with pytest.raises(ValueError, match="same seeds"):
        ahead(one, other[1:])
    report = Report({}, {"policy": one, "random": other}, {})
    assert report.differences == {"random": difference}
    assert report.as_json()["differences"]["random"]["mean"] == pytest.approx(10)


def test_an_episode_of_any_environment_has_no_tiles() -> None:
    summary = summarise([*plain(5.0, 7.0), *plain(9.0, truncated=False)])
    assert (summary.mean, summary.special) == (7.0, {"decisions": "13", "ended": "1"})
    assert [one.foreseeable for one in (*plain(1.0), *plain(1.0, truncated=False))] == [False, True]
    assert summarise([episode(1.0)]).special == {"tiles": "10%", "laps": "0", "off field": "0"}
