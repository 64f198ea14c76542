from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline import console
from pipeline.config import Settings, resolve
from pipeline.episodes import metadata
from pipeline.episodes.episode import Episode
from pipeline.episodes.recording import episode_seed, record_episode
from pipeline.episodes.shards import Shard
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError, UsageError
from pipeline.stages.collect import collect

NAME = "drives"


def tiny(decisions: int = 150, **values: object) -> Settings:
    return resolve("tiny", values=[("collect.decisions", decisions), *((f"collect.{k}", v) for k, v in values.items())])


def fingerprint(path: Path) -> str:
    with EpisodeStore.open(path) as store:
        return store.fingerprint


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collected by two workers at once. Shared: not to be changed."""
    return collect(tiny(), name=NAME, root=tmp_path_factory.mktemp("data"), workers=2)


def test_it_holds_what_was_asked_for(collected: Path) -> None:
    with EpisodeStore.open(collected) as store:
        episodes = [store.read(index) for index in range(len(store))]
        assert store.origin.policy == "mixture" and store.view.size == 64
    lengths = [len(episode) for episode in episodes]
    assert sum(lengths) >= 150 > sum(lengths[:-1])
    assert max(lengths) <= 60
    assert len({episode.seed for episode in episodes}) == len(episodes)
    for episode in episodes:
        assert episode.observations.shape[1:] == (3, 64, 64)
        assert episode.actions.min() >= -1 and episode.actions[:, 1:].min() >= 0 and episode.actions.max() <= 1
        gained = 1000 / episode.track_tiles * np.diff(episode.infos["tiles"], prepend=0)
        np.testing.assert_allclose(episode.rewards[1:-1], (gained - 0.4)[1:-1], atol=1e-3)


def test_it_does_not_depend_on_workers_or_on_how_often_it_was_extended(collected: Path, tmp_path: Path) -> None:
    part = collect(tiny(60), name=NAME, root=tmp_path, workers=1)
    assert fingerprint(part) != fingerprint(collected)
    whole = collect(tiny(), name=NAME, root=tmp_path, workers=1)
    assert fingerprint(whole) == fingerprint(collected)
    other = collect(resolve("tiny", values=[("collect.decisions", 60), ("seed", 1)]), name="other", root=tmp_path)
    with EpisodeStore.open(other) as others, EpisodeStore.open(part) as store:
        assert others.read(0).digest() != store.read(0).digest()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two parts of a data set, the first one larger than it need be. Shared: not to be changed."""
    root = tmp_path_factory.mktemp("shards")
    for decisions, shard in ((450, Shard(1, 2)), (150, Shard(2, 2))):
        path = collect(tiny(decisions), name=NAME, root=root, workers=1, shard=shard)
        assert path.name == f"{NAME}-{shard.number}of2"
        with EpisodeStore.open(path) as store:
            assert store.steps >= decisions / 2 and store.origin.shard == str(shard)
    return root


def test_merged_shards_are_what_one_process_collects(collected: Path, shards: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shards, tmp_path / "data"))
    before = {path: fingerprint(path) for path in root.iterdir()}
    merged = collect(tiny(), name=NAME, root=root, workers=1, merge=2)
    assert fingerprint(merged) == fingerprint(collected)
    assert {path: fingerprint(path) for path in before} == before  # nothing is taken away
    assert (merged / "metadata.json").read_text() == (collected / "metadata.json").read_text()
    assert fingerprint(collect(tiny(), name=NAME, root=root, merge=2)) == fingerprint(collected)


