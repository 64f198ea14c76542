"""The model card of a run that is passed on: what it is, what made it, how well it did, in Markdown.

What comes from files is made one line of text by the template (`card.md`), in backticks where it is a name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .. import __version__
from ..artifacts import StageFolder
from ..config import Settings, flatten, resolve
from ..lineage import Chain, commands
from ..reading import printable
from ..scores import Report

CARD = "README.md"
_SECTIONS = ("deterministic", "view", "collect", "model", "world", "policy")
"""Of the settings, those that made the weights."""


def model_card(chain: Chain, name: str, evaluation: Report | None, facts: Mapping[str, Any]) -> str:
    """The card of a copy of a run.

    Args:
        chain: the run, with a world model and a policy.
        name: of the copy.
        evaluation: of the run's own weights, where there is one.
        facts: of the evaluation, such as versions and hardware.

    Returns:
        Markdown.
    """
    run = chain.run
    settings = run.world.read_settings().model_copy(update={"policy": run.policy.read_settings().policy})
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"line": _line, "code": _code, "number": _number}
    return environment.get_template("card.md").render(
        name=name,
        run=run.root.name,
        version=__version__,
        settings=settings,
        learned_from=chain.learned_from or "by whom is not recorded",
        sources=chain.sources,
        fits=[_fit("world model", run.world), _fit("policy", run.policy)],
        evaluation=evaluation,
        summaries=evaluation.summaries if evaluation else {},
        facts={key.rpartition(", ")[2]: facts[key] for key in facts if key.startswith(("versions", "hardware"))},
        commands=[*commands(chain), f"dreamer export {run.root.name} --to {name}"],
        changed=_changed(settings),
    )


def _fit(stage: str, folder: StageFolder) -> dict[str, Any]:
    """How long a stage was fitted."""
    manifest = folder.read_manifest()
    assert manifest is not None
    seconds = manifest.facts.get("seconds")
    return {
        "stage": stage,
        "updates": manifest.done,
        "seconds": seconds if isinstance(seconds, int | float) and math.isfinite(seconds) else None,
        "seed": folder.read_settings().seed,
        "sha256": manifest.outputs[folder.weights.name],
    }


def _changed(settings: Settings) -> list[tuple[str, Any, Any]]:
    """Name, value and default of the settings that are not what they are by default in this environment."""
    view = settings.view
    default = resolve(values=[("view.env", view.env), ("view.env_kwargs", view.env_kwargs)])
    usual = flatten(default.model_dump())
    return [
        (name, value, usual[name]) for name, value in settings.section_values(_SECTIONS).items() if value != usual[name]
    ]


def _line(text: object) -> str:
    """As one line."""
    return " ".join(printable(str(text)).split())


def _number(value: float) -> str:
    """Rounded; a dash where one drive alone cannot tell."""
    return f"{value:.0f}" if math.isfinite(value) else "–"


def _code(text: object) -> str:
    """As a name in a sentence or a table."""
    return "`" + _line(text).replace("`", "'").replace("|", r"\|") + "`"
