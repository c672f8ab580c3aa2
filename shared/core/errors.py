"""One tree of errors. Each says what was found, what was expected and what to do, and knows its exit code.

`docs/exit-codes.md` describes each exit code; a test holds the two together. Codes 0-2 follow the shell's custom.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar

from moretta.shared.core.printable import printable


class ExitCode(IntEnum):
    """Exit codes of `moretta` processes."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    STUDY = 3
    CORPUS = 4
    RELEASE = 5
    REFUSED = 6
    RUN_FAILED = 7
    GATE = 8
    """The run finished, and broke a limit that the study's gate sets; or no candidate of a choice keeps the cap."""
    ATTACKERS = 9
    ENROLLMENT = 10
    HOME = 11
    UNREACHABLE = 12
    STORAGE = 13
    INTERRUPTED = 130
    """Ended by Ctrl-C, SIGTERM or SIGHUP; nothing half-written is left."""
    OUTPUT_CLOSED = 141
    """The reader of the output stopped, as `head` does (128 + SIGPIPE)."""


class MorettaError(Exception):
    """Base of all errors that a user can meet: what was found, what was expected, and how the reader can fix it."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init_subclass__(cls, code: ExitCode | None = None) -> None:
        if code is not None:
            cls.exit_code = code

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        # The texts often come from other machines
        self.found, self.expected, self.fix = map(printable, (found, expected, fix))
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross the borders of worker processes whole."""
        return _rebuilt, (type(self), self.__dict__.copy(), str(self))

    @property
    def message(self) -> str:
        """The whole sentence, in the order found, expected, fix."""
        expected = f"; expected {self.expected}" if self.expected else ""
        return f"{self.found}{expected}" + (f"; to fix it: {self.fix}" if self.fix else "")


def _rebuilt(kind: type[MorettaError], state: dict[str, Any], text: str) -> MorettaError:
    error = kind.__new__(kind, text)
    error.__dict__.update(state)
    error.args = (text,)
    return error


class StudyError(MorettaError, code=ExitCode.STUDY):
    """The study file cannot be used: unknown key, impossible value, or a study that does not fit the corpus."""


class CorpusError(MorettaError, code=ExitCode.CORPUS):
    """The folder of clips cannot be used."""


class ClipError(CorpusError):
    """One clip cannot be used: callers drop it, and count drops by `reason`, a stable code."""

    def __init__(self, reason: str, found: str, *, expected: str = "", fix: str = "") -> None:
        self.reason = reason
        super().__init__(found, expected=expected, fix=fix)


class ReleaseError(MorettaError, code=ExitCode.RELEASE):
    """A release, on disk or in a message, is damaged, forged, or of another format."""


class MessageError(ReleaseError):
    """A message is too large, too deep, or has other fields than its call takes. Its text repeats no content."""


class RefusedError(MorettaError, code=ExitCode.REFUSED):
    """A site's policy refuses a request."""


class BudgetError(RefusedError):
    """The privacy budget would be exceeded."""

    public_message: ClassVar[str] = "the site's privacy budget would be exceeded"
    """The server learns this alone: the figures stay at the site."""


class RunError(MorettaError, code=ExitCode.RUN_FAILED):
    """A stage of the run failed: all sites failed, or the server did. The outcome file names the cause."""


class AttackersError(MorettaError, code=ExitCode.ATTACKERS):
    """An attacker's weights could not be fetched, or are not what was pinned."""


class EnrollmentError(MorettaError, code=ExitCode.ENROLLMENT):
    """A join string, token, name or certificate cannot be used, or was refused."""


class HomeError(MorettaError, code=ExitCode.HOME):
    """The folder of a server or of a site cannot be used: absent, damaged, or in use by another process."""


class UnreachableError(MorettaError, code=ExitCode.UNREACHABLE):
    """The server cannot be reached, or does not respond in time. Trying again may help."""


class StorageError(MorettaError, code=ExitCode.STORAGE):
    """A disk is full, read-only or broken, or a file or folder cannot be used by this account."""


class Interrupted(MorettaError, code=ExitCode.INTERRUPTED):  # noqa: N818 - an interrupt is not an error of the program
    """Ended by Ctrl-C, SIGTERM or SIGHUP."""
