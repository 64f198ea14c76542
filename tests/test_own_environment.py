"""The worked example of docs/your-own-environment.md, from its code block to a score."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_worked_example_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "your-own-environment.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 45
    (tmp_path / "reach.py").write_text(code, encoding="utf-8")
    (line,) = re.findall(r"dreamer (run --preset demo --env .*) --video\n", page)
    words = line.replace("--preset demo", "--preset tiny").replace("'", "").split()
    at = words.index("--env-kwargs")
    words[at + 1 : at + 3] = [" ".join(words[at + 1 : at + 3])]  # which the shell's quotes keep together
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def dreamer(*words: str) -> str:
        script = tmp_path / "dreamer"  # as the console script is: its folder is not where one works
        script.write_text(
            "if __name__ == '__main__':\n    from pipeline.cli import main\n    main()\n", encoding="utf-8"
        )
        done = subprocess.run(
            [sys.executable, script, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = dreamer(*words, "--device", "cpu", "--workers", "1")
    assert "reach:Reach-v0: pictures of 64x64 from the 64x64 picture; 2 numbers, held for 1 environment step" in said
    assert re.search("The policy is (ahead of|behind) 'random' by", said) and "Score: " in said
    settings = (tmp_path / "artifacts/reach/world/settings.toml").read_text(encoding="utf-8")
    assert 'env = "reach:Reach-v0"' in settings and "speed" in settings and 'utility = "linear"' in settings
