"""A whole sweep: results that are there are used again, the others are computed in parallel, and all is written.

joblib runs the jobs on this machine (loky) or on a Ray cluster; each takes one process of one thread. A process that
dies takes joblib's whole pool with it. So the jobs that were at work are tried once more, each alone: what dies again
has failed, and nothing else has.
"""

from __future__ import annotations

import logging
import shutil
import socket
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from moretta.deploy.cli.console import heartbeat
from moretta.deploy.runtime.run_folder import Notify, interruptible
from moretta.deploy.sweep.jobs import WORK, Job, SweepPlan, environment_digest, is_made
from moretta.deploy.sweep.sweep_results import ResultFolder, collect
from moretta.shared.audit.report.sweep_rows import SweepReport
from moretta.shared.core.atomic import locked
from moretta.shared.core.errors import MorettaError, RunError, StudyError
from moretta.shared.core.reproducibility import versions
from moretta.shared.core.workers import cpu_count, leave_the_end_to_parent, limit_threads

Do = Callable[[Job, Path], None]
_CONNECT_SECONDS = 5.0
_MARKER = ".sweep"  # in the folder of a sweep: another folder that is not empty is left alone


class Worked(NamedTuple):
    """Numbers and failures of the jobs of a plan."""

    done: int  # jobs that were done now
    reused: int  # jobs whose results were there
    failures: dict[str, str]  # by the key of a job, why it has no result
    failed: dict[str, str]  # the same by the label of the job


