"""How a run ended, told on the terminal and by the exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

import typer

from moretta.shared.core.errors import ExitCode
from moretta.shared.core.printable import printable

if TYPE_CHECKING:
    from moretta.deploy.cli.runs import Outcome


def print_outcome(outcome: Outcome, *, as_json: bool) -> NoReturn:
    """Print where the report is or what went wrong, and exit with the outcome's code."""
    if as_json:
        typer.echo(json.dumps(outcome.to_json()))
    match outcome.code:
        case ExitCode.OK:
            typer.echo(f"Report: {outcome.folder / 'report.html'}", err=as_json)
        case ExitCode.GATE:
            typer.echo(f"Report: {outcome.folder / 'report.html'}", err=as_json)
            typer.echo("moretta: the run broke a limit of the study's gate; the report names it", err=True)
        case _:
            stage = f" {outcome.stage}" if outcome.stage else ""
            typer.echo(f"moretta: the run failed{stage}: {printable(outcome.cause)}", err=True)
    raise typer.Exit(int(outcome.code))
