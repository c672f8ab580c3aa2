"""The privacy ledger of a site: every loss on disk before the data leaves, append-only, hash-chained, countersigned.

A crash between writing an entry and sending the data over-counts; nothing under-counts. Several processes may write:
each appends under a lock, behind what the others have written, so the chain never forks. The server signs the head
before anything that it speaks of leaves; its last receipt lies beside the ledger.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from moretta.client.site_home import read_own
from moretta.shared.core.atomic import append_line, locked, naming, sync, sync_folder, write_atomic
from moretta.shared.core.errors import RefusedError
from moretta.shared.privacy.chain import START, Record, SignedHead, chained, entry_digest, is_chained

if TYPE_CHECKING:
    import grpc.aio

    from moretta.client.transport.identity import Identity

_SECONDS = 20.0
_WAY_BACK = "restore the ledger from a copy that is not older; never delete or shorten it"


class Ledger:
    """An append-only JSON-lines file in which every line carries the hash of the one before.

    Raises RefusedError on opening, if the chain is broken or ends before the last head that the server countersigned;
    the site then releases nothing.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._records: list[Record] = []
        self._bytes = 0
        """Bytes of the whole lines that were read."""
        self._seen = self._files()
        if path.exists():
            with locked(path, shared=True) as descriptor:
                self._read_on(descriptor)
        self._check_receipt()

    @property
    def is_current(self) -> bool:
        """Whether ledger and receipt are the files that were read and checked, without a change since."""
        return self._seen == self._files()

    def _files(self) -> list[int]:
        """Which files lie there, how long they are, and when they were changed, as the system alone can set it."""
        paths = (path for path in (self._path, receipt_path(self._path)) if path.exists())
        return [n for about in map(os.stat, paths) for n in (about.st_ino, about.st_size, about.st_ctime_ns)]

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

    def spend(self, kind: str, *, check: Callable[[], None] | None = None, **entry: Any) -> None:
        """Write one entry and return only when it is on disk. `check` is called with the ledger up to date, while no
        other process can write; if it raises, nothing is written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = not self._path.exists()
        with locked(self._path) as descriptor:
            self._read_on(descriptor)
            self._check_receipt()
            if os.fstat(descriptor).st_size > self._bytes:
                # A kill during a write left a line without its end. Its data never left: it is cut off.
                os.ftruncate(descriptor, self._bytes)
            if check is not None:
                check()
            salt = secrets.token_hex(16)  # equal losses must not make equal entries, nor digests reveal what they hold
            record = chained({"kind": kind, "at": int(self._clock()), "salt": salt, **entry}, self.head)
            try:
                with naming(self._path):
                    written = append_line(descriptor, json.dumps(record, sort_keys=True, allow_nan=False))
                    sync(descriptor)
            except OSError:
                os.ftruncate(descriptor, self._bytes)
                raise
            self._records.append(record)
            self._bytes += written
            self._seen = self._files()
        if new:
            sync_folder(self._path.parent)

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
            try:
                record: Record = json.loads(line)
            except ValueError:
                record = {}
            if not is_chained(record, self.head) or not isinstance(record["entry"].get("kind"), str):
                found = f"the privacy ledger {self._path} is broken at line {self.length + 1}"
                raise RefusedError(found, expected="an unchanged chain of entries", fix=_WAY_BACK)
            self._records.append(record)
        self._bytes += len(whole)

    def _check_receipt(self) -> None:
        receipt = stored_receipt(receipt_path(self._path))
        if receipt is None:
            return
        if self.length < receipt.length:
            expected = f"at least {receipt.length}, which the server has countersigned"
            found = f"the privacy ledger {self._path} has {self.length} entries"
            raise RefusedError(found, expected=expected, fix=_WAY_BACK)
        if receipt.length and self._records[receipt.length - 1]["hash"] != receipt.head:
            found = f"the privacy ledger {self._path} is not the one whose head the server has countersigned"
            expected = f"the head {receipt.head} at entry {receipt.length}"
            raise RefusedError(found, expected=expected, fix=_WAY_BACK)


_opened: dict[Path, Ledger] = {}


def opened(path: Path) -> Ledger:
    """The ledger at a path; it is read and checked anew unless it is as this process last left or found it."""
    known = _opened.get(path)
    if known is None or not known.is_current:
        known = _opened[path] = Ledger(path)
    return known


def receipt_path(ledger: Path) -> Path:
    """The path of a ledger's receipt."""
    return ledger.with_name(f"{ledger.stem}.receipt.json")


