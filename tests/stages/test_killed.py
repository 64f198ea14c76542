"""Each stage is killed again and again, at random, and started again by the same command, until it ends.

No finished episode and no checkpoint is lost, little is done twice, and in the end everything is bitwise as if nothing
had happened. Kills come from outside at random times, and from within at random touches of the files, which is where
something could be half done. `DREAMER_KILLS=25` kills each stage that often; docs/reliability.md says what came of it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline
from pipeline import cli, console
from pipeline.artifacts import Run, file_hash
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError
from pipeline.processes import sigterm_as_ctrl_c

KILLS = int(os.environ.get("DREAMER_KILLS", "2"))
SEED = int(os.environ.get("DREAMER_KILLS_SEED", "0"))
DATA, RUN = Path("data/small"), Run(Path("artifacts/small"))
COMMON = ("--preset", "tiny", "--seed", "3")
PRECISE = ("--set", "world.precision=float32"), ("--set", "policy.precision=float32")
ROOT = str(Path(pipeline.__file__).parents[1])


@dataclass(frozen=True)
class Stage:
    """A stage to be killed.

    Attributes:
        words: its command.
        leaves: the folder that it makes.
        saved: how much of it is safe, given the folder that it runs in.
        content: all that must come out the same.
    """

    words: tuple[str, ...]
    leaves: Path
    saved: Callable[[Path], int]
    content: Callable[[Path], Any]


def episodes(folder: Path) -> int:
    """Episodes of the data set that are safe, in the data file or beside it."""
    path = folder / DATA
    count = 0
    if EpisodeStore.has_episodes(path):
        with EpisodeStore.open(path) as store:
            count = len(store)
    while (path / "pending" / f"episode_{count}.hdf5").exists():
        count += 1
    return count


def data_content(folder: Path) -> Any:
    with EpisodeStore.open(folder / DATA) as store:
        digests = [store.read(index).digest() for index in range(len(store))]
    metadata = json.loads((folder / DATA / "metadata.json").read_text())
    metadata.pop("dataset_size", None)
    return digests, metadata, file_hash(folder / DATA / "coverage.png")


def updates(stage: Path) -> Callable[[Path], int]:
    """Updates in the checkpoint, behind which the metrics are less than an interval ahead."""

    def saved(folder: Path) -> int:
        state, log = folder / stage / "training_state.pt", console.read_lines(folder / stage / "metrics.jsonl")
        done = int(torch.load(state, weights_only=True)["done"]) if state.exists() else 0
        assert not log or log[-1]["step"] <= done + 2, "save_every is 2"
        return done

    return saved


def fitted(stage: Path) -> Callable[[Path], Any]:
    """Weights, optimizers, normaliser and all else in the checkpoint, the weights to be read, and the metrics."""

    def content(folder: Path) -> Any:
        state = torch.load(folder / stage / "training_state.pt", weights_only=True)
        files = sorted((folder / stage).glob("*.safetensors"))
        lines = console.read_lines(folder / stage / "metrics.jsonl")
        return leaves(state), [file_hash(path) for path in files], lines, manifest(folder / stage)

    return content


def leaves(value: Any) -> Any:
    """A checkpoint as plain values that can be compared."""
    if isinstance(value, dict):
        return {key: leaves(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [leaves(item) for item in value]
    return (str(value.dtype), value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value


def manifest(stage: Path) -> dict[str, Any]:
    """What the manifest says, but when and how fast."""
    whole: dict[str, Any] = json.loads((stage / "manifest.json").read_text())
    assert whole["complete"]
    whole["facts"] = {name: fact for name, fact in whole["facts"].items() if name not in ("seconds", "finished")}
    return whole


def encodings(folder: Path) -> Any:
    path = folder / RUN.encodings.path
    return file_hash(path / "encodings.png"), file_hash(path / "dream.mp4"), manifest(path)


def evaluation(folder: Path) -> Any:
    path = folder / RUN.evaluation.path
    report = json.loads((path / "evaluation.json").read_text())
    report.pop("facts")
    return report, console.read_lines(path / "metrics.jsonl"), manifest(path)["inputs"]


def nothing(folder: Path) -> int:
    """What is made at one stroke is not there in parts."""
    return 0


WORLD, POLICY = RUN.world.path, RUN.policy.path
ON_RUN = ("--run", "small", *COMMON)
STAGES = {
    "collect": Stage(("collect", "--data", "small", *COMMON, "--workers", "1"), DATA, episodes, data_content),
    "fit-world": Stage(("fit-world", "--data", "small", *ON_RUN, *PRECISE[0]), WORLD, updates(WORLD), fitted(WORLD)),
    "show-encodings": Stage(("show-encodings", *ON_RUN), RUN.encodings.path, nothing, encodings),
    "fit-policy": Stage(("fit-policy", *ON_RUN, *PRECISE[1]), POLICY, updates(POLICY), fitted(POLICY)),
    "evaluate": Stage(
        ("evaluate", *ON_RUN, "--tracks", "1", "--workers", "1"), RUN.evaluation.path, nothing, evaluation
    ),
}


TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod")
"""Python's own names of what touches files."""


