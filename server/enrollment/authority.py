"""The server's own certificate authority: EC P-384, issues for this server and its sites and nothing below them."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moretta.shared.enrollment.identifiers import fingerprint

BACKDATE = dt.timedelta(minutes=5)
"""A site whose clock is a little behind takes a new certificate all the same."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that the authority has signed."""

    der: bytes
    serial: str
    """Hexadecimal, as `openssl x509 -serial` prints it, in lower case."""
    fingerprint: str
    not_before: int
    not_after: int
    """Seconds since 1970."""

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Issued:
        """What is worth knowing of a certificate."""
        der = certificate.public_bytes(serialization.Encoding.DER)
        return cls(
            der=der,
            serial=f"{certificate.serial_number:x}",
            fingerprint=fingerprint(der),
            not_before=int(certificate.not_valid_before_utc.timestamp()),
            not_after=int(certificate.not_valid_after_utc.timestamp()),
        )


class CertificateAuthority:
    """Certificate and key of the authority, the key in memory only while the server runs."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self.certificate = certificate
        self._key = key
        self._clock = clock

    def __repr__(self) -> str:
        return f"CertificateAuthority({self.fingerprint})"

    @property
    def der(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, which join strings carry."""
        return fingerprint(self.der)

    @property
    def not_after(self) -> int:
        """Its end, in seconds since 1970."""
        return int(self.certificate.not_valid_after_utc.timestamp())

    def issue_site(self, name: str, public_key: ec.EllipticCurvePublicKey, *, hours: float) -> Issued:
        """A client certificate for one site: its name and key, and nothing that a request could have asked for."""
        builder = self._builder(name, public_key, dt.timedelta(hours=hours))
        return Issued.of(self._sign(builder, ExtendedKeyUsageOID.CLIENT_AUTH))

    def issue_server(self, names: tuple[str, ...], *, hours: float) -> tuple[bytes, bytes, Issued]:
        """A new key and certificate for the port: key in PEM, chain in PEM (the authority's included), and facts."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = self._builder(names[0][:64], key.public_key(), dt.timedelta(hours=hours))
        certificate = self._sign(builder.add_extension(alternatives, critical=False), ExtendedKeyUsageOID.SERVER_AUTH)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key_pem, certificate.public_bytes(serialization.Encoding.PEM) + self.pem, Issued.of(certificate)

    def _builder(
        self, name: str, public_key: ec.EllipticCurvePublicKey, lifetime: dt.timedelta
    ) -> x509.CertificateBuilder:
        now = dt.datetime.fromtimestamp(int(self._clock()), tz=dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(common_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + lifetime, self.certificate.not_valid_after_utc))
        )

    def _sign(self, builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier) -> x509.Certificate:
        usage = key_usage(digital_signature=True)
        return (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA384())
        )


def common_name(text: str) -> x509.Name:
    """A name that is a common name and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    """What a key may be used for, all else shut out."""
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
