"""A real guarded port on loopback for tests, with TLS and a real, small HTTPS server in the SuperLink's place."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ipaddress
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from offices import Clock, Office, openssh
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moretta.client.transport.identity import Identity, openssh_private
from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.countersign import Countersigner
from moretta.server.enrollment.findings import FindingsService
from moretta.server.enrollment.nodes import header_form
from moretta.server.enrollment.service import EnrollmentService
from moretta.server.home import Limits
from moretta.server.port.guard import Guard
from moretta.server.port.limits import Admission
from moretta.server.port.listen import ENROLLMENT, HEALTH, RELAY, PortCertificates, health_methods, open_port
from moretta.server.port.relay import RelayService, SeenSignatures, SentMessages
from moretta.server.port.superlink import SuperLinkAddress, SuperLinkClient
from moretta.shared.enrollment import JoinString, derive_bootstrap
from moretta.shared.messages import rpc
from moretta.shared.pb import enrollment_pb2 as pb
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply

MIB = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", 300 * MIB), ("grpc.max_send_message_length", 300 * MIB)]


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wrapped() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(60)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@dataclass
class Echo:
    """In the SuperLink's place: keeps what it got, responds as set."""

    address: SuperLinkAddress
    calls: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)
    response: Callable[[str, bytes], Response] = lambda path, body: Response(body)

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        self.calls.append((request.url.path, body if len(body) < MIB else b"(long)", dict(request.headers)))
        return await asyncio.to_thread(self.response, request.url.path, body)


@contextmanager
def echo_superlink(folder: Path) -> Iterator[Echo]:
    """HTTPS on loopback under a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2090, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "echo.pem").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "echo.key").write_bytes(private)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        echo = Echo(SuperLinkAddress(listener.getsockname()[1], folder / "echo.pem"))
        app = Starlette(routes=[Route("/{path:path}", echo.__call__, methods=["GET", "POST"])])
        config = uvicorn.Config(
            app,
            log_level="error",
            ssl_certfile=str(folder / "echo.pem"),
            ssl_keyfile=str(folder / "echo.key"),
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield echo
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class SiteKeys:
    """Keys of a site: its TLS key and certificate, and its node key."""

    name: str
    key: ec.EllipticCurvePrivateKey
    node_key: ec.EllipticCurvePrivateKey
    certificate: bytes = b""
    clock: Callable[[], float] = time.time
    """The port's, once enrolled: it stands still in tests, however long they take."""

    @classmethod
    def new(cls, name: str) -> SiteKeys:
        return cls(name, ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()))

    @property
    def node_public(self) -> str:
        return openssh(self.node_key.public_key())

    def csr(self, key: ec.EllipticCurvePrivateKey | None = None, name: str | None = None) -> bytes:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name or self.name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject)
        return request.sign(key or self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def fleet_call(self, method: str = "pull-messages", body: bytes = b"", **changes: Any) -> FleetCall:
        """As Flower's SuperNode signs it, now by the site's clock; `changes` replace what it would send."""
        at = changes.pop("at", None) or self.clock()
        timestamp = changes.pop("timestamp", dt.datetime.fromtimestamp(at, tz=dt.UTC).isoformat())
        signature = self.node_key.sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
        content = {
            "method": method,
            "body": body,
            "public_key": header_form(self.node_public),
            "signature": base64.b64encode(signature).decode(),
            "timestamp": timestamp,
        }
        return FleetCall(**{**content, **changes})


class RunningPort:
    """A port, its office, and clients of it."""

    def __init__(
        self,
        folder: Path,
        echo: Echo | None,
        *,
        clock: Clock | None = None,
        limits: Limits | None = None,
        admission: Admission | None = None,
    ):
        self.folder, self.limits = folder, limits or Limits()
        self.findings = folder / "findings"
        self.clock = clock or Clock(time.time())
        self.office = Office.at(folder, self.clock)
        self.audit = AuditLog(folder / "audit.jsonl", self.clock)
        self.problems: dict[str, str | None] = dict.fromkeys(("registry", "authority", "superlink"))
        self.certificates = PortCertificates(
            self.office.authority, self.office.registry, names=("127.0.0.1",), hours=24, clock=self.clock
        )
        self.guard = Guard(self.office.registry, self.limits, self.audit, self.clock, admission)
        self.sent, self.may_hold = SentMessages(folder / "messages.sent"), False
        self._loop = Loop()
        self._channels: list[grpc.Channel] = []
        address = echo.address if echo else None
        self._server, self.port = self._loop.run(self._open(address))
        self.office.address = f"127.0.0.1:{self.port}"

    async def _open(self, address: SuperLinkAddress | None) -> tuple[grpc.aio.Server, int]:
        services = {
            ENROLLMENT: EnrollmentService(
                self.office.authority,
                self.office.registry,
                self.audit,
                self._info,
                24,
                self.clock,
            ).methods(),
            HEALTH: health_methods(lambda: self.problems),
        }
        countersigner = Countersigner(self.office.registry, self.certificates, self.audit, self.clock, lambda: 0.0)
        findings = FindingsService(self.findings, self.limits.max_call_bytes)
        services[ENROLLMENT] = [*services[ENROLLMENT], *countersigner.methods(), *findings.methods()]
        self.superlink = SuperLinkClient(address, max_response_bytes=self.limits.max_call_bytes) if address else None
        if self.superlink:
            self.relay = RelayService(
                self.superlink,
                self.office.registry,
                self.audit,
                SeenSignatures(self.clock),
                self.clock,
                self.sent,
                may_hold=lambda: self.may_hold,
            )
            services[RELAY] = self.relay.methods()
        server, port = open_port(
            "127.0.0.1:0", certificates=self.certificates, guard=self.guard, services=services, limits=self.limits
        )
        await server.start()
        return server, port

    def _info(self) -> pb.InfoReply:
        return pb.InfoReply(
            moretta_version="1",
            flwr_version="2",
            code_digest="c",
            bundle_digest="b",
            max_call_bytes=self.limits.max_call_bytes,
        )

    def run(self, work: Awaitable[Any]) -> Any:
        return self._loop.run(work)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._loop.run(self._server.stop(0))
        if self.superlink:
            self._loop.run(self.superlink.__aexit__())
        self._loop.close()
        self.office.registry.close()

    def channel(self, key: bytes, certificate: bytes) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.office.authority.pem, key, certificate)
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options)
        self._channels.append(channel)
        return channel

    def with_token(self, join: JoinString) -> Calls:
        made = derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires)
        return Calls(self.channel(made.key_pem, made.certificate_pem))

    def identity(self, site: SiteKeys) -> Identity:
        """As the site itself keeps it."""
        return Identity(
            site=site.name,
            address=self.office.address,
            ca_pem=self.office.authority.pem.decode(),
            certificate_pem=to_pem(site.certificate).decode(),
            tls_key_pem=key_pem(site.key).decode(),
            node_key=openssh_private(site.node_key),
        )

    def as_site(self, site: SiteKeys) -> Calls:
        return Calls(self.channel(key_pem(site.key), to_pem(site.certificate)))

    def enrolled(self, name: str = "clinic-a") -> SiteKeys:
        site = SiteKeys.new(name)
        site.clock = self.clock
        site.certificate = self.with_token(self.office.join(name, hours=48)).enroll(site).certificate_der
        return site


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def to_pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


