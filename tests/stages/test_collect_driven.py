"""`dreamer collect --policy artifacts/RUN`: episodes that a policy drives."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import console
from pipeline.artifacts import Run, file_hash
from pipeline.config import Settings, resolve
from pipeline.driving import driving_policy, open_garage, record_drive
from pipeline.envs.tracks import REPORT_TRACKS, SELECTION_TRACKS, episode_seed
from pipeline.episodes.metadata import DRIVEN
from pipeline.episodes.shards import Shard
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import InterruptedRunError, StageError, UsageError
from pipeline.locks import Lock
from pipeline.stages import forecast
from pipeline.stages.collect import collect

NAME = "round2"
DECISIONS = 600  # three drives: an untrained policy stays on the field until the time is up


def tiny(decisions: int = DECISIONS, **values: object) -> Settings:
    return resolve("tiny", values=[("collect.decisions", decisions), *((f"collect.{k}", v) for k, v in values.items())])


def digests(path: Path) -> list[str]:
    with EpisodeStore.open(path) as store:
        return [store.read(index).digest() for index in range(len(store))]


@pytest.fixture(scope="module")
def collected(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collected by two workers at once. Shared: not to be changed."""
    return collect(tiny(), name=NAME, root=tmp_path_factory.mktemp("data"), workers=2, driver=tiny_run)


def test_it_holds_whole_drives_and_tells_who_drove(collected: Path, tiny_run: Run) -> None:
    with EpisodeStore.open(collected) as store:
        episodes = [store.read(index) for index in range(len(store))]
        driver = store.origin.driver
    assert driver is not None
    assert (driver.run, driver.actions) == (tiny_run.root.name, "stochastic")
    assert (driver.world, driver.policy) == (file_hash(tiny_run.world.weights), file_hash(tiny_run.policy.weights))
    for episode in episodes:
        assert episode.policy == DRIVEN and episode.seed >= 2**24
        assert episode.terminations[-1] or len(episode) == 250  # neither tiny's limit of 60 nor its patience of 10
        assert episode.actions.std(0).min() > 0.01 and np.abs(episode.actions).max() <= 1
    assert sum(map(len, episodes)) >= DECISIONS > sum(map(len, episodes[:-1]))
    assert max(map(len, episodes)) > 60


def test_no_track_is_reported_on_or_met_by_others(tiny_run: Run) -> None:
    own = int(open_garage(tiny_run).policy[:8], 16)
    tracks = [{episode_seed(0, number, *driver) for number in range(300)} for driver in ((), (own,), (own + 1,))]
    assert len(set().union(*tracks)) == 900
    assert min(set().union(*tracks)) > max(*REPORT_TRACKS, *SELECTION_TRACKS)


@pytest.mark.slow
def test_it_does_not_depend_on_workers_or_shards_or_interruptions(
    collected: Path, tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(meter: console.Meter, done: int, metrics: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(console.Meter, "advance_to", stop)
        with pytest.raises(InterruptedRunError):
            collect(tiny(), name=NAME, root=tmp_path, workers=1, driver=tiny_run)
    assert digests(collect(tiny(), name=NAME, root=tmp_path, workers=1, driver=tiny_run)) == digests(collected)
    for number in (1, 2):
        collect(tiny(), name="parts", root=tmp_path, workers=1, shard=Shard(number, 2), driver=tiny_run)
    merged = collect(tiny(), name="parts", root=tmp_path, workers=1, merge=2, driver=tiny_run)
    assert digests(merged) == digests(collected)


def test_an_episode_depends_on_seed_number_and_how_alone(collected: Path, tiny_run: Run) -> None:
    garage = open_garage(tiny_run, stochastic=True)
    assert record_drive(garage, tiny(), 1).digest() == digests(collected)[1]
    mean = record_drive(replace(garage, stochastic=False), tiny(actions="deterministic"), 1)
    assert mean.seed == episode_seed(0, 1, int(garage.policy[:8], 16))  # the same track, driven otherwise
    assert mean.digest() != digests(collected)[1]
    assert driving_policy(replace(garage, stochastic=False)).actions == "deterministic"


def test_data_of_others_do_not_mix(collected: Path, tiny_run: Run, tmp_path: Path) -> None:
    root = Path(shutil.copytree(collected.parent, tmp_path / "data"))
    before = digests(collected)
    with pytest.raises(StageError, match="collected with policy 'driven', not 'mixture'; ask for the same"):
        collect(tiny(), name=NAME, root=root)
    with pytest.raises(StageError, match=r"driver\.actions 'stochastic', not 'deterministic'"):
        collect(tiny(actions="deterministic"), name=NAME, root=root, driver=tiny_run)
    other = Run(Path(shutil.copytree(tiny_run.root, tmp_path / "artifacts" / "other")))
    with pytest.raises(StageError, match=r"driver\.run 'tiny', not 'other'"):
        collect(tiny(), name=NAME, root=root, driver=other)
    assert digests(root / NAME) == before


@pytest.fixture
def copy(tiny_run: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(tiny_run.root, tmp_path / "artifacts" / "copy")))


def test_a_policy_that_cannot_drive_begins_nothing(copy: Run, tmp_path: Path) -> None:
    def refused(error: type[Exception], said: str, size: int = 64) -> None:
        with pytest.raises(error, match=said):
            collect(tiny().with_value("view.size", size), name=NAME, root=tmp_path / "data", driver=copy)
        assert not (tmp_path / "data").exists()

    refused(UsageError, "knows another view than is asked for", size=96)
    with Lock(copy.policy.lock, copy.policy.path, "dreamer fit-policy --run copy"):
        refused(StageError, "is in use by `dreamer fit-policy --run copy`")
    shutil.rmtree(copy.policy.path)
    refused(StageError, "policy is missing; run `dreamer fit-policy --run copy`")


def test_it_is_foreseen(collected: Path, tiny_run: Run, copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_acting_seconds", lambda *_, stochastic: 0.007 if stochastic else 1.0)
    found = forecast.collect(tiny(1000), data=collected.with_name("none"), workers=2, driver=tiny_run)
    assert found.sizes.startswith("1000 decisions to record, about 4 episodes") and found.seconds == 5
    assert "there, nothing to record" in forecast.collect(tiny(), data=collected, driver=tiny_run).sizes
    with pytest.raises(StageError, match=r"driver\.run 'tiny', not 'copy'"):
        forecast.collect(tiny(), data=collected, driver=copy)
