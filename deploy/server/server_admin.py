"""The coordinator's work on a server that may run or not: tokens, sites, revocation, ledgers, and how the server is."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import Encoding

from moretta.server.audit_log import AuditLog, entries
from moretta.server.enrollment.authority import load_certificate
from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.home import RunningServer, ServerHome, running_pid, running_server
from moretta.shared.core.errors import EnrollmentError, HomeError
from moretta.shared.enrollment import JoinString, fingerprint
from moretta.shared.privacy.chain import START

_STALE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class LedgerReset:
    """The last head of a site's privacy ledger that the server accepts from now on, and the one before (`was_`)."""

    site: str
    was_length: int
    was_head: str
    length: int
    head: str


@dataclass(frozen=True, slots=True)
class ServerAdmin:
    """An open registry and audit log. Where a site is unknown, or a name is taken, that is an EnrollmentError."""

    home: ServerHome
    registry: SiteRegistry
    audit: AuditLog

    def issue_token(self, *, site: str, hours: float | None, reenroll: bool) -> JoinString:
        """A new join string."""
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
        """Shut a site out; False if it was already."""
        changed = self.registry.end_site(site, "revoked")
        self.audit.add("revoked", site=site, changed=changed)
        return changed

    def reset_ledger(self, site: str, length: int) -> LedgerReset:
        """Let a site's privacy ledger go on from an earlier entry than the last that was countersigned.

        A thief with a site's keys could have had another ledger countersigned, which the site's own does not continue:
        nothing could leave the site any more. A length that was never countersigned is an EnrollmentError.
        """
        countersigned = entries(self.home.audit_log, "ledger-countersigned") if length else ()
        signed = {e["length"]: str(e["head"]) for e in countersigned if e["site"] == site}
        if length and length not in signed:
            last = ", ".join(map(str, sorted(signed)[-10:])) or "none"
            raise EnrollmentError(
                f"the audit log has no countersigned ledger of {site} with {length} entries",
                expected=f"a length that was countersigned; the last ones are {last}",
                fix="look for ledger-countersigned in audit.jsonl, and for the day on which the keys were lost",
            )
        head = signed[length] if length else START
        was_head, was_length = self.registry.reset_ledger(site, head=head, length=length)
        done = LedgerReset(site, was_length=was_length, was_head=was_head, length=length, head=head)
        self.audit.add("ledger-reset", **asdict(done))
        return done


@contextmanager
def administer(root: Path) -> Iterator[ServerAdmin]:
    """Open the registry and the audit log of a server's folder; one that cannot be used is a HomeError."""
    home = ServerHome.open(root)
    with closing(SiteRegistry.open(home.registry)) as registry:
        yield ServerAdmin(home, registry, AuditLog(home.audit_log, time.time))


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How a server is."""

    folder: Path
    server: RunningServer | None
    problems: dict[str, str | None]
    """Problem of each part (`server`, `registry`, `authority`, `superlink`); None where there is none."""

    @property
    def healthy(self) -> bool:
        """Whether everything that a study needs is there."""
        return not any(self.problems.values())

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, for scripts."""
        facts = {name: getattr(self.server, name, None) for name in ("pid", "listen", "address", "superlink")}
        uptime = round(time.time() - self.server.started, 1) if self.server else None
        state = {"folder": str(self.folder), "healthy": self.healthy, "problems": self.problems}
        return {**state, **facts, "uptime_seconds": uptime}

    def lines(self) -> list[str]:
        """The record as lines of text, for people."""
        server = self.server
        if server is None:
            return [f"{self.folder}: {self.problems['server']}"]
        return [
            f"server     process {server.pid}, listening on {server.listen}, sites dial {server.address}",
            f"superlink  {server.superlink}, loopback only",
            *(f"{part:<10} {problem or 'well'}" for part, problem in self.problems.items()),
        ]


def server_status(root: Path) -> ServerStatus:
    """How the server of a folder is: whether it runs by its lock, the rest by its state file and a call."""
    home = ServerHome.open(root)
    try:
        server = running_server(home)
    except HomeError as error:
        return ServerStatus(home.root, None, {"server": error.found if running_pid(home) else "it does not run"})
    silent = time.time() - server.updated
    problems = {"server": f"it has written nothing for {silent:.0f} s" if silent > _STALE_SECONDS else None}
    problems |= server.problems
    if problems.get("superlink") is None:
        try:
            tls = ssl.create_default_context(cafile=server.superlink_ca)
            reply = httpx.get(f"https://{server.superlink}/health", verify=tls, timeout=3.0, trust_env=False)
            responds = reply.is_success
        except (httpx.HTTPError, OSError):
            responds = False
        problems["superlink"] = None if responds else "Flower's SuperLink does not respond"
    return ServerStatus(home.root, server, problems)
