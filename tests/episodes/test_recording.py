from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import ViewSettings, resolve
from pipeline.envs.car_racing.drivers import make_policy
from pipeline.envs.tracks import episode_seed
from pipeline.envs.view import Step
from pipeline.episodes import recording
from pipeline.episodes.recording import record, record_episode
from pipeline.randomness import Stream, numpy_stream


@dataclass
class Script:
    """An environment in which the wheels on the road and the end are written down beforehand.

    Its observation shows the action that led to it, its reward is the action's gas.
    """

    on_road: list[int]
    terminated_at: int | None = None
    truncated_at: int | None = None
    track_tiles: int = 280
    seeds: list[int] = field(default_factory=list)
    settings: ViewSettings = field(default_factory=ViewSettings)

    def reset(self, seed: int) -> NDArray[np.uint8]:
        self.seeds.append(seed)
        self.done = 0
        return np.zeros((3, 4, 4), np.uint8)

    def step(self, action: NDArray[np.float32]) -> Step:
        self.done += 1
        return Step(
            observation=np.full((3, 4, 4), round(float(action[0]) * 200) % 256, np.uint8),
            reward=float(action[1]),
            terminated=self.done == self.terminated_at,
            truncated=self.done == self.truncated_at,
            infos={
                "on_road": self.on_road[self.done - 1],
                "speed": self.done / 2,
                "tiles": self.done,
                "lap_finished": self.done == self.terminated_at,
            },
            lost=self.on_road[self.done - 1] == 0,
        )


class Counting:
    """The k-th action is k / 200 in each of its three numbers, from 1; it is shown what the one before led to."""

    calls = 0

    def __call__(self, seen: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert (seen == self.calls % 256).all()
        self.calls += 1
        return np.full(3, self.calls / 200, np.float32)


def test_each_row_holds_what_belongs_to_it() -> None:
    view = Script([4, 3, 2, 1], terminated_at=4)
    episode = record(view, Counting(), 99, policy="counting", patience=9, limit=9)  # type: ignore[arg-type]
    assert episode.observations[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(episode.actions[:, 0] * 200, [1, 2, 3, 4], rtol=1e-6)
    np.testing.assert_array_equal(episode.rewards, episode.actions[:, 1])
    assert episode.infos["on_road"].tolist() == [4, 3, 2, 1]
    assert episode.infos["speed"].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert episode.infos["tiles"].tolist() == [1, 2, 3, 4]
    assert episode.infos["lap_finished"].tolist() == [False, False, False, True]
    assert (episode.seed, view.seeds, episode.policy, episode.track_tiles) == (99, [99], "counting", 280)


def test_discrete_actions_are_recorded_as_numbers() -> None:
    settings = resolve("tiny", values=[("collect.limit", 12), ("view.continuous", False)])
    episode = record_episode(settings, 1)
    rng = numpy_stream(0, Stream.RANDOM_POLICY, 1)
    rng.random()  # whether the episode may stay lost
    policy = make_policy("mixture", rng, continuous=False)
    assert episode.actions.dtype == np.int64
    assert episode.actions.tolist() == [policy(seen) for seen in episode.observations[:-1]]
    continuous = record_episode(resolve("tiny", values=[("collect.limit", 12)]), 1)
    assert (continuous.seed, continuous.actions.shape) == (episode.seed, (12, 3))
    np.testing.assert_array_equal(continuous.observations[0], episode.observations[0])


@pytest.mark.parametrize(
    ("view", "length", "terminated"),
    [
        (Script([4] * 20), 8, False),  # the limit
        (Script([4, 0, 0, 1, 0, 0, 0, 4]), 7, False),  # three off the road in a row; one wheel is enough to go on
        (Script([0, 0, 0, 0]), 3, False),
        (Script([4] * 20, terminated_at=5), 5, True),
        (Script([4] * 20, truncated_at=5), 5, False),
        (Script([4] * 20, terminated_at=8), 8, True),  # for good, if at the limit too
        (Script([0, 0, 0], terminated_at=3), 3, True),
        (Script([4], terminated_at=1, truncated_at=1), 1, True),
    ],
)
def test_ends(view: Script, length: int, terminated: bool) -> None:
    episode = record(view, Counting(), 0, policy="counting", patience=3, limit=8)  # type: ignore[arg-type]
    assert len(episode) == length
    assert episode.terminations.tolist() == [False] * (length - 1) + [terminated]
    assert episode.truncations.tolist() == [False] * (length - 1) + [not terminated]


def test_without_patience_or_limit_the_environment_alone_ends_it() -> None:
    view = Script([4] + [0] * 299, truncated_at=300)
    assert len(record(view, Counting(), 0, policy="counting")) == 300  # type: ignore[arg-type]


def test_one_episode_in_ten_may_stay_lost_six_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = resolve("tiny", values=[("collect.patience", 7)])
    monkeypatch.setattr(recording, "record", lambda *_, patience, **__: patience)
    patience = Counter(record_episode(settings, number) for number in range(500))
    assert set(patience) == {7, 42} and 30 < patience[42] < 70  # type: ignore[comparison-overlap]


def test_an_episode_depends_on_settings_and_number_alone() -> None:
    settings = resolve("tiny", values=[("collect.limit", 8)])
    once = [record_episode(settings, number).digest() for number in (0, 1, 2)]
    again = [record_episode(settings, number).digest() for number in (2, 0, 1)]
    assert once == [again[1], again[2], again[0]]
    assert len(set(once)) == 3
    other = resolve("tiny", values=[("collect.limit", 8), ("seed", 1)])
    assert record_episode(other, 0).digest() != once[0]
    assert record_episode(settings, 2).seed == episode_seed(0, 2)


GROWTH = """
from pathlib import Path
from pipeline.config import resolve
from pipeline.episodes.recording import record_episode

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])

settings = resolve("tiny", values=[("collect.limit", 3)])
for number in range(350):
    record_episode(settings, number)
    if number == 49:
        before = resident()
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' account of memory")
def test_memory_does_not_grow_with_the_number_of_episodes() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    pages_of_4_kib = int(done.stdout.split()[-1])
    assert pages_of_4_kib / 300 < 2.5  # a picture kept of each would be 3 more; 0.8 are Box2D's own, in every reset
