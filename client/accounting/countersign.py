"""Having the head of the privacy ledger countersigned by the server, before anything that it speaks of leaves."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509

from moretta.client.accounting.ledger import Ledger, keep_receipt, receipt_path
from moretta.client.transport.identity import Identity
from moretta.shared.core.errors import RefusedError
from moretta.shared.messages.relay import BODY_BYTES_KEY
from moretta.shared.pb.enrollment_pb2 import CountersignHeadReply, CountersignHeadRequest
from moretta.shared.pb.enrollment_pb2_grpc import EnrollmentStub
from moretta.shared.privacy.chain import SignedHead

_SECONDS = 20.0


class Countersigned:
    """The ledger of one site and the server's last receipt for it.

    Args:
        ledger: its file.
        identity: of the site, by which the server's signature is checked.
    """

    def __init__(self, ledger: Path, identity: Identity) -> None:
        self._path = ledger
        self._site = identity.site
        self._ca = x509.load_pem_x509_certificate(identity.ca_pem.encode())
        self._signed_bytes = -1
        """Size of the ledger when the server last signed it: it only grows."""
        self._turn = asyncio.Lock()

    async def bring_up_to_date(self, channel: grpc.aio.Channel) -> None:
        """Return once the server has signed the ledger as it is now. Costs nothing while nothing was spent.

        Raises:
            RefusedError: the ledger is broken or older than the server knows; nothing may leave then.
            AioRpcError: the server cannot be reached, or fails.
        """
        async with self._turn:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size == self._signed_bytes:
                return
            ledger = await asyncio.to_thread(Ledger, self._path)
            receipt = await self._ask(channel, b"".join(bytes.fromhex(digest) for digest in ledger.digests))
            if (receipt.head, receipt.length) != (ledger.head, ledger.length):
                raise RefusedError(
                    f"the server signed entry {receipt.length} of another privacy ledger",
                    expected=f"the head {ledger.head} at entry {ledger.length}",
                    fix="report it to the coordinator: the server does not do what it should",
                )
            keep_receipt(receipt_path(self._path), receipt, self._ca, site=self._site)
            self._signed_bytes = size

    async def _ask(self, channel: grpc.aio.Channel, digests: bytes) -> SignedHead:
        stub = EnrollmentStub(channel)  # type: ignore[no-untyped-call]
        request = CountersignHeadRequest(entry_digests=digests)
        metadata = ((BODY_BYTES_KEY, str(request.ByteSize())),)
        try:
            reply: CountersignHeadReply = await stub.CountersignHead(request, timeout=_SECONDS, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise RefusedError(
                    f"the server does not countersign this privacy ledger: {(error.details() or '')[:500]}",
                    fix="restore the newest copy of ledger.jsonl; nothing leaves this site until then",
                ) from error
            raise
        return SignedHead(
            site=reply.site,
            head=reply.head,
            length=reply.length,
            unix_time=reply.unix_time,
            certificate_der=base64.b64encode(reply.certificate_der).decode(),
            signature=base64.b64encode(reply.signature).decode(),
        )
