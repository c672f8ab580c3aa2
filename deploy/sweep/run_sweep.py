"""A whole sweep: results that are there are used again, the others are computed in parallel, and all is written."""

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

from moretta.deploy.cli.console import heartbeat
from moretta.deploy.runtime.run_folder import Notify, interruptible
from moretta.deploy.sweep.execution import cluster_runner, job_runner
from moretta.deploy.sweep.jobs import WORK, Job, SweepPlan
from moretta.deploy.sweep.sweep_results import ResultFolder, collect
from moretta.deploy.sweep.work import do, is_made
from moretta.shared.audit.report.sweep_page import write_sweep
from moretta.shared.audit.report.sweep_rows import SweepReport, SweepRow
from moretta.shared.core.errors import RunError, StudyError
from moretta.shared.core.reproducibility import versions
from moretta.shared.core.workers import cpu_count

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


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    folder: Path
    report: SweepReport
    done: int
    reused: int
    failures: dict[str, str]
    """By what failed: why."""

    @property
    def failed_rows(self) -> tuple[SweepRow, ...]:
        """Cells without figures."""
        return tuple(row for row in self.report.rows if row.failed)


def sweep(plan: SweepPlan, out: Path, *, jobs: int | None, command: str, notify: Notify, cluster: str = "") -> Swept:
    """Do what is not done yet, and write `sweep.json`, `sweep.csv`, `sweep.html` and the curves into `out`.

    Args:
        plan: what is to be done.
        out: a new or empty folder, or that of an earlier sweep, whose results are used again where they still hold.
        jobs: processes; None takes one for each CPU.
        command: how to do it again, for the page.
        notify: called with a line of text for every finished job.
        cluster: address of a Ray cluster; empty is this machine.

    Raises:
        StudyError: the folder holds something else.
        RunError: another sweep works in the folder.
        Interrupted: Ctrl-C or SIGTERM; what was finished is kept, and no process is left.
    """
    started = time.monotonic()
    with at_work(out):
        worked = do_missing(plan, out, jobs=jobs, notify=notify, cluster=cluster)
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
    return Swept(out, report, worked.done, worked.reused, plan.failures_by_label(worked.failures))


@contextmanager
def at_work(out: Path) -> Iterator[None]:
    """Hold the folder of a sweep for this process, until its results are put together.

    Raises:
        StudyError: the folder holds something else.
        RunError: another sweep works in the folder.
        Interrupted: Ctrl-C or SIGTERM.
    """
    with _alone(out), interruptible(fix="run the same command again: it goes on where it stopped"):
        shutil.rmtree(out / WORK, ignore_errors=True)  # left by an interrupted sweep
        yield


def do_missing(plan: SweepPlan, out: Path, *, jobs: int | None, notify: Notify, cluster: str = "") -> Worked:
    """Do what has no result in `out` yet, `at_work` there."""
    todo = _missing(plan, ResultFolder(out), out)
    reused = len(plan.jobs) - len(todo)
    if reused:
        notify(f"{reused} of {len(plan.jobs)} results are there already")
    return Worked(len(todo), reused, _do(todo, out, jobs=jobs, notify=notify, cluster=cluster) if todo else {})


def _missing(plan: SweepPlan, results: ResultFolder, out: Path) -> list[Job]:
    """Jobs without a result, with the releases that they need."""
    lacking = [job for job in plan.jobs if job.kind != "release" and results.find(job) is None]
    needed = {job.release for job in lacking}
    releases = []
    for job in (job for job in plan.jobs if job.kind == "release"):
        known = results.find(job) is not None
        if not known or (job.release in needed and not is_made(job, out)):
            releases.append(job)
    return [*releases, *lacking]


def _do(todo: list[Job], out: Path, *, jobs: int | None, notify: Notify, cluster: str) -> dict[str, str]:
    """Do all jobs; returns why those that failed did, by key."""
    failures: dict[str, str] = {}
    start = time.monotonic()
    done = 0

    def alive() -> None:
        notify(f"{done}/{len(todo)} done, at work for {time.monotonic() - start:.0f} s")

    where = cluster_runner(do, out.resolve(), jobs, cluster) if cluster else job_runner(do, out, jobs or cpu_count())
    with where as runner, heartbeat(alive):
        notify(f"0/{len(todo)} done: {len(todo)} jobs on {min(runner.count, len(todo))} processes, releases first")
        for done, ended in enumerate(runner.run(todo), start=1):
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
