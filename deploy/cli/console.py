"""Output of commands: facts as JSON or as lines, tables, progress on standard error, and how a run ended."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import click
import typer
from typer.core import TyperGroup, TyperOption

from moretta.shared.core.device import DeviceName
from moretta.shared.core.errors import ExitCode, StudyError
from moretta.shared.core.printable import printable, set_up_logging

if TYPE_CHECKING:
    from moretta.client.offers import Offer
    from moretta.client.site_home import SiteHome
    from moretta.deploy.runtime.run_folder import Outcome
    from moretta.shared.study.schema import Study

_FILE_COLUMNS = 180  # width of a table in a file or a pipe

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
StudyFile = Annotated[Path | None, typer.Option("--study", help="Study file (TOML); see docs/study.md.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the study; repeat for more.")
]
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (TOML); see docs/study.md.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Processes; default one for each CPU.")]
OfferOrStudy = Annotated[Path, typer.Argument(help="Digest of an offer, or its beginning; or a study file.")]
Resamples = Annotated[int, typer.Option(min=0, help="Resamples of each interval.")]
Inference = Annotated[
    bool, typer.Option("--inference/--no-inference", help="Attack sex, age, inversion and links of voice and face too.")
]
Utility = Annotated[bool, typer.Option("--utility/--no-utility", help="Measure the emotion left.")]
AttackerNames = Annotated[str, typer.Option(help="Names with commas between; default all.")]
Device = Annotated[DeviceName, typer.Option(help="Where networks run; auto takes cuda, then mps, then the CPU.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
SiteFolder = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of the site; default $MORETTA_SITE, else ~/.moretta/site.", show_default=False),
]


_FOLDER_OPTION, _SHORT = "--out", "-o"
_quiet: list[bool] = []


class CommandGroup(TyperGroup):
    """Commands with the options that all of them have: `-v` and `-q`, and `-o` for `--out`."""

    def __init__(self, *args: Any, **more: Any) -> None:
        # click itself says what was meant, from the version on that has these errors
        more["suggest_commands"] = not hasattr(click.exceptions, "NoSuchCommand")
        super().__init__(*args, **more)
        for command in self.commands.values():
            for parameter in command.params:
                if _FOLDER_OPTION in parameter.opts:
                    parameter.opts.append(_SHORT)
            if not isinstance(command, click.Group):
                command.params += [
                    _switch("-v", "--verbose", "Log every step to standard error.", be_verbose),
                    _switch("-q", "--quiet", "No progress, no notes: results and errors alone.", be_quiet),
                ]


def _switch(short: str, name: str, text: str, act: Callable[[bool], None]) -> click.Option:
    """An option that acts at once, so that no command needs to know of it."""
    return TyperOption(
        param_decls=[short, name], is_flag=True, expose_value=False, help=text, callback=lambda *values: act(values[2])
    )


def be_verbose(wanted: bool) -> None:
    """Log every step to standard error."""
    if wanted:
        set_up_logging(verbose=True)


def be_quiet(wanted: bool) -> None:
    """Print no notes and no progress in this process from here on."""
    if wanted:
        _quiet.append(True)


def be_loud() -> None:
    """Undo `be_quiet`: several command lines may run in one process."""
    _quiet.clear()


def read_study(path: Path | None, settings: Sequence[str] | None) -> Study:
    """The study of `--study`, or of the argument, with what `--set` changes. Raises StudyError."""
    from moretta.shared.study.schema import load_study

    return load_study(path, parsed_settings(settings))


def parsed_settings(settings: Sequence[str] | None) -> dict[str, Any]:
    """Keys and values of `--set`."""
    if not settings:
        return {}
    from moretta.deploy.sweep.grid import parse_setting

    return dict(map(parse_setting, settings))


def site_home(folder: Path | None) -> SiteHome:
    """The site of `--home`, or the default one."""
    from moretta.client.site_home import SiteHome, default_home

    return SiteHome(folder or default_home())


def offered(site: SiteHome, study: Path, settings: Sequence[str] | None) -> Offer | None:
    """The offer of this digest; None where the argument is a study file. Raises StudyError: `--set` with an offer."""
    from moretta.deploy.site.approvals import find_offer

    if study.exists():
        return None
    found = find_offer(site, str(study))
    if settings:
        raise StudyError("--set with an offer", expected="an offer as it is", fix="give a study file to try changes")
    return found


def listed(text: str) -> tuple[str, ...]:
    """The parts of an option that has commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def show(facts: Any, lines: str | Iterable[str], *, as_json: bool, indent: int | None = None) -> None:
    """Print facts as JSON for a script, or lines for a person. Lines may hold text from elsewhere."""
    if as_json:
        typer.echo(json.dumps(facts, indent=indent, allow_nan=False))
        return
    for line in (lines,) if isinstance(lines, str) else lines:
        typer.echo(printable(line))


def note(text: str) -> None:
    """A line for a person on standard error, where it is in no script's way; nothing under `--quiet`."""
    if not _quiet:
        complain(text)


def complain(text: str) -> None:
    """A line about what went wrong, whether notes are wanted or not."""
    typer.echo(printable(text), err=True)


@contextmanager
def showing() -> Iterator[Callable[[Sequence[str]], None]]:
    """Yields a function that shows lines in place of those before on a terminal, and elsewhere below them."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        yield lambda lines: show(None, lines, as_json=False)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda lines: live.update(Text("\n".join(map(printable, lines))), refresh=True)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, fold: Sequence[str] = ()) -> None:
    """Print a table. Its text may be from elsewhere: it is made printable, and Rich reads no markup in it.

    `fold` lists the headings of columns whose text may take several lines.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for heading in headings:
        table.add_column(Text(printable(heading)), no_wrap=heading not in fold, overflow="fold")
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
        show(outcome.to_json(), (), as_json=True)
    if outcome.code in (ExitCode.OK, ExitCode.GATE):
        from moretta.shared.audit.report import report_file, verdict

        for line in verdict.lines(report_file.load_report(outcome.folder).gate):
            typer.echo(printable(line), err=as_json)
        typer.echo(f"Report: {outcome.folder / report_file.REPORT_HTML}", err=as_json)
        if outcome.code == ExitCode.GATE:
            complain("moretta: the run broke a limit of the study's gate; the report names it")
    else:
        complain(f"moretta: the run failed{f' {outcome.stage}' if outcome.stage else ''}: {outcome.cause}")
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
    shown = stream.isatty() and not _quiet
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
        if not shown and not _quiet and done * 10 // of > tenth:
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
