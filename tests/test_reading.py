from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.reading import parse_json, printable, read_json, read_text, read_toml, require_file


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text('{"ü": [1, null]}', encoding="utf-8")
    assert read_json(path, 100) == {"ü": [1, None]}
    path.write_text("a.b = 1979-05-27", encoding="utf-8")
    assert str(read_toml(path, 100)["a"]["b"]) == "1979-05-27"
    assert require_file(path) == 16


@pytest.mark.parametrize("content", [b"", b"[1]", b"1", b"{", b"[" * 10**5, b"\xff", b'{"a":' * 10**5, b"9" * 5000])
def test_what_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError):
        read_json(tmp_path / "x", 2**20)
    with pytest.raises(ValueError):
        parse_json(content)


@pytest.mark.parametrize(
    "content", [b"=", b"a = " + b"[" * 10**5, b"a." * 10**4 + b"b = 1", b"\xff", b'a."b".' * 10**4 + b"c = 1"]
)
def test_what_is_no_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError):
        read_toml(tmp_path / "x", 2**20)


def test_a_size_is_looked_at_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as stream:
        stream.truncate(2**40)  # which takes no room on the disk
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        read_text(tmp_path / "x", 1000)


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="is not a file"):
            read_text(path, 1000)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none", 1000)


def test_what_a_terminal_would_obey_is_printed_as_text() -> None:
    assert printable("plain, ü → ∇\n\tx") == "plain, ü → ∇\n\tx"
    assert printable("\x1b[2J\x07\r\x9b31m") == r"\x1b[2J\x07\r\x9b31m"
    assert printable("a\u202eb\u200bc\ud800") == r"a\u202eb\u200bc\ud800"
