"""Errors of a disk that is full, read-only, closed to this account or broken, in words for people."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator

from moretta.shared.core.errors import StorageError

_FREE = "free some space, or choose another place, and run the command again"
_RIGHTS = "give this account the rights, or choose another place"
_TEXTS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space is left on the disk of {path}", _FREE),
    errno.EDQUOT: ("the disk quota of this account at {path} is used up", _FREE),
    errno.EFBIG: ("{path} would be larger than a file may be there", "choose another place, or raise ulimit -f"),
    errno.EROFS: ("{path} lies on a file system that is read-only", "choose another place, or mount it for writing"),
    errno.EACCES: ("this account may not use {path}", _RIGHTS),
    errno.EPERM: ("this account may not use {path}", _RIGHTS),
    errno.EIO: ("the disk of {path} could not be read or written", "free some space; if there is some, it is broken"),
    errno.ESTALE: ("{path} lies on a file system that went away", "mount it again, and run the command again"),
    errno.ENODEV: ("{path} lies on a device that went away", "connect it again, and run the command again"),
    errno.ENAMETOOLONG: ("a name in {path} is longer than its file system takes", "choose a shorter one"),
    errno.ENOTDIR: ("a part of {path} is a file and no folder", "choose another place"),
    errno.EISDIR: ("{path} is a folder and no file", "choose another place"),
    errno.EEXIST: ("{path} is there already", "choose another place"),
    errno.ELOOP: ("{path} is a link that leads to itself", "choose another place"),
    errno.ENOENT: ("{path} is not there", "check the path; a folder may have been removed while the command ran"),
    errno.EMFILE: ("this process has as many files open as it may, before {path}", "raise ulimit -n"),
    errno.ENFILE: ("this machine has as many files open as it can, before {path}", "end what has so many open"),
    errno.EBUSY: ("{path} is in use by another process", "end that process, or wait for it"),
}
_HARD = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV)
"""Of the disk itself: nothing that was found damaged or missing for them is so."""
_SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}
_IN_WORDS = (
    (re.compile(r"\(os error (\d+)\)"), None),  # libraries in Rust, such as safetensors
    (re.compile(r"\d+ requested and \d+ written"), errno.ENOSPC),  # NumPy
    (re.compile(r"[Nn]o space left on device"), errno.ENOSPC),
    (re.compile(r"[Rr]ead-only file system"), errno.EROFS),
)


def storage_error(error: BaseException) -> StorageError | None:
    """An error of storage in words, or None if the error is of another kind.

    An error that was raised because of another counts as that one only where the disk itself failed: then what it says
    of damage, and of backups, is wrong.
    """
    if isinstance(error, StorageError):
        return error
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        number = _number(error)
        if number is not None or error.filename is not None:
            return _explained(number or 0, error)
    for cause in _causes(error):
        if isinstance(cause, StorageError):
            return cause
        if (number := _number(cause)) is not None and (number in _HARD or _is_of_sqlite(cause)):
            return _explained(number, cause)
    return None


def disk_failed(error: BaseException) -> bool:
    """Whether the disk is full, read-only or broken: no fault of whoever was at work, and no reason to go on."""
    return any(isinstance(e, StorageError) or _is_of_sqlite(e) or _number(e) in _HARD for e in _causes(error))


def _explained(number: int, error: BaseException) -> StorageError:
    path = getattr(error, "filename", None) or ("the registry" if _is_of_sqlite(error) else None)
    said = getattr(error, "strerror", None) or str(error)
    words, fix = _TEXTS.get(number, (f"{{path}} cannot be used: {said}", "choose another place"))
    return StorageError(words.format(path="a file that was in use" if path is None else _short(path)), fix=fix)


def _is_of_sqlite(error: BaseException) -> bool:
    """Of the disk under a database; what SQLite says of the database itself is not meant."""
    return isinstance(getattr(error, "orig", error), sqlite3.Error) and _number(error) is not None


def _number(error: BaseException) -> int | None:
    original = getattr(error, "orig", error)  # SQLAlchemy's errors carry those of the driver
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", None)
        return None if code is None else _SQLITE.get(code & 0xFF)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if not isinstance(error, OSError | RuntimeError) and type(error).__module__.partition(".")[0] != "safetensors":
        return None
    for pattern, number in _IN_WORDS:
        if (found := pattern.search(str(error))) is not None:
            return int(found[1]) if number is None else number
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _short(path: object) -> str:
    text = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
    return text if len(text) <= 300 else f"{text[:120]}...{text[-60:]}"
