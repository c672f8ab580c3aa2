"""The jobs of a sweep in many processes, by joblib: on this machine (loky), or on a Ray cluster.

A job takes one process of one thread. A process that dies takes joblib's whole pool with it. So the jobs that were at
work are tried once more, each alone: what dies again has failed, and nothing else has.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from moretta.deploy.sweep.jobs import WORK, Job, environment_digest
from moretta.shared.core.errors import MorettaError, RunError
from moretta.shared.core.workers import end_with_parent, limit_threads

Do = Callable[[Job, Path], None]
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended."""

    job: Job
    failure: str = ""
    """Why it has no result; empty if it has one."""


@dataclass(frozen=True)
class JobRunner:
    """Runs jobs where joblib's backend has processes."""

    do: Do
    """Does one job and keeps its result; importable by name."""
    out: Path
    """Folder of the sweep."""
    count: int
    """Processes at most."""
    backend: str = "loky"
    deaths: tuple[type[Exception], ...] = (TerminatedWorkerError,)
    """What joblib raises when a process has died."""
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
            todo = (call(self.do, job.model_dump_json(), self.out, self.backend, environment_digest()) for job in jobs)
            with closing(run(todo)) as ended:
                yield from ended


@contextmanager
def job_runner(do: Do, out: Path, count: int) -> Iterator[JobRunner]:
    """Processes on this machine; none is left behind, interrupted or not."""
    try:
        yield JobRunner(do, out, count, options={"inner_max_num_threads": 1})
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def cluster_runner(do: Do, out: Path, count: int | None, address: str) -> Iterator[JobRunner]:
    """Processes of a Ray cluster.

    Args:
        do: does one job.
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
        raise RunError(
            f"no Ray cluster at {address}: {error}",
            expected="the address of a running cluster, or local",
            fix="start one with `ray start --head`",
        ) from error
    try:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        with redirect_stdout(sys.stderr):  # Ray prints about lost workers; the output is for scripts
            yield JobRunner(do, out, min(count or cpus, cpus), "ray", (RayActorError,))
    finally:
        ray.shutdown()


def _attempt(do: Do, content: str, out: Path, backend: str, environment: str) -> tuple[str, str]:
    """Do a job in a worker; returns its key, and why it failed."""
    _begin_worker(backend)
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
def _begin_worker(backend: str) -> None:
    """Once in each process, before its first job."""
    if backend == "loky":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
        end_with_parent()
    limit_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # it reports each round of each training


def _mark(out: Path, job: Job) -> Path:
    """A file that is there while a process is at a job."""
    return out / WORK / f"{job.kind}-{job.key}.at-work"
