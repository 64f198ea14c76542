"""What this machine has for dreamer, and what it lacks: `dreamer doctor`. Everything is tried, not looked up."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import __version__
from .allocator import keep_memory
from .processes import cores

_PACKAGES = {  # modules, each with the distributions that bring it
    "torch": ("torch",),
    "gymnasium": ("gymnasium",),
    "Box2D": ("box2d", "box2d-py"),
    "pygame": ("pygame-ce", "pygame"),
    "numpy": ("numpy",),
    "h5py": ("h5py",),
    "cv2": ("opencv-python", "opencv-python-headless"),
    "matplotlib": ("matplotlib",),
    "scipy": ("scipy",),
    "pydantic": ("pydantic",),
    "safetensors": ("safetensors",),
    "av": ("av",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
_EXTRAS = ("av", "tensorboard", "wandb")
_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "DREAMER_ALLOCATOR", "LD_PRELOAD", "WORLD_SIZE")

# GiB. `--preset demo` takes about 0.3 on disk and 3.1 in memory.
_LITTLE_DISK, _NO_DISK, _LITTLE_MEMORY = 2.0, 0.2, 3.5


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        name: what was looked at.
        value: what was found.
        trouble: what is wrong with it and its cure, a sentence; empty where nothing is.
        fatal: whether something will not work for it.
    """

    name: str
    value: str
    trouble: str = ""
    fatal: bool = False


def examine() -> Iterator[Finding]:
    """Look at everything, one thing after the other: a package that cannot be imported ends no other check."""
    yield Finding("dreamer", __version__)
    yield Finding("python", f"{platform.python_version()}, {platform.platform()}")
    for module, distributions in _PACKAGES.items():
        yield _package(module, distributions)
    for name, check in _CHECKS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters of them is said here
                finding = check()
            yield finding
        except Exception as error:  # whatever it is, it is what the doctor is asked to find
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            trouble = f"It fails with {type(error).__name__}: {reason}; see the packages above, or report it"
            yield Finding(name, "does not work", trouble, fatal=True)
    yield from _free_space()
    given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    yield Finding("environment", ", ".join(given) or "none of " + ", ".join(_VARIABLES))


def _package(module: str, distributions: tuple[str, ...]) -> Finding:
    """The version of a package that can be imported."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken shared library may raise anything
        if module in _EXTRAS and isinstance(error, ModuleNotFoundError):
            return Finding(distributions[0], "not installed, optional")
        cure = f"run `pip install --force-reinstall {distributions[0]}`"
        if module == "cv2" and "libGL" in str(error):
            cure = "run `pip uninstall opencv-python` and `pip install opencv-python-headless`"
        return Finding(distributions[0], "cannot be imported", f"{error}; {cure}", fatal=module not in _EXTRAS)
    for name in distributions:
        try:
            return Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(distributions[0], "of unknown version")


def _device() -> Finding:
    import torch

    from .devices import describe, fastest

    value = f"{describe(fastest())}, the fastest that PyTorch can use here"
    if fastest() == "cpu" and shutil.which("nvidia-smi"):
        reason = "is built without CUDA" if torch.version.cuda is None else "finds no usable GPU"
        cure = "install it as pytorch.org/get-started/locally says for CUDA, and look at `nvidia-smi`"
        return Finding("device", value, f"There is an NVIDIA driver, but PyTorch {torch.__version__} {reason}; {cure}")
    return Finding("device", value)


def _processor() -> Finding:
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    bfloat16 = [name for name in ("avx512_bf16", "amx_bf16", "bf16") if name in facts.get("flags", "").split()]
    name = facts.get("model name") or platform.processor() or platform.machine()
    uses = [torch.backends.cpu.get_cpu_capability(), *bfloat16]
    value = f"{name}, {cores()} cores, PyTorch uses {torch.get_num_threads()} threads and {', '.join(uses)}"
    return Finding("processor", value)


def _precision() -> Finding:
    import torch

    from .devices import fastest
    from .learning.precision import resolve_precision

    precision = resolve_precision("auto", torch.device(fastest()))
    return Finding("precision", f"auto picks {precision} on {fastest()}, as measured just now")


def _allocator() -> Finding:
    if keep_memory():
        return Finding("allocator", "glibc, told to keep freed memory")
    if os.environ.get("DREAMER_ALLOCATOR") == "system":
        return Finding("allocator", "the system's, as DREAMER_ALLOCATOR asks for")
    return Finding("allocator", "the system's: only glibc can be told to keep freed memory")


def _simulator() -> Finding:
    """Drive a few decisions."""
    import numpy as np

    from .envs.car_racing.view import CarRacingView

    with CarRacingView() as view:
        view.reset(seed=0)
        rewards = [view.step(np.array([0.0, 0.5, 0.0], np.float32)).reward for _ in range(15)]
    if max(rewards) <= 0:
        cure = "run `pip install --force-reinstall 'gymnasium[box2d]'`"
        return Finding("simulator", "drives past its tiles", f"The car earns nothing on the road; {cure}", fatal=True)
    return Finding("simulator", f"works: {sum(rewards):.1f} points in 15 decisions of CarRacing-v3")


def _drawing() -> Finding:
    """Draw a picture both ways, as the first reset does."""
    from .envs.car_racing.fast_car_racing import TESTED_GYMNASIUM, FastCarRacing

    env = FastCarRacing()
    try:
        env.reset(seed=0)
    finally:
        env.close()  # type: ignore[no-untyped-call]  # gymnasium's
    if env.slow_because is None:
        return Finding("drawing", "the fast one, bit for bit gymnasium's")
    cure = f"`pip install 'gymnasium[box2d]=={TESTED_GYMNASIUM[-1]}' pygame-ce` makes it fast"
    return Finding("drawing", "gymnasium's own", f"It is about 12 times slower: {env.slow_because}; {cure}")


def _video() -> Finding:
    """Write a film of a few frames."""
    import numpy as np

    from .viewing.film import write_film

    with tempfile.TemporaryDirectory() as folder:
        film = write_film(Path(folder) / "film.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3, 25)
    if film.h264:
        return Finding("video", f"H.264 by {film.encoder}")
    return Finding("video", film.encoder, "Not every player knows VP8; `pip install av` brings H.264")


_CHECKS: dict[str, Callable[[], Finding]] = {
    "device": _device,
    "processor": _processor,
    "precision": _precision,
    "allocator": _allocator,
    "simulator": _simulator,
    "drawing": _drawing,
    "video": _video,
}


def _free_space() -> Iterator[Finding]:
    """Disk and memory that are left."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    trouble = "data/ and artifacts/ soon fill it; make room, or work in a folder on another disk"
    yield Finding("disk", f"{free:.1f} GiB free here", trouble if free < _LITTLE_DISK else "", fatal=free < _NO_DISK)
    memory = _memory()
    if memory is not None:
        value = f"{memory[0]:.1f} GiB free of {memory[1]:.1f} GiB"
        trouble = "`--preset demo` takes about 3 GiB; end other programs, or see `dreamer run --dry-run` for less"
        yield Finding("memory", value, trouble if memory[0] < _LITTLE_MEMORY else "")


def _memory() -> tuple[float, float] | None:
    """Free and total memory, GiB, within what a container may take; None where nothing says it as Linux does."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    sizes = dict(line.split(":") for line in info.read_text().splitlines())
    free, total = (int(sizes[name].split()[0]) * 2**10 for name in ("MemAvailable", "MemTotal"))
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip() != "max":
        total = min(total, int(limit.read_text()))
        free = min(free, total - int(used.read_text()))
    return free / 2**30, total / 2**30
