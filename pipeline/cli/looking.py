"""Commands that look at what is there and change nothing but their own pictures and pages."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import console
from ..errors import StageError, UsageError
from .options import AsJson, Debug, app, examples, run_names

if TYPE_CHECKING:
    from ..doctor import Finding
    from ..lineage import Chain, Link

RUNS = Path("artifacts")
_COMPARED = RUNS / "curves.png"

OneRun = Annotated[str, typer.Argument(metavar="RUN", autocompletion=run_names, help="Run, a folder in artifacts/.")]
Runs = Annotated[
    list[str], typer.Argument(metavar="RUN...", autocompletion=run_names, help="Runs, folders in artifacts/.")
]
AnyRuns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...", autocompletion=run_names, help="Runs, folders in artifacts/.", show_default="all of them"
    ),
]


@app.command(epilog=examples("dreamer status", "dreamer status mine --json"))
def status(runs: AnyRuns = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """What every run was made from, what is stale, the score, and the next command."""
    from .. import lineage

    data, chains, refused = lineage.data_sets(), [], []
    for name in dict.fromkeys(runs or lineage.run_names()):
        try:
            chains.append(lineage.trace(lineage.find_run(name), data))
        except StageError as error:  # one bad run hides no other
            refused.append(str(error))
    if as_json:
        console.say_json([_plain(chain) for chain in chains])
    elif chains:
        rows = [[chain.run.root.name, *(_cell(name, chain) for name in chain.links), _score(chain)] for chain in chains]
        console.table("", ["run", "data", "world", "policy", "evaluation", "score"], rows)
        for chain in chains:
            _advise(chain)
    elif not refused:
        console.say("No runs in artifacts/ yet. Next: dreamer run --preset demo --video")
    for reason in refused:
        console.fail(reason)
    if refused:
        raise typer.Exit(StageError.exit_code)


def _cell(name: str, chain: Chain) -> str:
    """A link in two lines: what it is, by name or hash, and since when."""
    link = chain.links[name]
    state = link.state if link.state in ("missing", "unfinished") else link.state.upper() if link.reason else ""
    what = chain.data_name if name == "data" else link.size if name == "evaluation" else (link.digest or "")[:8]
    since = (link.digest or "")[:8] if name == "data" else f"{link.made.astimezone():%m-%d %H:%M}" if link.made else ""
    return "\n".join(filter(None, (state, what, since)))


def _score(chain: Chain) -> str:
    score = chain.score
    if score is None:
        return ""
    return f"{score.mean:.0f}" + (f"\n{score.low:.0f}..{score.high:.0f}" if score.low is not None else "")


def _advise(chain: Chain) -> None:
    """What is wrong with a run, and what to type next."""
    name = chain.run.root.name
    for step, link in chain.links.items():
        if link.state in ("stale", "damaged"):
            console.say(f"{name}: its {step} is {link.state}: {link.reason}")
    if chain.learned_from:
        console.say(f"{name}: learned from {chain.learned_from}")
    console.say(f"{name}: " + (f"next: {chain.next}" if chain.next else f"done, see {chain.run.root / 'report.html'}"))


def _plain(chain: Chain) -> dict[str, Any]:
    """A chain as JSON knows it."""

    def plain(link: Link) -> dict[str, Any]:
        return {**asdict(link), "made": link.made.isoformat(timespec="seconds") if link.made else None}

    return {
        "run": chain.run.root.name,
        "data": chain.data_name,
        "learned_from": chain.learned_from,
        "links": {name: plain(link) for name, link in chain.links.items()},
        "score": asdict(chain.score) if chain.score else None,
        "next": chain.next,
    }


@app.command(epilog=examples("dreamer report mine"))
def report(run: OneRun, debug: Debug = False) -> None:
    """Write a page about a run, which opens offline in any browser, into the run's folder."""
    from ..lineage import find_run

    found = find_run(run)
    from ..viewing.report import write_report

    console.say(f"Report: {write_report(found)}")


@app.command(epilog=examples("dreamer curves mine another", "dreamer curves mine another --out compared.png"))
def curves(
    runs: Runs,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture, a PNG; a new one.")] = _COMPARED,
    debug: Debug = False,
) -> None:
    """Compare runs in one figure: errors of the world model, imagined return, scores."""
    from ..lineage import find_run, read_score

    found = [find_run(name) for name in dict.fromkeys(runs)]
    if out.suffix != ".png":
        raise UsageError(f"--out takes a file that ends in .png, not {out}")
    if out != _COMPARED and out.exists():
        raise UsageError(f"{out} exists; give --out another name")
    from ..viewing.curves import MOST_RUNS, RunCurves, compare_runs

    if len(found) > MOST_RUNS:
        raise UsageError(f"At most {MOST_RUNS} runs can be told apart in one figure, not {len(found)}")
    compared = []
    for run in found:
        world, policy = (console.read_lines(stage.metrics) for stage in (run.world, run.policy))
        compared.append(RunCurves(run.root.name, world, policy, read_score(run)))
    compare_runs(compared, out)
    console.say(f"Figure: {out}")


@app.command(epilog=examples("dreamer doctor", "dreamer doctor --json"))
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """What this machine has and lacks, to paste into a bug report. Exit code 1: something will not work."""
    from ..doctor import examine

    findings: list[Finding] = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            console.say(f"{finding.name + ':':14} {finding.value}")
    if as_json:
        console.say_json([asdict(finding) for finding in findings])
    for finding in findings:
        if finding.trouble:
            (console.fail if finding.fatal else console.warn)(f"{finding.name}: {finding.trouble}")
    if not as_json and not any(finding.trouble for finding in findings):
        console.say("No trouble found.")
    if any(finding.fatal for finding in findings):
        raise typer.Exit(1)
