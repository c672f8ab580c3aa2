"""What a site may push in reply: in its own name, and as many bytes as the kind of reply can have.

Flower's SuperLink checks that the node that calls is the one that signs. It does not check that a reply in that call
names the same node as its source, and it stores whatever is pushed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from google.protobuf.message import DecodeError

from moretta.server.refusal import Refusal
from moretta.shared.messages import RESPONSES

MAX_REPLY_BYTES = 4 << 20
"""Of a `push-messages` call: it names the parts of a reply, and the parts come by themselves."""
MAX_OBJECTS = 20_000
"""Parts of one reply."""
_OTHER_BYTES = 1 << 20
"""Of a reply of a kind that Moretta does not have, such as an error of Flower's own."""
_LARGEST_BYTES = max(kind.max_bytes() for kind in RESPONSES.values())
_SESSIONS = 4096
_SESSION_FIELD, _CONTENT_FIELD, _MOST_FIELDS = 5, 4, 16
"""Of Flower's `PushObjectRequest`."""


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
        from moretta.shared.core.flower_private import PushMessagesResponse

        try:
            session = PushMessagesResponse.FromString(response).session_id
        except DecodeError:
            return
        if session:
            self._keep(session, allowed)

    def _announced(self, body: bytes) -> int:
        from moretta.shared.core.flower_private import PushMessagesRequest

        if len(body) > MAX_REPLY_BYTES:
            raise Refusal("RESOURCE_EXHAUSTED", "reply-too-large", f"a reply announced in {len(body)} bytes")
        try:
            request = PushMessagesRequest.FromString(body)
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
        session, size = _session_and_size(body)
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


def _session_and_size(body: bytes) -> tuple[str, int]:
    """Session and bytes of a `PushObjectRequest`, without a copy of its content.

    Raises:
        Refusal: it is none.
    """
    place, session, size, fields = 0, "", 0, 0
    try:
        while place < len(body):
            fields += 1
            if fields > _MOST_FIELDS:
                raise ValueError("more fields than there are")
            key, place = _varint(body, place)
            kind, number = key & 7, key >> 3
            if kind == 0:
                _, place = _varint(body, place)
            elif kind in (1, 5):
                place += 8 if kind == 1 else 4
            elif kind == 2:
                length, place = _varint(body, place)
                if number == _SESSION_FIELD:
                    session = body[place : place + min(length, 200)].decode()
                elif number == _CONTENT_FIELD:
                    size = length
                place += length
            else:
                raise ValueError("a field of no known type")
        if place != len(body):
            raise ValueError("a field that is cut off")
    except (ValueError, IndexError) as error:
        raise Refusal("INVALID_ARGUMENT", "bad-reply", "a part that is not of Flower's form") from error
    return session, size


def _varint(body: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = body[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number without an end")
