"""Writing films that any browser plays, with the best encoder there is on this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..artifacts import atomic_path
from ..errors import DreamerError

Frame = NDArray[np.uint8]
"""A picture, (H, W, 3) uint8 RGB."""

QUALITY = 20
"""x264's constant rate factor: 0 is lossless, 51 the worst; 18 to 23 looks like the original."""

_PRESET = "veryfast"
"""x264's effort: half the time of its "medium" for a file of the same size, and 0.5 dB."""


@dataclass(frozen=True)
class Film:
    """A film that was written.

    Attributes:
        path: the file; its suffix may differ from the one asked for, see `write_film`.
        encoder: what wrote it.
        frames: number of pictures.
        h264: whether it is H.264, which every browser and phone plays.
    """

    path: Path
    encoder: str
    frames: int
    h264: bool


def write_film(path: Path, frames: Iterable[Frame], fps: float) -> Film:
    """Write pictures as a film, one at a time, and atomically.

    H.264 in MP4 (yuv420p, index at the front) by PyAV or else by an `ffmpeg` program; where neither has that
    encoder, VP8 in WebM by OpenCV.

    Args:
        path: the file, ending in `.mp4`; VP8 is written beside it with the suffix `.webm`.
        frames: at least one (H, W, 3) uint8 RGB, all of one size; a last odd row or column is doubled.
        fps: pictures a second.

    Raises:
        DreamerError: no encoder works.
        ValueError: there is no picture, or one of another size or type.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("a film needs a picture")
    shape, count = first.shape, 0
    width, height = shape[1] + shape[1] % 2, shape[0] + shape[0] % 2
    encoder = _choose()
    with (
        atomic_path(path.with_suffix(encoder.suffix)) as temporary,
        encoder.open(temporary, (width, height), fps) as write,
    ):
        for count, frame in enumerate(chain([first], frames), 1):
            if frame.shape != shape or frame.dtype != np.uint8:
                raise ValueError(f"picture {count} is {frame.dtype} {frame.shape}, the first was uint8 {shape}")
            write(_even(frame))
    return Film(path.with_suffix(encoder.suffix), encoder.name, count, encoder.h264)


def _even(frame: Frame) -> Frame:
    """(H, W, 3) with H and W even, as colour at half the resolution needs."""
    height, width, _ = frame.shape
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


_Write = Callable[[Frame], object]


@dataclass(frozen=True)
class _Encoder:
    """A way to write a film: whether it is here, and how to open a file of a size (width, height) and a rate."""

    name: str
    suffix: str
    h264: bool
    here: Callable[[], bool]
    open: Callable[[Path, tuple[int, int], float], AbstractContextManager[_Write]]


def _choose() -> _Encoder:
    for encoder in _ENCODERS:
        if encoder.here():
            return encoder
    raise DreamerError(f"Nothing on this machine encodes a film; {_REMEDY}")


_REMEDY = "install an encoder with `pip install av`"


def _pyav_here() -> bool:
    try:
        import av

        av.codec.Codec("libx264", "w")
    except (ImportError, ValueError):  # av's UnknownCodecError is a ValueError
        return False
    return True


@contextmanager
def _pyav(path: Path, size: tuple[int, int], fps: float) -> Iterator[_Write]:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": str(QUALITY), "preset": _PRESET}
        stream = container.add_stream("libx264", Fraction(fps).limit_denominator(1001), options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.thread_type = "FRAME"  # x264 goes on by itself while the next picture is made

        def write(frame: Frame) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield write
        container.mux(stream.encode(None))


def _ffmpeg_here() -> bool:
    program = shutil.which("ffmpeg")
    if program is None:
        return False
    listed = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False)
    return "libx264" in listed.stdout


@contextmanager
def _ffmpeg(path: Path, size: tuple[int, int], fps: float) -> Iterator[_Write]:
    width, height = size
    source = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}", "-framerate", str(fps)]
    target = ["-c:v", "libx264", "-preset", _PRESET, "-crf", str(QUALITY), "-pix_fmt", "yuv420p"]
    written = ["-movflags", "+faststart", "-f", "mp4", str(path)]
    command = ["ffmpeg", "-loglevel", "error", "-y", *source, "-i", "-", *target, *written]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        pipe = process.stdin

        def write(frame: Frame) -> None:
            pipe.write(frame.tobytes())

        try:
            with suppress(BrokenPipeError):  # ffmpeg has stopped: below it says why
                yield write
            with suppress(BrokenPipeError):
                pipe.close()
        except BaseException:
            process.kill()
            raise
        problem = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            raise DreamerError(f"ffmpeg could not write {path}: {problem}")


@contextmanager
def _opencv(path: Path, size: tuple[int, int], fps: float) -> Iterator[_Write]:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), fps, size)
    count = 0

    def write(frame: Frame) -> None:
        nonlocal count
        count += 1
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    try:
        if not writer.isOpened():
            raise DreamerError(f"OpenCV cannot encode VP8 on this machine; {_REMEDY}")
        yield write
    finally:
        writer.release()
    there = sum(1 for _ in iter(cv2.VideoCapture(str(path)).grab, False))
    if there < count:  # OpenCV fails without a word
        raise DreamerError(f"OpenCV wrote {there} of the {count} pictures of a film; is the disk full? Else {_REMEDY}")


_ENCODERS = (
    _Encoder("PyAV (libx264)", ".mp4", True, _pyav_here, _pyav),
    _Encoder("ffmpeg (libx264)", ".mp4", True, _ffmpeg_here, _ffmpeg),
    _Encoder("OpenCV (VP8)", ".webm", False, lambda: True, _opencv),
)
