"""Refused requests at the guarded port: a reason for the caller, counted by reason, written to the audit log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from moretta.server.audit_log import AuditLog

Kind = Literal[
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "ALREADY_EXISTS",
    "INVALID_ARGUMENT",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "UNAVAILABLE",
    "INTERNAL",
]
"""Names of gRPC's status codes, so that code that decides need not know gRPC."""
_MINUTE_SECONDS = 60.0
_MOST_KINDS = 1000
"""More kinds of refusal than this in one minute are counted together."""


class Refusal(Exception):  # noqa: N818 - refusing is what the port is for, not an error of the program
    """A request that is refused, with a gRPC status and a stable reason (lower case, hyphens) to count it by.

    The message is for the caller. It names no other site and no secret.
    """

    def __init__(self, kind: Kind, reason: str, message: str) -> None:
        self.kind: Kind = kind
        self.reason = reason
        self.message = message
        super().__init__(f"{reason}: {message}")


class RefusalNotes:
    """Writes refusals to the audit log: the first of each kind at once, the rest of a minute as one count.

    Otherwise a sender of junk could fill the disk with lines about it.
    """

    def __init__(self, audit: AuditLog, monotonic: Callable[[], float]) -> None:
        self._audit, self._monotonic = audit, monotonic
        self._counts: dict[tuple[str, str, str], int] = {}
        self._minute = monotonic()

    def note(self, caller: str, method: str, refusal: Refusal) -> None:
        """One refused request."""
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
