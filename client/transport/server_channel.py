"""The one outbound connection of a site: mutual TLS pinned to the server's authority, kept up, swapped while in use.

Calls wait a while for a connection that is down, so that a short outage costs a site only time. Reconnecting waits with
full jitter (Brooker, 2015, "Exponential backoff and jitter"): a server that comes back meets its sites spread out.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import grpc
import grpc.aio

from moretta.client.transport.identity import WAY_BACK, Identity, pem_of
from moretta.shared.core.errors import EnrollmentError, MorettaError, UnreachableError
from moretta.shared.enrollment import Bootstrap, has_fingerprint, split_address
from moretta.shared.messages.relay import BODY_BYTES_KEY
from moretta.shared.messages.rpc import Stub, relay
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply

MAX_MESSAGE_BYTES = 256 * 2**20
BASE_SECONDS = 0.5
CAP_SECONDS = 30.0
_OPEN_SECONDS = 10.0
_SILENT_CALLS = 2
"""Calls without a response in a row after which a connection counts as lost: a router may have forgotten it."""
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Two channels to one server would otherwise share one connection, and a new certificate would not be shown.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # a Fleet call is signed for once; who repeats it must sign it again
)
_CHECK = "check the address with the coordinator; nothing was sent"
_log = logging.getLogger(__name__)


class ChannelDown(Exception):  # noqa: N818 - a state of the world, which its callers wait for
    """There was no connection within the time that a call may take."""


def look_at_authority(address: str, expected_fingerprint: str) -> str:
    """The server's certificate authority, PEM, if it has the expected fingerprint.

    The handshake sends only its own first message, and no certificate: the server is not trusted yet.
    """
    chain = _shown_chain(address)
    for der in chain:
        if has_fingerprint(der, expected_fingerprint):
            return pem_of(der)
    found = f"{address} shows {len(chain)} certificates, none with the fingerprint of the join string"
    raise EnrollmentError(found, expected=f"the authority {expected_fingerprint}", fix=_CHECK)


def bootstrap_channel(address: str, ca_pem: str, bootstrap: Bootstrap) -> grpc.aio.Channel:
    """A channel that proves to know the secret of a join string, to this authority's server alone."""
    credentials = grpc.ssl_channel_credentials(ca_pem.encode(), bootstrap.key_pem, bootstrap.certificate_pem)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


def site_channel(identity: Identity) -> grpc.aio.Channel:
    """A channel under the site's own certificate."""
    pems = (pem.encode() for pem in (identity.ca_pem, identity.tls_key_pem, identity.certificate_pem))
    return grpc.aio.secure_channel(identity.address, grpc.ssl_channel_credentials(*pems), options=_OPTIONS)


def explained(error: grpc.aio.AioRpcError, address: str) -> MorettaError:
    """A failed call as an error for people."""
    details = (error.details() or "no reason given")[:300]
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            found = f"the server does not know this site any more: {details}"
            return EnrollmentError(found, expected="an enrollment that was not revoked", fix=WAY_BACK)
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.ALREADY_EXISTS | grpc.StatusCode.INVALID_ARGUMENT:
            return EnrollmentError(f"the server refuses: {details}", fix="ask the coordinator")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            fix = "run `moretta site doctor`; the server may be down for a while"
            return UnreachableError(f"the server at {address} cannot be reached: {details}", fix=fix)
        case code:
            return UnreachableError(f"the server at {address} failed with {code.name}: {details}")


@dataclass(eq=False)
class _Connection:
    """One connection, and the calls that are under way on it."""

    identity: Identity
    channel: grpc.aio.Channel
    calls: int = 0
    silent: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def in_use(self) -> Iterator[Stub]:
        self.calls += 1
        self.idle.clear()
        try:
            yield relay(self.channel)
        finally:
            self.calls -= 1
            if not self.calls:
                self.idle.set()

    async def drain(self) -> None:
        """Close it once its last call has ended."""
        try:
            if self.calls:
                await self.idle.wait()
        finally:
            await self.channel.close()


