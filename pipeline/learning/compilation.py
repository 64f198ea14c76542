"""Compiling what an update computes."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..console import warn

P = ParamSpec("P")
T = TypeVar("T")


def compiled(function: Callable[P, T], wanted: bool, *, begins: bool = True) -> Callable[P, T]:
    """The function compiled at its first call, on a GPU into CUDA graphs; or as it is, where that is not wanted.

    It draws the same random numbers, and its results differ by rounding. What it returned is overwritten by the next
    update. Where PyTorch cannot compile it, that is said, and it runs as it is.

    Args:
        function: of tensors of the same shapes at every call.
        wanted: whether to compile it.
        begins: it is the first of the compiled functions in an update.
    """
    if not wanted:
        return function
    import torch._dynamo.exc
    import torch._inductor.config

    torch._inductor.config.fallback_random = True
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    fast: Callable[P, T] | None = torch.compile(function, mode="reduce-overhead", dynamic=False)

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        nonlocal fast
        if fast is None:
            return function(*args, **options)
        if begins:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return fast(*args, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            fast = None
            reason = str(error).strip().splitlines()[0]
            warn(f"torch.compile failed ({type(error).__name__}: {reason}); the update runs without, and slower")
            return function(*args, **options)

    return call
