from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.playing.game import Command, Input, Keys
from pipeline.playing.script import read_script


def test_words_are_keys_and_commands() -> None:
    assert read_script("gas+left*2 rewind none step") == [
        Input(keys=Keys(left=True, gas=True)),
        Input(keys=Keys(left=True, gas=True)),
        Input((Command.REWIND,), ticks=False),
        Input(),
        Input((Command.STEP,)),
    ]


def test_a_file_may_have_comments(tmp_path: Path) -> None:
    file = tmp_path / "drive.txt"
    file.write_text("gas*2  # off we go\n# right\nswitch*1\n", encoding="utf-8")
    assert read_script(str(file)) == read_script("gas gas switch")


def test_no_word_is_no_input() -> None:
    assert read_script("  \n# nothing") == []


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("gsa", "did you mean 'gas'?"),
        ("left+rewind", "'rewind'"),
        ("gas*0", "'gas*0'"),
        ("gas*many", "a number from 1"),
        ("gas*9999999", "a number from 1"),
        ("rewnd*3", "did you mean 'rewind'?"),
        ("drive.txt", "There is no script 'drive.txt'"),
    ],
)
def test_what_means_nothing_is_refused(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        read_script(text)
    assert hint in str(error.value)
