from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts import Manifest, Source, learned_from
from pipeline.episodes.episode import Episode
from pipeline.episodes.joined import JoinedStore, joint_fingerprint, locks_of, open_data
from pipeline.episodes.metadata import DRIVEN, DrivingPolicy, Origin
from pipeline.episodes.store import EpisodeStore
from pipeline.episodes.windows import Windows
from pipeline.errors import StageError, UsageError

Write = Callable[[Path, Sequence[Episode]], Path]
LENGTHS = (5, 9, 4, 7, 6)
DRIVER = DrivingPolicy(run="first", world="a" * 64, policy="b" * 64, actions="stochastic")
BY_DRIVER = {"policy": DRIVEN, "driver": DRIVER, "patience": None, "limit": None}


@pytest.fixture
def episodes(make_episode: Callable[..., Episode]) -> list[Episode]:
    return [make_episode(number, steps) for number, steps in enumerate(LENGTHS)]


@pytest.fixture
def paths(tmp_path: Path, episodes: list[Episode], write_store: Write) -> list[Path]:
    """The same episodes in two data sets."""
    return [write_store(tmp_path / "one", episodes[:2]), write_store(tmp_path / "two", episodes[2:])]


def write(path: Path, origin: Origin, episode: Episode) -> Path:
    with EpisodeStore.create(path, origin) as writer:
        writer.append(episode)
    return path


def test_several_are_read_as_if_they_were_one(
    paths: list[Path], tmp_path: Path, episodes: list[Episode], write_store: Write
) -> None:
    with open_data(paths) as joined, EpisodeStore.open(write_store(tmp_path / "all", episodes)) as whole:
        assert (len(joined), joined.steps, joined.lengths.tolist()) == (5, whole.steps, whole.lengths.tolist())
        for number, episode in enumerate(episodes):
            assert joined.read(number).digest() == episode.digest()
            assert joined.read_decisions(number).seed == episode.seed
            np.testing.assert_array_equal(joined.read_frames(number, 1, 4), episode.observations[1:4])
        for memory in (1.0, 1e-9):
            batches = [
                Windows(store, [0, 2, 3, 4], 6, memory).sample(np.random.default_rng(0), 8) for store in (joined, whole)
            ]
            assert all(torch.equal(value, vars(batches[1])[name]) for name, value in vars(batches[0]).items())


def test_one_is_what_it_was(paths: list[Path]) -> None:
    for data in (paths[0], paths[:1]):
        with open_data(data) as store, EpisodeStore.open(paths[0]) as same:
            assert not isinstance(store, JoinedStore) and store.fingerprint == same.fingerprint
    assert [what for _, what in locks_of(paths)] == paths


def test_the_content_is_that_of_all_in_their_order(paths: list[Path]) -> None:
    with open_data(paths) as joined, open_data(paths[::-1]) as other:
        assert joined.fingerprint == joint_fingerprint([source.sha256 for source in joined.sources])
        assert [source.name for source in joined.sources] == ["one", "two"]
        assert len({joined.fingerprint, other.fingerprint, *(source.sha256 for source in joined.sources)}) == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gymnasium": "1.5.0"}, r"gymnasium '1\.5\.0', not '1\.4\.0'"),
        ({"environment": "Other-v0"}, "environment 'Other-v0', not 'CarRacing-v3'"),
        ({"simulator": "ale-py 1"}, "simulator 'ale-py 1', not None"),
        ({"view": {"action_repeat": 2}}, r"view\.action_repeat 2, not 4"),
        ({"view": {"action_high": (1.0, 1.0, 2.0)}}, r"view\.action_high \(1\.0, 1\.0, 2\.0\), not"),
        ({"view": {"resize": "by eye"}}, r"view\.resize 'by eye', not"),
    ],
)
def test_what_was_seen_otherwise_is_refused_in_a_sentence(
    changed: dict[str, object], said: str, paths: list[Path], tmp_path: Path, origin: Origin
) -> None:
    if isinstance(view := changed.get("view"), dict):
        changed = {"view": origin.view.model_copy(update=view)}
    stores = [EpisodeStore.open(path) for path in paths]
    stores[1].origin = origin.model_copy(update=changed)
    with pytest.raises(StageError, match=rf"^\S*two was recorded with {said}.* as \S*one was, [^\n]*$"):
        JoinedStore(stores)
    for store in stores:
        store.close()


def test_who_acted_and_when_it_was_cut_short_may_differ(
    paths: list[Path], tmp_path: Path, origin: Origin, episodes: list[Episode]
) -> None:
    other = origin.model_copy(update={**BY_DRIVER, "seed": 7, "shard": "1/2"})
    driven = write(tmp_path / "driven", other, episodes[0])
    with open_data([driven, *paths]) as store:
        assert store.origin == origin and store.path == driven  # by which settings are told
        assert store.sources[0] == Source("driven", store.sources[0].sha256, 5, "driven", "first", 7)
        assert learned_from(store.sources) == "random data and 5 decisions driven by a policy"
    with open_data(driven) as store:
        assert store.origin == other
        assert learned_from(store.sources) == "5 decisions driven by a policy"


def test_a_data_set_given_twice_is_refused(paths: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"one is given twice"):
        open_data([*paths, paths[0]])


def test_all_are_closed_where_one_is_missing(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(StageError, match="dreamer collect --data none"):
        open_data([*paths, tmp_path / "none"])


def test_what_was_not_recorded_is_not_told() -> None:
    random, played = Source("a", "0" * 64, 10, "random"), Source("b", "1" * 64, 1200, "played")
    old = Manifest("fit-world", {"data": "2" * 64}, facts={"data": "demo"})
    assert old.sources == (Source("demo", "2" * 64),)
    assert learned_from(old.sources) is learned_from([random, *old.sources]) is learned_from([]) is None
    assert learned_from([random, random]) == "random data only"
    assert learned_from([random, played]) == "random data and 1,200 decisions played"
    assert learned_from([played, played]) == "2,400 decisions played"
    assert Manifest("fit-world").with_sources([random, played]).sources == (random, played)
