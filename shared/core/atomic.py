"""Files on disk: whole or not at all, appended to line by line, and locked against other processes."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
    """Write `data` to `path`, for its owner alone, through a temporary file beside it, fsync, and rename."""
    with naming(path):
        _write(path, data.encode() if isinstance(data, str) else data, mode)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk name this path, whether they named none or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


def _write(path: Path, payload: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The prefix is cut: the name itself may be as long as a name can be
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(descriptor: int, line: str) -> int:
    """Append a whole line or none to a locked file that is open for appending; returns the bytes written.

    Raises:
        OSError: the disk took a part of the line, as a full one does; that part is removed.
    """
    data, before = (line + "\n").encode(), os.fstat(descriptor).st_size
    if (written := os.write(descriptor, data)) != len(data):
        os.ftruncate(descriptor, before)
        raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes of a line written: the disk is full")
    return written


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[int]:
    """A descriptor of a file for reading and appending; no other process holds the lock until the block ends.

    The lock also ends with the process.

    Args:
        path: created if it does not exist, unless `shared`.
        shared: read only; other readers may hold the lock too.
        wait: for the lock.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
    """
    flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT | os.O_APPEND
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


def append_durably(path: Path, line: str) -> None:
    """Append a line under the file's lock, and return when it is on disk. A torn last line is cut off first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path) as descriptor:
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        os.ftruncate(descriptor, content.rfind(b"\n") + 1)
        with naming(path):
            append_line(descriptor, line)
            os.fsync(descriptor)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved there if the block ends well and removed if it does not.

    The temporary name is hidden, so a reader of the folder does not take it for a clip, and keeps the ending, which
    writers of media go by.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with naming(path):
            os.replace(temporary, path)  # noqa: PTH105 - the one call that POSIX and Windows promise to be atomic
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
