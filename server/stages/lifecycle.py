"""One process at a time works on a run, and how the run ended stands in a file.

A run that is submitted again ends what is left of the attempt before: when Flower's SuperLink dies, a ServerApp may
live on and wait for it, and two of them would spoil the folder. And Flower calls a run completed even if every site
failed, so the outcome is written here.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from moretta.server.home import lock_holder
from moretta.shared.core.atomic import locked, storage_error, write_atomic
from moretta.shared.core.errors import ExitCode, MorettaError, RunError
from moretta.shared.core.printable import printable, printable_traceback

ATTEMPT_FILE = Path("server") / "attempt"
"""Number of the newest attempt, written before it is submitted."""
OUTCOME_FILE = "outcome.json"
_LOCK_FILE = Path("server") / ".lock"
_LOOK_SECONDS = 0.5
_WAIT_SECONDS = 60.0
SUPERSEDED = 75
"""Exit status of a process whose run was submitted again (EX_TEMPFAIL)."""
_STATUS = {ExitCode.OK: "completed", ExitCode.GATE: "gate-broken"}


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
    return lock_holder(folder / _LOCK_FILE) or None


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
        end: ends this process, from another thread: the main one may be waiting for a SuperLink that is gone.
        wait_seconds: how long an older attempt has to end, before a RunError.
    """
    over = threading.Event()

    def end_when_superseded() -> None:
        while not over.wait(_LOOK_SECONDS):
            if newest_attempt(folder) > number:
                end()
                return

    (folder / _LOCK_FILE).parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with ExitStack() as held:
        while True:
            try:
                descriptor = held.enter_context(locked(folder / _LOCK_FILE, wait=False))
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    fix = "end it, or wait for its end"
                    raise RunError("another process is at work on this run", fix=fix) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        watcher = threading.Thread(target=end_when_superseded, daemon=True, name="attempt")
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


@dataclass
class Ending:
    """How a run ends, as far as that is known."""

    gate_passed: bool = True
    finished: bool = True
    """False if more is to come in another process: then no outcome is written yet."""
    code: ExitCode = ExitCode.OK


@contextmanager
def concluding(folder: Path, *, but_for: tuple[type[Exception], ...] = ()) -> Iterator[Ending]:
    """Write the outcome of what runs inside: success, a broken gate, or the error that came out of it.

    Errors end here; their whole text is in `server/server.log`. Those of `but_for` are no outcome, because the run may
    go on in another process: they pass through.
    """
    ending = Ending()
    try:
        yield ending
    except Exception as error:
        log = folder / "server" / "server.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(printable_traceback(*sys.exc_info()), encoding="utf-8")
        if isinstance(error, but_for):
            raise
        known = storage_error(error) or error
        ending.code = known.exit_code if isinstance(known, MorettaError) else ExitCode.INTERNAL
        cause = printable(known if isinstance(known, MorettaError) else f"{type(error).__name__}: {error}")
        write_outcome(folder, code=ending.code, stage=" ".join(getattr(error, "__notes__", [])), cause=cause)
        return
    ending.code = ExitCode.OK if ending.gate_passed else ExitCode.GATE
    if ending.finished:
        write_outcome(folder, code=ending.code)


def write_outcome(folder: Path, *, code: ExitCode, stage: str = "", cause: str = "") -> None:
    """Write how the run ended."""
    content = {"status": _STATUS.get(code, "failed"), "exit_code": int(code), "stage": stage, "cause": cause}
    write_atomic(folder / OUTCOME_FILE, json.dumps(content, indent=1) + "\n")
