"""The same function over many files, on all cores, one compute thread each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import TypeVar

from moretta.shared.core.threads import THREAD_VARIABLES, cpu_count, end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_files(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> list[Result]:
    """Apply `function`, which must be importable by name, to every item.

    Args:
        function: should return its failures: an exception ends the whole map.
        items: what to work on.
        workers: processes; None takes one for each core, 1 works in this process.
        progress: called here each time an item is done.

    Returns:
        The results, in order of the items. Whatever ends the map early, an interrupt included, no process is left.
    """
    workers = min(workers or cpu_count(), len(items))
    tick = progress or (lambda: None)
    if workers <= 1:
        results = []
        for item in items:
            results.append(function(item))
            tick()
        return results
    with _one_thread_each():
        context = get_context("spawn")
        stop = context.Event()
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(stop,))
        try:
            futures = [pool.submit(_unless_stopped, function, item) for item in items]
            for future in as_completed(futures):
                future.result()
                tick()
            return [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


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


_stop: Event | None = None


def _unless_stopped(function: Callable[[Item], Result], item: Item) -> Result:
    """The pool hands out items ahead of time and cannot take them back: this ends it after the item at hand."""
    if _stop is not None and _stop.is_set():
        raise CancelledError
    return function(item)


def _begin_worker(stop: Event) -> None:
    """An interrupt is the parent's to handle."""
    global _stop  # noqa: PLW0603 - set once for the process, as pools hand state to workers
    import cv2

    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    end_with_parent()
