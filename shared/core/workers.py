"""Worker processes of one compute thread each, since oversubscribed encoders were measured 30 times slower; and how far
a long step has come."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, forkserver, get_context, parent_process, util
from typing import Any, Self, TypeVar

from moretta.shared.core.errors import RunError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_POLL_SECONDS = 0.5
_QUIET_SECONDS = 10.0
"""The longest time without a report, as long as steps end."""
Progress = Callable[[str, int, int], None]
"""Is called with the name of the work, the number of its steps that are done, and the number of all steps."""
_PRELOADED = ("cv2", "sklearn.ensemble", "scipy.stats", "soundfile", "torch", "torchaudio")
"""Modules that most workers need; none of these starts a thread, which a fork would lose."""
util.abstract_sockets_supported = False  # type: ignore[misc]  # Python 3.11.0 would let any account connect
T = TypeVar("T")
Item = TypeVar("Item")


class Workers:
    """A pool to run tasks on, or this process where `workers` is 1; None takes one for each core.

    Leaves no process behind, interrupted or not.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.count = cpu_count() if workers is None else max(1, workers)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count > 1:
            prepare_workers()
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=get_context("forkserver"),
                initializer=_start_worker,
                initargs=(dict(os.environ),),
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
        """Call `function` on the arguments of every task; yields each task's index and result as they are finished.

        It must be importable by name, and should return its failures: an exception ends everything. A worker that died,
        most likely because memory ran out, is a RunError.
        """
        if self._pool is None:
            for index, task in enumerate(tasks):
                yield index, function(*task)
            return
        with _one_thread_each():  # processes start with the first task
            futures: dict[Future[T], int] = {self._pool.submit(function, *task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()  # no reference stays: results may be large
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process died",
                expected="all workers to live until the end",
                fix="most likely memory ran out: use fewer workers or attackers",
            ) from error


def in_order(results: Iterator[tuple[int, T]]) -> Iterator[T]:
    """Results of `Workers.run` in the order of the tasks, each as soon as all before it are there."""
    waiting: dict[int, T] = {}
    place = 0
    for index, result in results:
        waiting[index] = result
        while place in waiting:
            yield waiting.pop(place)
            place += 1


def prepare_workers() -> None:
    """Start the process that workers are forks of, which imports what they need while this one goes on.

    They are not forked from this process: torch and OpenBLAS do not survive a fork once they have used their threads.
    Nor spawned: each would import them anew.
    """
    main = getattr(sys.modules["__main__"], "__spec__", None)
    get_context("forkserver").set_forkserver_preload([*_PRELOADED, *([main.name] if main else [])])
    with _one_thread_each():
        forkserver.ensure_running()


def map_files(
    function: Callable[[Item], T],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> list[T]:
    """Apply an importable function to every item, on all cores unless `workers` says otherwise; results in order.

    `progress` is called in this process each time an item is done.
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


def _start_worker(environment: dict[str, str]) -> None:
    import cv2

    os.environ.clear()
    os.environ.update(environment, **dict.fromkeys(THREAD_VARIABLES, "1"))
    leave_the_end_to_parent()
    cv2.setNumThreads(1)
    own_randomness()


def own_randomness() -> None:
    """Seed numpy's and torch's global generators from the system, in a fork of a process that has loaded them.

    Otherwise all forks would draw the same numbers. Python's and OpenSSL's generators see to this themselves.
    """
    import numpy as np
    import torch

    np.random.seed()  # noqa: NPY002
    torch.seed()


def leave_the_end_to_parent() -> None:
    """In a worker process, before its first job: take no interrupt, since the parent gets it too and ends its workers.

    End when the parent is gone: a killed one ends nobody, and a pool waits forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        return
    sentinel = getattr(parent, "sentinel", None)
    if sentinel is None:  # workers of loky get none
        end_with_parent(os.getppid())
    else:
        _end_after(lambda: connection.wait([sentinel]))


def end_with_parent(parent: int) -> None:
    """From here on this process ends once its parent is not the process of this id: that one has ended, or was killed.

    It starts a thread, which a fork would lose.
    """

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)

    _end_after(wait)


def _end_after(wait: Callable[[], object]) -> None:
    def watch() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """As many threads as a worker has, so that results are the same; the former number is restored afterwards."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The same random numbers of torch, and the same sums, everywhere; the process keeps its own of both."""
    import torch

    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def limit_threads(threads: int = 1) -> None:
    """Limit this process, and those it starts, to `threads` compute threads each, for good.

    The environment is for processes to come, and for torch where it is loaded later, which takes seconds. Libraries
    that are loaded already are set directly.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    import cv2
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for good, where the C library is GNU's.

    Otherwise every tensor of 32 MB and more is new memory, in every step, which the system first fills with zeros.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 2**30)
        set_option(_TRIM_THRESHOLD, 2**31 - 1)


def cpu_count() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pace:
    """Counts steps of one kind, and reports at the start, at each tenth of the way, and after some seconds of silence.

    The name `what` is reported with the time that is left, where that is known.
    """

    def __init__(
        self, notify: Progress | None, what: str, total: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._notify, self._what, self._total, self._clock = notify, what, total, clock
        self._done, self._started = 0, clock()
        self._last = self._started
        if total > 0:
            self._report()

    def step(self, steps: int = 1) -> None:
        """So many more are done."""
        before, self._done = self._done, self._done + steps
        tenth = self._done * 10 // max(self._total, 1) > before * 10 // max(self._total, 1)
        if tenth or self._done == self._total or self._clock() - self._last >= _QUIET_SECONDS:
            self._report()

    def _report(self) -> None:
        now = self._last = self._clock()
        left = (now - self._started) / self._done * (self._total - self._done) if self._done else 0.0
        if self._notify is not None:
            text = f"{self._what}, about {left:.0f} s left" if left >= 1 else self._what
            self._notify(text, self._done, self._total)


def in_lines(notify: Callable[[str], None]) -> Progress:
    """Progress as lines of text: `rendering faces: 60/600, about 12 s left`."""

    def line(what: str, done: int, total: int) -> None:
        name, comma, rest = what.partition(", about ")
        notify(f"{name}: {done}/{total}{comma}{rest}")

    return line
