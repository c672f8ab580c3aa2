"""Hash chains of JSON lines, such as a site's privacy ledger and a server's log, and signatures under their heads.

A head can be recomputed from the digests of the entries, without knowing an entry. A ledger that was restored from an
old backup would forget what has been spent since. So the server signs (site, head, length), remembers the last one, and
signs a later head only if the chain leads from the one to the other. It sees digests, never an entry.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import BaseModel, ConfigDict, Field

from moretta.shared.core.errors import RefusedError

Record = dict[str, Any]
START = "0" * 64
"""The head of an empty chain."""
_PURPOSE = "moretta ledger head, version 1"
"""Keeps a signature over anything else from being taken for one over a head."""


def entry_digest(entry: dict[str, Any]) -> str:
    """SHA-256 of an entry as canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True, allow_nan=False).encode()).hexdigest()


def linked(previous: str, digest: str) -> str:
    """The head after an entry of this digest, hexadecimal."""
    return hashlib.sha256(f"{previous}\n{digest}".encode()).hexdigest()


def heads(digests: Iterable[str]) -> Iterator[str]:
    """The head after no entry, after the first, and so on.

    >>> len(list(heads(["a" * 64, "b" * 64])))
    3
    """
    return accumulate(digests, linked, initial=START)


def chained(entry: dict[str, Any], previous: str) -> Record:
    """The line that adds an entry behind the head `previous`."""
    return {"entry": entry, "previous": previous, "hash": linked(previous, entry_digest(entry))}


def is_chained(record: Any, previous: str) -> bool:
    """Whether a line is what `chained` gives for its entry behind the head `previous`."""
    try:
        return isinstance(record["entry"], dict) and record == chained(record["entry"], previous)
    except (ValueError, KeyError, TypeError):
        return False


class SignedHead(BaseModel):
    """A head that a server signed. `certificate_der` and `signature` are base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    site: str
    head: str = Field(pattern=r"^[0-9a-f]{64}$")
    length: int = Field(ge=0)
    unix_time: int = Field(ge=0)
    certificate_der: str
    """Certificate of the key that signed: the server's TLS certificate at that time."""
    signature: str

    def verify(self, ca: x509.Certificate) -> None:
        """Check that the server of this certificate authority signed it. Raises RefusedError if it did not."""
        try:
            certificate = x509.load_der_x509_certificate(base64.b64decode(self.certificate_der, validate=True))
            certificate.verify_directly_issued_by(ca)
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            key = cast(ec.EllipticCurvePublicKey, certificate.public_key())
            message = _message(self.site, self.head, self.length, self.unix_time)
            key.verify(base64.b64decode(self.signature, validate=True), message, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError, TypeError, AttributeError, x509.ExtensionNotFound) as error:
            raise RefusedError(
                f"a receipt for entry {self.length} that the server did not sign ({type(error).__name__})",
                expected="a signature under a certificate of the pinned authority",
            ) from error
        when = dt.datetime.fromtimestamp(self.unix_time, dt.UTC)
        valid = certificate.not_valid_before_utc <= when <= certificate.not_valid_after_utc
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage or not valid:
            found = "a receipt under a certificate that is not a server's, or was not valid then"
            raise RefusedError(found, expected="the server's own")


def sign_head(
    key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, *, site: str, head: str, length: int, unix_time: int
) -> SignedHead:
    """The server's signature, under its TLS certificate."""
    signature = key.sign(_message(site, head, length, unix_time), ec.ECDSA(hashes.SHA256()))
    return SignedHead(
        site=site,
        head=head,
        length=length,
        unix_time=unix_time,
        certificate_der=base64.b64encode(certificate.public_bytes(Encoding.DER)).decode(),
        signature=base64.b64encode(signature).decode(),
    )


def verified_head(digests: Sequence[str], *, known_head: str = START, known_length: int = 0) -> tuple[str, int]:
    """The head and length of a ledger, if it continues the one whose head was countersigned before.

    Args:
        known_head: the last that was countersigned.
        known_length: entries up to it.

    Raises:
        RefusedError: the ledger is older, or another one.
    """
    fix = "restore the newest copy of the ledger; what it does not show has been spent all the same"
    if len(digests) < known_length:
        expected = f"at least {known_length}: this server has countersigned as many"
        raise RefusedError(f"a privacy ledger of {len(digests)} entries", expected=expected, fix=fix)
    chain = heads(digests)
    head = next(islice(chain, known_length, None))
    if head != known_head:  # before anything is hashed that comes after it
        found = f"a privacy ledger whose entry {known_length} is not the one that was countersigned"
        raise RefusedError(found, expected=f"the head {known_head}", fix=fix)
    for newer in chain:
        head = newer
    return head, len(digests)


def _message(site: str, head: str, length: int, unix_time: int) -> bytes:
    return json.dumps([_PURPOSE, site, head, length, unix_time]).encode()
