"""Worker processes of one compute thread each; one worker means this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self, TypeVar

from moretta.shared.core.errors import RunError
from moretta.shared.core.threads import THREAD_VARIABLES, cpu_count, end_with_parent

T = TypeVar("T")
Item = TypeVar("Item")


class Workers:
    """A pool to run tasks on, or this process. Leaves no process behind, interrupted or not.

    Args:
        workers: processes; None takes one for each core, 1 works in this process.
    """

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

        Args:
            function: importable by name. It should return its failures: an exception ends everything.
            tasks: its arguments.

        Raises:
            RunError: a worker died, most likely because memory ran out.
        """
        if self._pool is None:
            for index, task in enumerate(tasks):
                yield index, function(*task)
            return
        with _one_thread_each():  # processes start with the first task
            futures: dict[Future[T], int] = {self._pool.submit(function, *task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process died",
                expected="all workers to live until the end",
                fix="most likely memory ran out: use fewer workers or attackers",
            ) from error


def map_files(
    function: Callable[[Item], T],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> list[T]:
    """Apply `function` to every item, on all cores unless `workers` says otherwise.

    Args:
        function: as for `Workers.run`.
        items: what to work on.
        workers: as for `Workers`.
        progress: called here each time an item is done.

    Returns:
        The results, in order of the items.
    """
    found: dict[int, T] = {}
    with Workers(min(workers or cpu_count(), len(items))) as pool:
        for index, result in pool.run(function, [(item,) for item in items]):
            found[index] = result
            if progress is not None:
                progress()
    return [found[index] for index in range(len(items))]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Numerical libraries read these variables when they load, so a new process must find them set."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker() -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
    end_with_parent()
    cv2.setNumThreads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """As many threads as a worker has, so that results are the same; put back afterwards."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
