"""Checks of every request before anything is done for it: identity of the caller, permission, and room.

All methods of the port are unary on the wire. They are served as streams, because only so can a request be refused, or
made to wait, *before* its body is read: until then HTTP/2's flow control leaves the body with the sender.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.message import DecodeError, Message
from sqlalchemy.exc import DatabaseError

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import Clock
from moretta.server.enrollment.database import KnownCertificate, KnownToken
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import Limits
from moretta.server.port.limits import Admission
from moretta.server.port.refusals import Refusal, RefusalNotes
from moretta.shared.enrollment import fingerprint
from moretta.shared.messages.relay import BODY_BYTES_KEY, SMALL_BODY_BYTES

Caller = KnownCertificate | KnownToken
"""A site, or somebody with a join string."""
_GUEST_PREFIX = "token:"
"""Begins the name of a caller that has only a join string. No site's name has a colon."""
ENVELOPE_BYTES = 16 << 10
"""Most bytes by which a message is longer than the body in it."""
_READ_SECONDS, _MOST_READ_SECONDS = 10.0, 30.0
_SLOWEST_BYTES_PER_SECOND = 128 << 10
"""A body may take the first, and in addition the time that it takes at this rate, but never more than the second."""
_log = logging.getLogger(__name__)
MakeRoom = Callable[[int], Awaitable[None]]
"""Holds so many bytes for the response instead of those held for the request; raises Refusal if there is no room."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service, and who may call it: sites, callers with only a join string, revoked sites."""

    name: str
    request: type[Message]
    run: Callable[[Any, Any, MakeRoom], Awaitable[Message]]
    """Called with the caller, the request, and a way to make room for a long response; raises Refusal."""
    sites: bool = True
    tokens: bool = False
    revoked: bool = False
    longest: int | None = SMALL_BODY_BYTES
    """Bytes that its messages may have; None for as many as the server's settings say. Longer ones than a small body
    wait for room in memory."""


