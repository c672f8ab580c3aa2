"""The certificate with which a site that has none yet opens its first connection, derived from its one-time secret.

Both sides compute the same key and, byte for byte, the same self-signed certificate: HKDF-SHA256 (RFC 5869) gives the
P-256 key, deterministic ECDSA (RFC 6979) the signature. The server computes it once, when it makes the token, keeps the
certificate alone and trusts it until the token is used or expired. So a site proves in the TLS handshake that it knows
the secret, and nothing that crosses the wire, or lies at the server afterwards, gives the secret away.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

COMMON_NAME_PREFIX = "token:"
_SALT = b"moretta enrollment bootstrap 1"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # NIST SP 800-186, 3.2.1.3
_NOT_BEFORE = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
_SERIAL = 1


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Key and certificate of one token."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def certificate_der(self) -> bytes:
        """What the server keeps."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def certificate_pem(self) -> bytes:
        """What the site presents."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """What the site proves the secret with; PKCS #8, not encrypted: never write it anywhere."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def derive_bootstrap(secret: bytes, *, token_id: str, expires: int) -> Bootstrap:
    """Key and certificate of a token; the same arguments give the same bytes on every machine.

    Args:
        secret: 32 bytes of the join string.
        token_id: becomes the certificate's common name, `token:ID`, and separates the keys of two tokens.
        expires: seconds since 1970 at which the certificate ends.
    """
    key = ec.derive_private_key(_scalar(secret, token_id), ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{COMMON_NAME_PREFIX}{token_id}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_SERIAL)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(dt.datetime.fromtimestamp(expires, tz=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
    )
    return Bootstrap(builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True), key)


def _scalar(secret: bytes, token_id: str) -> int:
    """A private scalar in 1 to n-1. 128 bits more than the order has leave no bias that counts (FIPS 186-5, A.2.1)."""
    material = HKDF(hashes.SHA256(), length=48, salt=_SALT, info=token_id.encode()).derive(secret)
    return int.from_bytes(material, "big") % (_P256_ORDER - 1) + 1
