"""Every process of a run carries a mark in its environment, so that all can be found and ended, daemons included.

Ray and Flower start processes in sessions of their own: neither a process group nor a parent's pid finds them all.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator

import psutil

MARK = "MORETTA_RUN_MARK"
_GIVE_UP_SECONDS = 10.0


def new_mark() -> str:
    """A mark that no other run has."""
    return secrets.token_hex(16)


def processes(mark: str) -> list[psutil.Process]:
    """Processes that carry the mark, and all that descend from them; this one excepted.

    Descendants count because some of Ray's rename themselves, which overwrites the environment they show.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found[process.pid] = process
                found.update({child.pid: child for child in process.children(recursive=True)})
        except (psutil.Error, OSError):
            continue
    return list(found.values())


def end_all(mark: str, *, patience_seconds: float = 4.0) -> int:
    """Ask all processes of a run to end, then make them; returns how many there were.

    New ones may start while others end, so it looks again until none is left.
    """
    known: dict[int, psutil.Process] = {}
    signalled: set[int] = set()
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline + _GIVE_UP_SECONDS:
        known.update({p.pid: p for p in processes(mark)})
        alive = [p for p in known.values() if _alive(p)]
        if not alive:
            break
        for process in alive:
            try:
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in signalled:
                    process.terminate()
            except psutil.Error:
                continue
        signalled.update(p.pid for p in alive)
        psutil.wait_procs(alive, timeout=0.3)
    return len(known)


def end_all_for_sure(mark: str) -> None:
    """`end_all`, begun again where an interrupt came in the middle of it; the interrupt goes on afterwards."""
    try:
        end_all(mark)
    except BaseException:
        end_all(mark)
        raise


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def memory_bytes(mark: str | None, *pids: int) -> int:
    """Memory of all the run's processes and this one, shared pages counted once where the system tells (PSS)."""
    total = 0
    for process in [psutil.Process(), *(processes(mark) if mark else []), *_existing(pids)]:
        try:
            total += _proportional(process)
        except (psutil.Error, OSError):
            continue
    return total


def _existing(pids: tuple[int, ...]) -> Iterator[psutil.Process]:
    for pid in pids:
        try:
            yield psutil.Process(pid)
        except psutil.Error:
            continue


def _proportional(process: psutil.Process) -> int:
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.uss))
