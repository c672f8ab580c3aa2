# ruff: noqa: N802 - the names of the services' methods
"""A small server with real sockets and certificates, which can be set to misbehave as no real one would."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")

import grpc
import grpc.aio
from enrolled import certificate, pem
from google.protobuf.message_factory import GetMessageClass

from moretta.client.transport.identity import Identity, key_pem, new_node_key, new_tls_key, openssh_private
from moretta.shared.enrollment import JoinString, derive_bootstrap, fingerprint, new_secret, new_token_id
from moretta.shared.pb import enrollment_pb2 as pb
from moretta.shared.pb import relay_pb2
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply

LONG = [("grpc.max_receive_message_length", 2**28), ("grpc.max_send_message_length", 2**28)]


def der(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.DER)


@dataclass
class MiniServer:
    """Enrolls whoever knows a join string, and echoes relayed calls unless `relay` says otherwise."""

    ca_key: ec.EllipticCurvePrivateKey = field(default_factory=new_node_key)
    port: int = 0
    hours: float = 24.0
    seen: list[Any] = field(default_factory=list)
    serials: list[int] = field(default_factory=list)
    relay: Callable[[FleetCall, Any], Awaitable[FleetReply]] | None = None
    refuse: tuple[grpc.StatusCode, str] | None = None
    issue: Callable[[bytes], bytes] | None = None
    """Makes something else than the requested certificate."""
    trusted: list[str] = field(default_factory=list)
    _server: Any = None

    def __post_init__(self) -> None:
        self.ca = certificate("moretta test", self.ca_key)
        self.trusted.append(pem(self.ca))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ca_fingerprint(self) -> str:
        return fingerprint(der(self.ca))

    async def start(self) -> None:
        key = new_tls_key()
        chain = pem(certificate("server", key, issuer=(self.ca, self.ca_key), server=True)) + pem(self.ca)

        def configuration() -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(key_pem(key).encode(), chain.encode())], root_certificates="".join(self.trusted).encode()
            )

        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *LONG])
        for file in (pb, relay_pb2):
            for service in file.DESCRIPTOR.services_by_name.values():
                handlers = {m.name: self._handler(m) for m in service.methods if hasattr(self, m.name)}
                named = grpc.method_handlers_generic_handler(service.full_name, handlers)
                self._server.add_generic_rpc_handlers((named,))
        credentials = grpc.dynamic_ssl_server_credentials(configuration(), configuration, True)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    def _handler(self, method: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            getattr(self, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    async def stop(self, grace: float | None = None) -> None:
        await self._server.stop(grace)

    def string(self, site: str = "clinic-a", *, expires: int = 4_000_000_000, **changes: Any) -> JoinString:
        """A join string that this server trusts."""
        secret, token = new_secret(), new_token_id()
        self.trusted.append(derive_bootstrap(secret, token_id=token, expires=expires).certificate_pem.decode())
        said = {"address": self.address, "ca_fingerprint": self.ca_fingerprint, **changes}
        return JoinString(site=site, token_id=token, secret=secret, expires=expires, **said)

    def identity(self, site: str = "clinic-a", *, hours: float | None = None) -> Identity:
        """An enrolled site's, made without a call."""
        key = new_tls_key()
        return Identity(
            site=site,
            address=self.address,
            ca_pem=pem(self.ca),
            certificate_pem=pem(self.certificate(site, key.public_key(), hours=hours)),
            tls_key_pem=key_pem(key),
            node_key=openssh_private(new_node_key()),
        )

    def certificate(self, site: str, key: Any, *, hours: float | None = None) -> x509.Certificate:
        class _Public:
            def public_key(self) -> Any:
                return key

        return certificate(site, _Public(), issuer=(self.ca, self.ca_key), hours=hours or self.hours)  # type: ignore[arg-type]

    async def _admit(self, request: Any, context: Any) -> None:
        self.seen.append(request)
        (shown,) = context.auth_context()["x509_pem_cert"]
        self.serials.append(x509.load_pem_x509_certificate(shown).serial_number)
        if self.refuse is not None:
            await context.abort(*self.refuse)

    def _issued(self, site: str, csr_der: bytes) -> bytes:
        key = x509.load_der_x509_csr(csr_der).public_key()
        return self.issue(csr_der) if self.issue else der(self.certificate(site, key))

    async def Info(self, request: Any, context: Any) -> pb.InfoReply:
        await self._admit(request, context)
        return pb.InfoReply(moretta_version="0.1.0", unix_time_ms=int(time.time() * 1000), max_call_bytes=2**27)

    async def Enroll(self, request: Any, context: Any) -> pb.EnrollReply:
        await self._admit(request, context)
        return pb.EnrollReply(certificate_der=self._issued(request.site, request.csr_der), ca_der=der(self.ca))

    async def Renew(self, request: Any, context: Any) -> pb.RenewReply:
        await self._admit(request, context)
        return pb.RenewReply(certificate_der=self._issued("clinic-a", request.csr_der))

    async def Status(self, request: Any, context: Any) -> pb.StatusReply:
        await self._admit(request, context)
        return pb.StatusReply(site="clinic-a", state=pb.StatusReply.STATE_ENROLLED)

    async def Leave(self, request: Any, context: Any) -> pb.LeaveReply:
        await self._admit(request, context)
        return pb.LeaveReply()

    async def Call(self, request: FleetCall, context: Any) -> FleetReply:
        await self._admit(request, context)
        if self.relay is not None:
            return await self.relay(request, context)
        return FleetReply(status=200, body=request.body)


@asynccontextmanager
async def mini_server(**said: Any) -> AsyncIterator[MiniServer]:
    server = MiniServer(**said)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def run(coroutine: Any) -> Any:
    """The result of a coroutine, or a timeout after 60 s."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))