def sweep(
    plan: SweepPlan, out: Path, *, jobs: int | None, command: str, notify: Notify, cluster: str = ""
) -> tuple[SweepReport, Worked]:
    """Do what is not done yet, and write `sweep.json`, `sweep.csv`, `sweep.html` and the curves into `out`.

    Args:
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
    from moretta.shared.audit.report.sweep_page import write_sweep  # draws with matplotlib, which no worker needs

    started = time.monotonic()
    with at_work(out):
        worked = do_missing(plan, out, jobs=jobs, notify=notify, cluster=cluster)
        report = SweepReport(
            name=plan.grid.name,
            synthetic=any(planned.corpus.synthetic for planned in plan.cells),
            rows=collect(plan, ResultFolder(out), worked.failures),
            grid=plan.grid.content,
            command=command,
            versions=versions(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 2),
            work=dict(Counter(job.kind for job in plan.jobs)),
            warnings=plan.warnings,
        )
        write_sweep(report, out)
    return report, worked


@contextmanager
def at_work(out: Path) -> Iterator[None]:
    """Hold the folder of a sweep for this process, until its results are put together; raises what `sweep` does."""
    if out.exists() and not (out / _MARKER).exists() and (not out.is_dir() or any(out.iterdir())):
        found = f"{out} is neither empty nor the folder of a sweep"
        raise StudyError(found, expected="a new or empty folder", fix="choose another")
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(out / _MARKER, wait=False))
        except BlockingIOError:
            raise RunError(f"another sweep works in {out}", fix="wait for its end, or choose another --out") from None
        held.enter_context(interruptible(fix="run the same command again: it goes on where it stopped"))
        shutil.rmtree(out / WORK, ignore_errors=True)  # left by an interrupted sweep
        yield


def do_missing(plan: SweepPlan, out: Path, *, jobs: int | None, notify: Notify, cluster: str = "") -> Worked:
    """Do what has no result in `out` yet, `at_work` there, with the releases that it needs."""
    results = ResultFolder(out)
    lacking = {job.key for job in plan.jobs if results.find(job) is None}
    needed = {job.key for job in plan.jobs if job.kind == "release" and not is_made(job, out)} & {
        job.release for job in plan.jobs if job.kind != "release" and job.key in lacking
    }
    todo = [job for job in plan.jobs if job.key in lacking | needed]
    if reused := len(plan.jobs) - len(todo):
        notify(f"{reused} of {len(plan.jobs)} results are there already")
    failures = _do(todo, out, jobs=jobs, notify=notify, cluster=cluster) if todo else {}
    labels = {job.key: job.label for job in todo}
    return Worked(len(todo), reused, failures, {labels[key]: why for key, why in failures.items()})


def _do(todo: list[Job], out: Path, *, jobs: int | None, notify: Notify, cluster: str) -> dict[str, str]:
    """Do all jobs; returns why those that failed did, by key."""
    failures: dict[str, str] = {}
    start, done = time.monotonic(), 0

    def alive() -> None:
        notify(f"{done}/{len(todo)} done, at work for {time.monotonic() - start:.0f} s")

    on_cluster = cluster_runner(_work, out.resolve(), jobs, cluster) if cluster else None
    where = on_cluster or job_runner(_work, out, jobs or cpu_count())
    with where as runner, heartbeat(alive):
        notify(f"0/{len(todo)} done: {len(todo)} jobs on {min(runner.count, len(todo))} processes, releases first")
        for done, ended in enumerate(runner.run(todo), start=1):
            what = ended.job.label
            if ended.failure:
                failures[ended.job.key] = ended.failure
                what = f"{what} FAILED: {ended.failure}"
            notify(f"{done}/{len(todo)} {what} ({time.monotonic() - start:.0f} s)")
    return failures


def _work(job: Job, out: Path) -> None:
    from moretta.deploy.sweep.work import do  # loads torch, which only workers need

    do(job, out)


class Ended(NamedTuple):
    """How a job ended, and why it has no result; empty if it has one."""

    job: Job
    failure: str = ""


@dataclass(frozen=True)
class JobRunner:
    """Runs jobs where joblib's backend has processes."""

    do: Do  # does one job and keeps its result; importable by name
    out: Path  # folder of the sweep
    count: int  # processes at most
    backend: str = "loky"
    deaths: tuple[type[Exception], ...] = (TerminatedWorkerError,)  # what joblib raises when a process has died
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Run jobs, releases before what needs them; yields each as it ends. Jobs whose release failed fail with it."""
        failed: dict[str, str] = {}
        for ended in self._run_all([job for job in jobs if job.kind == "release"]):
            if ended.failure:
                failed[ended.job.release] = ended.failure
            yield ended
        others = [job for job in jobs if job.kind != "release"]
        for job in others:
            if job.release in failed:
                yield Ended(job, f"the release it needs was not made: {failed[job.release]}")
        yield from self._run_all([job for job in others if job.release not in failed])

    def _run_all(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        left = {job.key: job for job in jobs}
        while left:
            try:
                for key, failure in self._parallel(list(left.values())):
                    yield Ended(left.pop(key), failure)
            except self.deaths:
                at_work = [job for job in left.values() if _mark(self.out, job).exists()]
                for job in at_work or list(left.values())[:1]:
                    yield Ended(left.pop(job.key), self._run_alone(job))

    def _run_alone(self, job: Job) -> str:
        try:
            return next(self._parallel([job]))[1]
        except self.deaths as error:
            how = next((line.strip() for line in str(error).splitlines() if "SIG" in line), type(error).__name__)
            return f"its process died twice, most likely because memory ran out: {how}"

    def _parallel(self, jobs: Sequence[Job]) -> Iterator[tuple[str, str]]:
        """Key and failure of each job as it ends."""
        with parallel_config(self.backend, **self.options), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # workers that loky replaces, jobs that an interrupt cancels
            # with n_jobs=1 joblib would compute in this process; `pre_dispatch` limits the jobs that are at work
            workers = max(2, min(self.count, len(jobs)))
            run = Parallel(workers, return_as="generator_unordered", pre_dispatch=self.count, batch_size=1)
            call = delayed(_attempt)
            todo = (call(self.do, job.model_dump_json(), self.out, environment_digest()) for job in jobs)
            with closing(run(todo)) as ended:
                yield from ended


@contextmanager
def job_runner(do: Do, out: Path, count: int) -> Iterator[JobRunner]:
    """Processes on this machine; none is left behind, interrupted or not."""
    try:
        # at the start of each process, since one that gets no job would wait for one long after the parent is gone
        yield JobRunner(do, out, count, options={"inner_max_num_threads": 1, "initializer": leave_the_end_to_parent})
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def cluster_runner(do: Do, out: Path, count: int | None, address: str) -> Iterator[JobRunner]:
    """Processes of a Ray cluster.

    Args:
        out: folder of the sweep; every machine must see it, and the corpus, under the same path.
        count: of processes; None takes one for each CPU of the cluster.
        address: of the cluster; `local` starts one on this machine.

    Raises:
        RunError: there is no cluster at this address.
    """
    import ray
    from ray.exceptions import RayActorError
    from ray.util.joblib.ray_backend import RayBackend

    class GeneratorBackend(RayBackend):  # type: ignore[misc]
        """Ray's backend returns results as they come, though it does not say so."""

        supports_return_generator = True

    register_parallel_backend("ray", GeneratorBackend)
    try:
        if (where := address.rpartition(":"))[2].isdigit():  # Ray itself tries for minutes
            socket.create_connection((where[0], int(where[2])), timeout=_CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        found, expected = f"no Ray cluster at {address}: {error}", "the address of a running cluster, or local"
        raise RunError(found, expected=expected, fix="start one with `ray start --head`") from error
    try:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        with redirect_stdout(sys.stderr):  # Ray prints about lost workers; the output is for scripts
            yield JobRunner(do, out, min(count or cpus, cpus), "ray", (RayActorError,))
    finally:
        ray.shutdown()


def _attempt(do: Do, content: str, out: Path, environment: str) -> tuple[str, str]:
    """Do a job in a worker; returns its key, and why it failed."""
    _begin_worker()
    job, failure = Job.model_validate_json(content), ""
    mark = _mark(out, job)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        if environment_digest() != environment:
            raise RunError("this machine has another Moretta, or other versions of its libraries, than the first one")
        do(job, out)
    except MorettaError as error:
        failure = error.message
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    mark.unlink()
    return job.key, failure


@cache
def _begin_worker() -> None:
    """Prepare a process, before its first job."""
    limit_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # it reports each round of each training


def _mark(out: Path, job: Job) -> Path:
    """A file that is there while a process is at a job."""
    return out / WORK / f"{job.kind}-{job.key}.at-work"
