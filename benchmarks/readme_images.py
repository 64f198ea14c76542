"""Make the README's pictures from a run: `python -m benchmarks.readme_images artifacts/demo --start 25`.

Writes `docs/images/drive.webp`, a stretch of the run's film, and `docs/images/encodings.png`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
from PIL import Image

WIDTH = 540  # pixels, of both pictures' originals scaled down
SPEED = 2  # the film runs this much faster than the drive
FPS = 12.5


def frames(film: Path, start: float, seconds: float) -> Iterator[Image.Image]:
    """Pictures of a film from `start` on, `seconds` of the drive's time."""
    capture = cv2.VideoCapture(str(film))
    rate = capture.get(cv2.CAP_PROP_FPS)
    step = round(rate * SPEED / FPS)
    for number in range(round((start + seconds) * rate)):
        found, picture = capture.read()
        if not found:
            return
        if number >= start * rate and number % step == 0:
            image = Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
            yield image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS)


def main() -> None:
    """Parse the command line and write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--start", type=float, default=0.0, help="second of the film to begin with")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the drive")
    parser.add_argument("--to", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    first, *rest = frames(arguments.run / "evaluation" / "drive.mp4", arguments.start, arguments.seconds)
    first.save(
        arguments.to / "drive.webp",
        save_all=True,
        append_images=rest,
        duration=1000 / FPS,
        loop=0,
        quality=55,
        method=6,
    )
    figure = Image.open(arguments.run / "encodings" / "encodings.png").convert("RGB")
    figure = figure.resize((1400, 1400 * figure.height // figure.width), Image.Resampling.LANCZOS)
    figure.quantize(256).save(arguments.to / "encodings.png", optimize=True)


if __name__ == "__main__":
    main()
