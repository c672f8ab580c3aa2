"""Files on disk: whole or not at all, appended to by the line, locked; and what it means if a disk takes no more."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moretta.shared.core.errors import StorageError


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
    """Write `data` to `path`, for its owner alone, through a temporary file beside it, fsync, and rename."""
    with naming(path):
        with atomic_path(path, ending=".part") as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                sync(descriptor)
        sync_folder(path.parent)


@contextmanager
def atomic_path(path: Path, *, ending: str = "") -> Iterator[Path]:
    """A temporary path beside `path`, moved there if the block ends well and removed if it does not.

    It is hidden, so a reader of the folder takes it for no clip, and keeps the ending, which writers of media go by.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Both parts are cut: the name itself may be as long as a name can be
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(8)}{ending or path.suffix[-20:]}")
    try:
        yield temporary
        with naming(path):
            os.replace(temporary, path)  # noqa: PTH105 - the one call that POSIX and Windows promise to be atomic
    except OSError as error:
        if error.filename == str(temporary):
            _name(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def private_folder(folder: Path) -> Path:
    """The folder, which is made for its owner alone, as are those above it that are not there. Whatever the umask."""
    for missing in (path for path in reversed((folder, *folder.parents)) if not path.exists()):
        missing.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk name this path, whether they named none or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            _name(error, path)
        raise


def _name(error: OSError, path: Path) -> None:
    try:
        error.filename = str(path)
    except AttributeError:  # an error of PyAV, whose name is fixed
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[int]:
    """A descriptor of a file for reading and appending; no other process holds the lock until block or process end.

    Args:
        path: created if it does not exist, unless `shared`.
        shared: read only; other readers may hold the lock too.
        wait: for the lock; without it, a lock that another process holds is a BlockingIOError.
    """
    flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT | os.O_APPEND
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


def append_line(descriptor: int, line: str) -> int:
    """Append a whole line or none to a locked file that is open for appending; returns the bytes written.

    Of a line that the disk took only a part of, as a full one does, that part is removed: an OSError.
    """
    data, before = (line + "\n").encode(), os.fstat(descriptor).st_size
    if (written := os.write(descriptor, data)) != len(data):
        os.ftruncate(descriptor, before)
        raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes of a line written: the disk is full")
    return written


def append_durably(path: Path, line: str) -> None:
    """Append a line under the file's lock, and return when it is on disk. A torn last line is cut off first."""
    private_folder(path.parent)
    with locked(path) as descriptor:
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        os.ftruncate(descriptor, content.rfind(b"\n") + 1)
        with naming(path):
            append_line(descriptor, line)
            sync(descriptor)
    sync_folder(path.parent)


_without_sync: list[bool] = []


def leave_sync_to_system() -> None:
    """From here on this process waits for no disk. Its files survive its death, but perhaps no power cut.

    For simulations, from which nothing leaves: after a power cut they are run again.
    """
    _without_sync.append(True)


def sync(descriptor: int) -> None:
    """Return when what was written to a file is on disk."""
    if not _without_sync:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    if _without_sync:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_FREE = "free some space, or choose another place, and run the command again"
_OTHER = "choose another place"
_RIGHTS = ("this account may not use {path}", f"give this account the rights, or {_OTHER}")
_TEXTS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space is left on the disk of {path}", _FREE),
    errno.EDQUOT: ("the disk quota of this account at {path} is used up", _FREE),
    errno.EFBIG: ("{path} would be larger than a file may be there", f"{_OTHER}, or raise ulimit -f"),
    errno.EROFS: ("{path} lies on a file system that is read-only", f"{_OTHER}, or mount it for writing"),
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: ("the disk of {path} could not be read or written", "free some space; if there is some, it is broken"),
    errno.ESTALE: ("{path} lies on a file system that went away", "mount it again, and run the command again"),
    errno.ENODEV: ("{path} lies on a device that went away", "connect it again, and run the command again"),
    errno.ENAMETOOLONG: ("a name in {path} is longer than its file system takes", "choose a shorter one"),
    errno.ENOTDIR: ("a part of {path} is a file and no folder", _OTHER),
    errno.EISDIR: ("{path} is a folder and no file", _OTHER),
    errno.EEXIST: ("{path} is there already", _OTHER),
    errno.ELOOP: ("{path} is a link that leads to itself", _OTHER),
    errno.ENOENT: ("{path} is not there", "check the path; a folder may have been removed while the command ran"),
    errno.EMFILE: ("this process has as many files open as it may, before {path}", "raise ulimit -n"),
    errno.ENFILE: ("this machine has as many files open as it can, before {path}", "end what has so many open"),
    errno.EBUSY: ("{path} is in use by another process", "end that process, or wait for it"),
}
_HARD = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV)
"""Errors of the disk itself: they do not show that a file is damaged or missing."""
_SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}
_NUMBERED = re.compile(r"\(os error (\d+)\)")
"""Number of an error of the system in messages of libraries in Rust, such as safetensors."""
_PHRASES = {
    r"\d+ requested and \d+ written": errno.ENOSPC,  # NumPy
    r"[Nn]o space left on device": errno.ENOSPC,
    r"[Rr]ead-only file system": errno.EROFS,
}


def storage_error(error: BaseException) -> StorageError | None:
    """An error of storage as text for people, or None if the error is of another kind.

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
    """Whether the disk is full, read-only or broken: no fault of the task at hand, and no reason to go on."""
    return any(isinstance(e, StorageError) or _is_of_sqlite(e) or _number(e) in _HARD for e in _causes(error))


def _explained(number: int, error: BaseException) -> StorageError:
    path = getattr(error, "filename", None) or ("the registry" if _is_of_sqlite(error) else "a file that was in use")
    place = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
    place = place if len(place) <= 300 else f"{place[:120]}...{place[-60:]}"
    other = f"{{path}} cannot be used: {getattr(error, 'strerror', None) or error}"
    text, fix = _TEXTS.get(number, (other, _OTHER))
    return StorageError(text.replace("{path}", place), fix=fix)


def _is_of_sqlite(error: BaseException) -> bool:
    """Whether an error is of the disk under a database, and not of the database itself."""
    return isinstance(getattr(error, "orig", error), sqlite3.Error) and _number(error) is not None


def _number(error: BaseException) -> int | None:
    original = getattr(error, "orig", error)  # SQLAlchemy's errors carry those of the driver
    if isinstance(original, sqlite3.Error):
        return _SQLITE.get(getattr(original, "sqlite_errorcode", 0) & 0xFF)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if not isinstance(error, OSError | RuntimeError) and type(error).__module__.partition(".")[0] != "safetensors":
        return None
    if found := _NUMBERED.search(str(error)):
        return int(found[1])
    return next((number for phrase, number in _PHRASES.items() if re.search(phrase, str(error))), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__
