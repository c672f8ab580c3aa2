"""Fingerprints of certificates: SHA-256 over the DER form, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re

_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate in DER form, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form that `fingerprint` gives."""
    return _FINGERPRINT.fullmatch(text) is not None


def has_fingerprint(der: bytes, expected: str) -> bool:
    """Whether a certificate has this fingerprint. Takes the same time however much of it agrees."""
    return hmac.compare_digest(fingerprint(der).encode(), expected.encode())
