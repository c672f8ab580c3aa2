"""Processes of one thread each that do the jobs of a sweep. One that dies takes its job with it and nothing else."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from moretta.deploy.sweep.jobs import Job
from moretta.shared.core.errors import MorettaError
from moretta.shared.core.threads import end_with_parent, limit_threads

_JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended."""

    job: Job
    failure: str = ""
    """Why it has no result; empty if it has one."""


@dataclass
class _Worker:
    process: SpawnProcess
    link: Connection
    job: Job | None = None


class Pool:
    """Workers that take jobs one by one. Leaves no process behind, interrupted or not."""

    def __init__(self, workers: int, out: Path) -> None:
        self._limit, self._out = max(1, workers), out
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.link.close()  # an idle one ends by itself
            if kind is not None or worker.job is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_JOIN_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def run(self, jobs: Sequence[Job], *, have: set[str]) -> Iterator[Ended]:
        """Do jobs, a release before what needs it; yields each as it ends. Jobs whose release failed fail with it.

        Args:
            jobs: in the order in which they should be started.
            have: keys of the releases that are there.
        """
        waiting, failed = list(jobs), dict[str, str]()
        have = set(have)
        while waiting or any(worker.job for worker in self._workers):
            for job in [job for job in waiting if job.kind != "release" and job.release in failed]:
                waiting.remove(job)
                yield Ended(job, f"the release it needs was not made: {failed[job.release]}")
            self._hand_out(waiting, have)
            for ended in self._await():
                if ended.job.kind == "release":
                    if ended.failure:
                        failed[ended.job.release] = ended.failure
                    else:
                        have.add(ended.job.release)
                yield ended

    def _hand_out(self, waiting: list[Job], have: set[str]) -> None:
        ready = [job for job in waiting if job.kind == "release" or job.release in have]
        for job in ready:
            worker = self._idle()
            if worker is None:
                return
            waiting.remove(job)
            worker.job = job
            worker.link.send_bytes(job.model_dump_json().encode())

    def _idle(self) -> _Worker | None:
        idle = next((worker for worker in self._workers if worker.job is None), None)
        if idle is None and len(self._workers) < self._limit:
            idle = _start(self._out)
            self._workers.append(idle)
        return idle

    def _await(self) -> list[Ended]:
        """Wait until at least one job has ended; returns at once if none is being done."""
        busy = {worker.link: worker for worker in self._workers if worker.job is not None}
        ended: list[Ended] = []
        if not busy:  # all that was left has failed with its release: nobody would ever answer
            return ended
        for ready in connection.wait(list(busy)):
            worker = busy[ready]  # type: ignore[index]
            job = worker.job
            assert job is not None
            try:
                failure = json.loads(worker.link.recv_bytes())["failure"]
                worker.job = None
            except (EOFError, OSError):
                worker.process.join()
                failure = f"its process died ({_how(worker.process.exitcode)})"
                worker.link.close()
                self._workers.remove(worker)
            ended.append(Ended(job, failure))
        return ended


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        killed = signal.Signals(-code).name
        return f"{killed}, most likely because memory ran out" if killed == "SIGKILL" else killed
    return f"exit code {code}"


def _start(out: Path) -> _Worker:
    context = get_context("spawn")  # torch and OpenBLAS do not survive a fork of a process that used their threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, out), daemon=False, name="moretta-sweep")
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _work(link: Connection, out: Path) -> None:
    """A worker's life: jobs in, how they ended out, until the link is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    limit_threads(1)
    from moretta.deploy.sweep.work import do

    logging.getLogger("flwr").setLevel(logging.WARNING)  # it tells of every round of every training
    while True:
        try:
            job = Job.model_validate_json(link.recv_bytes())
        except (EOFError, OSError):
            return
        failure = ""
        try:
            do(job, out)
        except MorettaError as error:
            failure = error.message
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        link.send_bytes(json.dumps({"failure": failure}).encode())
