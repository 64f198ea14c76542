"""The whole chain as a user types it, on the real environment, with the smallest preset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from pipeline import load_agent


def dreamer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_from_random_driving_to_a_score_and_again(tmp_path: Path) -> None:
    first = dreamer(tmp_path, "run", "--preset", "tiny", "--data", "small", "--run", "small", "--video")
    assert first.returncode == 0, first.stderr
    run = tmp_path / "artifacts" / "small"
    for name in (
        "world/curves.png",
        "encodings/encodings.png",
        "encodings/dream.mp4",
        "policy/curves.png",
        "evaluation/drive.mp4",
        "report.html",
    ):
        assert (run / name).stat().st_size > 1000, name
        assert name.split("/")[0] in first.stdout
    report = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert {driver: len(drives) for driver, drives in report["drives"].items()} == dict.fromkeys(report["drives"], 2)

    made = {path: path.read_bytes() for path in run.glob("*/model.safetensors")}
    assert len(made) == 2
    again = dreamer(tmp_path, "run", "--run", "small")  # settings and data are the run's own
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already") >= 3
    assert {path: path.read_bytes() for path in made} == made

    agent = load_agent(run)
    with gym.make("CarRacing-v3") as env:
        observation, _ = env.reset(seed=1000)
        agent.reset()
        action = agent.act(observation)
        for _ in range(agent.action_repeat):
            observation, *_ = env.step(action)
    assert env.action_space.contains(action)

    stale = dreamer(tmp_path, "collect", "--preset", "tiny", "--data", "small", "--decisions", "400")
    assert stale.returncode == 0, stale.stderr
    refused = dreamer(tmp_path, "fit-policy", "--run", "small")
    assert refused.returncode == 3
    assert "dreamer fit-world --run small --fresh" in refused.stderr.replace("\n", " ")
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_with_discrete_actions(tmp_path: Path) -> None:
    options = ("--preset", "tiny", "--data", "five", "--run", "five", "--set", "view.continuous=false")
    done = dreamer(tmp_path, "run", *options)
    assert done.returncode == 0, done.stderr
    agent = load_agent(tmp_path / "artifacts" / "five")
    assert agent.world.interface.discrete and not agent.world.interface.view.continuous
    with gym.make("CarRacing-v3", continuous=False) as env:
        observation, _ = env.reset(seed=1000)
        action = agent.act(observation)
        env.step(action)
    assert isinstance(action, int)

    refused = dreamer(tmp_path, "collect", "--preset", "tiny", "--data", "five")
    assert refused.returncode == 3
    assert "was collected with view.continuous False, not True" in refused.stderr.replace("\n", " ")
