"""The hash chain of a privacy ledger, so made that a head can be recomputed without knowing a single entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

START = "0" * 64
"""The head of an empty ledger."""


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
    head = START
    yield head
    for digest in digests:
        head = linked(head, digest)
        yield head
