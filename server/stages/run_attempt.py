"""One process at a time works on a run. A run that is submitted again ends what is left of the attempt before.

When Flower's SuperLink dies, a ServerApp may live on and wait for it. Two of them in one folder would spoil it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RunError

ATTEMPT_FILE = Path("server") / "attempt"
"""Number of the newest attempt, written before it is submitted."""
_LOCK_FILE = Path("server") / ".lock"
_LOOK_SECONDS = 0.5
_WAIT_SECONDS = 60.0
SUPERSEDED = 75
"""Exit status of a process whose run was submitted again (EX_TEMPFAIL)."""


def announce_attempt(folder: Path, number: int) -> None:
    """Say that a new attempt is about to be submitted: older ones end themselves."""
    write_atomic(folder / ATTEMPT_FILE, str(number))


def newest_attempt(folder: Path) -> int:
    """Number of the newest attempt; 0 if none was announced."""
    try:
        return int((folder / ATTEMPT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def working_pid(folder: Path) -> int | None:
    """The process that works on a run at this moment; None if none does."""
    try:
        with (folder / _LOCK_FILE).open() as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int((folder / _LOCK_FILE).read_text(encoding="utf-8") or "0") or None
    except FileNotFoundError:
        return None
    return None


@contextmanager
def only_attempt(
    folder: Path,
    number: int,
    *,
    end: Callable[[], None] = lambda: os._exit(SUPERSEDED),
    wait_seconds: float = _WAIT_SECONDS,
) -> Iterator[None]:
    """Work on a run alone, and end as soon as a newer attempt is announced.

    Args:
        folder: of the run.
        number: of this attempt.
        end: ends this process, from another thread: the main one may be waiting for a SuperLink that is gone.
        wait_seconds: how long an older attempt has to end.

    Raises:
        RunError: another process would not let go of the run.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            if newest_attempt(folder) > number:
                end()
                return

    (folder / _LOCK_FILE).parent.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_FILE).open("a+") as lock:
        _take(lock.fileno(), wait_seconds)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        watcher = threading.Thread(target=watch, daemon=True, name="attempt")
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def _take(descriptor: int, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RunError("another process is at work on this run", fix="end it, or wait for its end") from None
            time.sleep(0.1)
        else:
            return
