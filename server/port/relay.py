"""The Relay service: one Fleet call of the caller's own site goes on to Flower's SuperLink on loopback, checked.

Flower's SuperNode signs a timestamp and nothing else, and its SuperLink takes one signature any number of times, for
calls of any kind. The SuperNode makes a new timestamp for every attempt of every call, retries included, so a signature
that comes a second time is never an honest one. The SuperLink checks that the node that calls is the one that signs. It
does not check that a reply in that call names the same node as its source, and it stores whatever is pushed. So replies
are looked into here: which node they name, and how large their kind may be.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from google.protobuf.message import DecodeError

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import Clock
from moretta.server.enrollment.database import KnownCertificate
from moretta.server.enrollment.nodes import header_form
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.port.guard import MakeRoom, Method
from moretta.server.port.refusals import Refusal
from moretta.server.port.superlink import SuperLinkClient, SuperLinkResponse
from moretta.shared.core import flower_private
from moretta.shared.messages.calls import RESPONSES
from moretta.shared.messages.relay import FLEET_METHODS, SMALL_BODY_BYTES
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply

_OK = 200
_OLDEST_SECONDS = 300.0
_AHEAD_SECONDS = 5.0
"""Flower's own window (`TIMESTAMP_TOLERANCE`, `SYSTEM_TIME_TOLERANCE`)."""
_P384_ORDER = ec.SECP384R1().group_order
MAX_REPLY_BYTES = 4 << 20
"""Most bytes of a `push-messages` call: it names the parts of a reply, and the parts come by themselves."""
MAX_OBJECTS = 20_000
"""Parts of one reply."""
_OTHER_BYTES = 1 << 20
"""Most bytes of a reply of a kind that Moretta does not have, such as an error of Flower's own."""
_LARGEST_BYTES = max(kind.max_bytes() for kind in RESPONSES.values())
_SESSIONS = 4096
"""Replies on their way that are kept count of."""
_PULL = "pull-messages"
HELD_SECONDS, _LOOK_SECONDS = 15.0, 3.0
"""How long a site's pull that found nothing is held, since a SuperNode pauses for 3 s after such a one and would give
it up after 27 s; how often it is checked meanwhile whether the site may still call."""


class SeenSignatures:
    """Signatures that were let through within the window; older ones are refused by their timestamp.

    Args:
        clock: seconds since 1970.
        last_let_through: when a server on this folder last let a call through. Calls signed up to then must be signed
            anew, since a restart forgets the signatures that were seen.
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

        Raises Refusal for one seen before, or none, and a timestamp outside the window or in another spelling.
        """
        now = self._clock()
        signed_at = _time(timestamp)
        if not now - _OLDEST_SECONDS < signed_at < now + _AHEAD_SECONDS:
            raise Refusal("PERMISSION_DENIED", "wrong-time", "signed too long ago or ahead of time: set the clock")
        if signed_at <= self._floor:
            raise Refusal("UNAVAILABLE", "signed-before-start", "signed before this server started: sign again")
        key = _digest(site, timestamp, signature)
        while self._order and self._order[0][0] < now:
            self._seen.discard(self._order.popleft()[1])
        if key in self._seen:
            raise Refusal("PERMISSION_DENIED", "replayed", "this signature was used before")
        self._seen.add(key)
        self._order.append((now + _OLDEST_SECONDS + _AHEAD_SECONDS, key))


def _time(timestamp: str) -> float:
    """Seconds since 1970 of a timestamp, in Flower's own spelling only: Flower's check would accept others, too."""
    try:
        parsed = datetime.fromisoformat(timestamp)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None or parsed.isoformat() != timestamp:
        raise Refusal("INVALID_ARGUMENT", "bad-timestamp", "the timestamp is not in ISO 8601 with a zone")
    return parsed.timestamp()