class ServerChannel:
    """Keeps a connection under the identity that was given last.

    Args:
        jitter: uniform in [0, 1).
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        open_channel: Callable[[Identity], grpc.aio.Channel] = site_channel,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = identity
        self._open_channel, self._sleep, self._jitter, self._clock = open_channel, sleep, jitter, clock
        self._connection: _Connection | None = None
        self._work = asyncio.Event()
        self._up = asyncio.Event()
        self._draining: set[asyncio.Task[None]] = set()
        self._failures = 0
        """Failures since the last call with a response, dropped connections included."""
        self._work.set()

    @property
    def address(self) -> str:
        """Address of the server, `host:port`."""
        return self._wanted.address

    @property
    def up(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._up.is_set()

    @property
    def channel(self) -> grpc.aio.Channel | None:
        """The connection for calls other than the relay's; None while there is none."""
        return self._connection.channel if self._connection is not None and self.up else None

    def swap(self, identity: Identity) -> None:
        """Use a new certificate: new calls take a new connection, those under way end on the old one."""
        self._wanted = identity
        self._work.set()

    async def keep(self) -> None:
        """Connect, reconnect and swap, until it is cancelled; then everything is closed."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                if self._failures:
                    delay = self._jitter() * min(CAP_SECONDS, BASE_SECONDS * 2 ** min(self._failures, 16))
                    _log.warning("the connection to %s is down; next attempt in %.1f s", self.address, delay)
                    await self._sleep(delay)
                if not await self._connected():
                    self._failures += 1
                    self._work.set()
        finally:
            self._up.clear()
            for task in self._draining:
                task.cancel()
            if self._connection is not None:
                await self._connection.channel.close()

    async def call(self, request: FleetCall, *, seconds: float) -> FleetReply:
        """Relay one call, waiting for the connection if it is down."""
        end = self._clock() + seconds
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
        except TimeoutError as error:
            raise ChannelDown from error
        connection = self._connection
        assert connection is not None  # it is set before `_up` is
        metadata = ((BODY_BYTES_KEY, str(len(request.body))),)
        try:
            with connection.in_use() as stub:
                reply: FleetReply = await stub.Call(request, timeout=max(end - self._clock(), 0.1), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            connection.silent = connection.silent + 1 if late else 0
            ready = connection.channel.get_state() is grpc.ChannelConnectivity.READY
            if connection is self._connection and (not ready or connection.silent >= _SILENT_CALLS):
                self._failures += 1
                self._up.clear()
                self._work.set()
            raise
        connection.silent = self._failures = 0
        return reply

    async def _connected(self) -> bool:
        """Whether there is a connection under the wanted identity now; makes one if need be."""
        wanted = self._wanted
        if self.up and self._connection is not None and self._connection.identity == wanted:
            return True
        channel, ready = self._open_channel(wanted), False
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_OPEN_SECONDS):
                    ready = await _ready(channel)
        finally:
            if not ready:
                await channel.close()
        if not ready:
            return False
        old, self._connection = self._connection, _Connection(wanted, channel)
        self._up.set()
        if self._wanted is not wanted:  # swapped meanwhile
            self._work.set()
        if old is not None:
            task = asyncio.create_task(old.drain())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        return True


async def _ready(channel: grpc.aio.Channel) -> bool:
    """Whether a connection was made. gRPC makes one attempt; this class decides when to make the next."""
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            return False
        await channel.wait_for_state_change(state)
    return True


def _shown_chain(address: str) -> list[bytes]:
    """The certificates that the server shows, DER."""
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=_OPEN_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            if hasattr(secured, "get_unverified_chain"):  # Python 3.13
                return list(secured.get_unverified_chain())
            certificates = secured._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
            return [certificate.public_bytes(2) for certificate in certificates]  # 2 is DER
    except ssl.SSLError as error:
        found = f"{address} does not speak TLS 1.3 ({error.reason or error})"
        raise EnrollmentError(found, expected="a Moretta server", fix=_CHECK) from error
    except OSError as error:
        fix = "check the address with the coordinator, and that the firewall lets this connection out"
        raise UnreachableError(f"{address} does not respond: {error}", expected="a Moretta server", fix=fix) from error