class Guard:
    """Stands before the methods of one port."""

    def __init__(
        self, registry: SiteRegistry, limits: Limits, audit: AuditLog, clock: Clock, admission: Admission | None = None
    ) -> None:
        self._registry, self._limits, self._clock = registry, limits, clock
        self.admission = admission or Admission(limits)
        self.refusals = RefusalNotes(audit, time.monotonic)

    def handler(self, method: Method) -> grpc.RpcMethodHandler[bytes, bytes]:
        """How gRPC serves a method."""

        async def serve(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            caller = "unknown"
            try:
                known = identify(context.auth_context(), self._registry, self._clock)
                caller = known.site if isinstance(known, KnownCertificate) else f"{_GUEST_PREFIX}{known.token_id}"
                _allow(method, known)
                await self._serve(method, caller, requests, context)
            except Refusal as refusal:
                await self._refuse(context, caller, method, refusal)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                _log.exception("%s failed", method.name)
                defect = Refusal("INTERNAL", "defect", f"a defect of the server: {type(error).__name__}")
                await self._refuse(context, caller, method, defect)

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _serve(
        self,
        method: Method,
        name: str,
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> None:
        longest = self._limits.max_call_bytes if method.longest is None else method.longest
        declared = _declared(context, longest) if longest > SMALL_BODY_BYTES else 0
        guest = name.startswith(_GUEST_PREFIX)
        async with self.admission.enter(name, guest=guest), AsyncExitStack() as memory:

            async def make_room(size: int) -> None:
                await memory.aclose()
                if size > SMALL_BODY_BYTES:
                    await memory.enter_async_context(self.admission.room(name, size))

            await make_room(declared)
            longest = max(declared, SMALL_BODY_BYTES) + ENVELOPE_BYTES
            request = [_parsed(method, data := await _read(requests, declared), longest)]
            await self.admission.count(name, len(data))
            del data
            # A caller that was allowed when the call was opened may have been revoked while it waited
            caller = identify(context.auth_context(), self._registry, self._clock)
            _allow(method, caller)
            # No name here holds the request, so that what runs may let go of it
            reply = await method.run(caller, request.pop(), make_room)
            await context.write(reply.SerializeToString())

    async def _refuse(
        self, context: grpc.aio.ServicerContext[bytes, bytes], caller: str, method: Method, refusal: Refusal
    ) -> NoReturn:
        self.refusals.note(caller, method.name, refusal)
        await context.abort(grpc.StatusCode[refusal.kind], f"{refusal.reason}: {refusal.message}")


def identify(auth: Mapping[str, Iterable[bytes]], registry: SiteRegistry, clock: Clock) -> Caller:
    """The caller behind a connection, by the certificate it presented in the handshake.

    TLS has checked the chain. Here the certificate must be one that the registry itself has written down, looked up
    anew for every request: a revocation holds from the next one on, and a certificate that somebody got the authority
    to sign elsewhere is not let in. Raises Refusal for another TLS than 1.3, and for an unknown or expired certificate.
    A revoked one is returned, so that the site can be informed.
    """
    if b"TLSv1.3" not in auth.get("ssl_tls_version", ()):
        raise Refusal("UNAUTHENTICATED", "old-tls", "only TLS 1.3 is spoken here")
    try:
        (pem,) = auth.get("x509_pem_cert", ())
        print_of = fingerprint(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))
    except (ValueError, UnicodeDecodeError, binascii.Error) as error:
        raise Refusal("UNAUTHENTICATED", "no-certificate", "a client certificate is needed here") from error
    try:
        caller: Caller | None = registry.certificate(print_of) or registry.token(print_of)
    except DatabaseError as error:
        raise Refusal("UNAVAILABLE", "registry-down", "the server cannot look you up at the moment") from error
    if caller is None:
        raise Refusal("UNAUTHENTICATED", "unknown-certificate", "this server knows no such certificate")
    if isinstance(caller, KnownCertificate) and caller.not_after <= clock():
        raise Refusal(
            "UNAUTHENTICATED", "expired", "this certificate has expired: the coordinator can re-enroll the site"
        )
    return caller


def _allow(method: Method, caller: Caller) -> None:
    if isinstance(caller, KnownToken):
        if not method.tokens:
            raise Refusal("UNAUTHENTICATED", "not-enrolled", "a join string is for Enroll and Info alone")
    elif caller.revoked:
        if not (method.revoked and method.sites):
            raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")
    elif not method.sites:
        raise Refusal("PERMISSION_DENIED", "enrolled-already", "an enrolled site cannot enroll: it renews")


def _declared(context: grpc.aio.ServicerContext[bytes, bytes], longest: int) -> int:
    metadata = context.invocation_metadata() or ()
    said = [value for key, value in metadata if key == BODY_BYTES_KEY]
    if not said:
        return longest
    text = str(said[0])
    if len(said) > 1 or not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refusal("INVALID_ARGUMENT", "bad-size", f"{BODY_BYTES_KEY} must be one decimal number")
    if int(text) > longest:
        raise Refusal("RESOURCE_EXHAUSTED", "too-large", f"a body of {text} bytes; at most {longest}")
    return int(text)


async def _read(requests: AsyncIterator[bytes], declared: int) -> bytes:
    messages = aiter(requests)
    seconds = min(_READ_SECONDS + declared / _SLOWEST_BYTES_PER_SECOND, _MOST_READ_SECONDS)
    try:
        async with asyncio.timeout(seconds):
            return await anext(messages)
    except StopAsyncIteration as error:
        raise Refusal("INVALID_ARGUMENT", "no-message", "a call without a message") from error
    except TimeoutError as error:
        raise Refusal("DEADLINE_EXCEEDED", "too-slow", f"no whole message within {seconds:.0f} s") from error
    finally:
        await cast("AsyncGenerator[bytes]", messages).aclose()  # else gRPC's generator keeps the message for long


def _parsed(method: Method, data: bytes, longest: int) -> Message:
    if len(data) > longest:
        raise Refusal("RESOURCE_EXHAUSTED", "too-large", f"{len(data)} bytes, more than announced or allowed")
    request = method.request()
    try:
        request.ParseFromString(data)
    except DecodeError as error:
        raise Refusal("INVALID_ARGUMENT", "bad-message", "the message is not of the agreed form") from error
    return request
