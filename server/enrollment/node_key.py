"""A site's node key: the EC P-384 key that signs Flower's Fleet calls, in the three forms it is met in."""

from __future__ import annotations

import base64

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moretta.server.refusal import Refusal

_MAX_CHARACTERS = 512


def canonical_node_key(text: str) -> str:
    """OpenSSH form without a comment, so that one key has one spelling.

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
    """What Flower registers and compares: the key in PEM."""
    key = serialization.load_ssh_public_key(node_key.encode())
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def header_form(node_key: str) -> str:
    """What Flower's header `flwr-public-key` carries: the PEM form in base64."""
    return base64.b64encode(flower_form(node_key)).decode()
