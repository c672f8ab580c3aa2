"""Relays the calls of the site's SuperNode to the server: HTTPS on loopback in, gRPC out, one call for one call.

Only the site's own SuperNode may use it: every call must carry the node key and a signature under it. A failure gets
the status that Flower's SuperNode handles: it tries again after 502 to 504, drops a run after 403, ends after 401,
and gives a message up after anything else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import uvicorn
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from moretta.client.transport.bundle_gate import BundleGate
from moretta.client.transport.identity import key_pem
from moretta.client.transport.server_channel import MAX_MESSAGE_BYTES, ChannelDown, ServerChannel, explained
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import MorettaError, RefusedError
from moretta.shared.messages.relay import FLEET_METHODS
from moretta.shared.pb.relay_pb2 import FleetCall

HOST = "127.0.0.1"
_PROTOBUF = "application/protobuf"
_CALL_SECONDS = 27.0
"""Flower's SuperNode gives a call up after 30 s of silence."""
_HEARTBEAT, _HEARTBEAT_SECONDS = "send-node-heartbeat", 4.5
"""The heartbeat call and its limit in seconds: Flower's SuperNode gives it up after 5 s."""
_ACTIVATE, _DEACTIVATE = "activate-node", "deactivate-node"
_LEAVING = frozenset({"push-messages", "push-object"})
_MAX_CALLS = 8
"""Most calls at once; more wait. Bounds the memory that bodies need."""
_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_TOO_LARGE = ("too-large", "response-too-large", "larger than max")
_DAYS = 3650
"""A process may live long, and its certificate is known to its own SuperNode alone."""
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
        self._channel, self._gate, self._node_key = channel, gate, node_key
        self._before_leaving, self._on_end = before_leaving, on_end
        public = node_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._header = base64.b64encode(public).decode()
        self._room = asyncio.Semaphore(_MAX_CALLS)
        self.traffic = TrafficCounters()

    def app(self) -> Starlette:
        """The web application. Every path but those of the Fleet API is refused, the Control API's among them."""

        async def refuse(request: Request) -> Response:  # noqa: ARG001
            return _refusal(403, "only the Fleet API is relayed")

        return Starlette(
            routes=[
                Route("/v1/fleet/{method}", self._fleet, methods=["POST"]),
                Route("/{path:path}", refuse, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    async def _fleet(self, request: Request) -> Response:
        method = request.path_params["method"]
        if method not in FLEET_METHODS or not self._is_own(request):
            return _refusal(403, "only Fleet calls of this site's own SuperNode are relayed")
        async with self._room:
            chunks, size = [], 0
            try:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > MAX_MESSAGE_BYTES:
                        return _refusal(413, f"a call of more than {MAX_MESSAGE_BYTES} bytes")
                    chunks.append(chunk)
            except ClientDisconnect:
                return _refusal(400, "the call was cut")
            body = b"".join(chunks)
            responded = self._gate.response(method, body)
            if responded is not None:
                return Response(responded, media_type=_PROTOBUF)
            return await self._relayed(method, body, request)

    async def _relayed(self, method: str, body: bytes, request: Request) -> Response:
        headers, traffic = request.headers, self.traffic
        signed = (headers["flwr-public-key"], headers["flwr-signature"], headers["flwr-timestamp"])
        call = FleetCall(method=method, body=body, public_key=signed[0], signature=signed[1], timestamp=signed[2])
        seconds = _HEARTBEAT_SECONDS if method == _HEARTBEAT else _CALL_SECONDS
        try:
            if self._before_leaving is not None and method in _LEAVING:
                await self._before_leaving()
            reply = await self._channel.call(call, seconds=seconds)
        except RefusedError as error:
            self._on_end(error)
            return _refusal(409, "nothing leaves this site")
        except ChannelDown:
            traffic.failed += 1
            return _refusal(503, "no connection to the server")
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            status = _STATUS.get(code, 502)
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(word in details for word in _TOO_LARGE):
                status = 413
            traffic.failed += 1
            _log.warning("%s failed: %s, %s", method, code.name, details[:300])
            if status == 401:
                self._on_end(explained(error, self._channel.address))
            return _refusal(status, details)
        traffic.calls += 1
        traffic.bytes_out += len(body)
        traffic.bytes_in += len(reply.body)
        if method in (_ACTIVATE, _DEACTIVATE):
            traffic.online = method == _ACTIVATE and reply.status == 200
        if reply.status != 200:
            return Response(reply.body, status_code=reply.status or 502, media_type="application/json")
        return Response(self._gate.inspect(method, body, reply.body), media_type=_PROTOBUF)

    def note_start(self) -> None:
        """A new SuperNode is on its way: until the SuperLink takes it, the site is not online."""
        self.traffic.online = False

    def _is_own(self, request: Request) -> bool:
        headers = request.headers
        if headers.get("flwr-public-key") != self._header:
            return False
        try:
            signature = base64.b64decode(headers["flwr-signature"], validate=True)
            self._node_key.verify(signature, headers["flwr-timestamp"].encode("ascii"), ec.ECDSA(hashes.SHA256()))
        except (KeyError, ValueError, InvalidSignature):
            return False
        return True


def _refusal(status: int, text: str) -> Response:
    return Response(text.encode(), status_code=status, media_type="text/plain")


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the supervisor's business."""
        yield


class LoopbackServer:
    """Serves a web application to this machine alone, by HTTPS: Flower's SuperNode signs its calls only over TLS.
    `folder`: where the certificate is written for the SuperNode; its key is removed once it is loaded."""

    def __init__(self, app: ASGIApp, folder: Path, *, port: int = 0) -> None:
        self.certificate, key_file = folder / "connector.pem", folder / ".connector.key"
        certificate, key = self_signed()
        write_atomic(self.certificate, certificate, mode=0o600)
        write_atomic(key_file, key, mode=0o600)
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            ssl_certfile=self.certificate,
            ssl_keyfile=key_file,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        try:
            config.load()
        finally:
            key_file.unlink(missing_ok=True)
        self._socket = socket.create_server((HOST, port))
        self._server = _Server(config)

    @property
    def port(self) -> int:
        """Port on which it listens."""
        return int(self._socket.getsockname()[1])

    async def serve(self) -> None:
        """Respond until `stop`."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Take no more calls, and end `serve` once those under way have ended."""
        self._server.should_exit = True


def self_signed() -> tuple[str, str]:
    """A certificate for 127.0.0.1 that nobody but its holder can use, and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "moretta loopback")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode(), key_pem(key)
