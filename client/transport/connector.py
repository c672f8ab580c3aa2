"""Relays the calls of the site's SuperNode to the server: HTTPS on loopback in, gRPC out, one call for one call.

Only the site's own SuperNode may use it: every call must carry the node key and a signature under it. A failure gets
the status that Flower's SuperNode handles: it tries again after 502 to 504, drops a run after 403, ends after 401,
and gives a message up after anything else.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import grpc.aio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from moretta.client.transport.bundle_gate import BundleGate
from moretta.client.transport.server_channel import MAX_MESSAGE_BYTES, ChannelDown, ServerChannel, explained
from moretta.shared.core.errors import MorettaError, RefusedError
from moretta.shared.messages.relay import FLEET_METHODS
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply

_PROTOBUF = "application/protobuf"
_CALL_SECONDS = 27.0
"""Flower's SuperNode gives a call up after 30 s of silence."""
_HEARTBEAT, _HEARTBEAT_SECONDS = "send-node-heartbeat", 4.5
"""Of those it gives up after 5 s."""
_ACTIVATE, _DEACTIVATE = "activate-node", "deactivate-node"
_LEAVING = frozenset({"push-messages", "push-object"})
_MAX_CALLS = 8
"""At once; more wait. Bounds the memory that bodies take."""
_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_TOO_LARGE = ("too-large", "response-too-large", "larger than max")
_log = logging.getLogger(__name__)


@dataclass
class TrafficCounters:
    """Counts since the start."""

    calls: int = 0
    failed: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    online: bool = False
    """Whether the SuperLink took the node that calls."""


class Connector:
    """Responds to the SuperNode's calls.

    Args:
        channel: to the server.
        gate: checks code on its way in.
        node_key: whose signature every call must carry.
        before_leaving: called before each call that carries what the site has computed; raises RefusedError where it
            must stay here.
        on_end: called with why nothing can go on: the server does not know this site any more, or `before_leaving`
            refused.
    """

    def __init__(
        self,
        channel: ServerChannel,
        gate: BundleGate,
        node_key: ec.EllipticCurvePublicKey,
        *,
        before_leaving: Callable[[], Awaitable[None]] | None = None,
        on_end: Callable[[MorettaError], None] = lambda error: None,  # noqa: ARG005
    ) -> None:
        self._channel, self._gate = channel, gate
        self._before_leaving, self._on_end = before_leaving, on_end
        self._node_key = node_key
        public = node_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._header = base64.b64encode(public).decode()
        self._room = asyncio.Semaphore(_MAX_CALLS)
        self.traffic = TrafficCounters()

    def app(self) -> Starlette:
        """The web application. Every path but those of the Fleet API is refused, the Control API's among them."""
        return Starlette(
            routes=[
                Route("/v1/fleet/{method}", self._fleet, methods=["POST"]),
                Route("/{path:path}", _refuse_path, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    async def _fleet(self, request: Request) -> Response:
        method = request.path_params["method"]
        if method not in FLEET_METHODS or not self._is_own(request):
            return _refusal(403, "only Fleet calls of this site's own SuperNode are relayed")
        async with self._room:
            try:
                body = await _body(request)
            except ClientDisconnect:
                return _refusal(400, "the call was cut")
            if body is None:
                return _refusal(413, f"a call of more than {MAX_MESSAGE_BYTES} bytes")
            responded = self._gate.response(method, body)
            if responded is not None:
                return Response(responded, media_type=_PROTOBUF)
            return await self._relayed(method, body, request)

    async def _relayed(self, method: str, body: bytes, request: Request) -> Response:
        call = FleetCall(
            method=method,
            body=body,
            public_key=request.headers["flwr-public-key"],
            signature=request.headers["flwr-signature"],
            timestamp=request.headers["flwr-timestamp"],
        )
        try:
            if self._before_leaving is not None and method in _LEAVING:
                await self._before_leaving()
            reply = await self._channel.call(
                call, seconds=_HEARTBEAT_SECONDS if method == _HEARTBEAT else _CALL_SECONDS
            )
        except RefusedError as error:
            self._on_end(error)
            return _refusal(409, "nothing leaves this site")
        except ChannelDown:
            self.traffic.failed += 1
            return _refusal(503, "no connection to the server")
        except grpc.aio.AioRpcError as error:
            return self._failed(method, error)
        self._count(method, body, reply)
        if reply.status != 200:
            return Response(reply.body, status_code=reply.status or 502, media_type="application/json")
        return Response(self._gate.inspect(method, body, reply.body), media_type=_PROTOBUF)

    def _failed(self, method: str, error: grpc.aio.AioRpcError) -> Response:
        code, details = error.code(), error.details() or ""
        status = _STATUS.get(code, 502)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(word in details for word in _TOO_LARGE):
            status = 413
        self.traffic.failed += 1
        _log.warning("%s failed: %s, %s", method, code.name, details[:300])
        if status == 401:
            self._on_end(explained(error, self._channel.address))
        return _refusal(status, details)

    def note_start(self) -> None:
        """A new SuperNode is on its way: until the SuperLink takes it, the site is not online."""
        self.traffic.online = False

    def _count(self, method: str, body: bytes, reply: FleetReply) -> None:
        self.traffic.calls += 1
        self.traffic.bytes_out += len(body)
        self.traffic.bytes_in += len(reply.body)
        if method in (_ACTIVATE, _DEACTIVATE):
            self.traffic.online = method == _ACTIVATE and reply.status == 200

    def _is_own(self, request: Request) -> bool:
        headers = request.headers
        if headers.get("flwr-public-key") != self._header:
            return False
        try:
            signature = base64.b64decode(headers["flwr-signature"], validate=True)
            signed = headers["flwr-timestamp"].encode("ascii")
            self._node_key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        except (KeyError, ValueError, binascii.Error, InvalidSignature):
            return False
        return True


async def _body(request: Request) -> bytes | None:
    """The body; None if it is longer than one message may be."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_MESSAGE_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


async def _refuse_path(request: Request) -> Response:
    del request
    return _refusal(403, "only the Fleet API is relayed")


def _refusal(status: int, text: str) -> Response:
    return Response(text.encode(), status_code=status, media_type="text/plain")