def stored_receipt(path: Path) -> SignedHead | None:
    """The last receipt; None if the server has not signed one yet."""
    fix = "restore it from a copy; the server gives a new one for a ledger that is not older than the last"
    broken = RefusedError(f"the server's receipt {path} cannot be read", fix=fix)
    return read_own(path, SignedHead.model_validate_json, broken)


def keep_receipt(path: Path, receipt: SignedHead, ca: x509.Certificate, *, site: str) -> None:
    """Replace the last receipt. Raises RefusedError unless the server signed it for this site, and it is not older."""
    receipt.verify(ca)
    if receipt.site != site:
        raise RefusedError(f"a receipt for {receipt.site!r}", expected=f"one for {site!r}")
    last = stored_receipt(path)
    if last is not None and receipt.length < last.length:
        raise RefusedError(f"a receipt for {receipt.length} entries", expected=f"one for at least {last.length}")
    write_atomic(path, receipt.model_dump_json(indent=1), mode=0o600)


class Countersigned:
    """The ledger of one site and the server's last receipt for it, which the site's identity checks."""

    def __init__(self, ledger: Path, identity: Identity) -> None:
        self._path, self._site = ledger, identity.site
        self._ca = x509.load_pem_x509_certificate(identity.ca_pem.encode())
        self._signed_bytes = -1
        """Size of the ledger when the server last signed it: it only grows."""
        self._turn = asyncio.Lock()

    async def bring_up_to_date(self, channel: grpc.aio.Channel) -> None:
        """Return once the server has signed the ledger as it is now. Costs nothing while nothing was spent. Raises
        RefusedError: the ledger is broken or older than the server knows; nothing may leave then. AioRpcError: the
        server cannot be reached, or fails."""
        async with self._turn:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size == self._signed_bytes:
                return
            ledger = await asyncio.to_thread(Ledger, self._path)
            receipt = await _signed(channel, b"".join(bytes.fromhex(digest) for digest in ledger.digests))
            if (receipt.head, receipt.length) != (ledger.head, ledger.length):
                raise RefusedError(
                    f"the server signed entry {receipt.length} of another privacy ledger",
                    expected=f"the head {ledger.head} at entry {ledger.length}",
                    fix="report it to the coordinator: the server does not do what it should",
                )
            keep_receipt(receipt_path(self._path), receipt, self._ca, site=self._site)
            self._signed_bytes = size


async def _signed(channel: grpc.aio.Channel, digests: bytes) -> SignedHead:
    import grpc.aio

    from moretta.shared.messages.relay import BODY_BYTES_KEY
    from moretta.shared.messages.rpc import enrollment
    from moretta.shared.pb.enrollment_pb2 import CountersignHeadRequest

    request = CountersignHeadRequest(entry_digests=digests)
    metadata = ((BODY_BYTES_KEY, str(request.ByteSize())),)
    try:
        reply = await enrollment(channel).CountersignHead(request, timeout=_SECONDS, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
        found = f"the server does not countersign this privacy ledger: {(error.details() or '')[:500]}"
        fix = "restore the newest copy of ledger.jsonl; nothing leaves this site until then"
        raise RefusedError(found, fix=fix) from error
    return SignedHead(
        site=reply.site,
        head=reply.head,
        length=reply.length,
        unix_time=reply.unix_time,
        certificate_der=base64.b64encode(reply.certificate_der).decode(),
        signature=base64.b64encode(reply.signature).decode(),
    )
