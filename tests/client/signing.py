"""A server that countersigns heads of ledgers, without a server."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from enrolled import NOW, certificate

from moretta.client.transport.identity import new_tls_key
from moretta.shared.privacy.chain import SignedHead, sign_head


class Authority:
    """A certificate authority, its server's certificate and one of its sites'."""

    def __init__(self) -> None:
        ca_key = new_tls_key()
        self.ca = certificate("the authority", ca_key)
        self._signers: dict[str, tuple[ec.EllipticCurvePrivateKey, x509.Certificate]] = {}
        for who in ("server", "site"):
            key = new_tls_key()
            issued = certificate(who, key, issuer=(self.ca, ca_key), server=who == "server")
            self._signers[who] = key, issued

    def sign(
        self, site: str, head: str, length: int, *, by: str = "server", unix_time: int = int(NOW.timestamp())
    ) -> SignedHead:
        """A receipt, by the server or, as nobody should, by a site."""
        key, issued = self._signers[by]
        return sign_head(key, issued, site=site, head=head, length=length, unix_time=unix_time)
