"""Countersigning the heads of sites' privacy ledgers: what was spent once cannot be forgotten by restoring a backup."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import insert, select, update

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import Clock
from moretta.server.enrollment.database import Database
from moretta.server.enrollment.models import LedgerHead
from moretta.server.enrollment.records import KnownCertificate
from moretta.server.port.credentials import PortCertificates
from moretta.server.port.guard import MakeRoom, Method
from moretta.server.refusal import Refusal
from moretta.shared.errors import RefusedError
from moretta.shared.pb.enrollment_pb2 import CountersignHeadReply, CountersignHeadRequest
from moretta.shared.privacy.chain import START
from moretta.shared.privacy.receipt import SignedHead, judged_head, sign_head

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Countersigner:
    """Remembers the last head of every site and signs those that continue it.

    Args:
        database: the registry's file.
        certificates: whose current key signs.
        audit: is told of every head that was signed, and of every one that was refused.
        clock: seconds since 1970.
    """

    database: Database
    certificates: PortCertificates
    audit: AuditLog
    clock: Clock

    def methods(self) -> list[Method]:
        """For the port: a part of the Enrollment service. Long ledgers make long messages."""

        async def call(site: KnownCertificate, request: CountersignHeadRequest, room: MakeRoom) -> CountersignHeadReply:
            del room
            return _reply(await asyncio.to_thread(self.countersign, site.site, request.entry_digests))

        return [Method("CountersignHead", CountersignHeadRequest, call, large=True)]

    def countersign(self, site: str, entry_digests: bytes) -> SignedHead:
        """The server's signature under the head that these digests lead to; the head is on disk before it is given.

        Raises:
            Refusal: the ledger is older than one that was signed, or another one, or the digests are none.
        """
        if len(entry_digests) % _DIGEST_BYTES:
            raise Refusal("INVALID_ARGUMENT", "bad-digests", f"digests of entries have {_DIGEST_BYTES} bytes each")
        digests = [entry_digests[at : at + _DIGEST_BYTES].hex() for at in range(0, len(entry_digests), _DIGEST_BYTES)]
        try:
            head, length, changed = self._advance(site, digests)
        except RefusedError as error:
            self.audit.add("ledger-refused", site=site, length=len(digests), why=error.found)
            raise Refusal("FAILED_PRECONDITION", "old-ledger", error.message) from error
        if changed:
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

    def _advance(self, site: str, digests: list[str]) -> tuple[str, int, bool]:
        with self.database.write() as connection:
            known = connection.execute(
                select(LedgerHead.head, LedgerHead.length).where(LedgerHead.site == site)
            ).first()
            known_head, known_length = (known.head, known.length) if known else (START, 0)
            head, length = judged_head(digests, known_head=known_head, known_length=known_length)
            values = {"head": head, "length": length, "signed_at": int(self.clock())}
            if known is None:
                connection.execute(insert(LedgerHead).values(site=site, **values))
            elif length > known_length:
                connection.execute(update(LedgerHead).where(LedgerHead.site == site).values(**values))
        return head, length, length > known_length


def _reply(signed: SignedHead) -> CountersignHeadReply:
    return CountersignHeadReply(
        site=signed.site,
        head=signed.head,
        length=signed.length,
        unix_time=signed.unix_time,
        certificate_der=base64.b64decode(signed.certificate_der),
        signature=base64.b64decode(signed.signature),
    )
