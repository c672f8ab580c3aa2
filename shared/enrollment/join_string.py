"""The one string that a coordinator hands to a site, and the certificate that is derived from its one-time secret.

The string says where the server is, how to recognize it, and a secret good for one use. Its form is
`moretta-join-1.PAYLOAD.CHECKSUM`: canonical JSON in base64url without padding, then eight hexadecimal digits of SHA-256
over all before them. The checksum finds what was lost in copying; it proves nothing, and need not: the secret does.

With the certificate a site that has none yet opens its first connection. Both sides compute the same key and, byte for
byte, the same self-signed certificate: HKDF-SHA256 (RFC 5869) gives the P-256 key, deterministic ECDSA (RFC 6979) the
signature. The server computes it once, when it makes the token, stores the certificate alone and trusts it until the
token is used or expired. So a site proves in the TLS handshake that it knows the secret, and nothing that crosses the
wire, or lies at the server afterwards, reveals the secret.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moretta.shared.core.errors import EnrollmentError
from moretta.shared.enrollment.identifiers import check_site_name, is_fingerprint, split_address

PREFIX = "moretta-join-1"
SECRET_BYTES = 32
_MAX_CHARACTERS = 2048
_TOKEN_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_FIELDS = {"address": str, "ca": str, "expires": int, "secret": str, "site": str, "token": str}
_LATEST = 253_402_300_799  # the last second of the year 9999, where X.509's times end
_ASK = "ask the coordinator for a new one: moretta server token --site NAME"
COMMON_NAME_PREFIX = "token:"
_SALT = b"moretta enrollment bootstrap 1"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # NIST SP 800-186, 3.2.1.3
_NOT_BEFORE = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
_SERIAL = 1


@dataclass(frozen=True, slots=True)
class JoinString:
    """The content of a join string. Its repr and str hide the secret; `encode` alone shows it.

    Raises:
        EnrollmentError: on making one with a field that cannot be.
    """

    address: str
    """Where the server listens, `host:port`."""
    site: str
    """The name that this string enrolls, and no other."""
    token_id: str
    """16 hexadecimal digits; public."""
    secret: bytes = field(repr=False)
    """32 bytes. Never crosses the wire."""
    ca_fingerprint: str
    """SHA-256 of the server's certificate authority in DER form, 64 hexadecimal digits."""
    expires: int
    """Seconds since 1970 at which the server stops taking it."""

    def __post_init__(self) -> None:
        split_address(self.address)
        check_site_name(self.site)
        if not _TOKEN_ID.fullmatch(self.token_id):
            _refuse("a token id of another form", "16 hexadecimal digits")
        if len(self.secret) != SECRET_BYTES:
            _refuse(f"a secret of {len(self.secret)} bytes", f"{SECRET_BYTES}")
        if not is_fingerprint(self.ca_fingerprint):
            _refuse("a fingerprint of another form", "64 hexadecimal digits")
        if not 0 < self.expires <= _LATEST:
            _refuse(f"an end at {self.expires} seconds since 1970", "a time in the years 1970 to 9999")

    def encode(self) -> str:
        """The string itself, secret and all: show it to nobody but the site."""
        content = {
            "address": self.address,
            "ca": self.ca_fingerprint,
            "expires": self.expires,
            "secret": _base64(self.secret),
            "site": self.site,
            "token": self.token_id,
        }
        return _sealed(f"{PREFIX}.{_base64(_canonical(content))}")


def new_token_id() -> str:
    """A token id nobody has yet."""
    return secrets.token_hex(8)


def new_secret() -> bytes:
    """A secret from the operating system's generator."""
    return secrets.token_bytes(SECRET_BYTES)


def parse_join_string(text: str) -> JoinString:
    """Read a join string; blanks and line ends around it are let pass. Does not look at the clock.

    Raises:
        EnrollmentError: it is not one, was cut or changed on the way, or says something impossible. The message never
            repeats any of it.
    """
    text = text.strip()
    if len(text) > _MAX_CHARACTERS:
        _refuse(f"a join string of {len(text)} characters", f"at most {_MAX_CHARACTERS}")
    parts = text.split(".")
    if parts[0] != PREFIX:
        _refuse("a text that is no join string of this version", f"one that begins with {PREFIX}")
    if not text.isascii() or len(parts) != 3 or _sealed(f"{PREFIX}.{parts[1]}") != text:
        _refuse("a join string that was cut or changed on the way", "all of it, exactly as it was printed")
    content = _content(parts[1])
    return JoinString(
        address=content["address"],
        site=content["site"],
        token_id=content["token"],
        secret=_unbase64(content["secret"]),
        ca_fingerprint=content["ca"],
        expires=content["expires"],
    )


def _content(payload: str) -> dict[str, Any]:
    data = _unbase64(payload)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        _refuse("a join string without content", "a JSON object")
    missing = sorted(_FIELDS.keys() - content.keys())
    if missing:
        _refuse(f"a join string without {', '.join(missing)}", "every field")
    if content.keys() != _FIELDS.keys():
        _refuse("a join string with fields of another version", ", ".join(sorted(_FIELDS)))
    for name, kind in _FIELDS.items():
        if type(content[name]) is not kind:
            _refuse(f"a join string whose {name} is a {type(content[name]).__name__}", f"a {kind.__name__}")
    if _canonical(content) != data:
        _refuse("a join string in another spelling", "canonical JSON")
    return content


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _sealed(text: str) -> str:
    return f"{text}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = b""
    if _base64(data) != text:  # one string has one spelling: stray bits at the end are not let pass
        _refuse("a join string with characters that do not belong", "base64url without padding")
    return data


def _refuse(found: str, expected: str) -> NoReturn:
    raise EnrollmentError(found, expected=expected, fix=_ASK)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Key and certificate of one token."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def certificate_der(self) -> bytes:
        """Stored by the server."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def certificate_pem(self) -> bytes:
        """Presented by the site."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Proves that the site knows the secret; PKCS #8, not encrypted: never write it anywhere."""
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
