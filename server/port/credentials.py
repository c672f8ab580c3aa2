"""TLS of the port: which certificate it shows and whom it trusts, decided anew at every handshake."""

from __future__ import annotations

import os
import sys
import threading
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from moretta.server.enrollment.authority import CertificateAuthority, Clock, Issued
from moretta.server.enrollment.site_registry import SiteRegistry

_CIPHERS_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES256-GCM-SHA384"


def shut_out_tls_1_2() -> None:
    """Leave TLS 1.2 no cipher that an EC certificate could be used with; TLS 1.3's are not affected.

    gRPC for Python has no setting for the lowest version, and reads this one when it is loaded.

    Raises:
        RuntimeError: gRPC is loaded already.
    """
    if "grpc" in sys.modules:
        raise RuntimeError("TLS 1.2 can be shut out only before gRPC is loaded")
    os.environ[_CIPHERS_VARIABLE] = _RSA_ONLY


class PortCertificates:
    """The port's own certificate, renewed while it runs, and the roots that a caller's certificate may lead to."""

    def __init__(
        self,
        authority: CertificateAuthority,
        registry: SiteRegistry,
        *,
        names: tuple[str, ...],
        hours: float,
        clock: Clock,
    ) -> None:
        self._authority, self._registry, self._clock = authority, registry, clock
        self._names, self._hours = names, hours
        self._mutex = threading.Lock()
        self._shown: tuple[bytes, bytes] = (b"", b"")
        self.issued: Issued
        self.renew()

    def renew(self) -> None:
        """Make a new key and certificate; connections to come are shown it, those that are there go on."""
        key, chain, issued = self._authority.issue_server(self._names, hours=self._hours)
        with self._mutex:
            self._shown, self.issued = (key, chain), issued

    def renew_if_due(self) -> bool:
        """Renew where two thirds of the certificate's life are over; whether it was."""
        if self._clock() < self.issued.not_after - self._hours * 3600 / 3:
            return False
        self.renew()
        return True

    def now(self) -> tuple[bytes, bytes, bytes]:
        """Key, chain and roots in PEM. Roots are the authority, and each join string that is still good."""
        with self._mutex:
            key, chain = self._shown
        tokens = [_pem(token.bootstrap_der) for token in self._registry.outstanding_tokens()]
        return key, chain, self._authority.pem + b"".join(tokens)


@lru_cache(maxsize=1024)
def _pem(der: bytes) -> bytes:
    """Kept, since every handshake needs it, those of strangers too."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
