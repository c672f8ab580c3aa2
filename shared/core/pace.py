"""Tells how far a long step has come: often enough for a person, seldom enough for a log."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is done, how many of it, and how many there are."""
_QUIET_SECONDS = 10.0
"""The longest time without a word, as long as steps end."""


class Pace:
    """Counts steps of one kind, and reports at the start, at each tenth of the way, and after some seconds of silence.

    Args:
        notify: called with the name, how many are done, and how many there are; None for no reports.
        what: for a person; the time that is left is added where it is known.
        total: steps that will come.
        clock: seconds that only go forward.
    """

    def __init__(
        self, notify: Progress | None, what: str, total: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._notify, self._what, self._total, self._clock = notify, what, total, clock
        self._done, self._started = 0, clock()
        self._last = self._started
        if total > 0:
            self._say()

    def step(self, steps: int = 1) -> None:
        """So many more are done."""
        before, self._done = self._done, self._done + steps
        tenth = self._done * 10 // max(self._total, 1) > before * 10 // max(self._total, 1)
        if tenth or self._done == self._total or self._clock() - self._last >= _QUIET_SECONDS:
            self._say()

    def _say(self) -> None:
        now = self._last = self._clock()
        if self._notify is None:
            return
        left = (now - self._started) / self._done * (self._total - self._done) if self._done else 0.0
        words = f"{self._what}, about {left:.0f} s left" if left >= 1 else self._what
        self._notify(words, self._done, self._total)


def in_lines(notify: Callable[[str], None]) -> Progress:
    """Progress as lines of text: `rendering faces: 60/600, about 12 s left`."""

    def line(what: str, done: int, total: int) -> None:
        name, comma, rest = what.partition(", about ")
        notify(f"{name}: {done}/{total}{comma}{rest}")

    return line
