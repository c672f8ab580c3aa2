"""The server's own certificate authority: EC P-384, issues for this server and its sites and nothing below them.

On disk it is made once, opened with its passphrase, and never overwritten.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moretta.server.port.refusals import Refusal
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError
from moretta.shared.enrollment import fingerprint

Clock = Callable[[], float]
"""Seconds since 1970."""
_BACKDATE = dt.timedelta(minutes=5)
"""A site whose clock is a little behind takes a new certificate all the same."""
_CA_YEARS = 10
_SALT_LINE = b"Moretta-Scrypt-Salt: "
_MAX_REQUEST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that the authority has signed."""

    der: bytes
    serial: str
    """Hexadecimal, as `openssl x509 -serial` prints it, in lower case."""
    fingerprint: str
    not_after: int
    """Seconds since 1970."""

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Issued:
        """The facts of a certificate."""
        der = certificate.public_bytes(serialization.Encoding.DER)
        return cls(
            der=der,
            serial=f"{certificate.serial_number:x}",
            fingerprint=fingerprint(der),
            not_after=int(certificate.not_valid_after_utc.timestamp()),
        )


class CertificateAuthority:
    """Certificate and key of the authority, the key in memory only while the server runs."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self.certificate = certificate
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = fingerprint(self.der)
        """SHA-256 of the certificate, which join strings carry."""
        self.not_after = int(certificate.not_valid_after_utc.timestamp())
        """Its end, in seconds since 1970."""
        self._key = key
        self._clock = clock

    def __repr__(self) -> str:
        return f"CertificateAuthority({self.fingerprint})"

    def issue_site(self, name: str, public_key: ec.EllipticCurvePublicKey, *, hours: float) -> Issued:
        """A client certificate for one site: its name and key, and nothing else that a request might contain."""
        return Issued.of(self._sign(self._builder(name, public_key, hours), ExtendedKeyUsageOID.CLIENT_AUTH))

    def issue_server(self, names: tuple[str, ...], *, hours: float) -> tuple[bytes, bytes, Issued]:
        """A new key and certificate for the port: key in PEM, chain in PEM (the authority's included), and facts."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = self._builder(names[0][:64], key.public_key(), hours).add_extension(alternatives, critical=False)
        certificate = self._sign(builder, ExtendedKeyUsageOID.SERVER_AUTH)
        chain = certificate.public_bytes(serialization.Encoding.PEM) + self.pem
        return _pkcs8(key, serialization.NoEncryption()), chain, Issued.of(certificate)

    def _builder(self, name: str, public_key: ec.EllipticCurvePublicKey, hours: float) -> x509.CertificateBuilder:
        now = dt.datetime.fromtimestamp(int(self._clock()), tz=dt.UTC)
        end = min(now + dt.timedelta(hours=hours), self.certificate.not_valid_after_utc)
        return _certificate(_common_name(name), self.certificate.subject, public_key, now, end)

    def _sign(self, builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier) -> x509.Certificate:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA384())
        )


def public_key_of_request(der: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a PKCS #10 request that it signed; raises Refusal for any other. Names in it are ignored."""
    key: object = None
    try:
        request = x509.load_der_x509_csr(der) if len(der) <= _MAX_REQUEST_BYTES else None
        if request is not None and request.is_signature_valid:
            key = request.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise Refusal("INVALID_ARGUMENT", "bad-request", "the certificate request is no PKCS #10 of a P-256 key")
    return key


def create_authority(folder: Path, *, passphrase: bytes | None, clock: Clock) -> CertificateAuthority:
    """Make a new authority in `folder`, its key encrypted under `passphrase` or, without one, readable by its owner.

    Raises HomeError where one is there already; it is never overwritten.
    """
    if (folder / "ca.key").exists() or (folder / "ca.pem").exists():
        raise HomeError(f"{folder} has a certificate authority already", fix="keep it, or choose another folder")
    authority, key = new_authority(clock)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(folder / "ca.key", _sealed(key, passphrase), mode=0o600)
    write_atomic(folder / "ca.pem", authority.pem, mode=0o600)
    return authority


def new_authority(clock: Clock) -> tuple[CertificateAuthority, ec.EllipticCurvePrivateKey]:
    """A new authority that is nowhere on disk."""
    key = ec.generate_private_key(ec.SECP384R1())
    now = dt.datetime.fromtimestamp(int(clock()), tz=dt.UTC)
    name = _common_name(f"Moretta {x509.random_serial_number():x}"[:24])
    certificate = (
        _certificate(name, name, key.public_key(), now, now + dt.timedelta(days=366 * _CA_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return CertificateAuthority(certificate, key, clock), key


def is_encrypted(folder: Path) -> bool:
    """Whether the authority's key needs a passphrase; raises HomeError where there is no key."""
    return b"ENCRYPTED" in _read(folder / "ca.key")


def load_authority(folder: Path, *, passphrase: bytes | None, clock: Clock) -> CertificateAuthority:
    """Read the authority back.

    Raises HomeError where a file is missing or damaged, others can read the key, the passphrase is wrong or missing, or
    key and certificate do not belong together.
    """
    key_path = folder / "ca.key"
    pem = _read(key_path)
    if os.stat(key_path).st_mode & 0o077:  # noqa: PTH116 - a link must not hide the mode
        raise HomeError(f"others can read {key_path}", expected="mode 0600", fix=f"chmod 600 {key_path}")
    certificate = load_certificate(folder)
    key = _unsealed(pem, passphrase, key_path)
    if key.public_key() != certificate.public_key():
        raise HomeError(f"{key_path} and ca.pem do not belong together", fix="restore both from one backup")
    return CertificateAuthority(certificate, key, clock)


def load_certificate(folder: Path) -> x509.Certificate:
    """The authority's certificate alone; needs no passphrase; raises HomeError where it is missing or damaged."""
    path = folder / "ca.pem"
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise HomeError(f"{path} is damaged", expected="a certificate in PEM") from error


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(end)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pkcs8(key: ec.EllipticCurvePrivateKey, protection: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def _sealed(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    if not passphrase:
        return _pkcs8(key, serialization.NoEncryption())
    salt = secrets.token_hex(16).encode()
    return _SALT_LINE + salt + b"\n" + _pkcs8(key, serialization.BestAvailableEncryption(_stretched(passphrase, salt)))


def _unsealed(pem: bytes, passphrase: bytes | None, path: Path) -> ec.EllipticCurvePrivateKey:
    stretched = None
    if b"ENCRYPTED" in pem:
        if not passphrase:
            fix = "give its passphrase with --passphrase-file FILE"
            raise HomeError("the certificate authority's key is encrypted", fix=fix)
        stretched = _stretched(passphrase, pem.partition(b"\n")[0].removeprefix(_SALT_LINE))
    try:
        key = serialization.load_pem_private_key(pem, stretched)
    except (TypeError, ValueError) as error:
        raise HomeError(f"{path} does not open", expected="the passphrase that `init` was given") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise HomeError(f"{path} holds another kind of key", expected="an EC key")
    return key


def _stretched(passphrase: bytes, salt: bytes) -> bytes:
    """Scrypt (RFC 7914) before PKCS #8's own PBKDF2, whose 2,048 rounds alone would be soon tried through."""
    return hashlib.scrypt(passphrase, salt=salt, n=1 << 16, r=8, p=1, maxmem=1 << 27, dklen=32).hex().encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HomeError(f"{path} cannot be read: {error.strerror}", fix="restore it from the backup") from error
