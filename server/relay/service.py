"""The Relay service: one Fleet call of the caller's own site goes on to the SuperLink.

Only replies are looked into: which node they name, and how large their kind may be.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import Clock
from moretta.server.enrollment.keys import header_form
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.enrollment.tables import KnownCertificate
from moretta.server.port.guard import MakeRoom, Method
from moretta.server.port.refusals import Refusal
from moretta.server.relay.call_checks import PushedReplies, SeenSignatures
from moretta.server.relay.superlink_client import SuperLinkClient
from moretta.shared.messages.relay import FLEET_METHODS
from moretta.shared.pb.relay_pb2 import FleetCall, FleetReply

_OK = 200


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
    replies: PushedReplies = field(default_factory=PushedReplies)
    _traffic: dict[str, Traffic] = field(default_factory=dict)

    def methods(self) -> Sequence[Method]:
        """All of it, for the port."""
        return [Method("Call", FleetCall, self.call, longest=None)]

    async def call(self, site: KnownCertificate, request: FleetCall, make_room: MakeRoom) -> FleetReply:
        """Pass one call on.

        Raises:
            Refusal: for another path than the twelve, another node key than the enrolled one, a signature that was
                seen or is out of time, a reply in another node's name or larger than its kind may be, or a SuperLink
                that does not respond.
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
        response = await self.superlink.post(f"/v1/fleet/{method}", body, headers=headers, make_room=make_room)
        known = self.registry.certificate(site.fingerprint)
        if known is None or known.revoked:  # while Flower worked on it
            raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")
        if allowed and response.status == _OK:
            self.replies.pushed(response.body, allowed)
        self._count(site.site, len(body), len(response.body))
        return FleetReply(status=response.status, body=response.body)

    def take_counts(self) -> dict[str, Traffic]:
        """Counts since the last time."""
        counts = dict(self._traffic)
        self._traffic.clear()
        return counts

    def keep_counts(self, counts: dict[str, Traffic]) -> None:
        """Add what was taken to the registry; may run in another thread than the calls."""
        for site, traffic in counts.items():
            self.registry.count_calls(site, **asdict(traffic))

    def _count(self, site: str, bytes_from: int, bytes_to: int) -> None:
        traffic = self._traffic.setdefault(site, Traffic())
        traffic.calls += 1
        traffic.bytes_from += bytes_from
        traffic.bytes_to += bytes_to
        traffic.last_call = int(self.clock())
