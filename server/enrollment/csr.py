"""What counts of a site's certificate request: its public key, and the proof that the site holds the private one."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from moretta.server.refusal import Refusal

_MAX_BYTES = 4096


def public_key_of_request(der: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a PKCS #10 request. Names and extensions in it are not even looked at.

    Raises:
        Refusal: it cannot be read, is not signed by its own key, or has a key of another kind.
    """
    key: object = None
    try:
        request = x509.load_der_x509_csr(der) if len(der) <= _MAX_BYTES else None
        if request is not None and request.is_signature_valid:
            key = request.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise Refusal("INVALID_ARGUMENT", "bad-request", "the certificate request is no PKCS #10 of a P-256 key")
    return key
