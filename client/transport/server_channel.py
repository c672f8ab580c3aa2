"""The one outbound connection of a site: kept up, swapped to a new certificate in use, never more than one for long.

Calls wait a while for a link that is down, so that a short outage costs a site nothing but time. Reconnecting waits
with full jitter (Brooker, 2015, "Exponential backoff and jitter"): a server that comes back meets its sites spread out.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio

from moretta.client.transport.identity import Identity
from moretta.client.transport.tls_channel import site_channel
from moretta.shared.messages.relay import BODY_BYTES_KEY
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply
from moretta.shared.pb.relay_pb2_grpc import RelayStub

BASE_SECONDS = 0.5
CAP_SECONDS = 30.0
_OPEN_SECONDS = 10.0
_SILENT_CALLS = 2
"""So many calls without an answer in a row, and the connection counts as lost: a router may have forgotten it."""
_log = logging.getLogger("moretta.site")


class ChannelDown(Exception):  # noqa: N818 - a state of the world, which its callers wait for
    """There was no connection within the time that a call may take."""


@dataclass(eq=False)
class _Connection:
    """One connection, and the calls that are under way on it."""

    identity: Identity
    channel: grpc.aio.Channel
    calls: int = 0
    silent: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def in_use(self) -> Iterator[RelayStub]:
        self.calls += 1
        self.idle.clear()
        try:
            yield RelayStub(self.channel)  # type: ignore[no-untyped-call]
        finally:
            self.calls -= 1
            if not self.calls:
                self.idle.set()


class Link:
    """Keeps a connection under the identity that was given last.

    Args:
        identity: with which it connects first.
        open_channel: makes a channel under an identity.
        sleep: of the reconnection.
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
        """Since the last call that was answered: a server that takes connections and then drops them is no better."""
        self._work.set()

    @property
    def address(self) -> str:
        """Of the server, `host:port`."""
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
                    await self._pause()
                if not await self._connected():
                    self._failures += 1
                    self._work.set()
        finally:
            await self._close()

    async def _pause(self) -> None:
        delay = self._jitter() * min(CAP_SECONDS, BASE_SECONDS * 2 ** min(self._failures, 16))
        _log.warning("the connection to %s is down; next attempt in %.1f s", self._wanted.address, delay)
        await self._sleep(delay)

    async def call(self, request: FleetCall, *, seconds: float) -> FleetReply:
        """Relay one call, waiting for the link if it is down.

        Raises:
            ChannelDown: it did not come up in time.
            AioRpcError: the call failed.
        """
        end = self._clock() + seconds
        connection = await self._present(seconds)
        metadata = ((BODY_BYTES_KEY, str(len(request.body))),)
        try:
            with connection.in_use() as stub:
                reply: FleetReply = await stub.Call(request, timeout=max(end - self._clock(), 0.1), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            self._note_failure(connection, error.code())
            raise
        connection.silent = self._failures = 0
        return reply

    async def _present(self, seconds: float) -> _Connection:
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
        except TimeoutError as error:
            raise ChannelDown from error
        assert self._connection is not None  # it is set before `_up` is
        return self._connection

    def _note_failure(self, connection: _Connection, code: grpc.StatusCode) -> None:
        ready = connection.channel.get_state() is grpc.ChannelConnectivity.READY
        connection.silent = connection.silent + 1 if code is grpc.StatusCode.DEADLINE_EXCEEDED else 0
        if connection is self._connection and (not ready or connection.silent >= _SILENT_CALLS):
            self._failures += 1
            self._up.clear()
            self._work.set()

    async def _connected(self) -> bool:
        """Whether there is a connection under the wanted identity now; makes one if need be."""
        wanted = self._wanted
        if self.up and self._connection is not None and self._connection.identity == wanted:
            return True
        channel = self._open_channel(wanted)
        ready = False
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                ready = await _ready(channel)
        except TimeoutError:
            return False
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
            task = asyncio.create_task(_drained(old))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        return True

    async def _close(self) -> None:
        self._up.clear()
        for task in self._draining:
            task.cancel()
        if self._connection is not None:
            await self._connection.channel.close()


async def _ready(channel: grpc.aio.Channel) -> bool:
    """Whether a connection was made. gRPC makes one attempt: when to make the next is up to the link."""
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            return False
        await channel.wait_for_state_change(state)
    return True


async def _drained(connection: _Connection) -> None:
    """Close a connection once its last call has ended."""
    try:
        if connection.calls:
            await connection.idle.wait()
    finally:
        await connection.channel.close()
