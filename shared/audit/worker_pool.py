"""Worker processes, one thread each; one worker means this process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self, TypeVar

from moretta.shared.core.errors import RunError
from moretta.shared.core.threads import cpu_count, end_with_parent, limit_threads

T = TypeVar("T")


class Workers:
    """A pool to run tasks on, or this process. Leaves no process behind, interrupted or not."""

    def __init__(self, workers: int | None = None) -> None:
        self.count = cpu_count() if workers is None else max(1, workers)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count > 1:
            # Spawned, not forked: torch and OpenBLAS do not survive a fork of a process that used their threads.
            self._pool = ProcessPoolExecutor(self.count, mp_context=get_context("spawn"), initializer=_start_worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(5)

    def run(self, function: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
        """Call `function` on every task; yields each task's index and result as they are finished.

        Raises:
            RunError: a worker died, most likely of too little memory.
        """
        if self._pool is None:
            for index, task in enumerate(tasks):
                yield index, function(*task)
            return
        futures: dict[Future[T], int] = {self._pool.submit(function, *task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process of the audit died",
                expected="all workers to live until the end",
                fix="most likely memory ran out: use fewer workers or attackers",
            ) from error


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
    end_with_parent()
    limit_threads(1)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    threadpool_limits(1)  # the environment comes too late for what the caller's main module has loaded


@contextmanager
def one_thread() -> Iterator[None]:
    """As many threads as a worker has, so that results are the same; put back afterwards."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
