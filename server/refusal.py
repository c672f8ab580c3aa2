"""Why a call at the guarded port is turned away: told to the caller, counted by reason, written to the audit log."""

from __future__ import annotations

from typing import Literal

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
"""Names of gRPC's status codes, so that who decides need not know gRPC."""


class Refusal(Exception):  # noqa: N818 - refusing is what the port is for, not an error of the program
    """A call that is turned away.

    Args:
        kind: the gRPC status it ends with.
        reason: a stable code, lower case with hyphens, that refusals are counted by.
        message: what the caller is told. It names no other site and no secret.
    """

    def __init__(self, kind: Kind, reason: str, message: str) -> None:
        self.kind: Kind = kind
        self.reason = reason
        self.message = message
        super().__init__(f"{reason}: {message}")
