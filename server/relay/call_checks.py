"""Checks of relayed calls: each of Flower's signatures once, and replies in the site's own name and within their size.

Flower's SuperNode signs a timestamp and nothing else, and its SuperLink takes one signature any number of times, for
calls of any kind. The SuperNode makes a new timestamp for every attempt of every call, retries included, so a signature
that comes a second time is never an honest one. The SuperLink checks that the node that calls is the one that signs. It
does not check that a reply in that call names the same node as its source, and it stores whatever is pushed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict, deque
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from google.protobuf.message import DecodeError

from moretta.server.enrollment.authority import Clock
from moretta.server.port.refusals import Refusal
from moretta.shared.core import flower_private
from moretta.shared.messages import RESPONSES

_OLDEST_SECONDS = 300.0
_AHEAD_SECONDS = 5.0
"""Flower's own window (`TIMESTAMP_TOLERANCE`, `SYSTEM_TIME_TOLERANCE`)."""
_P384_ORDER = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16
)
MAX_REPLY_BYTES = 4 << 20
"""Of a `push-messages` call: it names the parts of a reply, and the parts come by themselves."""
MAX_OBJECTS = 20_000
"""Parts of one reply."""
_OTHER_BYTES = 1 << 20
"""Of a reply of a kind that Moretta does not have, such as an error of Flower's own."""
_LARGEST_BYTES = max(kind.max_bytes() for kind in RESPONSES.values())
_SESSIONS = 4096
"""Replies on their way that are kept count of."""


class SeenSignatures:
    """Signatures that were let through within the window; older ones are refused by their timestamp.

    Args:
        clock: seconds since 1970.
        last_let_through: when a server on this folder last let a call through. What was signed up to then must be
            signed anew, since a restart forgets the signatures that were seen.
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


class PushedReplies:
    """Keeps account of the replies that sites are pushing."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, int] = OrderedDict()
        """Bytes that may still be pushed, by Flower's session of one reply. The oldest are forgotten."""

    def check(self, method: str, body: bytes) -> int:
        """Look at a call before it goes on.

        Returns:
            How many bytes the parts of the reply may have, for `pushed`; 0 for other calls.

        Raises:
            Refusal: a reply in another node's name, of too many parts, or of more bytes than its kind can have.
        """
        if method == "push-messages":
            return self._announced(body)
        if method == "push-object":
            self._part(body)
        return 0

    def pushed(self, response: bytes, allowed: int) -> None:
        """Take note of a reply that Flower's SuperLink has taken, and whose parts come now."""
        try:
            session = flower_private.PushMessagesResponse.FromString(response).session_id
        except DecodeError:
            return
        if session:
            self._keep(session, allowed)

    def _announced(self, body: bytes) -> int:
        if len(body) > MAX_REPLY_BYTES:
            raise Refusal("RESOURCE_EXHAUSTED", "reply-too-large", f"a reply announced in {len(body)} bytes")
        try:
            request = flower_private.PushMessagesRequest.FromString(body)
        except DecodeError as error:
            raise Refusal("INVALID_ARGUMENT", "bad-reply", "the reply is not of Flower's form") from error
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise Refusal("INVALID_ARGUMENT", "bad-reply", "one reply at a time")
        meta = request.messages_list[0].metadata
        if meta.src_node_id != request.node.node_id:
            raise Refusal("PERMISSION_DENIED", "foreign-reply", "a reply must name the node that sends it")
        if _size(request.message_object_trees[0]) > MAX_OBJECTS:
            raise Refusal("RESOURCE_EXHAUSTED", "reply-too-large", f"a reply of more than {MAX_OBJECTS} parts")
        kind = RESPONSES.get(meta.message_type)
        return _OTHER_BYTES if kind is None else kind.max_bytes()

    def _part(self, body: bytes) -> None:
        try:
            part = flower_private.PushObjectRequest.FromString(body)
        except DecodeError as error:
            raise Refusal("INVALID_ARGUMENT", "bad-reply", "a part that is not of Flower's form") from error
        session, size = part.session_id, len(part.object_content)
        # Of before a restart, forgotten, or made up: Flower's SuperLink knows which, and none is without a limit
        left = self._left.get(session, _LARGEST_BYTES)
        if size > left:
            self._keep(session, 0)
            raise Refusal("RESOURCE_EXHAUSTED", "reply-too-large", "more bytes than a reply of this kind can have")
        self._keep(session, left - size)

    def _keep(self, session: str, left: int) -> None:
        self._left[session] = left
        while len(self._left) > _SESSIONS:
            self._left.popitem(last=False)


def _size(tree: Any) -> int:
    left, count = [tree], 0
    while left and count <= MAX_OBJECTS:
        node = left.pop()
        count += 1
        left.extend(node.children)
    return count