def test_what_the_shards_lack_is_recorded(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging begins in the middle of what there is, and ends where a shard has no more."""
    root = Path(shutil.copytree(shards, tmp_path / "data"))
    with EpisodeStore.open(root / f"{NAME}-1of2") as one, EpisodeStore.open(root / f"{NAME}-2of2") as two:
        lacking = 2 * len(two) + 1  # the first has more
        assert len(one) > len(two)
    collect(tiny(30), name=NAME, root=root, workers=1)
    recorded: list[int] = []

    def in_order(function: object, numbers: Iterator[int], *_: object, **__: object) -> Iterator[Episode]:
        for number in numbers:
            recorded.append(number)
            yield record_episode(tiny(), number)

    monkeypatch.setattr("pipeline.stages.collect.in_order", in_order)
    merged = collect(tiny(1000), name=NAME, root=root, workers=1, merge=2)
    assert recorded == list(range(lacking, recorded[-1] + 1))
    with EpisodeStore.open(merged) as store:
        assert store.steps >= 1000
        seeds = [store.read_decisions(index).seed for index in range(len(store))]
    assert seeds == [episode_seed(0, number) for number in range(len(seeds))]


def test_shards_do_not_mix_with_others(shards: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shards, tmp_path / "data"))
    whole = collect(tiny(30), name=NAME, root=root, workers=1)
    before = fingerprint(whole)
    missing = f"{NAME}-1of3 holds no episodes; run `dreamer collect --data {NAME} --shard 1/3`"
    for options in ({}, {"fresh": True}):  # what cannot be merged replaces nothing
        with pytest.raises(StageError, match=missing):
            collect(tiny(), name=NAME, root=root, merge=3, **options)
    with pytest.raises(StageError, match="patience 10, not 11"):
        collect(tiny(patience=11), name=NAME, root=root, merge=2, fresh=True)
    assert fingerprint(whole) == before
    with pytest.raises(StageError, match="was collected with shard '1/2', not None"):
        collect(tiny(), name=f"{NAME}-1of2", root=root)
    (root / f"{NAME}-1of2").rename(root / f"{NAME}-3of2")
    (root / f"{NAME}-2of2").rename(root / f"{NAME}-1of2")
    with pytest.raises(StageError, match="was collected with shard '2/2', not '1/2'"):
        collect(tiny(), name=NAME, root=root, shard=Shard(1, 2))


@pytest.mark.parametrize("text", ["9/8", "0/8", "2", "2/", "a/b", "2/8/9", "-1/8"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"such as 2/8, not '{text}'"):
        Shard.parse(text)
    assert str(Shard.parse("2/8")) == "2/8"


def test_the_same_command_again_adds_nothing(collected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = collected / "main_data.hdf5"
    before = (fingerprint(collected), data.stat().st_mtime_ns, data.stat().st_ino)
    collect(tiny(), name=NAME, root=collected.parent)
    assert (fingerprint(collected), data.stat().st_mtime_ns, data.stat().st_ino) == before
    assert "already has" in capsys.readouterr().out


def test_it_ends_with_the_coverage(collected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (collected / "coverage.png").unlink()
    collect(tiny(), name=NAME, root=collected.parent)
    output = capsys.readouterr()
    assert "speed, units/s" in output.out and "There are only" in output.err
    assert (collected / "coverage.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"policy": "smooth"}, "policy 'mixture', not 'smooth'"),
        ({"patience": 11}, "patience 10, not 11"),
        ({"limit": 61}, "limit 60, not 61"),
    ],
)
def test_other_settings_do_not_mix(collected: Path, changed: dict[str, object], said: str) -> None:
    before = fingerprint(collected)
    cure = f"ask for the same to extend it, use another --data name, or .* `dreamer collect --data {NAME} --fresh`"
    with pytest.raises(StageError, match=f"{said}; {cure}"):
        collect(tiny(**changed), name=NAME, root=collected.parent)
    assert fingerprint(collected) == before


def test_discrete_actions_are_collected_and_do_not_mix_with_others(
    collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    discrete = resolve("tiny", values=[("collect.decisions", 60), ("view.continuous", False)])
    with pytest.raises(StageError, match=f"was collected with view.continuous True, not False; .* {NAME} --fresh`"):
        collect(discrete, name=NAME, root=collected.parent)
    path = collect(discrete, name=NAME, root=tmp_path, workers=2)
    assert "share of 'steer left'" in " ".join(capsys.readouterr().out.split())
    with EpisodeStore.open(path) as store:
        assert store.origin.view_settings == discrete.view and store.steps >= 60
        for index in range(len(store)):
            assert set(store.read(index).actions.tolist()) <= set(range(5))
    with pytest.raises(StageError, match=r"was collected with view.continuous False, not True; "):
        collect(tiny(60), name=NAME, root=tmp_path)


def test_a_driver_that_has_no_such_actions_begins_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="brownian"):
        values = [("collect.policy", "brownian"), ("view.continuous", False)]
        collect(resolve("tiny", values=values), name=NAME, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_gymnasium_does_not_mix(collected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata.importlib.metadata, "version", lambda _: "9.9.9")
    with pytest.raises(StageError, match=r"was collected with gymnasium '.*', not '9.9.9'"):
        collect(tiny(), name=NAME, root=collected.parent)


def test_fresh_replaces(collected: Path, tmp_path: Path) -> None:
    path = collect(tiny(30, policy="uniform"), name=NAME, root=tmp_path, workers=1)
    collect(tiny(30), name=NAME, root=tmp_path, workers=1, fresh=True)
    with EpisodeStore.open(path) as store, EpisodeStore.open(collected) as same:
        assert store.origin.policy == "mixture"
        assert store.read(0).digest() == same.read(0).digest()


def test_names_that_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data set"):
        collect(tiny(), name="../x", root=tmp_path)


COMMAND = """
import sys
from pathlib import Path
from pipeline.config import resolve
from pipeline.errors import DreamerError
from pipeline.stages.collect import collect

if __name__ == "__main__":
    settings = resolve("tiny", values=[("collect.decisions", 10**6)])
    try:
        collect(settings, name="drives", root=Path(sys.argv[1]), workers=2)
    except DreamerError as error:
        print(error)
        sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_time_it_keeps_the_finished_episodes(
    collected: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    root = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, script, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=root,
        start_new_session=True,
    )
    wanted = tmp_path / NAME / "pending" / "episode_3.hdf5"
    deadline = time.monotonic() + 60
    while not wanted.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    finished = len(list(wanted.parent.glob("episode_*.hdf5")))
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to the workers too
    else:
        process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "Stopped" in output and "the same command goes on from there" in output
        assert "Traceback" not in errors
        assert not wanted.parent.exists()
    assert finished >= 4
    EpisodeStore.extend(tmp_path / NAME).close()
    with EpisodeStore.open(tmp_path / NAME) as store, EpisodeStore.open(collected) as same:
        assert len(store) >= finished
        for index in range(min(len(store), len(same))):
            assert store.read(index).digest() == same.read(index).digest()


def test_progress_names_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, float]] = []
    monkeypatch.setattr(console.Meter, "advance_to", lambda _, done, metrics: shown.append({"done": done, **metrics}))
    path = collect(tiny(30), name=NAME, root=tmp_path, workers=1)
    with EpisodeStore.open(path) as store:
        assert [line["episodes"] for line in shown] == list(range(1, len(store) + 1))
        assert shown[-1]["done"] == 30
        scores = [store.read_decisions(index).score for index in range(len(store))]
    assert shown[-1]["mean return"] == pytest.approx(np.mean(scores))
