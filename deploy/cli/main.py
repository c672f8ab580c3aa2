"""The `moretta` command: every command, and the one place where errors become exit codes."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import click
import typer

from moretta.deploy.cli import audit, corpus, model, report, server, site, study
from moretta.deploy.cli.budget import budget
from moretta.deploy.cli.console import CommandGroup, be_loud, be_quiet
from moretta.deploy.cli.demo import demo
from moretta.deploy.cli.sweep import choose, sweep, zoo
from moretta.shared.core.atomic import naming, storage_error
from moretta.shared.core.errors import ExitCode, Interrupted, MorettaError
from moretta.shared.core.printable import printable, set_up_logging

app = typer.Typer(
    name="moretta",
    cls=CommandGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(study.simulate)
app.command()(corpus.anonymize)
app.command("audit")(audit.audit)
app.add_typer(report.app, name="report")
app.command()(model.export)
app.command()(model.predict)
app.command()(budget)
app.command()(sweep)
app.command()(choose)
app.command()(zoo)
app.command("train-face")(corpus.train_face)
app.add_typer(corpus.app, cls=CommandGroup, name="corpus", help="Check a corpus, or make a synthetic one.")
app.add_typer(server.app, cls=CommandGroup, name="server", help="Run the coordinator's server: port, sites, tokens.")
app.add_typer(
    study.app, cls=CommandGroup, name="study", help="Write and check study files; run a study over enrolled sites."
)
app.add_typer(site.app, cls=CommandGroup, name="site", help="Take part in studies over the network, as a site.")
app.add_typer(audit.attackers_app, cls=CommandGroup, name="attackers", help="Fetch and list the pretrained attackers.")


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def top(
    *,
    print_version: Annotated[  # noqa: ARG001 - its callback ends the command
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log every step to standard error.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no notes.")] = False,
) -> None:
    """Federated emotion recognition that hides who was recorded, and an audit of what still leaks.

    Exit codes are listed in docs/exit-codes.md. Every line of a log names its run.
    """
    set_up_logging(verbose=verbose)
    be_loud()
    be_quiet(quiet)


@app.command()
def version() -> None:
    """Print the version.

    Example: moretta version
    """
    from moretta.shared.core.reproducibility import versions

    typer.echo(versions()["moretta"])


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with a documented code.

    Files that this process and its children write are for this account alone, wherever they are.
    """
    os.umask(0o077)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # to look for some takes as long as all the rest
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 shows what it can
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # under `nohup` SIGHUP is ignored, and stays so
            signal.signal(number, _interrupt)
    code = run(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all is over: a second one must not change the code
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # Python would look through all of torch for garbage once more
    sys.exit(code)


class _EndedError(BaseException):
    """SIGTERM or SIGHUP came."""


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    """Everything is cleaned up as after Ctrl-C; nothing that catches errors takes it for one."""
    raise _EndedError(signal.Signals(number).name)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code. Errors go to standard error, and with `--json` as JSON to output."""
    try:
        code = app(args=arguments, standalone_mode=False)
        _flush()
        if code == ExitCode.INTERRUPTED:  # Typer's own handling of Ctrl-C, which prints nothing
            raise KeyboardInterrupt
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except click.UsageError as error:
        error.show()
        code = ExitCode.USAGE
    except SystemExit as ended:  # Typer's own handling of a closed pipe, which prints nothing
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        code = _output_closed()
    except BrokenPipeError:
        code = _output_closed()
    except BaseException as error:
        known = _known(error)
        if known is None:
            raise
        code = _report(known.message, known.exit_code, as_json="--json" in arguments)
    return int(code or ExitCode.OK)


def _known(error: BaseException) -> MorettaError | None:
    """The error as a person should read it; None for a defect."""
    if isinstance(error, _EndedError):
        return Interrupted(f"ended by {error}")
    if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
        return Interrupted("not confirmed, so nothing was done", fix="answer y, or add --yes where nobody can answer")
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Interrupted("ended by Ctrl-C")
    return storage_error(error) or (error if isinstance(error, MorettaError) else None)


def _flush() -> None:
    """Write what is still buffered, so that a full disk or a closed pipe is noticed here."""
    if sys.stdout is not None:
        with naming(Path("standard output")):
            sys.stdout.flush()


def _output_closed() -> int:
    """Nothing more can be written to standard output, and Python's own last flush must not fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return ExitCode.OUTPUT_CLOSED


def _report(message: str, code: ExitCode, *, as_json: bool) -> int:
    try:
        if as_json:
            typer.echo(json.dumps({"error": message, "exit_code": int(code)}))
        _flush()
    except OSError:
        _output_closed()
    with suppress(OSError):
        typer.echo(f"moretta: {printable(message, lines=True)}", err=True)
    return int(code)


if __name__ == "__main__":
    main()
