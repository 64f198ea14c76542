"""A run as one HTML page that needs nothing else: no network, no script, no other file.

What comes from files is text to the template (`report.html`), which escapes all of it, or a picture or a film in a
`data:` URI.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from .. import __version__, console
from ..artifacts import Run, StageFolder, write_text
from ..config import MAX_BYTES as MAX_SETTINGS
from ..config import flatten
from ..driving import POLICY, read_report
from ..errors import StageError
from ..lineage import REPORT, Chain, commands, data_sets, trace
from ..reading import read_json, read_text, require_file
from ..scores import MAX_BYTES, EpisodeScore, Report
from .coverage import FIGURE as COVERAGE
from .curves import POLICY_PANELS, WORLD_PANELS, Panel, panel_figures
from .drive_film import pick
from .score_figures import promise_figure, score_figure

_TYPES = {".png": "image/png", ".mp4": "video/mp4", ".webm": "video/webm"}
_MAX_EMBEDDED = 2**28  # bytes of a picture or film
_SHOWN_TRACKS = 3  # of the worst, and of the best


def write_report(run: Run, data: Path = Path("data")) -> Path:
    """Write `report.html` into a run's folder, of all that is there so far.

    Args:
        run: it may lack any of its stages.
        data: the folder of the data sets.

    Returns:
        The file.

    Raises:
        StageError: a file of the run is damaged.
    """
    path = run.root / REPORT
    write_text(path, render(trace(run, data_sets(data)), data))
    return path


def render(chain: Chain, data: Path) -> str:
    """The page's HTML."""
    run = chain.run
    evaluation, facts = read_evaluation(run)
    stages = {"world": run.world, "policy": run.policy, "evaluation": run.evaluation}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "range": lambda ends: _range(*ends), "day": _day}
    return environment.get_template("report.html").render(
        name=run.root.name,
        written=datetime.now(UTC),
        chain=chain,
        evaluation=evaluation,
        facts=facts,
        policy=POLICY,
        score_figure=_svg(score_figure(evaluation.scores)) if evaluation else None,
        promise_figures=_promises(evaluation) if evaluation else [],
        picks=pick(evaluation.scores[POLICY]) if evaluation else [],
        environment=_environment(run),
        yardstick=evaluation.scores[POLICY][0].YARDSTICK if evaluation else "",
        ends=_ends(evaluation.scores[POLICY]) if evaluation else [],
        film=_film(run, run.evaluation, "drive"),
        world_curves=_curves(run.world, WORLD_PANELS),
        policy_curves=_curves(run.policy, POLICY_PANELS),
        encodings=_embedded(run.encodings.path / "encodings.png", run.root),
        dream=_film(run, run.encodings, "dream"),
        coverages=_coverages(chain, data),
        commands=commands(chain),
        seeds={name: given.seed for name, folder in stages.items() if (given := run.recorded_settings(folder))},
        settings={name: _text(folder.path / "settings.toml") for name, folder in stages.items()},
        version=__version__,
    )


def _environment(run: Run) -> str:
    """What the run is about."""
    settings = run.recorded_settings(run.world)
    return settings.view.env if settings else "an environment"


def read_evaluation(run: Run) -> tuple[Report | None, dict[str, Any]]:
    """The last evaluation and its facts; None and nothing where there is none. Raises StageError on any damage."""
    path = run.evaluation.path / "evaluation.json"
    if not path.exists():
        return None, {}
    try:
        tree = read_json(path, MAX_BYTES)
        report = read_report(tree)
        facts = {name.replace(".", ", "): value for name, value in flatten(tree["facts"]).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise StageError(
            f"{path} is damaged ({repr(error).splitlines()[0]:.200}); run `{run.evaluation.command}`"
        ) from error
    return report, facts


def _promises(evaluation: Report) -> list[str]:
    figures = (promise_figure(many, horizon, evaluation.place) for horizon, many in evaluation.promises.items() if many)
    return [_svg(figure) for figure in figures]


def _ends(scores: Sequence[EpisodeScore]) -> list[EpisodeScore]:
    """The best and the worst drives, from the best to the worst, none twice."""
    order = sorted(scores, key=lambda score: -score.score)
    return order if len(order) <= 2 * _SHOWN_TRACKS else order[:_SHOWN_TRACKS] + order[-_SHOWN_TRACKS:]


def _curves(folder: StageFolder, panels: Sequence[Panel]) -> list[str]:
    try:
        return [_svg(figure) for figure in panel_figures(console.read_lines(folder.metrics), panels)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StageError(f"{folder.metrics} is damaged ({error!r}); run `{folder.command} --fresh`") from error


def _coverages(chain: Chain, data: Path) -> dict[str, str]:
    """What each data set covers, by its name; of those that are there."""
    if chain.links["data"].state == "missing":
        return {}
    folders = {source.name: data / source.name for source in chain.sources}
    found = {name: _embedded(folder / COVERAGE, folder) for name, folder in folders.items()}
    return {name: picture for name, picture in found.items() if picture}


def _film(run: Run, folder: StageFolder, stem: str) -> str | None:
    found = (_embedded(folder.path / f"{stem}{suffix}", run.root) for suffix in (".mp4", ".webm"))
    return next((film for film in found if film), None)


def _embedded(path: Path, root: Path) -> str | None:
    """A picture or film as a `data:` URI, None where it is not there.

    Raises StageError where it is too large, or is a file beyond `root`: a page is made to be passed on.
    """
    if not path.exists():
        return None
    if not path.resolve().is_relative_to(root.resolve()):
        raise StageError(f"{path} is a link that leads out of {root}; remove it")
    try:
        require_file(path, _MAX_EMBEDDED)
        return _uri(path.read_bytes(), _TYPES[path.suffix])
    except (OSError, ValueError) as error:
        raise StageError(f"{path} cannot be shown ({error}); move it away") from error


def _svg(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return _uri(stream.getvalue(), "image/svg+xml")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _text(path: Path) -> str | None:
    return read_text(path, MAX_SETTINGS) if path.exists() else None


def _number(value: float | None, digits: int = 0) -> str:
    if value is None or value != value:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no "-0"


def _range(low: float | None, high: float | None) -> str:
    return "–" if low is None or low != low else f"{_number(low)} to {_number(high)}"


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "–"
