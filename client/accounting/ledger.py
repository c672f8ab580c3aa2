"""The privacy ledger of a site: every loss on disk before the data leaves, append-only, hash-chained.

A crash between writing an entry and sending the data over-counts; nothing under-counts. Several processes may write:
each appends under a lock, behind what the others have written, so the chain never forks. The server's last receipt for
the ledger lies beside it.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from pydantic import ValidationError

from moretta.shared.core.atomic import append_line, locked, naming, sync_folder, write_atomic
from moretta.shared.core.errors import RefusedError
from moretta.shared.privacy.chain import START, Record, SignedHead, chained, entry_digest, is_chained

Check = Callable[["Ledger"], None]
_WAY_BACK = "restore the ledger from a copy that is not older; never delete or shorten it"


class Ledger:
    """An append-only JSON-lines file in which every line carries the hash of the one before.

    Args:
        path: of the file; it need not exist yet.
        clock: seconds since 1970, for the time of an entry.

    Raises:
        RefusedError: on opening, if the chain is broken or ends before the last head that the server countersigned;
            the site then releases nothing.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._records: list[Record] = []
        self._bytes = 0
        """Of the whole lines that were read."""
        if path.exists():
            with locked(path, shared=True) as descriptor:
                self._read_on(descriptor)
        self._check_receipt()

    @property
    def head(self) -> str:
        """Hash of the last entry, 64 hexadecimal digits."""
        return str(self._records[-1]["hash"]) if self._records else START

    @property
    def length(self) -> int:
        """Number of entries."""
        return len(self._records)

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each entry, oldest first: the head can be recomputed from them without the entries."""
        return [entry_digest(record["entry"]) for record in self._records]

    def all_entries(self) -> list[dict[str, Any]]:
        """Every entry, oldest first."""
        return [record["entry"] for record in self._records]

    def entries(self, kind: str, **match: Any) -> list[dict[str, Any]]:
        """Entries of one kind whose fields equal `match`, oldest first."""
        return [e for e in self.all_entries() if e["kind"] == kind and all(e.get(k) == v for k, v in match.items())]

    def spend(self, kind: str, *, check: Check | None = None, **entry: Any) -> None:
        """Write one entry and return only when it is on disk.

        Args:
            check: called with this ledger, up to date, while no other process can write. If it raises, nothing is
                written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = not self._path.exists()
        with locked(self._path) as descriptor:
            self._read_on(descriptor)
            self._check_receipt()
            if os.fstat(descriptor).st_size > self._bytes:
                # A kill during a write left a line without its end. Its data never left: it is cut off.
                os.ftruncate(descriptor, self._bytes)
            if check is not None:
                check(self)
            salt = secrets.token_hex(16)  # equal losses must not make equal entries, nor digests reveal what they hold
            content = {"kind": kind, "at": int(self._clock()), "salt": salt, **entry}
            self._append(descriptor, chained(content, self.head))
        if new:
            sync_folder(self._path.parent)

    def _append(self, descriptor: int, record: Record) -> None:
        try:
            with naming(self._path):
                written = append_line(descriptor, json.dumps(record, sort_keys=True, allow_nan=False))
                os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, self._bytes)
            raise
        self._records.append(record)
        self._bytes += written

    def _read_on(self, descriptor: int) -> None:
        """Read what was appended since. A last line without its end is left alone: nobody writes while this reads."""
        size = os.fstat(descriptor).st_size
        if size < self._bytes:
            raise RefusedError(f"the privacy ledger {self._path} has become shorter", fix=_WAY_BACK)
        data = b""
        while len(data) < size - self._bytes:
            data += os.pread(descriptor, size - self._bytes - len(data), self._bytes + len(data))
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self._records.append(self._checked(line))
        self._bytes += len(whole)

    def _checked(self, line: bytes) -> Record:
        try:
            record: Record = json.loads(line)
        except ValueError:
            record = {}
        if not is_chained(record, self.head) or not isinstance(record["entry"].get("kind"), str):
            raise RefusedError(
                f"the privacy ledger {self._path} is broken at line {self.length + 1}",
                expected="an unchanged chain of entries",
                fix=_WAY_BACK,
            )
        return record

    def _check_receipt(self) -> None:
        receipt = stored_receipt(receipt_path(self._path))
        if receipt is None:
            return
        if self.length < receipt.length:
            raise RefusedError(
                f"the privacy ledger {self._path} has {self.length} entries",
                expected=f"at least {receipt.length}, which the server has countersigned",
                fix=_WAY_BACK,
            )
        if receipt.length and self._records[receipt.length - 1]["hash"] != receipt.head:
            raise RefusedError(
                f"the privacy ledger {self._path} is not the one whose head the server has countersigned",
                expected=f"the head {receipt.head} at entry {receipt.length}",
                fix=_WAY_BACK,
            )


def receipt_path(ledger: Path) -> Path:
    """The path of a ledger's receipt."""
    return ledger.with_name(f"{ledger.stem}.receipt.json")


def stored_receipt(path: Path) -> SignedHead | None:
    """The last receipt; None if the server has not signed one yet.

    Raises:
        RefusedError: the file exists and cannot be read.
    """
    try:
        return SignedHead.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise RefusedError(
            f"the server's receipt {path} cannot be read ({type(error).__name__})",
            fix="restore it from a copy; the server gives a new one for a ledger that is not older than the last",
        ) from error


def keep_receipt(path: Path, receipt: SignedHead, ca: x509.Certificate, *, site: str) -> None:
    """Replace the last receipt, if the server signed the new one for this site.

    Raises:
        RefusedError: it did not, or the receipt is older than the last.
    """
    receipt.verify(ca)
    if receipt.site != site:
        raise RefusedError(f"a receipt for {receipt.site!r}", expected=f"one for {site!r}")
    last = stored_receipt(path)
    if last is not None and receipt.length < last.length:
        raise RefusedError(f"a receipt for {receipt.length} entries", expected=f"one for at least {last.length}")
    write_atomic(path, receipt.model_dump_json(indent=1), mode=0o600)
