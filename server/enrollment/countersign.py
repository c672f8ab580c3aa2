"""Countersigning the heads of sites' privacy ledgers: what was spent once cannot be forgotten by restoring a backup."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import insert, select, update

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import Clock
from moretta.server.enrollment.database import Database
from moretta.server.enrollment.tables import KnownCertificate, LedgerHead
from moretta.server.port.credentials import PortCertificates
from moretta.server.port.guard import ENVELOPE_BYTES, MakeRoom, Method
from moretta.server.port.limits import TokenBucket
from moretta.server.port.refusals import Refusal
from moretta.shared.core.errors import RefusedError
from moretta.shared.pb.enrollment_pb2 import CountersignHeadReply, CountersignHeadRequest
from moretta.shared.privacy.chain import START, SignedHead, sign_head, verified_head

_DIGEST_BYTES = 32
MOST_ENTRIES = 1 << 18
"""Of a ledger that is countersigned: decades of studies, and 8 MiB of digests."""
_CALLS_PER_MINUTE = 30
"""Of one site, which requests a signature before something leaves, and only if its ledger has grown."""


@dataclass(frozen=True, slots=True)
class Countersigner:
    """Remembers the last head of every site and signs those that continue it.

    Args:
        database: the registry's file.
        certificates: whose current key signs.
        audit: records every head that was signed. Refusals are counted by the port, as all are.
        clock: seconds since 1970.
        monotonic: seconds, for the pace of each site.
    """

    database: Database
    certificates: PortCertificates
    audit: AuditLog
    clock: Clock
    monotonic: Callable[[], float] = time.monotonic
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _paces: dict[str, TokenBucket] = field(default_factory=dict)

    def methods(self) -> list[Method]:
        """For the port: a part of the Enrollment service. Long ledgers make long messages."""
        longest = MOST_ENTRIES * _DIGEST_BYTES + ENVELOPE_BYTES
        return [Method("CountersignHead", CountersignHeadRequest, self._call, longest=longest)]

    async def _call(
        self, site: KnownCertificate, request: CountersignHeadRequest, room: MakeRoom
    ) -> CountersignHeadReply:
        """One at a time: hashing a long ledger takes a processor, and every other call needs one, too."""
        del room
        pace = self._paces.setdefault(
            site.site, TokenBucket(_CALLS_PER_MINUTE / 60, 2 * _CALLS_PER_MINUTE, monotonic=self.monotonic)
        )
        await pace.step(0.0)
        async with self._turn:
            return _reply(await asyncio.to_thread(self.countersign, site.site, request.entry_digests))

    def countersign(self, site: str, entry_digests: bytes) -> SignedHead:
        """The server's signature under the head that these digests lead to; the head is on disk before it is given.

        Raises:
            Refusal: the ledger is older than one that was signed, or another one, or the digests are none.
        """
        if len(entry_digests) % _DIGEST_BYTES or len(entry_digests) > MOST_ENTRIES * _DIGEST_BYTES:
            text = f"digests of entries have {_DIGEST_BYTES} bytes each, and there are {MOST_ENTRIES} at most"
            raise Refusal("INVALID_ARGUMENT", "bad-digests", text)
        known_head, known_length = self._known(site)
        digests = [entry_digests[at : at + _DIGEST_BYTES].hex() for at in range(0, len(entry_digests), _DIGEST_BYTES)]
        try:
            head, length = verified_head(digests, known_head=known_head, known_length=known_length)
        except RefusedError as error:
            raise Refusal("FAILED_PRECONDITION", "old-ledger", error.message) from error
        if length > known_length:
            self._advance(site, head, length, known_head)
            self.audit.add("ledger-countersigned", site=site, head=head, length=length)
        key, chain, _ = self.certificates.now()
        return sign_head(
            cast(ec.EllipticCurvePrivateKey, load_pem_private_key(key, None)),
            x509.load_pem_x509_certificates(chain)[0],
            site=site,
            head=head,
            length=length,
            unix_time=int(self.clock()),
        )

    def _known(self, site: str) -> tuple[str, int]:
        with self.database.read() as connection:
            row = connection.execute(select(LedgerHead.head, LedgerHead.length).where(LedgerHead.site == site)).first()
        return (row.head, row.length) if row else (START, 0)

    def _advance(self, site: str, head: str, length: int, known_head: str) -> None:
        """Put a head in the place of the one that it was found to continue: all that the database waits for."""
        values = {"head": head, "length": length, "signed_at": int(self.clock())}
        with self.database.write() as connection:
            before = connection.scalar(select(LedgerHead.head).where(LedgerHead.site == site))
            if (before or START) != known_head:
                raise Refusal("UNAVAILABLE", "ledger-changed", "another call was countersigned meanwhile: try again")
            if before is None:
                connection.execute(insert(LedgerHead).values(site=site, **values))
            else:
                connection.execute(update(LedgerHead).where(LedgerHead.site == site).values(**values))


def _reply(signed: SignedHead) -> CountersignHeadReply:
    return CountersignHeadReply(
        site=signed.site,
        head=signed.head,
        length=signed.length,
        unix_time=signed.unix_time,
        certificate_der=base64.b64decode(signed.certificate_der),
        signature=base64.b64decode(signed.signature),
    )