def _digest(site: str, timestamp: str, signature: str) -> bytes:
    """Digest that is equal for (r, s) and (r, n - s): both are good ECDSA signatures of the same message."""
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
        """Look at a call before it goes on; returns how many bytes the parts of a new reply may have, else 0.

        Raises Refusal for a reply in another node's name, of too many parts, or of more bytes than its kind can have.
        """
        try:
            if method == "push-messages":
                return _announced(body)
            if method == "push-object":
                self._part(flower_private.PushObjectRequest.FromString(body))
        except DecodeError as error:
            raise Refusal("INVALID_ARGUMENT", "bad-reply", "the reply is not of Flower's form") from error
        return 0

    def pushed(self, response: bytes, allowed: int) -> None:
        """Take note of a reply that Flower's SuperLink has taken, and whose parts come now."""
        try:
            session = flower_private.PushMessagesResponse.FromString(response).session_id
        except DecodeError:
            return
        if session:
            self._keep(session, allowed)

    def _part(self, part: Any) -> None:
        session, size = part.session_id, len(part.object_content)
        # Of before a restart, forgotten, or made up: Flower's SuperLink knows which, and none is without a limit
        left = self._left.get(session, _LARGEST_BYTES)
        self._keep(session, max(0, left - size))
        if size > left:
            raise Refusal("RESOURCE_EXHAUSTED", "reply-too-large", "more bytes than a reply of this kind can have")

    def _keep(self, session: str, left: int) -> None:
        self._left[session] = left
        while len(self._left) > _SESSIONS:
            self._left.popitem(last=False)


def _is_empty(response: SuperLinkResponse) -> bool:
    """Whether a pull brought no message."""
    try:
        found = flower_private.PullMessagesResponse.FromString(response.body)
    except DecodeError:
        return False
    return response.status == _OK and not found.messages_list


def _announced(body: bytes) -> int:
    if len(body) > MAX_REPLY_BYTES:
        raise Refusal("RESOURCE_EXHAUSTED", "reply-too-large", f"a reply announced in {len(body)} bytes")
    request = flower_private.PushMessagesRequest.FromString(body)
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise Refusal("INVALID_ARGUMENT", "bad-reply", "one reply at a time")
    meta = request.messages_list[0].metadata
    if meta.src_node_id != request.node.node_id:
        raise Refusal("PERMISSION_DENIED", "foreign-reply", "a reply must name the node that sends it")
    left, count = [request.message_object_trees[0]], 0
    while left and count <= MAX_OBJECTS:
        left.extend(left.pop().children)
        count += 1
    if count > MAX_OBJECTS:
        raise Refusal("RESOURCE_EXHAUSTED", "reply-too-large", f"a reply of more than {MAX_OBJECTS} parts")
    kind = RESPONSES.get(meta.message_type)
    return _OTHER_BYTES if kind is None else kind.max_bytes()


class SentMessages:
    """Notices that a study has sent messages: its server's part touches a file when Flower's SuperLink has them.
    `file`: which; it need not be there."""

    def __init__(self, file: Path) -> None:
        self._file, self._changed = file, asyncio.Event()
        self._seen = self._time()

    def _time(self) -> int:
        with suppress(OSError):
            return self._file.stat().st_mtime_ns
        return 0

    async def look(self) -> None:
        """Look at the file, and wake those that wait if it was touched."""
        if self._seen != (now := self._time()):
            self._seen = now
            self.wake()

    def wake(self) -> None:
        """Wake all that wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Set once messages are sent after this call."""
        return self._changed


@dataclass(slots=True)
class Traffic:
    """Calls of one site since they were last written to the registry."""

    calls: int = 0
    bytes_from: int = 0
    bytes_to: int = 0
    last_call: int = 0


