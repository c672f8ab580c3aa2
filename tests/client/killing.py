"""Really killing a process, with SIGKILL, at each of its writes in turn, to see what is left on disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WRITES = ("write", "fsync", "ftruncate", "replace")
"""Calls of the operating system after which a disk may be another."""

Action = Callable[[Callable[[], object]], None]
"""Does something; calls what it is given whenever something is done that could leave the site."""


@dataclass(frozen=True)
class Killed:
    """Result of a process that was to be killed."""

    done: int
    """Number of its steps that were done."""
    killed: bool
    """False if it came to its end first."""


def kill_at_every_write(prepare: Callable[[], tuple[Action, Callable[[Killed], None]]]) -> int:
    """Run an action again and again, killed at its first write, its second, and so on, until it comes to its end.

    Args:
        prepare: makes a fresh place, and returns the action and a check of what is left there.

    Returns:
        how many kills there were: each before a write, and again after it or after half of its bytes.
    """
    kills = 0
    for half in (False, True):
        for at in range(1000):
            action, check = prepare()
            outcome = run_and_kill(action, at=at, half=half)
            check(outcome)
            if not outcome.killed:
                break
            kills += 1
    return kills


def run_and_kill(action: Action, *, at: int, half: bool) -> Killed:
    """Run `action` in a forked process that kills itself at its `at`-th write, counted from 0.

    Args:
        action: what to do.
        at: which write; the kill comes before it.
        half: the kill comes after it instead, or where bytes are written, after half of them.
    """
    read_end, write_end = os.pipe()
    reported = os.fdopen(write_end, "wb", buffering=0)

    def doomed() -> None:
        _kill_at(at, half=half)
        action(lambda: reported.write(b"."))

    child = forked(doomed)
    reported.close()
    with os.fdopen(read_end, "rb") as pipe:
        done = len(pipe.read())
    _, status = os.waitpid(child, 0)
    return Killed(done, os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)


def forked(action: Callable[[], None]) -> int:
    """Run `action` in a process of its own; returns its id. It exits with 0 if the action ends well, else with 1."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:  # no way out of here but `_exit`: nothing of pytest must run twice
        action()
        code = 0
    finally:
        os._exit(code)


def _kill_at(at: int, *, half: bool) -> None:
    seen = 0

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen <= at:
                return real(*arguments, **options)
            if half and name == "write":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            elif half:
                real(*arguments, **options)
            return os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in WRITES:
        setattr(os, name, watched(name))
