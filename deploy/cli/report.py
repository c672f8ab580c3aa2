"""`moretta report OUT`: render a study's report again, and say what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.shared.core.printable import printable

if TYPE_CHECKING:
    from moretta.shared.audit.report.report_schema import Report


def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a finished study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the headline as JSON.")] = False,
) -> None:
    """Render OUT/report.html from OUT/report.json, and print the headline.

    Example: moretta report out
    """
    from moretta.shared.audit.report.report_file import load_report, write_html

    found = load_report(out)
    page = write_html(found, out)
    if as_json:
        headline = {
            "synthetic": found.corpus.synthetic,
            "headline": [part.model_dump(mode="json") for part in found.headline],
            "gate": found.gate.model_dump(mode="json"),
            "report": str(page),
        }
        typer.echo(json.dumps(headline, indent=1, allow_nan=False))
        return
    for line in headline_lines(found):
        typer.echo(printable(line))
    typer.echo(f"Report: {page}")


def headline_lines(found: Report) -> tuple[str, ...]:
    """What a study found, in sentences for a terminal."""
    from moretta.shared.audit.report.summary import findings, what_was_run

    first = ("SYNTHETIC INPUT: these figures say nothing about people.",) if found.corpus.synthetic else ()
    gate = tuple(f"Gate broken: {limit}" for limit in found.gate.broken)
    return (*first, what_was_run(found), *findings(found), *gate)
