"""The coordinator's desk: tokens, sites and revocation, beside a server that may be running or not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from moretta.server.audit_log import AuditLog, entries
from moretta.server.enrollment.authority import load_certificate
from moretta.server.enrollment.site_registry import Registry
from moretta.server.enrollment.tables import SiteRecord
from moretta.server.home import ServerHome
from moretta.shared.core.errors import EnrollmentError
from moretta.shared.enrollment.identifiers import fingerprint
from moretta.shared.enrollment.join_string import JoinString
from moretta.shared.privacy.chain import START


@dataclass(frozen=True, slots=True)
class ServerAdmin:
    """An open registry and log."""

    home: ServerHome
    registry: Registry
    audit: AuditLog

    def issue_token(self, *, site: str, hours: float | None, reenroll: bool) -> JoinString:
        """A new join string.

        Raises:
            EnrollmentError: the name cannot be, or is taken.
        """
        settings = self.home.settings
        join = self.registry.issue_token(
            site=site,
            address=settings.address,
            ca_fingerprint=fingerprint(load_certificate(self.home.authority).public_bytes(Encoding.DER)),
            hours=hours or settings.lifetimes.token_hours,
            reenroll=reenroll,
        )
        self.audit.add("token-issued", site=site, token=join.token_id, expires=join.expires, reenroll=reenroll)
        return join

    def revoke(self, site: str) -> bool:
        """Shut a site out; False if it was.

        Raises:
            EnrollmentError: there is no such site.
        """
        changed = self.registry.end_site(site, "revoked")
        self.audit.add("revoked", site=site, changed=changed)
        return changed

    def reset_ledger(self, site: str, length: int) -> LedgerReset:
        """Let a site's privacy ledger go on from an earlier entry than the last that was countersigned.

        Whoever had a site's keys could have had a ledger of their own countersigned, which the site's own does not
        continue: nothing could leave the site any more.

        Raises:
            EnrollmentError: no ledger of such a site was countersigned, or none of this length.
        """
        head = self._signed_head(site, length)
        was_head, was_length = self.registry.reset_ledger(site, head=head, length=length)
        done = LedgerReset(site, was_length=was_length, was_head=was_head, length=length, head=head)
        self.audit.add("ledger-reset", **asdict(done))
        return done

    def _signed_head(self, site: str, length: int) -> str:
        if not length:
            return START
        signed = {
            e["length"]: e["head"] for e in entries(self.home.audit_log, "ledger-countersigned") if e["site"] == site
        }
        if length not in signed:
            last = ", ".join(map(str, sorted(signed)[-10:])) or "none"
            raise EnrollmentError(
                f"the audit log has no countersigned ledger of {site} with {length} entries",
                expected=f"a length that was countersigned; the last ones are {last}",
                fix="look for ledger-countersigned in audit.jsonl, and for the day on which the keys were lost",
            )
        return str(signed[length])


@dataclass(frozen=True, slots=True)
class LedgerReset:
    """What the server now takes for the last head of a site's privacy ledger, and what it took before."""

    site: str
    was_length: int
    was_head: str
    length: int
    head: str


@contextmanager
def opened(root: Path) -> Iterator[ServerAdmin]:
    """The desk of a server's folder.

    Raises:
        HomeError: the folder cannot be used.
    """
    home = ServerHome.open(root)
    registry = Registry.open(home.registry)
    try:
        yield ServerAdmin(home, registry, AuditLog(home.audit_log, time.time))
    finally:
        registry.close()


def site_facts(site: SiteRecord) -> dict[str, Any]:
    """A site as JSON; the node id as text, since it is more than JSON's numbers hold everywhere."""
    return {**asdict(site), "node_id": None if site.node_id is None else str(site.node_id)}


def site_lines(sites: list[SiteRecord]) -> list[str]:
    """A table."""
    if not sites:
        return ["no site is enrolled"]
    head = ("site", "state", "certificate until", "last call", "calls", "MB from", "MB to")
    rows = [head, *(_row(site) for site in sites)]
    return ["{:<24} {:<9} {:<20} {:<20} {:>9} {:>9} {:>9}".format(*row) for row in rows]


def _row(site: SiteRecord) -> tuple[str, ...]:
    traffic = (f"{site.bytes_from / 1e6:.1f}", f"{site.bytes_to / 1e6:.1f}")
    return (site.name, site.state, _time(site.not_after), _time(site.last_call), str(site.calls), *traffic)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else "-"
