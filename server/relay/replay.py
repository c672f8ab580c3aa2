"""Each of Flower's signatures is let through once.

Flower's SuperNode signs a timestamp and nothing else, and its SuperLink takes one signature any number of times, for
calls of any kind. The SuperNode makes a new timestamp for every attempt of every call, retries included, so a signature
that comes a second time is never an honest one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import deque
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from moretta.server.enrollment.authority import Clock
from moretta.server.refusal import Refusal

_OLDEST_SECONDS = 300.0
_AHEAD_SECONDS = 5.0
"""Flower's own window (`TIMESTAMP_TOLERANCE`, `SYSTEM_TIME_TOLERANCE`)."""
_P384_ORDER = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16
)


class SeenSignatures:
    """What was let through within the window; older ones are refused by their timestamp.

    Args:
        clock: seconds since 1970.
        last_let_through: when a server on this folder last let a call through. What was signed up to then is asked
            for anew, since what exactly was seen before a restart is forgotten.
    """

    def __init__(self, clock: Clock, *, last_let_through: float = 0.0) -> None:
        self._clock = clock
        self._floor = last_let_through + _AHEAD_SECONDS if last_let_through else 0.0
        self._seen: set[bytes] = set()
        self._order: deque[tuple[float, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._seen)

    def let_through_once(self, site: str, *, timestamp: str, signature: str) -> None:
        """Take note of a signature.

        Raises:
            Refusal: it was seen before, its timestamp is outside the window or in another spelling, or it is none.
        """
        now = self._clock()
        signed_at = _time(timestamp)
        if not now - _OLDEST_SECONDS < signed_at < now + _AHEAD_SECONDS:
            raise Refusal("PERMISSION_DENIED", "wrong-time", "signed too long ago or ahead of time: set the clock")
        if signed_at <= self._floor:
            raise Refusal("UNAVAILABLE", "signed-before-start", "signed before this server started: sign again")
        key = _digest(site, timestamp, signature)
        self._forget(now)
        if key in self._seen:
            raise Refusal("PERMISSION_DENIED", "replayed", "this signature was used before")
        self._seen.add(key)
        self._order.append((now + _OLDEST_SECONDS + _AHEAD_SECONDS, key))

    def _forget(self, now: float) -> None:
        while self._order and self._order[0][0] < now:
            self._seen.discard(self._order.popleft()[1])


def _time(timestamp: str) -> float:
    """Only the one spelling that Flower writes: Flower's check would take others of the same instant too."""
    try:
        parsed = datetime.fromisoformat(timestamp)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None or parsed.isoformat() != timestamp:
        raise Refusal("INVALID_ARGUMENT", "bad-timestamp", "the timestamp is not in ISO 8601 with a zone")
    return parsed.timestamp()


def _digest(site: str, timestamp: str, signature: str) -> bytes:
    """Of a signature's two numbers: (r, s) and (r, n - s) are both good ECDSA signatures of the same message."""
    try:
        r, s = decode_dss_signature(base64.b64decode(signature.encode("ascii"), validate=True))
    except (binascii.Error, ValueError) as error:
        raise Refusal("INVALID_ARGUMENT", "bad-signature", "the signature is no ECDSA signature in base64") from error
    text = f"{site}\n{timestamp}\n{r:x}\n{min(s, _P384_ORDER - s):x}"
    return hashlib.sha256(text.encode()).digest()[:16]
