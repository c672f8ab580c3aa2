"""Refused calls in the audit log: the first of each kind at once, the rest of a minute as one count.

Otherwise who sends junk could fill the disk with lines about it.
"""

from __future__ import annotations

from collections.abc import Callable

from moretta.server.audit_log import AuditLog
from moretta.server.refusal import Refusal

_MINUTE_SECONDS = 60.0
_MOST_KINDS = 1000
"""More kinds of refusal than this in one minute are counted together."""


class RefusalNotes:
    """Writes refusals down.

    Args:
        audit: where to.
        monotonic: seconds.
    """

    def __init__(self, audit: AuditLog, monotonic: Callable[[], float]) -> None:
        self._audit, self._monotonic = audit, monotonic
        self._counts: dict[tuple[str, str, str], int] = {}
        self._minute = monotonic()

    def note(self, caller: str, method: str, refusal: Refusal) -> None:
        """One refused call."""
        self.flush(only_after_seconds=_MINUTE_SECONDS)
        kind = (caller, method, refusal.reason)
        if kind in self._counts:
            self._counts[kind] += 1
        elif len(self._counts) >= _MOST_KINDS:
            other = ("several", "several", "several")
            self._counts[other] = self._counts.get(other, 0) + 1
        else:
            self._counts[kind] = 0
            self._audit.add("refused", sync=False, caller=caller, method=method, reason=refusal.reason)

    def flush(self, *, only_after_seconds: float = 0.0) -> None:
        """Write the counts of a minute that has ended."""
        now = self._monotonic()
        if now - self._minute < only_after_seconds:
            return
        for (caller, method, reason), more in self._counts.items():
            if more:
                self._audit.add("refused", sync=False, caller=caller, method=method, reason=reason, more=more)
        self._counts.clear()
        self._minute = now
