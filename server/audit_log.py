"""The server's log of events: JSON lines in a hash chain, as a site's privacy ledger is.

One line an event, one line a relayed call. A changed, removed or moved line breaks the chain; lines cut off the end do
not, so `head` is worth noting elsewhere now and then. Several processes may write: each line is added under a lock.
Full files are put aside as `audit-000001.jsonl` and so on, and the chain runs through all.

An event of enrollment is synced to disk before the caller gets a response. Relayed calls are written before they are
forwarded, which survives the end of the process, and synced once a second: only a power cut can take the last second.
Syncing each would cost more than the call itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from moretta.shared.core.atomic import append_line, locked, naming, sync_folder
from moretta.shared.core.errors import HomeError
from moretta.shared.privacy.chain import START, entry_digest, linked

_FULL_BYTES = 64 << 20
_TAIL_BYTES = 64 << 10
"""Bytes at the end of the log that hold its last line in any case."""


class AuditLog:
    """Appends to a log, and knows its head. Thread-safe.

    Args:
        path: the newest file, `audit.jsonl`.
        clock: seconds since 1970.
        full_bytes: a file of this size is put aside.

    Raises:
        HomeError: the newest file does not end in a whole line with a hash.
    """

    def __init__(self, path: Path, clock: Callable[[], float], *, full_bytes: int = _FULL_BYTES) -> None:
        self._path, self._clock, self._full_bytes = path, clock, full_bytes
        self._mutex = threading.Lock()
        self._seen = (0, -1)
        self._last: dict[str, Any] = {}
        self._unsynced = False
        with self._locked() as descriptor:
            self._catch_up(descriptor)

    @property
    def head(self) -> str:
        """Hash of the last line that this process has seen, 64 hexadecimal digits."""
        return str(self._last.get("hash", START))

    @property
    def last_time(self) -> float:
        """When that line was written, in seconds since 1970; 0 for an empty log."""
        return datetime.fromisoformat(self._last["time"]).timestamp() if self._last else 0.0

    def add(self, event: str, *, sync: bool = True, **entry: Any) -> None:
        """Write one line: a stable code, lower case with hyphens, and JSON values, never a secret.

        It is on disk when this returns, or, without `sync`, after the next `sync`.
        """
        time = datetime.fromtimestamp(self._clock(), tz=UTC).isoformat(timespec="milliseconds")
        with self._mutex, self._locked() as descriptor:
            self._catch_up(descriptor)
            record = {"time": time, "event": event, **entry}
            record |= {"previous": self.head, "hash": linked(self.head, entry_digest(record))}
            with naming(self._path):
                written = append_line(descriptor, _canonical(record))
            self._seen = (self._seen[0], self._seen[1] + written)
            self._last = record
            self._unsynced = not sync
            if sync:
                os.fsync(descriptor)

    def sync(self) -> None:
        """Put on disk what is not there yet."""
        with self._mutex:
            if self._unsynced:
                self._unsynced = False
                _sync_file(self._path)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The newest file, open for appending; no other process writes until the block ends. A full one is put aside.

        The lock is on a file of its own, which stays where it is.
        """
        path = self._path
        with locked(path.with_suffix(".lock")):
            if path.exists() and path.stat().st_size >= self._full_bytes:
                _sync_file(path)
                path.rename(path.with_name(f"audit-{len(older_files(path)) + 1:06d}.jsonl"))
                sync_folder(path.parent)
            with locked(path) as descriptor:
                yield descriptor

    def _catch_up(self, descriptor: int) -> None:
        """Take in what other processes have written since, and cut off half a line that a power cut has left."""
        status = os.fstat(descriptor)
        size = status.st_size
        if (status.st_ino, size) == self._seen:
            return
        tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(descriptor, size - torn)
            tail = tail[:-torn]
        self._seen = (status.st_ino, size - torn)
        if tail:
            self._last = _last_record(tail, self._path)
        elif older := older_files(self._path):
            with older[-1].open("rb") as file:
                file.seek(max(0, older[-1].stat().st_size - _TAIL_BYTES))
                self._last = _last_record(file.read(), older[-1])
        else:
            self._last = {}


class Verified(NamedTuple):
    """A log whose chain holds; the head is the hash of its last line."""

    files: int
    lines: int
    head: str


def verify_log(path: Path, *, noted_head: str | None = None) -> Verified:
    """Follow the chain through every file, oldest first, and through a head that was noted before.

    Raises HomeError for the first line at which the chain breaks, or where the noted head is not in it.
    """
    previous, lines, seen = START, 0, noted_head in (None, START)
    files = [*older_files(path), path]
    for file in files:
        for number, record in enumerate(_records(file), start=1):
            if record.get("previous") != previous or not _is_sound(record):
                raise HomeError(
                    f"the audit log is broken at line {number} of {file.name}",
                    expected="an unchanged chain of lines",
                    fix="compare with a backup: a line was changed, removed or moved",
                )
            previous, lines = record["hash"], lines + 1
            seen = seen or previous == noted_head
    if not seen:
        raise HomeError(
            f"no line of the audit log has the hash {noted_head}",
            expected="the head that was noted earlier",
            fix="compare with a backup: lines were cut off or written anew",
        )
    return Verified(len(files), lines, previous)


def entries(path: Path, event: str) -> Iterator[dict[str, Any]]:
    """Lines of one event, oldest first, the chain not checked; raises HomeError where a file cannot be read."""
    for file in [*older_files(path), path]:
        yield from (record for record in _records(file) if record.get("event") == event)


def older_files(path: Path) -> list[Path]:
    """Files that were put aside, oldest first."""
    return sorted(path.parent.glob("audit-[0-9][0-9][0-9][0-9][0-9][0-9].jsonl"))


def _is_sound(record: dict[str, Any]) -> bool:
    """Whether a line has the hash of its content behind its `previous`, in this form or in that of version 0.1."""
    entry = {k: v for k, v in record.items() if k not in ("previous", "hash")}
    first_form = hashlib.sha256(_canonical({k: v for k, v in record.items() if k != "hash"}).encode()).hexdigest()
    return record.get("hash") in (linked(str(record.get("previous")), entry_digest(entry)), first_form)


def _canonical(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            yield from map(_parsed, file)
    except OSError as error:
        raise HomeError(f"{path} cannot be read: {error.strerror}", fix="restore it from the backup") from error


def _parsed(line: bytes) -> dict[str, Any]:
    """Empty where the line is no JSON object."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _last_record(tail: bytes, path: Path) -> dict[str, Any]:
    record = _parsed(tail.rstrip(b"\n").rpartition(b"\n")[2])
    if not _is_sound(record) or "time" not in record:
        raise HomeError(
            f"the last line of {path} is no line of an audit log",
            expected="an unchanged chain of lines",
            fix="see what is damaged with: moretta server log verify",
        )
    return record
