"""The identity of a site: name, server, certificate and keys, in one file, so that a kill leaves the old or the
new one and never half of each.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from pydantic import Field

from moretta.client.site_home import OwnRecord
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError
from moretta.shared.enrollment import fingerprint

BACKDATE = dt.timedelta(minutes=5)
"""Time by which certificates begin before they are made, for clocks that are behind."""
WAY_BACK = "ask the coordinator for `moretta server token --site NAME --reenroll`, and join again with --replace"


class Identity(OwnRecord):
    """An enrolled site. Keys never show in a repr."""

    site: str
    address: str
    """Address of the server, `host:port`."""
    ca_pem: str
    certificate_pem: str
    tls_key_pem: str = Field(repr=False)
    """P-256; a new one with every certificate."""
    node_key: str = Field(repr=False)
    """P-384 in OpenSSH form, which Flower's SuperNode signs its calls with; one for the whole enrollment, because
    Flower knows a node by it."""

    @property
    def certificate(self) -> x509.Certificate:
        """The site's certificate."""
        return x509.load_pem_x509_certificate(self.certificate_pem.encode())

    @property
    def ca_fingerprint(self) -> str:
        """SHA-256 of the server's certificate authority, 64 hexadecimal digits."""
        return fingerprint(x509.load_pem_x509_certificate(self.ca_pem.encode()).public_bytes(Encoding.DER))

    @property
    def not_after(self) -> dt.datetime:
        """When the certificate ends."""
        return self.certificate.not_valid_after_utc

    def renew_at(self, spread: float) -> dt.datetime:
        """When two thirds of the certificate's life are over, and up to a sixteenth more. `spread`: within [0, 1], so
        that sites that joined together do not renew together."""
        start = self.certificate.not_valid_before_utc + BACKDATE
        return start + (self.not_after - start) * (2 / 3 + spread / 16)

    @property
    def node_public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half of the node key."""
        return cast(ec.EllipticCurvePrivateKey, load_ssh_private_key(self.node_key.encode(), None)).public_key()

    def save(self, path: Path) -> None:
        """Write it 0600, whole or not at all."""
        write_atomic(path, self.model_dump_json(indent=1), mode=0o600)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read it. Raises HomeError if it is missing, damaged, or its key is another certificate's."""
        try:
            identity = cls.model_validate_json(path.read_bytes())
            key = load_pem_private_key(identity.tls_key_pem.encode(), None)
            whole = key.public_key() == identity.certificate.public_key()
            _ = identity.node_public_key, identity.ca_fingerprint
        except FileNotFoundError as error:
            found = f"no enrolled site in {path.parent.parent}"
            raise HomeError(found, fix="join a server: moretta site join STRING") from error
        except (OSError, ValueError) as error:  # the message of a parser might show a key
            fix = f"restore the file from a backup, or {WAY_BACK}"
            raise HomeError(f"{path} cannot be read ({type(error).__name__})", fix=fix) from error
        if not whole:
            fix = f"restore the file from a backup, or {WAY_BACK}"
            raise HomeError(f"the key in {path} is not that of its certificate", fix=fix)
        return identity


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """A key for one certificate."""
    return ec.generate_private_key(ec.SECP256R1())


def new_node_key() -> ec.EllipticCurvePrivateKey:
    """A key for Flower's node authentication."""
    return ec.generate_private_key(ec.SECP384R1())


def key_pem(key: ec.EllipticCurvePrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    """A private key in PEM, not encrypted: for files that only their owner can read."""
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def openssh_private(key: ec.EllipticCurvePrivateKey) -> str:
    """The form in which Flower's SuperNode reads its key."""
    return key_pem(key, PrivateFormat.OpenSSH)


def pem_of(der: bytes) -> str:
    """A certificate in PEM form."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