class Calls:
    """The port's methods, as a client sees them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.enrollment, self.relay = rpc.enrollment(channel), rpc.relay(channel)

    def enroll(self, site: SiteKeys, **changes: Any) -> pb.EnrollReply:
        content = {"site": site.name, "csr_der": site.csr(), "node_public_key": site.node_public}
        return self.enrollment.Enroll(pb.EnrollRequest(**{**content, **changes}), timeout=20)

    def info(self) -> pb.InfoReply:
        return self.enrollment.Info(pb.InfoRequest(), timeout=20)

    def status(self) -> pb.StatusReply:
        return self.enrollment.Status(pb.StatusRequest(), timeout=20)

    def renew(self, site: SiteKeys, key: ec.EllipticCurvePrivateKey) -> pb.RenewReply:
        return self.enrollment.Renew(pb.RenewRequest(csr_der=site.csr(key)), timeout=20)

    def leave(self) -> pb.LeaveReply:
        return self.enrollment.Leave(pb.LeaveRequest(), timeout=20)

    def relayed(self, call: FleetCall, *, declared: int | None = None, timeout: float = 30) -> FleetReply:
        from moretta.shared.messages.relay import BODY_BYTES_KEY

        size = len(call.body) if declared is None else declared
        return self.relay.Call(call, timeout=timeout, metadata=((BODY_BYTES_KEY, str(size)),))


def refusal(error: grpc.RpcError) -> tuple[str, str]:
    """Status and reason of a refused call."""
    return error.code().name, str(error.details()).partition(":")[0]
