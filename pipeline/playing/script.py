"""A game played from a text, such as `gas*20 gas+left*5 rewind*3 right*4 switch driver none*30`.

Words are separated by white space; `#` begins a comment. A word is keys held down (`left`, `right`, `gas`, `brake`,
several joined by `+`, or `none`) for a decision, or a command; `*N` repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError, did_you_mean
from .game import Command, Input, Keys

_MOST = 100_000  # times that a word may be repeated


def read_script(text: str) -> list[Input]:
    """The inputs of a script, or of the file that is named so.

    Raises:
        UsageError: a word means nothing.
    """
    try:
        if Path(text).is_file():
            text = Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read the script {text!r}: {error}") from error
    if len(text.split()) == 1 and Path(text).suffix[1:].isalpha():
        raise UsageError(f"There is no script {text!r}, and it is none itself")
    lines = (line.partition("#")[0] for line in text.splitlines())
    return [given for line in lines for word in line.split() for given in _read(word)]


def _read(word: str) -> Iterator[Input]:
    what, _, times = word.partition("*")
    if times and not (times.isdecimal() and 1 <= int(times) <= _MOST):
        raise UsageError(f"In the script, '{word}' is repeated '{times}' times; that is a number from 1 to {_MOST}")
    if what in set(Command):
        command = Command(what)
        given = Input((command,), ticks=command is Command.STEP)
    else:
        held = what.split("+")
        wrong = next((key for key in held if key not in (*Keys._fields, "none")), None)
        if wrong is not None:
            raise UsageError(f"The script says '{wrong}'{did_you_mean(wrong, [*Keys._fields, 'none', *Command])}")
        given = Input(keys=Keys(**{key: key in held for key in Keys._fields}))
    for _ in range(int(times or 1)):
        yield given
