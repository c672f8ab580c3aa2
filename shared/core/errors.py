"""One tree of errors. Each says what was found, what was expected and what to do, and knows its exit code.

MorettaError                 exit 1
├── StudyError               exit 3   the study file, or a study that does not fit the corpus
├── CorpusError              exit 4   the folder of clips
│   └── ClipError            exit 4   one clip: callers drop and count it
├── ReleaseError             exit 5   a release, on disk or in a message
│   └── MessageError         exit 5   ... a message that does not fit its call
├── RefusedError             exit 6   a site says no
│   └── BudgetError          exit 6   ... because the privacy budget would be exceeded
├── RunError                 exit 7   a stage failed
├── GateError                exit 8   a limit of the gate is broken
├── AttackersError           exit 9   pretrained weights
├── EnrollmentError          exit 10  a join string, token or certificate
├── HomeError                exit 11  the folder of a server or of a site
├── UnreachableError         exit 12  the server does not respond
├── StorageError             exit 13  a disk or a file that cannot be written or read
└── Interrupted              exit 130

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
    """A defect of Moretta itself: please report it."""
    USAGE = 2
    """Unknown command, option or argument."""
    STUDY = 3
    """The study file cannot be used: unknown key, impossible value, or a study the corpus cannot carry."""
    CORPUS = 4
    """The corpus cannot be used, or `corpus check` found files that cannot."""
    RELEASE = 5
    """A release folder or message is damaged, forged, or of another format."""
    REFUSED = 6
    """A site's policy or budget refuses a request."""
    RUN_FAILED = 7
    """A stage of the run failed: all sites failed, or the server did. The outcome file names the cause."""
    GATE = 8
    """The run finished, and broke a limit that the study's gate sets; or no candidate of a choice keeps the cap."""
    ATTACKERS = 9
    """An attacker's weights could not be fetched, or are not what was pinned."""
    ENROLLMENT = 10
    """A join string, token, name or certificate cannot be used, or the server refuses it."""
    HOME = 11
    """The folder of a server or of a site cannot be used: absent, damaged, or in use by another process."""
    UNREACHABLE = 12
    """The server cannot be reached, or does not respond in time."""
    STORAGE = 13
    """A disk is full, read-only or broken, or this account may not use a file or folder."""
    INTERRUPTED = 130
    """Ended by Ctrl-C, SIGTERM or SIGHUP; nothing half-written is left."""
    OUTPUT_CLOSED = 141
    """Whoever read the output stopped reading, as `head` does (128 + SIGPIPE)."""


class MorettaError(Exception):
    """Base of all errors that a user can meet.

    Args:
        found: what was there, with the offending value.
        expected: what should have been there.
        fix: what the reader can do about it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        # What was found is often what somebody else wrote
        self.found, self.expected, self.fix = map(printable, (found, expected, fix))
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross the borders of worker processes whole."""
        return _rebuilt, (type(self), self.__dict__.copy(), str(self))

    @property
    def message(self) -> str:
        """The whole sentence, in the order found, expected, fix."""
        parts = [self.found]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.fix:
            parts.append(f"to fix it: {self.fix}")
        return "; ".join(parts)


def _rebuilt(kind: type[MorettaError], state: dict[str, Any], text: str) -> MorettaError:
    error = kind.__new__(kind, text)
    error.__dict__.update(state)
    error.args = (text,)
    return error


class StudyError(MorettaError):
    """The study file cannot be used."""

    exit_code = ExitCode.STUDY


class CorpusError(MorettaError):
    """The folder of clips cannot be used."""

    exit_code = ExitCode.CORPUS


class ClipError(CorpusError):
    """One clip cannot be used. `reason` is a stable code that drops are counted by."""

    def __init__(self, reason: str, found: str, *, expected: str = "", fix: str = "") -> None:
        self.reason = reason
        super().__init__(found, expected=expected, fix=fix)


class ReleaseError(MorettaError):
    """A release is damaged, forged, or of another format."""

    exit_code = ExitCode.RELEASE


class MessageError(ReleaseError):
    """A message is too large, too deep, or has other fields than its call takes. Its text repeats no content."""


class RefusedError(MorettaError):
    """A site's policy refuses a request."""

    exit_code = ExitCode.REFUSED


class BudgetError(RefusedError):
    """The privacy budget would be exceeded."""

    public_message: ClassVar[str] = "the site's privacy budget would be exceeded"
    """The server learns this alone: the figures stay at the site."""


class RunError(MorettaError):
    """A stage of the run failed."""

    exit_code = ExitCode.RUN_FAILED


class GateError(MorettaError):
    """The run broke a limit of the study's gate."""

    exit_code = ExitCode.GATE


class AttackersError(MorettaError):
    """An attacker's weights cannot be had or are not what was pinned."""

    exit_code = ExitCode.ATTACKERS


class EnrollmentError(MorettaError):
    """A join string, token, name or certificate cannot be used, or was refused."""

    exit_code = ExitCode.ENROLLMENT


class HomeError(MorettaError):
    """The folder of a server or of a site cannot be used."""

    exit_code = ExitCode.HOME


class UnreachableError(MorettaError):
    """The server cannot be reached. Trying again may help."""

    exit_code = ExitCode.UNREACHABLE


class StorageError(MorettaError):
    """A disk is full, read-only or broken, or a file or folder cannot be used by this account."""

    exit_code = ExitCode.STORAGE


class Interrupted(MorettaError):  # noqa: N818 - an interrupt is not an error of the program
    """Ended by Ctrl-C, SIGTERM or SIGHUP."""

    exit_code = ExitCode.INTERRUPTED
