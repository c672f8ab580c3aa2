"""The two public keys that a site sends when it enrolls: of its certificate request, and of its Flower node."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moretta.server.port.refusals import Refusal

_MAX_REQUEST_BYTES = 4096
_MAX_CHARACTERS = 512


def public_key_of_request(der: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a PKCS #10 request that its own key has signed. Names and extensions in it are not looked at.

    Raises:
        Refusal: it cannot be read, is not signed by its own key, or has a key of another kind.
    """
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


def canonical_node_key(text: str) -> str:
    """A node key in OpenSSH form without a comment, so that one key has one spelling. It signs Flower's Fleet calls.

    Raises:
        Refusal: it is no P-384 public key.
    """
    try:
        key = serialization.load_ssh_public_key(text[: _MAX_CHARACTERS + 1].encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if len(text) > _MAX_CHARACTERS or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise Refusal("INVALID_ARGUMENT", "bad-node-key", "the node key is no ecdsa-sha2-nistp384 key in OpenSSH form")
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def flower_form(node_key: str) -> bytes:
    """The key in PEM, as Flower registers and compares it."""
    key = serialization.load_ssh_public_key(node_key.encode())
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def header_form(node_key: str) -> str:
    """The PEM form in base64, as in Flower's header `flwr-public-key`."""
    return base64.b64encode(flower_form(node_key)).decode()
