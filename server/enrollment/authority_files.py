"""The certificate authority on disk: made once, opened with its passphrase, never overwritten."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moretta.server.enrollment.authority import BACKDATE, CertificateAuthority, Clock, common_name, key_usage
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError

_CA_YEARS = 10
_SALT_LINE = b"Moretta-Scrypt-Salt: "


def create_authority(folder: Path, *, passphrase: bytes | None, clock: Clock) -> CertificateAuthority:
    """Make a new authority in `folder`, its key encrypted under `passphrase` or, without one, readable by its owner.

    Raises:
        HomeError: one is there already; it is never overwritten.
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
    name = common_name(f"Moretta {x509.random_serial_number():x}"[:24])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + dt.timedelta(days=366 * _CA_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return CertificateAuthority(certificate, key, clock), key


def is_encrypted(folder: Path) -> bool:
    """Whether the authority's key needs a passphrase.

    Raises:
        HomeError: there is no key.
    """
    return b"ENCRYPTED" in _read(folder / "ca.key")


def load_authority(folder: Path, *, passphrase: bytes | None, clock: Clock) -> CertificateAuthority:
    """Read the authority back.

    Raises:
        HomeError: a file is missing or damaged, others can read the key, the passphrase is wrong, missing, or of no
            use, or key and certificate do not belong together.
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
    """The authority's certificate alone; needs no passphrase.

    Raises:
        HomeError: it is missing or damaged.
    """
    path = folder / "ca.pem"
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise HomeError(f"{path} is damaged", expected="a certificate in PEM") from error


def _sealed(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    header = b""
    if passphrase:
        salt = secrets.token_hex(16).encode()
        header = _SALT_LINE + salt + b"\n"
        protection = serialization.BestAvailableEncryption(_stretched(passphrase, salt))
    return header + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def _unsealed(pem: bytes, passphrase: bytes | None, path: Path) -> ec.EllipticCurvePrivateKey:
    stretched = None
    if b"ENCRYPTED" in pem:
        if not passphrase:
            raise HomeError(
                "the certificate authority's key is encrypted", fix="give its passphrase with --passphrase-file FILE"
            )
        salt = pem.partition(b"\n")[0].removeprefix(_SALT_LINE)
        stretched = _stretched(passphrase, salt)
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
