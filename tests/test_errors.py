"""What the machine lacks is said in a sentence, whichever library has noticed it."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import DreamerError, of_the_machine


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        try:
            if cause is not None:
                raise cause
        finally:
            raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            "a/b cannot be written, for the disk is full; ",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b is not for this user to read or write; "),
        (OSError(errno.EROFS, "Read-only file system"), "A file cannot be written, for the disk is read-only; "),
        (
            raised(RuntimeError("unexpected pos 704"), OSError(errno.EFBIG, "File too large")),
            "larger than a file",
        ),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "e.png"), "e.png cannot be written, for a folder has this"),
        (FileExistsError(errno.EEXIST, "File exists", "a"), "a cannot be made, for something else has this name"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b cannot be found, for what should be"),
        (MemoryError(), "not enough memory (MemoryError); "),
        (
            RuntimeError("CUDA out of memory. Tried 2 GiB\nmore"),
            "(CUDA out of memory. Tried 2 GiB)",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
    ],
)
def test_what_is_lacking_and_that_nothing_is_lost(error: Exception, said: str) -> None:
    lacking = of_the_machine(error)
    assert isinstance(lacking, DreamerError) and lacking.exit_code == 1
    assert said in str(lacking) and "what was saved before is as it was" in str(lacking)


@pytest.mark.parametrize("allocate", [lambda: torch.zeros(10**15), lambda: np.zeros(10**15)], ids=["torch", "numpy"])
def test_libraries_still_say_it_so(allocate: object) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()  # type: ignore[operator]
    assert "not enough memory" in str(of_the_machine(caught.value))


def test_the_path_that_is_known_is_named() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "temporary")
    assert str(of_the_machine(error, Path("a/b"))).startswith("a/b cannot")


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no"), FileNotFoundError(errno.ENOENT, "no", "x")])
def test_other_errors_are_not_the_machines(error: Exception) -> None:
    assert of_the_machine(error) is None
