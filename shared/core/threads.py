"""One thread per worker process: oversubscribed encoders were measured 30 times slower."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing import connection, parent_process

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_POLL_SECONDS = 0.5


def limit_threads(threads: int = 1) -> None:
    """Limit this process, and those it starts, to `threads` compute threads each.

    The environment is for processes to come. Libraries that are loaded already are set directly, for good.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=threads)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def cpu_count() -> int:
    """CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """End this worker process when its parent is gone: one that was killed can end nobody.

    Without it a pool's workers would wait for their next task for ever.
    """
    parent = parent_process()
    if parent is not None:
        sentinel: int | None = parent.sentinel
        watch = (_wait_for_end, (sentinel,)) if sentinel is not None else (_wait_for_orphanage, (os.getppid(),))
        threading.Thread(target=watch[0], args=watch[1], daemon=True).start()


def _wait_for_end(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _wait_for_orphanage(parent: int) -> None:
    """For workers of loky, who get no sentinel."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)
