"""Names, addresses, fingerprints, and the join string with all that both sides derive from it before they are linked.

The string that a coordinator hands to a site has the server's address, the fingerprint that proves the server, and a
secret good for one use. Its form is `moretta-join-1.PAYLOAD.CHECKSUM`: canonical JSON in base64url without padding,
then eight hexadecimal digits of SHA-256 over all before them. The checksum finds what was lost in copying; it proves
nothing, and need not: the secret does.

A site that has no certificate yet opens its first connection with one that both sides compute, byte for byte the same:
HKDF-SHA256 (RFC 5869) gives the P-256 key, deterministic ECDSA (RFC 6979) the self-signature. The server computes it
once, when it makes the token, stores the certificate alone and trusts it until the token is used or expired. So a site
proves in the TLS handshake that it has the secret, and nothing that crosses the wire, or lies at the server afterwards,
reveals the secret.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moretta.shared.core.errors import EnrollmentError

PREFIX = "moretta-join-1"
SECRET_BYTES = 32
_MAX_CHARACTERS = 2048
_SITE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?", re.ASCII | re.IGNORECASE)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TOKEN_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_FIELDS: dict[str, tuple[str, type]] = {
    "address": ("address", str),
    "ca": ("ca_fingerprint", str),
    "expires": ("expires", int),
    "secret": ("secret", str),
    "site": ("site", str),
    "token": ("token_id", str),
}
"""Name in the string -> attribute and type in the string."""
_LATEST = 253_402_300_799  # the last second of the year 9999, where X.509's times end
COMMON_NAME_PREFIX = "token:"
_SALT = b"moretta enrollment bootstrap 1"
_NOT_BEFORE = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
_SERIAL = 1


def check_site_name(name: str) -> str:
    """Return `name` if a site may have it: no two names look alike in a certificate, a log or a path. Raises
    EnrollmentError: it is not 1 to 63 of `a-z`, `0-9` and `-` with no hyphen at either end."""
    if not _SITE_NAME.fullmatch(name):
        raise EnrollmentError(
            f"{name[:80]!r} as the name of a site",
            expected="1 to 63 of a-z, 0-9 and '-', with no hyphen at either end",
            fix="choose a name such as clinic-a",
        )
    return name


def split_address(address: str) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port of `host:port`. Raises EnrollmentError: it is of another
    form, or the port is not within 1 to 65535."""
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    good_host = _is_ipv6(bare) if bare != host else _HOST.fullmatch(host) is not None
    if not good_host or not _PORT.fullmatch(port) or int(port) > 65_535:
        raise EnrollmentError(
            f"{address[:80]!r} as an address",
            expected="HOST:PORT, such as moretta.example.org:8443, 192.0.2.7:8443 or [2001:db8::7]:8443",
        )
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """The reverse of `split_address`: puts brackets around an IPv6 address."""
    address = f"[{host}]:{port}" if _is_ipv6(host) else f"{host}:{port}"
    split_address(address)
    return address


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate in DER form, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form that `fingerprint` gives."""
    return _FINGERPRINT.fullmatch(text) is not None


def has_fingerprint(der: bytes, expected: str) -> bool:
    """Whether a certificate has this fingerprint. Takes the same time however much of it agrees."""
    return hmac.compare_digest(fingerprint(der).encode(), expected.encode())


@dataclass(frozen=True, slots=True)
class JoinString:
    """The content of a join string. Its repr and str hide the secret; `encode` alone shows it. Raises EnrollmentError:
    on making one with a field that cannot be."""

    address: str
    """Address of the server, `host:port`."""
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
        content = {name: getattr(self, attribute) for name, (attribute, _) in _FIELDS.items()}
        return _sealed(f"{PREFIX}.{_base64(_canonical(content | {'secret': _base64(self.secret)}))}")


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
    data = _unbase64(parts[1])
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        _refuse("a join string without content", "a JSON object")
    if missing := sorted(_FIELDS.keys() - content.keys()):
        _refuse(f"a join string without {', '.join(missing)}", "every field")
    if content.keys() != _FIELDS.keys():
        _refuse("a join string with fields of another version", ", ".join(sorted(_FIELDS)))
    for name, (_, kind) in _FIELDS.items():
        if type(content[name]) is not kind:
            _refuse(f"a join string whose {name} is a {type(content[name]).__name__}", f"a {kind.__name__}")
    if _canonical(content) != data:
        _refuse("a join string in another spelling", "canonical JSON")
    values = {attribute: content[name] for name, (attribute, _) in _FIELDS.items()}
    return JoinString(**values | {"secret": _unbase64(content["secret"])})


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
    fix = "get a new one from the coordinator: moretta server token --site NAME"
    raise EnrollmentError(found, expected=expected, fix=fix)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Certificate and key of one token."""

    certificate_der: bytes
    """Stored by the server."""
    certificate_pem: bytes
    """Presented by the site."""
    key_pem: bytes = field(repr=False)
    """Proves that the site has the secret; PKCS #8, not encrypted: never write it anywhere."""


def derive_bootstrap(secret: bytes, *, token_id: str, expires: int) -> Bootstrap:
    """Key and certificate of a token; the same arguments give the same bytes on every machine.

    Args:
        secret: 32 bytes of the join string.
        token_id: becomes the certificate's common name, `token:ID`, and separates the keys of two tokens.
        expires: seconds since 1970 at which the certificate ends.
    """
    material = HKDF(hashes.SHA256(), length=48, salt=_SALT, info=token_id.encode()).derive(secret)
    curve = ec.SECP256R1()
    # A scalar in 1 to n-1. 128 bits more than the order has leave no bias that counts (FIPS 186-5, A.2.1)
    scalar = int.from_bytes(material, "big") % (curve.group_order - 1) + 1
    key = ec.derive_private_key(scalar, curve)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{COMMON_NAME_PREFIX}{token_id}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_SERIAL)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(dt.datetime.fromtimestamp(expires, tz=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return Bootstrap(
        certificate.public_bytes(Encoding.DER),
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
