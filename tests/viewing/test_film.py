from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from browser import browser

from pipeline.errors import DreamerError
from pipeline.viewing.film import Film, Frame, write_film

COLOURS = [(200, 30, 30), (30, 160, 60), (40, 60, 220), (102, 230, 102)]


def stripes(count: int = 50, height: int = 176, width: int = 320) -> Iterator[Frame]:
    """Four coloured stripes, under a white line that moves down."""
    for index in range(count):
        frame = np.repeat(np.array(COLOURS, np.uint8), width // 4 + 1, axis=0)[None, :width].repeat(height, axis=0)
        frame[index] = 255
        yield frame


@pytest.fixture
def no_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.fixture
def no_h264(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_h264(monkeypatch)


def hide_h264(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "av", None)
    patch.setenv("PATH", "")


def atoms(path: Path) -> list[str]:
    """Names of an MP4 file's outermost parts, in order."""
    content, names, at = path.read_bytes(), [], 0
    while at < len(content):
        names.append(content[at + 4 : at + 8].decode())
        at += int.from_bytes(content[at : at + 4], "big")
    return names


def test_h264_as_browsers_want_it(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", stripes(), 25)
    assert film == Film(tmp_path / "a.mp4", "PyAV (libx264)", 50, h264=True)
    with av.open(str(film.path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (320, 176, Fraction(25))
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    assert len(pictures) == 50
    assert all(np.abs(pictures[20][100, 40 + 80 * k] - np.array(c)).max() <= 4 for k, c in enumerate(COLOURS))
    assert [int(picture[:, 40].sum(-1).argmax()) for picture in pictures] == list(range(50))
    names = atoms(film.path)
    assert names.index("moov") < names.index("mdat")  # faststart: it plays while it loads


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", stripes(10, 121, 163), 12.5)
    with av.open(str(film.path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (164, 122, Fraction(25, 2))


def test_frames_are_asked_for_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    class Picture(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            alive.pop()

    def frames() -> Iterator[Frame]:
        for frame in stripes(30):
            alive.append(1)
            assert len(alive) <= 4
            yield frame.copy().view(Picture)

    assert write_film(tmp_path / "a.mp4", frames(), 25).frames == 30


def test_without_h264_the_film_is_webm(tmp_path: Path, no_h264: None) -> None:
    film = write_film(tmp_path / "a.mp4", stripes(), 25)
    assert film == Film(tmp_path / "a.webm", "OpenCV (VP8)", 50, h264=False)
    assert not (tmp_path / "a.mp4").exists()
    reader = cv2.VideoCapture(str(film.path))
    read, picture = reader.read()
    assert read and picture.shape == (176, 320, 3)
    assert np.abs(picture[100, 40, ::-1].astype(int) - COLOURS[0]).max() < 12  # red is still red


def test_a_film_that_opencv_cuts_short_is_told(tmp_path: Path, no_h264: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing where the disk is full."""

    class Short:
        fourcc = cv2.VideoWriter.fourcc

        def __init__(self, *args: Any) -> None:
            self.own, self.left = whole(*args), 30
            self.isOpened, self.release = self.own.isOpened, self.own.release

        def write(self, image: Frame) -> None:
            self.left -= 1
            if self.left >= 0:
                self.own.write(image)

    whole = cv2.VideoWriter
    monkeypatch.setattr(cv2, "VideoWriter", Short)
    with pytest.raises(DreamerError, match="wrote 30 of the 50 pictures of a film; is the disk full"):
        write_film(tmp_path / "a.mp4", stripes(), 25)
    assert not list(tmp_path.iterdir())


def test_without_any_encoder_the_remedy_is_named(
    tmp_path: Path, no_h264: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        def isOpened(self) -> bool:  # noqa: N802
            return False

        def release(self) -> None:
            pass

    monkeypatch.setattr(
        cv2, "VideoWriter", type("W", (), {"fourcc": cv2.VideoWriter.fourcc, "__new__": lambda *_: Closed()})
    )
    with pytest.raises(DreamerError, match="pip install av"):
        write_film(tmp_path / "a.mp4", stripes(), 25)
    assert list(tmp_path.iterdir()) == []


def fake_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """An `ffmpeg` that keeps its arguments and its input, and then does `ending`."""
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        "if '-encoders' in sys.argv: print(' V....D libx264  H.264'); sys.exit()\n"
        f"pathlib.Path({str(folder / 'arguments')!r}).write_text(' '.join(sys.argv))\n{ending}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def test_ffmpeg_gets_the_frames_where_pyav_is_not(
    tmp_path: Path, no_pyav: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ffmpeg(tmp_path, monkeypatch, "pathlib.Path(sys.argv[-1]).write_bytes(sys.stdin.buffer.read())")
    film = write_film(tmp_path / "a.mp4", stripes(3, 175, 320), 25)
    assert film == Film(tmp_path / "a.mp4", "ffmpeg (libx264)", 3, h264=True)
    written = np.frombuffer(film.path.read_bytes(), np.uint8).reshape(3, 176, 320, 3)
    assert np.array_equal(written[:, :175], list(stripes(3, 175, 320)))
    arguments = (tmp_path / "arguments").read_text()
    for part in ("-video_size 320x176", "-framerate 25", "-pix_fmt yuv420p", "-movflags +faststart", "-c:v libx264"):
        assert part in arguments


@pytest.mark.parametrize("reads", [True, False])
def test_a_failing_ffmpeg_says_why(tmp_path: Path, no_pyav: None, monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    fake_ffmpeg(tmp_path, monkeypatch, f"{'sys.stdin.buffer.read(); ' * reads}sys.exit('no space left')")
    with pytest.raises(DreamerError, match="no space left"):
        write_film(tmp_path / "a.mp4", stripes(), 25)
    assert not list(tmp_path.glob("*a.*"))


def test_an_ffmpeg_without_h264_is_passed_over(tmp_path: Path, no_pyav: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ffmpeg(tmp_path, monkeypatch, "")
    program = tmp_path / "bin" / "ffmpeg"
    program.write_text(program.read_text().replace("libx264", "libvpx"))
    assert write_film(tmp_path / "a.mp4", stripes(5), 25).encoder == "OpenCV (VP8)"


def test_an_interrupted_film_leaves_the_old_one(tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        yield from stripes(5)
        raise KeyboardInterrupt

    (tmp_path / "a.mp4").write_text("the old film")
    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / "a.mp4", frames(), 25)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old film"]


def test_frames_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a picture"):
        write_film(tmp_path / "a.mp4", [], 25)
    with pytest.raises(ValueError, match="picture 2"):
        write_film(tmp_path / "a.mp4", [*stripes(1), *stripes(1, height=100)], 25)
    with pytest.raises(ValueError, match="float"):
        write_film(tmp_path / "a.mp4", [np.zeros((4, 4, 3))], 25)  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


PAGE = '<!doctype html><video muted src="data:video/{kind};base64,{content}"></video>'
PLAYED = """(async () => {
  const video = document.querySelector('video'), canvas = document.createElement('canvas')
  const over = new Promise(done => ['ended', 'error'].forEach(event => video.addEventListener(event, done)))
  await video.play().catch(() => {})  // what is wrong is told below
  if (!video.error) await over
  canvas.width = video.videoWidth; canvas.height = video.videoHeight
  const drawing = canvas.getContext('2d'); drawing.drawImage(video, 0, 0)
  const colours = [0, 1, 2, 3].map(k => Array.from(drawing.getImageData(40 + 80 * k, 100, 1, 1).data).slice(0, 3))
  const {currentTime, videoWidth, videoHeight, error} = video
  return {time: currentTime, size: [videoWidth, videoHeight], error: error && error.message, colours}
})()"""


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_films_play_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    with monkeypatch.context() as patch:
        if suffix == ".webm":
            hide_h264(patch)
        film = write_film(tmp_path / "a.mp4", stripes(), 25)
    assert film.path.suffix == suffix
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(kind=suffix[1:], content=base64.b64encode(film.path.read_bytes()).decode()))
    with browser(tmp_path) as chromium:
        chromium.open(page)
        seen = chromium.run(PLAYED)
    assert seen["error"] is None
    assert seen["time"] == pytest.approx(2.0, abs=0.1)  # played to the end
    assert seen["size"] == [320, 176]
    assert np.abs(np.array(seen["colours"]) - np.array(COLOURS)).max() < 15
