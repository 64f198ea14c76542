from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from console_script import dreamer, said_without_slow_imports

from pipeline.artifacts import Run


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose data set is not here."""
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copytree(tiny_run.root, "artifacts/tiny"))
    manifest = json.loads((path / "world" / "manifest.json").read_text())
    (path / "world" / "manifest.json").write_text(json.dumps(manifest | {"facts": {"data": "gone"}}))
    return path


def test_what_is_sound_ends_with_0(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dreamer("verify", str(run)) == 0
    output = capsys.readouterr()
    assert output.out.endswith("Sound: nothing is wrong with the run artifacts/tiny\n")
    assert output.err == "Warning: data/gone is not here, so that the run cannot be compared with its data\n"


def test_what_is_not_ends_with_1(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "policy" / "model.safetensors").write_bytes(b"")
    assert dreamer("verify", str(run)) == 1
    output = capsys.readouterr()
    assert "Sound" not in output.out
    assert "Error: artifacts/tiny/policy/model.safetensors is damaged or was changed" in output.err


def test_json_is_all_that_is_printed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dreamer("verify", str(run), "--json") == 0
    output = capsys.readouterr()
    tree = json.loads(output.out)
    assert (tree["sound"], tree["kind"], tree["faults"], len(tree["warnings"])) == (True, "run", [], 1)
    (run / "world" / "model.safetensors").unlink()
    assert dreamer("verify", str(run), "--json") == 1
    assert json.loads(capsys.readouterr().out)["sound"] is False


@pytest.mark.parametrize("path", ["nowhere", "artifacts"])
def test_what_is_neither_is_a_mistake(
    path: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dreamer("verify", path) == 2
    assert path in capsys.readouterr().err


def test_the_examples_of_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert dreamer("verify", "--help") == 0
    assert "$ dreamer verify artifacts/demo" in capsys.readouterr().out


def test_an_export_says_what_it_wrote_and_what_is_next(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dreamer("export", "tiny", "--to", "shared") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in Path("artifacts/shared").rglob("*") if path.is_file())
    assert first == f"Copied artifacts/tiny in half precision, {size / 1e6:.1f} MB in all: artifacts/shared"
    assert rest == [
        "Model card: artifacts/shared/README.md",
        "Next: dreamer evaluate --run shared --tracks 100 --video",
    ]
    assert dreamer("verify", "artifacts/shared") == 0


def test_fresh_asks_before_it_replaces_an_export(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dreamer("export", "tiny", "--to", "shared") == 0
    assert dreamer("export", "tiny", "--to", "shared") == 2
    assert "artifacts/shared is there already" in capsys.readouterr().err
    assert dreamer("export", "tiny", "--to", "shared", "--fresh") == 2
    assert "add --yes to allow it" in capsys.readouterr().err
    assert dreamer("export", "tiny", "--to", "shared", "--fresh", "--yes") == 0


def test_a_run_that_cannot_be_exported_is_named_with_its_cure(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dreamer("export", "tinny", "--to", "shared") == 3
    assert "did you mean 'tiny'?" in capsys.readouterr().err
    shutil.rmtree(run / "policy")
    assert dreamer("export", "tiny", "--to", "shared") == 3
    assert "run `dreamer fit-policy --run tiny`" in capsys.readouterr().err
    assert dreamer("export", "tiny", "--to", "a/b") == 2
    assert not Path("artifacts/shared").exists()


@pytest.mark.parametrize("words", [["--help"], ["tiny", "--to", "a/b"], ["tiny"]])
def test_help_and_mistakes_of_export_import_nothing_slow(words: list[str]) -> None:
    said = said_without_slow_imports("export", *words)
    assert "$ dreamer export demo --to shared" in said or words != ["--help"]
