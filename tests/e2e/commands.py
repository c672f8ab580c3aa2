"""Commands: what runs, and how to run them at less cost, within this process or on one CPU."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import psutil

from moretta.deploy.cli.main import run


def command_lines(found: Iterable[psutil.Process]) -> dict[psutil.Process, list[str]]:
    """The command line of each process. A process that has ended meanwhile is left out."""
    lines = {}
    for process in found:
        with contextlib.suppress(psutil.Error):
            lines[process] = process.cmdline()
    return lines


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Programs that this thread starts find one CPU: a study then has one process for its sites, none for its audit.

    Each test process has its own. Figures do not depend on it; what a study does on all CPUs, other tests show.
    """
    cpus = sorted(os.sched_getaffinity(0))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {cpus[number % len(cpus)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def moretta_here(*arguments: object, cache: Path) -> tuple[int, str, str]:
    """Its exit code, output and errors. It must not start work: what it needs must be there already."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"MORETTA_CACHE": str(cache)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code = run(list(map(str, arguments)))
    return code, out.getvalue(), errors.getvalue()
