"""Opens the port: gRPC's server with TLS, the services behind their guard, their health, and limits against junk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from typing import cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from moretta.server.enrollment.authority import CertificateAuthority, Clock, Issued
from moretta.server.enrollment.database import KnownCertificate
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import Limits
from moretta.server.port.guard import ENVELOPE_BYTES, Guard, MakeRoom, Method
from moretta.server.port.refusals import Refusal
from moretta.shared.pb import enrollment_pb2, relay_pb2

_SPARE_CALLS = 512
"""gRPC itself refuses calls beyond the limit and so many more: those are looked at only to be refused at once."""
_IDENTITY_ALONE = 1
"""Bits of the accepted compression algorithms: none but the identity."""
_log = logging.getLogger(__name__)
ENROLLMENT = enrollment_pb2.DESCRIPTOR.services_by_name["Enrollment"].full_name
RELAY = relay_pb2.DESCRIPTOR.services_by_name["Relay"].full_name
HEALTH = "grpc.health.v1.Health"

_NEEDS = {
    "": ("registry", "authority", "superlink"),
    HEALTH: (),
    ENROLLMENT: ("registry", "authority"),
    RELAY: ("registry", "superlink"),
}

Problems = Mapping[str, str | None]
"""Problem of each part (`registry`, `authority`, `superlink`); None where there is none."""


@dataclass
class PortCertificates:
    """The port's own certificate, renewed while it runs, and the roots that a caller's certificate may lead to."""

    authority: CertificateAuthority
    registry: SiteRegistry
    _: KW_ONLY
    names: tuple[str, ...]
    hours: float
    clock: Clock
    issued: Issued = field(init=False)
    _shown: tuple[bytes, bytes, Issued] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Make a new key and certificate; connections to come are shown it, those that are there go on."""
        self._shown = self.authority.issue_server(self.names, hours=self.hours)
        self.issued = self._shown[2]

    def renew_if_due(self) -> bool:
        """Renew where two thirds of the certificate's life are over; whether it was."""
        due = self.clock() >= self.issued.not_after - self.hours * 3600 / 3
        if due:
            self.renew()
        return due

    def now(self) -> tuple[bytes, bytes, bytes]:
        """Key, chain and roots in PEM. Roots are the authority, and each join string that is still good."""
        key, chain, _ = self._shown  # one assignment: key and chain belong together in every thread
        tokens = [_pem(token.bootstrap_der) for token in self.registry.outstanding_tokens()]
        return key, chain, self.authority.pem + b"".join(tokens)


@lru_cache(maxsize=1024)
def _pem(der: bytes) -> bytes:
    """A certificate in PEM form; it is cached, since every handshake needs it, those of strangers too."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def open_port(
    listen: str,
    *,
    certificates: PortCertificates,
    guard: Guard,
    services: dict[str, Sequence[Method]],
    limits: Limits,
) -> tuple[grpc.aio.Server, int]:
    """A server that is bound and not yet started, and the port it was given; raises OSError where it cannot be had.

    Args:
        listen: HOST:PORT; port 0 takes a free one.
        certificates: what is shown and trusted, decided anew at every handshake.
    """
    # gRPC would log a traceback for each call that its caller cancels at a bad moment; refusals are in the audit log
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    server = grpc.aio.server(maximum_concurrent_rpcs=limits.calls_open + _SPARE_CALLS, options=_options(limits))
    for service, methods in services.items():
        handlers = {method.name: guard.handler(method) for method in methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    try:
        port = server.add_secure_port(listen, _credentials(certificates))
    except RuntimeError as error:
        raise OSError(f"{listen} cannot be opened: {error}") from error
    return server, port


def _credentials(certificates: PortCertificates) -> grpc.ServerCredentials:
    def configured(parts: tuple[bytes, bytes, bytes]) -> grpc.ServerCertificateConfiguration:
        key, chain, roots = parts
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=roots)

    last: list[tuple[bytes, bytes, bytes]] = []

    def configuration() -> grpc.ServerCertificateConfiguration | None:
        """The certificates for gRPC; None where nothing has changed, or where nothing new can be read."""
        try:
            now = certificates.now()
        except Exception:
            _log.exception("the port's certificates cannot be read: the last ones stay")
            return None
        if last == [now]:
            return None
        last[:] = [now]
        return configured(now)

    # gRPC takes None for "as before", which its types leave out
    fetcher = cast("Callable[[], grpc.ServerCertificateConfiguration]", configuration)
    return grpc.dynamic_ssl_server_credentials(
        configured(certificates.now()), fetcher, require_client_authentication=True
    )


def _options(limits: Limits) -> list[tuple[str, int]]:
    longest = limits.max_call_bytes + ENVELOPE_BYTES
    return [
        ("grpc.so_reuseport", 0),  # a second server on this port must fail, not share it
        ("grpc.max_receive_message_length", longest),
        ("grpc.max_send_message_length", longest),
        # A compressed message is refused, and never unpacked: one of 1.3 MB became 620 MB, which no other limit stops
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ALONE),
        ("grpc.per_message_decompression", 0),
        ("grpc.max_concurrent_streams", 64),  # of one connection
        ("grpc.max_connection_idle_ms", 300_000),  # a connection without calls: sites call every few seconds
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_metadata_size", 8 << 10),
        # A site's one connection is pinged so that middleboxes keep it open, and so that a dead one is noticed
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def is_serving(service: str, problems: Problems) -> bool:
    """Whether a service has all it needs; the empty name is the server as a whole."""
    return all(problems.get(part, "never looked at") is None for part in _NEEDS[service])


def health_methods(problems: Callable[[], Problems]) -> list[Method]:
    """`grpc.health.v1.Health`, for enrolled sites: SERVING only while everything that a service needs is there.

    `Watch` is left out: a stream that stays open would go on after a revocation.
    """

    async def check(caller: KnownCertificate, request: HealthCheckRequest, make_room: MakeRoom) -> HealthCheckResponse:
        del caller, make_room
        if request.service not in _NEEDS:
            raise Refusal("NOT_FOUND", "unknown-service", "no such service is here")
        good = is_serving(request.service, problems())
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if good else HealthCheckResponse.NOT_SERVING)

    return [Method("Check", HealthCheckRequest, check)]
