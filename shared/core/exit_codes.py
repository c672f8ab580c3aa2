"""Exit codes of the `moretta` command: the one place where they are defined.

`docs/exit-codes.md` describes each; a test holds the two together. Codes 0-2 follow the shell's custom, 130 is an
interrupt (128 + SIGINT).
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a `moretta` process tells its caller when it ends."""

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
    """A site's policy or budget refuses what was asked."""
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
    """The server cannot be reached, or does not answer in time."""
    STORAGE = 13
    """A disk is full, read-only or broken, or this account may not use a file or folder."""
    INTERRUPTED = 130
    """Ended by Ctrl-C, SIGTERM or SIGHUP; nothing half-written is left."""
    OUTPUT_CLOSED = 141
    """Whoever read the output stopped reading, as `head` does (128 + SIGPIPE)."""
