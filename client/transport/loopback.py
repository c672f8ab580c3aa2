"""HTTPS on 127.0.0.1 for the life of one process: Flower's SuperNode signs its calls only where there is TLS."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.types import ASGIApp

from moretta.client.transport.identity import key_pem
from moretta.shared.core.atomic import write_atomic

HOST = "127.0.0.1"
_DAYS = 3650
"""A process may live long, and its certificate is known to its own SuperNode alone."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the supervisor's business."""
        yield


class LoopbackServer:
    """Serves a web application to this machine alone.

    Args:
        app: that responds.
        folder: where the certificate is written for the SuperNode; its key is removed once it is loaded.
        port: 0 takes a free one.
    """

    def __init__(self, app: ASGIApp, folder: Path, *, port: int = 0) -> None:
        self.certificate = folder / "connector.pem"
        key_file = folder / ".connector.key"
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
        """On which it listens."""
        return int(self._socket.getsockname()[1])

    async def serve(self) -> None:
        """Answer until `stop`."""
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
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem(key)
