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

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import Clock
from moretta.server.enrollment.database import KnownCertificate
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.port.guard import ENVELOPE_BYTES, MakeRoom, Method
from moretta.server.port.limits import TokenBucket
from moretta.server.port.listen import PortCertificates
from moretta.server.port.refusals import Refusal
from moretta.shared.core.errors import RefusedError
from moretta.shared.pb.enrollment_pb2 import CountersignHeadReply, CountersignHeadRequest
from moretta.shared.privacy.chain import SignedHead, sign_head, verified_head

_DIGEST_BYTES = 32
MOST_ENTRIES = 1 << 18
"""Longest ledger that is countersigned, in entries: decades of studies, and 8 MiB of digests."""
_CALLS_PER_MINUTE = 30
"""Most calls of one site, which requests a signature before something leaves, and only if its ledger has grown."""


@dataclass(frozen=True, slots=True)
class Countersigner:
    """Signs heads that continue the last one of their site, with the port's current key, and records each."""

    registry: SiteRegistry
    certificates: PortCertificates
    audit: AuditLog
    clock: Clock
    monotonic: Callable[[], float] = time.monotonic
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _paces: dict[str, TokenBucket] = field(default_factory=dict)

    def methods(self) -> list[Method]:
        """Methods of the Enrollment service for the port. Long ledgers make long messages."""
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
            signed = await asyncio.to_thread(self.countersign, site.site, request.entry_digests)
        return CountersignHeadReply(
            site=signed.site,
            head=signed.head,
            length=signed.length,
            unix_time=signed.unix_time,
            certificate_der=base64.b64decode(signed.certificate_der),
            signature=base64.b64decode(signed.signature),
        )

    def countersign(self, site: str, entry_digests: bytes) -> SignedHead:
        """The server's signature under the head that these digests lead to; the head is on disk before it is given.

        Raises Refusal where the ledger is older than one that was signed, or another one, or the digests are none.
        """
        if len(entry_digests) % _DIGEST_BYTES or len(entry_digests) > MOST_ENTRIES * _DIGEST_BYTES:
            text = f"digests of entries have {_DIGEST_BYTES} bytes each, and there are {MOST_ENTRIES} at most"
            raise Refusal("INVALID_ARGUMENT", "bad-digests", text)
        known_head, known_length = self.registry.ledger_head(site)
        digests = [entry_digests[at : at + _DIGEST_BYTES].hex() for at in range(0, len(entry_digests), _DIGEST_BYTES)]
        try:
            head, length = verified_head(digests, known_head=known_head, known_length=known_length)
        except RefusedError as error:
            raise Refusal("FAILED_PRECONDITION", "old-ledger", error.message) from error
        if length > known_length:
            self.registry.advance_ledger(site, head=head, length=length, known_head=known_head)
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
