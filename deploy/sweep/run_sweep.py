"""A whole sweep: what is there already is taken, the rest is done in parallel, and everything is put together."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moretta.deploy.cli.progress import heartbeat
from moretta.deploy.cli.runs import Notify, interruptible
from moretta.deploy.sweep.collect import collect
from moretta.deploy.sweep.done import ResultFolder
from moretta.deploy.sweep.jobs import WORK, Job, SweepPlan
from moretta.deploy.sweep.pool import Pool
from moretta.deploy.sweep.work import is_made
from moretta.shared.audit.report.sweep_page import write_sweep
from moretta.shared.audit.report.sweep_rows import SweepReport, SweepRow
from moretta.shared.core.errors import RunError, StudyError
from moretta.shared.core.reproducibility import versions

_MARKER = ".sweep"
"""In the folder of a sweep: another folder that is not empty is left alone."""


@dataclass(frozen=True)
class Worked:
    """What became of the jobs of a plan."""

    done: int
    """Jobs that were done now."""
    reused: int
    """Jobs whose results were there."""
    failures: dict[str, str]
    """By the key of a job, why it has no result."""

    def notes(self, plan: SweepPlan) -> dict[str, str]:
        """The failures by what failed, in words."""
        labels = {job.key: job.label for job in plan.jobs}
        return {labels[key]: why for key, why in self.failures.items()}


@dataclass(frozen=True)
class Swept:
    """What a sweep came to."""

    folder: Path
    report: SweepReport
    done: int
    """Jobs that were done now."""
    reused: int
    """Jobs whose results were there."""
    failures: dict[str, str]
    """By what failed: why."""

    @property
    def failed_rows(self) -> tuple[SweepRow, ...]:
        """Cells without figures."""
        return tuple(row for row in self.report.rows if row.failed)


def sweep(plan: SweepPlan, out: Path, *, jobs: int, command: str, notify: Notify) -> Swept:
    """Do what is not done yet, and write `sweep.json`, `sweep.csv`, `sweep.html` and the curves into `out`.

    Args:
        plan: what is to be done.
        out: a new or empty folder, or that of an earlier sweep, whose results are used again where they still hold.
        jobs: processes.
        command: how to do it again, for the page.
        tell: told of every finished job.

    Raises:
        StudyError: the folder holds something else.
        RunError: another sweep works in the folder.
        Interrupted: Ctrl-C or SIGTERM; what was finished is kept, and no process is left.
    """
    started = time.monotonic()
    with at_work(out):
        worked = do_missing(plan, out, jobs=jobs, notify=notify)
        rows = collect(plan, ResultFolder(out), worked.failures)
        report = SweepReport(
            name=plan.grid.name,
            synthetic=any(planned.corpus.synthetic for planned in plan.cells),
            rows=rows,
            grid=plan.grid.content,
            command=command,
            versions=versions(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 2),
            work=dict(Counter(job.kind for job in plan.jobs)),
            warnings=plan.warnings,
        )
        write_sweep(report, out)
    return Swept(out, report, worked.done, worked.reused, worked.notes(plan))


@contextmanager
def at_work(out: Path) -> Iterator[None]:
    """Hold the folder of a sweep for this process, until its results are put together.

    Raises:
        StudyError: the folder holds something else.
        RunError: another sweep works in the folder.
        Interrupted: Ctrl-C or SIGTERM.
    """
    with _alone(out), interruptible(fix="run the same command again: it goes on where it stopped"):
        shutil.rmtree(out / WORK, ignore_errors=True)  # what an interrupted sweep was at
        yield


def do_missing(plan: SweepPlan, out: Path, *, jobs: int, notify: Notify) -> Worked:
    """Do what has no result in `out` yet, `at_work` there; results are then on its shelf."""
    todo, have = _missing(plan, ResultFolder(out), out)
    reused = len(plan.jobs) - len(todo)
    if reused:
        notify(f"{reused} of {len(plan.jobs)} results are there already")
    return Worked(len(todo), reused, _do(todo, have, out, jobs=jobs, notify=notify))


def _missing(plan: SweepPlan, shelf: ResultFolder, out: Path) -> tuple[list[Job], set[str]]:
    """Jobs without a result, with the releases that they need; and keys of the releases that are there."""
    lacking = [job for job in plan.jobs if job.kind != "release" and shelf.find(job) is None]
    needed = {job.release for job in lacking}
    releases = [job for job in plan.jobs if job.kind == "release"]
    have = {job.release for job in releases if shelf.find(job) is not None and is_made(job, out)}
    anew = [job for job in releases if job.release not in have and (job.release in needed or shelf.find(job) is None)]
    return [*anew, *lacking], have


def _do(todo: list[Job], have: set[str], out: Path, *, jobs: int, notify: Notify) -> dict[str, str]:
    """Do all jobs; returns why those that failed did, by key."""
    failures: dict[str, str] = {}
    start = time.monotonic()
    if not todo:
        return failures
    done = 0

    def alive() -> None:
        notify(f"{done}/{len(todo)} done, at work for {time.monotonic() - start:.0f} s")

    notify(f"0/{len(todo)} done: {len(todo)} jobs on {min(jobs, len(todo))} processes, releases first")
    with heartbeat(alive), Pool(min(jobs, len(todo)), out) as pool:
        for done, ended in enumerate(pool.run(todo, have=have), start=1):
            what = ended.job.label
            if ended.failure:
                failures[ended.job.key] = ended.failure
                what = f"{what} FAILED: {ended.failure}"
            notify(f"{done}/{len(todo)} {what} ({time.monotonic() - start:.0f} s)")
    return failures


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder of a sweep for this process."""
    marker = out / _MARKER
    if out.exists() and not marker.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudyError(
            f"{out} is neither empty nor the folder of a sweep", expected="a new or empty folder", fix="choose another"
        )
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another sweep works in {out}", fix="wait for its end, or choose another --out") from None
        yield
    finally:
        os.close(descriptor)
