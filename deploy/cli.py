"""The `moretta` command: every command, and the one place where errors become exit codes."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

import click
import typer

from moretta.deploy.commands import attackers, corpus, server, site, study
from moretta.deploy.commands.anonymize import anonymize
from moretta.deploy.commands.audit import audit
from moretta.deploy.commands.budget import budget
from moretta.deploy.commands.choose import choose
from moretta.deploy.commands.report import report
from moretta.deploy.commands.simulate import simulate
from moretta.deploy.commands.sweep import sweep
from moretta.deploy.commands.train_face import train_face
from moretta.shared.errors import Interrupted, MorettaError
from moretta.shared.exit_codes import ExitCode

app = typer.Typer(
    name="moretta",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Federated emotion recognition without exposing who is heard and seen, and the audit that proves it.\n\n"
    "Exit codes are listed in docs/exit-codes.md.",
)
app.command()(simulate)
app.command()(anonymize)
app.command()(audit)
app.command()(report)
app.command()(budget)
app.command()(sweep)
app.command()(choose)
app.command("train-face")(train_face)
app.add_typer(corpus.app, name="corpus", help="Check a corpus, or make a synthetic one.")
app.add_typer(server.app, name="server", help="Run the coordinator's server: port, sites, tokens.")
app.add_typer(study.app, name="study", help="Run a study over the sites that are enrolled at a server.")
app.add_typer(site.app, name="site", help="Take part in studies over the network, as a site.")
app.add_typer(attackers.app, name="attackers", help="Fetch and list the pretrained attackers.")


@app.command()
def version() -> None:
    """Print the version.

    Example: moretta version
    """
    from moretta.shared.versions import versions

    typer.echo(versions()["moretta"])


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with a documented code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code. Errors are told on standard error, or as JSON with `--json`."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except MorettaError as error:
        return _tell(error.message, error.exit_code, as_json="--json" in arguments)
    except click.exceptions.Exit as ended:
        return int(ended.exit_code)
    except click.UsageError as error:
        error.show()
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        return _tell(Interrupted("ended by Ctrl-C").message, ExitCode.INTERRUPTED, as_json="--json" in arguments)
    return int(code or ExitCode.OK)


def _tell(message: str, code: ExitCode, *, as_json: bool) -> int:
    if as_json:
        typer.echo(json.dumps({"error": message, "exit_code": int(code)}))
    typer.echo(f"moretta: {message}", err=True)
    return int(code)


if __name__ == "__main__":
    main()
