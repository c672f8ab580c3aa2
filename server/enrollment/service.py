"""The Enrollment service: `enrollment.proto`, method by method. The guard has identified the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import CertificateAuthority, Clock, Issued, public_key_of_request
from moretta.server.enrollment.database import KnownCertificate, KnownToken
from moretta.server.enrollment.nodes import canonical_node_key
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.port.guard import MakeRoom, Method
from moretta.server.port.refusals import Refusal
from moretta.shared.pb import enrollment_pb2 as pb

_MAX_VERSION_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class EnrollmentService:
    """See the module."""

    authority: CertificateAuthority
    registry: SiteRegistry
    audit: AuditLog
    """Records every change before the caller gets a response."""
    info_of: Callable[[], pb.InfoReply]
    """Versions and digests for Info, all but the clock; called in a thread."""
    site_hours: float
    """Life of a site's certificate."""
    clock: Clock

    def methods(self) -> Sequence[Method]:
        """All of it, for the port."""
        return [
            Method("Info", pb.InfoRequest, _threaded(self._info), tokens=True),
            Method("Enroll", pb.EnrollRequest, _threaded(self._enroll), sites=False, tokens=True),
            Method("Renew", pb.RenewRequest, _threaded(self._renew)),
            Method("Status", pb.StatusRequest, _threaded(self._status), revoked=True),
            Method("Leave", pb.LeaveRequest, _threaded(self._leave)),
        ]

    def _info(self, caller: object, request: pb.InfoRequest) -> pb.InfoReply:
        del caller, request
        reply = self.info_of()
        reply.unix_time_ms = int(self.clock() * 1000)  # last, since it is what clocks are set by
        return reply

    def _enroll(self, token: KnownToken, request: pb.EnrollRequest) -> pb.EnrollReply:
        """Turn a token into a certificate, or change nothing."""
        if request.site != token.site:
            raise Refusal("PERMISSION_DENIED", "wrong-site", "this join string is for another site")
        public_key = public_key_of_request(request.csr_der)
        issued, again = self.registry.enroll(
            token,
            node_key=canonical_node_key(request.node_public_key),
            moretta_version=_version(request.moretta_version),
            issue=lambda: self.authority.issue_site(token.site, public_key, hours=self.site_hours),
        )
        self._note("enrolled", token.site, issued, token=token.token_id, again=again)
        return pb.EnrollReply(certificate_der=issued.der, ca_der=self.authority.der)

    def _renew(self, site: KnownCertificate, request: pb.RenewRequest) -> pb.RenewReply:
        """A new certificate under a good old one."""
        public_key = public_key_of_request(request.csr_der)
        issued = self.authority.issue_site(site.site, public_key, hours=self.site_hours)
        self.registry.add_certificate(site.site, issued, moretta_version=_version(request.moretta_version))
        self._note("renewed", site.site, issued, under=site.serial)
        return pb.RenewReply(certificate_der=issued.der)

    def _status(self, site: KnownCertificate, request: pb.StatusRequest) -> pb.StatusReply:
        """How the server sees the caller; a revoked one is informed once, and refused from the second time on."""
        del request
        if site.revoked and (site.revocation_told or not self.registry.note_revocation(site.fingerprint)):
            raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")
        state = pb.StatusReply.STATE_REVOKED if site.revoked else pb.StatusReply.STATE_ENROLLED
        return pb.StatusReply(site=site.site, state=state, not_after=site.not_after, last_call=site.last_call)

    def _leave(self, site: KnownCertificate, request: pb.LeaveRequest) -> pb.LeaveReply:
        """Give the name up."""
        del request
        self.registry.end_site(site.site, "left")
        self.audit.add("left", site=site.site, serial=site.serial)
        return pb.LeaveReply()

    def _note(self, event: str, site: str, issued: Issued, **more: Any) -> None:
        self.audit.add(
            event, site=site, serial=issued.serial, fingerprint=issued.fingerprint, not_after=issued.not_after, **more
        )


def _threaded(run: Callable[[Any, Any], Message]) -> Callable[[Any, Any, MakeRoom], Awaitable[Message]]:
    """Run a method in a thread: signing and syncing would delay every other call."""

    async def call(caller: Any, request: Any, make_room: MakeRoom) -> Message:
        del make_room
        return await asyncio.to_thread(run, caller, request)

    return call


def _version(text: str) -> str:
    return "".join(c for c in text[:_MAX_VERSION_CHARACTERS] if c.isascii() and c.isprintable())
