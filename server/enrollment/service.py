"""The Enrollment service: `enrollment.proto`, method by method. The guard has identified the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from moretta.server.audit_log import AuditLog
from moretta.server.enrollment.authority import CertificateAuthority, Clock, Issued
from moretta.server.enrollment.keys import canonical_node_key, public_key_of_request
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.enrollment.tables import KnownCertificate, KnownToken
from moretta.server.port.guard import MakeRoom, Method
from moretta.server.port.refusals import Refusal
from moretta.shared.pb.enrollment_pb2 import (
    EnrollReply,
    EnrollRequest,
    InfoReply,
    InfoRequest,
    LeaveReply,
    LeaveRequest,
    RenewReply,
    RenewRequest,
    StatusReply,
    StatusRequest,
)

_MAX_VERSION_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class EnrollmentService:
    """See the module.

    Args:
        authority: signs.
        registry: decides.
        audit: records every change before the caller gets a response.
        info_of: versions and digests for Info, all but the clock; called in a thread.
        site_hours: life of a site's certificate.
        clock: seconds since 1970.
    """

    authority: CertificateAuthority
    registry: SiteRegistry
    audit: AuditLog
    info_of: Callable[[], InfoReply]
    site_hours: float
    clock: Clock

    def methods(self) -> Sequence[Method]:
        """All of it, for the port."""
        return [
            Method("Info", InfoRequest, _threaded(self.info), tokens=True),
            Method("Enroll", EnrollRequest, _threaded(self.enroll), sites=False, tokens=True),
            Method("Renew", RenewRequest, _threaded(self.renew)),
            Method("Status", StatusRequest, _threaded(self.status), revoked=True),
            Method("Leave", LeaveRequest, _threaded(self.leave)),
        ]

    def info(self, caller: object, request: InfoRequest) -> InfoReply:
        """Versions of the server, and its clock."""
        del caller, request
        reply = self.info_of()
        reply.unix_time_ms = int(self.clock() * 1000)  # last, since it is what clocks are set by
        return reply

    def enroll(self, token: KnownToken, request: EnrollRequest) -> EnrollReply:
        """Turn a token into a certificate, or change nothing.

        Raises:
            Refusal: for another site's name, a bad request or key, a used token, or a taken name.
        """
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
        return EnrollReply(certificate_der=issued.der, ca_der=self.authority.der)

    def renew(self, site: KnownCertificate, request: RenewRequest) -> RenewReply:
        """A new certificate under a good old one.

        Raises:
            Refusal: for a bad request, or a site that was revoked meanwhile.
        """
        public_key = public_key_of_request(request.csr_der)
        issued = self.authority.issue_site(site.site, public_key, hours=self.site_hours)
        self.registry.add_certificate(site.site, issued, moretta_version=_version(request.moretta_version))
        self._note("renewed", site.site, issued, under=site.serial)
        return RenewReply(certificate_der=issued.der)

    def status(self, site: KnownCertificate, request: StatusRequest) -> StatusReply:
        """How the server sees the caller; a revoked one is informed once.

        Raises:
            Refusal: to a revoked site from the second time on.
        """
        del request
        if site.revoked and (site.revocation_told or not self.registry.note_revocation(site.fingerprint)):
            raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")
        state = StatusReply.STATE_REVOKED if site.revoked else StatusReply.STATE_ENROLLED
        return StatusReply(site=site.site, state=state, not_after=site.not_after, last_call=site.last_call)

    def leave(self, site: KnownCertificate, request: LeaveRequest) -> LeaveReply:
        """Give the name up."""
        del request
        self.registry.end_site(site.site, "left")
        self.audit.add("left", site=site.site, serial=site.serial)
        return LeaveReply()

    def _note(self, event: str, site: str, issued: Issued, **more: Any) -> None:
        self.audit.add(
            event, site=site, serial=issued.serial, fingerprint=issued.fingerprint, not_after=issued.not_after, **more
        )


def _threaded(run: Callable[[Any, Any], Message]) -> Callable[[Any, Any, MakeRoom], Awaitable[Message]]:
    """Runs in a thread: signing and syncing would hold every other call up."""

    async def call(caller: Any, request: Any, make_room: MakeRoom) -> Message:
        del make_room
        return await asyncio.to_thread(run, caller, request)

    return call


def _version(text: str) -> str:
    return "".join(c for c in text[:_MAX_VERSION_CHARACTERS] if c.isascii() and c.isprintable())
