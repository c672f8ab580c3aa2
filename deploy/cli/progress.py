"""Shows how far a long step has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO


@contextmanager
def progress(title: str, total: int, *, stream: TextIO | None = None) -> Iterator[Callable[[], None]]:
    """Count `total` steps on stderr (or `stream`): `with progress("Rendering", 576) as step: step()`."""
    stream = stream or sys.stderr
    if stream.isatty():
        with _bar(title, total, stream) as step:
            yield step
    else:
        yield _Lines(title, total, stream).step


@contextmanager
def _bar(title: str, total: int, stream: TextIO) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


class _Lines:
    """A line at each tenth of the way."""

    def __init__(self, title: str, total: int, stream: TextIO) -> None:
        self._title, self._total, self._stream = title, max(1, total), stream
        self._done = 0
        self._started = time.monotonic()

    def step(self) -> None:
        tenth_before = self._done * 10 // self._total
        self._done += 1
        if self._done * 10 // self._total > tenth_before:
            seconds = time.monotonic() - self._started
            self._stream.write(f"{self._title}: {self._done}/{self._total} ({seconds:.0f} s)\n")
            self._stream.flush()


def line_on_stderr(text: str) -> None:
    """A line about what is at work."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def heartbeat(notify: Callable[[], None], *, seconds: float = 60.0) -> Iterator[None]:
    """Call `tell` now and then while others work, so that long jobs are not taken for hanging ones."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(seconds):
            notify()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class ProgressOfClips:
    """The same for work that tells its own count: `step(done, total)`, the total known with the first call."""

    def __init__(self, title: str, *, stream: TextIO | None = None) -> None:
        self._title, self._stream = title, stream
        self._stack = ExitStack()
        self._step: Callable[[], None] | None = None
        self._done = 0

    def __enter__(self) -> Callable[[int, int], None]:
        return self._update

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _update(self, done: int, total: int) -> None:
        if self._step is None:
            self._step = self._stack.enter_context(progress(self._title, total, stream=self._stream))
        for _ in range(done - self._done):
            self._step()
        self._done = done
