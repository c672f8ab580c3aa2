"""Every process of a run carries a mark in its environment, so that all can be found and ended, daemons included.

Ray and Flower start processes in sessions of their own: neither a process group nor a parent's pid finds them all.
"""

from __future__ import annotations

import os
import secrets
import time

import psutil

MARK = "MORETTA_RUN_MARK"


def new_mark() -> str:
    """A mark that no other run has."""
    return secrets.token_hex(16)


def processes(mark: str) -> list[psutil.Process]:
    """Processes that carry the mark, this one excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_all(mark: str, *, patience_seconds: float = 4.0) -> int:
    """Ask all marked processes to end, then make them; returns how many there were.

    New ones may start while others end, so it looks again until none is left.
    """
    seen: set[int] = set()
    deadline = time.monotonic() + patience_seconds
    while alive := [p for p in processes(mark) if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        force = time.monotonic() > deadline
        for process in alive:
            try:
                if force:
                    process.kill()
                elif process.pid not in seen:
                    process.terminate()
            except psutil.Error:
                continue
        seen.update(p.pid for p in alive)
        if time.monotonic() > deadline + 10:
            break
        psutil.wait_procs(alive, timeout=0.5)
    return len(seen)


def memory_bytes(mark: str) -> int:
    """Memory of all marked processes and this one, shared pages counted once where the system tells (PSS)."""
    total = 0
    for process in [psutil.Process(), *processes(mark)]:
        try:
            total += _proportional(process)
        except (psutil.Error, OSError):
            continue
    return total


def _proportional(process: psutil.Process) -> int:
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.uss))