def command(folder: str, words: tuple[str, ...], touches: str, at: int, number: int) -> None:
    """In a process of its own: run a command; where `at` is not 0, send it a signal at so many touches of its files."""
    os.chdir(folder)
    with Path("output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)
    count = 0

    def touched(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in TOUCHES and str(arguments[0]).startswith((f"{folder}/", "data/", "artifacts/")):
            count += 1
            if count == at:
                os.kill(os.getpid(), number)

    sys.argv, code = ["dreamer", *words], 130
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # not heard by what is started in the background
        with sigterm_as_ctrl_c():
            sys.addaudithook(touched)
            Path(f"{folder}.ready").touch()
            cli.main()
    except KeyboardInterrupt:
        pass
    except SystemExit as end:
        code = int(end.code or 0)
    if not at:
        Path(touches).write_text(str(count))
    sys.stdout.flush()
    os._exit(code)


@dataclass
class Whole:
    """A run of all stages that nobody has killed.

    Attributes:
        folder: that it is in.
        seconds, touches: that each stage took.
    """

    folder: Path
    seconds: dict[str, float]
    touches: dict[str, int]


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [f"pipeline.stages.{name}" for name in ("collect", "fit_world", "show_encodings", "fit_policy", "evaluate")]
)


def run(folder: Path, words: tuple[str, ...], *, wait: float = 0.0, at: int = 0, number: int = 0) -> int:
    """Run a command, with a signal after some time or touches of its files; gives the exit code."""
    touches = str(folder.with_suffix(".touches"))
    ready = Path(f"{folder}.ready")
    ready.unlink(missing_ok=True)
    process = _processes.Process(target=command, args=(str(folder), words, touches, at, number))
    process.start()
    if number and not at:
        while not ready.exists() and process.exitcode is None:
            time.sleep(0.01)
        time.sleep(wait)
        assert process.pid is not None
        if process.exitcode is None:
            os.kill(process.pid, number)
    process.join(300)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("whole")
    made = Whole(folder, {}, {})
    for name, stage in STAGES.items():
        for attempt in range(2 if name == "collect" else 1):  # the first one waits for the imports
            shutil.rmtree(folder / stage.leaves, ignore_errors=True)
            started = time.monotonic()
            assert run(folder, stage.words) == 0, (attempt, (folder / "output.txt").read_text())
            made.seconds[name] = time.monotonic() - started
        made.touches[name] = int(folder.with_suffix(".touches").read_text())
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(name: str, whole: Whole, tmp_path: Path) -> None:
    stage, draws = STAGES[name], random.Random(f"{SEED} {name}")
    expected = stage.content(whole.folder)
    kills, lasting, counts = 0, 0, Counter[str]()
    while kills < KILLS:
        folder = Path(shutil.copytree(whole.folder, tmp_path / str(lasting)))
        shutil.rmtree(folder / stage.leaves)
        lasting += 1
        code, saved = -1, 0
        while code != 0:
            number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kills % 3]
            if kills >= KILLS:
                code = run(folder, stage.words)
                assert code == 0, (folder / "output.txt").read_text()
            elif within := draws.random() < 0.5:
                code = run(folder, stage.words, at=draws.randint(1, whole.touches[name]), number=number)
            else:
                code = run(folder, stage.words, wait=draws.uniform(0, whole.seconds[name]), number=number)
            said = (folder / "output.txt").read_text()
            now = stage.saved(folder)
            assert now >= saved, f"{saved} were saved, {now} are left"
            assert code in (0, -9 if number == signal.SIGKILL else 130), (code, said)
            assert "Traceback" not in said
            if "Stopped after" in said:
                assert f"Stopped after {now} updates" in said
            if code != 0:
                counts[f"{number.name} {'at a touch of its files' if within else 'at any time'}"] += 1
            kills, saved = kills + (code != 0), now
        assert stage.content(folder) == expected
        assert files(folder) == files(whole.folder)
        shutil.rmtree(folder)
    print(f"{name}: {kills} kills of {lasting} runs, {dict(counts)}")


def files(folder: Path) -> set[str]:
    """All files of a run and its data: nothing is left lying about."""
    return {str(path.relative_to(folder)) for part in ("data", "artifacts") for path in (folder / part).rglob("*")}


@pytest.mark.skipif(KILLS < 25, reason="takes minutes: set DREAMER_KILLS=25")
@pytest.mark.parametrize("name", STAGES)
def test_so_does_the_program_from_its_first_moment(name: str, whole: Whole, tmp_path: Path) -> None:
    """As a person starts it, imports included. Before Python listens, and after all is done, a signal just ends it."""
    stage, draws = STAGES[name], random.Random(f"{SEED} {name} program")
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    folder = Path(shutil.copytree(whole.folder, tmp_path / "killed"))
    shutil.rmtree(folder / stage.leaves)
    words, output = [sys.executable, "-m", "pipeline", *stage.words], subprocess.PIPE
    saved, kills, ended = 0, 0, False
    while not ended or kills < KILLS // 5:
        if ended:
            shutil.rmtree(folder / stage.leaves)
            saved = 0
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=output, stderr=output, text=True)
        number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kills % 3]
        if kills < KILLS // 5:
            time.sleep(draws.uniform(0, whole.seconds[name] + 5))
            process.send_signal(number)
        said = "".join(process.communicate(timeout=600))
        now, code = stage.saved(folder), process.returncode
        ended = code == 0 or is_whole(stage, folder, whole.folder)
        assert now >= saved
        deaf = number == signal.SIGKILL or not said or "KeyboardInterrupt" in said or ended
        assert code in (0, 130) or (code == -number and deaf), (code, said)
        saved, kills = now, kills + (code != 0)
        if ended:
            assert stage.content(folder) == stage.content(whole.folder)
            assert files(folder) == files(whole.folder)
    print(f"{name}: {kills} kills of the program")


def is_whole(stage: Stage, folder: Path, whole: Path) -> bool:
    """Whether all is there already."""
    try:
        return bool(stage.content(folder) == stage.content(whole))
    except (OSError, AssertionError, StageError):
        return False