@dataclass(frozen=True, slots=True)
class RelayService:
    """See the module."""

    superlink: SuperLinkClient
    registry: SiteRegistry
    audit: AuditLog
    seen: SeenSignatures
    clock: Clock
    sent: SentMessages
    may_hold: Callable[[], bool] = lambda: True
    """Whether there is room for calls that wait."""
    replies: PushedReplies = field(default_factory=PushedReplies)
    _held: dict[str, str] = field(default_factory=dict)
    """Signature of each site's last pull; one that is held still is of a connection that was lost."""
    _traffic: dict[str, Traffic] = field(default_factory=dict)

    def methods(self) -> Sequence[Method]:
        """All of it, for the port."""
        return [Method("Call", FleetCall, self.call, longest=None)]

    async def call(self, site: KnownCertificate, request: FleetCall, make_room: MakeRoom) -> FleetReply:
        """Pass one call on.

        Raises Refusal for a path that is none of the twelve, or a node key that is not the enrolled one. It also does
        so for a signature that was seen or is out of time, for a reply that `PushedReplies` refuses, and for a
        SuperLink that does not respond.
        """
        if request.method not in FLEET_METHODS:
            raise Refusal("PERMISSION_DENIED", "not-fleet", "only Flower's Fleet calls are relayed")
        if not request.public_key or not request.signature or not request.timestamp:
            raise Refusal("PERMISSION_DENIED", "no-headers", "Flower's three signature headers are needed")
        enrolled = header_form(site.node_key) if site.node_key else ""
        if not hmac.compare_digest(request.public_key.encode(), enrolled.encode()):
            raise Refusal("PERMISSION_DENIED", "foreign-node-key", "the node key is not the one enrolled by this site")
        self.seen.let_through_once(site.site, timestamp=request.timestamp, signature=request.signature)
        method, body = request.method, request.body
        allowed = self.replies.check(method, body)
        headers = {
            "flwr-public-key": request.public_key,
            "flwr-signature": request.signature,
            "flwr-timestamp": request.timestamp,
        }
        del request  # it holds another copy of the body
        self.audit.add("relay", sync=False, site=site.site, serial=site.serial, method=method, bytes=len(body))
        signature, end = headers["flwr-signature"], time.monotonic() + HELD_SECONDS
        # The room of a body is given back with the first response, so that a long one may not stay
        is_held = method == _PULL and len(body) <= SMALL_BODY_BYTES
        if method == _PULL:
            self._held[site.site] = signature
        while True:
            sent = self.sent.next()
            response = await self.superlink.post(f"/v1/fleet/{method}", body, headers=headers, make_room=make_room)
            if not is_held or not _is_empty(response) or not await self._held_until(sent, site, signature, end):
                break
        self._check_enrolled(site)  # which may have ended while Flower worked on it
        if allowed and response.status == _OK:
            self.replies.pushed(response.body, allowed)
        traffic = self._traffic.setdefault(site.site, Traffic())
        traffic.calls += 1
        traffic.bytes_from += len(body)
        traffic.bytes_to += len(response.body)
        traffic.last_call = int(self.clock())
        return FleetReply(status=response.status, body=response.body)

    async def _held_until(self, sent: asyncio.Event, site: KnownCertificate, signature: str, end: float) -> bool:
        """Wait for messages, whoever they are for; false where none came, or the site has called again meanwhile.

        A held call takes one of the port's places. A message reaches its site when it is sent; Flower has no such call.
        """
        while self.may_hold() and (left := end - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_SECONDS)):
                    await sent.wait()
            self._check_enrolled(site)
            if self._held[site.site] != signature:
                return False
            if sent.is_set():
                return True
        return False

    def _check_enrolled(self, site: KnownCertificate) -> None:
        known = self.registry.certificate(site.fingerprint)
        if known is None or known.revoked:
            raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")

    def take_counts(self) -> dict[str, Traffic]:
        """Counts since the last time."""
        counts = dict(self._traffic)
        self._traffic.clear()
        return counts

    def keep_counts(self, counts: dict[str, Traffic]) -> None:
        """Add what was taken to the registry; may run in another thread than the calls."""
        for site, traffic in counts.items():
            self.registry.count_calls(site, **asdict(traffic))
