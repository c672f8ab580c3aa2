"""What commands print: facts as JSON or as lines, tables, progress on standard error, and how a run ended."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from moretta.shared.core.device import DeviceName
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.printable import printable

if TYPE_CHECKING:
    from moretta.client.site_home import SiteHome
    from moretta.deploy.runtime.run_folder import Outcome

_FILE_COLUMNS = 180  # width of a table in a file or a pipe

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
StudyFile = Annotated[Path | None, typer.Option("--study", help="Study file (TOML); see docs/study.md.")]
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (TOML); see docs/study.md.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Processes; default one for each CPU.")]
AttackerNames = Annotated[str, typer.Option(help="Names with commas between; default all.")]
Device = Annotated[DeviceName, typer.Option(help="Where networks run; auto takes cuda, then mps, then the CPU.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
SiteFolder = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of the site; default $MORETTA_SITE, else ~/.moretta/site.", show_default=False),
]


def site_home(folder: Path | None) -> SiteHome:
    """The site of `--home`, or the default one."""
    from moretta.client.site_home import SiteHome, default_home

    return SiteHome(folder or default_home())


def listed(text: str) -> tuple[str, ...]:
    """The parts of an option that has commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def show(facts: Any, lines: str | Iterable[str], *, as_json: bool, indent: int | None = None) -> None:
    """Print facts as JSON for a script, or lines for a person. Lines may hold text from elsewhere."""
    if as_json:
        typer.echo(json.dumps(facts, indent=indent))
        return
    for line in (lines,) if isinstance(lines, str) else lines:
        typer.echo(printable(line))


def note(text: str) -> None:
    """A line for a person on standard error, where it is in no script's way."""
    typer.echo(printable(text), err=True)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, fold: Sequence[str] = ()) -> None:
    """Print a table. Cells hold text from elsewhere: they are printable, and Rich reads no markup in them.

    `fold` lists the headings of columns whose text may take several lines.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for heading in headings:
        table.add_column(Text(heading), no_wrap=heading not in fold, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_COLUMNS
    console.print(table)


def figure(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A metric with its interval, such as `0.340 [0.310, 0.380]`; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def end_with(outcome: Outcome, *, as_json: bool) -> NoReturn:
    """Print where the report is or what failed, and exit with the outcome's code."""
    if as_json:
        typer.echo(json.dumps(outcome.to_json()))
    if outcome.code in (ExitCode.OK, ExitCode.GATE):
        from moretta.shared.audit.report import report_file, verdict

        for line in verdict.lines(report_file.load_report(outcome.folder).gate):
            typer.echo(printable(line), err=as_json)
        typer.echo(f"Report: {outcome.folder / report_file.REPORT_HTML}", err=as_json)
        if outcome.code == ExitCode.GATE:
            note("moretta: the run broke a limit of the study's gate; the report names it")
    else:
        note(f"moretta: the run failed{f' {outcome.stage}' if outcome.stage else ''}: {outcome.cause}")
    raise typer.Exit(int(outcome.code))


@contextmanager
def progress(
    title: str, total: int = 0, *, unit: str = "", stream: TextIO | None = None
) -> Iterator[Callable[..., None]]:
    """Count steps: a bar on a terminal, else a line at each tenth.

    Yields `step`: each call is one step of `total`. Work that counts itself calls `step(done, total)`. With a `unit`,
    the rate and the time that is left are shown. The first call of work that goes on says where it begins.

    Example: `with progress("Rendering", 576) as step: step()`.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    stream, done, started, first = stream or sys.stderr, 0, time.monotonic(), 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    shown = stream.isatty()
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(file=stream), transient=True, disable=not shown)
    task = bar.add_task(escape(title), total=total or None, rate="")

    def step(now: int | None = None, of: int = total) -> None:
        nonlocal done, first, started
        if unit and not done and now:
            first, started = now, time.monotonic()
        tenth, done, of = done * 10 // max(1, of), done + 1 if now is None else now, max(1, of)
        seconds = time.monotonic() - started
        speed = (done - first) / seconds if unit and seconds > 0 else 0.0
        rate = f"{speed:.{0 if speed >= 10 else 1}f} {unit}/s" if speed else ""
        bar.update(task, completed=done, total=of, rate=rate)
        if not shown and done * 10 // of > tenth:
            left = f", {rate}, {(of - done) / speed:.0f} s left" if speed else ""
            print(f"{title}: {done}/{of} ({seconds:.0f} s{left})", file=stream, flush=True)

    with bar:
        yield step


@contextmanager
def heartbeat(beat: Callable[[], None], *, seconds: float = 60.0) -> Iterator[None]:
    """Call `beat` now and then while others work, so that a long job does not look like one that hangs."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            beat()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
