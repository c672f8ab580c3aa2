"""The registry: which sites there are, by which certificates and node keys they are known, and which tokens are out.

The one place that decides over names and keys. Every change is one transaction that is on disk when it returns, and
holds against other processes on the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Executable, Select, and_, delete, func, insert, or_, select, update

from moretta.server.enrollment.authority import Issued
from moretta.server.enrollment.database import (
    Base,
    Certificate,
    Database,
    KnownCertificate,
    KnownToken,
    LedgerHead,
    NodeKey,
    NodeKeyRecord,
    Site,
    SiteRecord,
    Token,
)
from moretta.server.port.refusals import Refusal
from moretta.shared import enrollment
from moretta.shared.core.errors import EnrollmentError
from moretta.shared.privacy.chain import START

_KEPT_SECONDS = 30 * 24 * 3600
"""How long certificates that have ended are kept; the audit log has them for ever."""
_MOST_AN_HOUR = 600
"""Certificates of one site: more than any life of a certificate could need."""


def _columns(record: type[Any], table: type[Base], **other: ColumnElement[Any]) -> Select[Any]:
    """The fields of a record, each a column of the table of the same name or another expression."""
    names = [field.name for field in fields(record)]
    return select(*(other[name].label(name) if name in other else getattr(table, name) for name in names))


_NODE_KEY = func.coalesce(NodeKey.public_key, "")
_REVOKED = or_(Certificate.revoked_at.is_not(None), Site.state != "enrolled")
_NEWEST = select(func.max(Certificate.not_after)).where(Certificate.site == Site.name).scalar_subquery()
_TOKENS = _columns(KnownToken, Token, token_id=Token.id.expression)
_CERTIFICATES = (
    _columns(KnownCertificate, Certificate, revoked=_REVOKED, node_key=_NODE_KEY, last_call=Site.last_call.expression)
    .join(Site, Site.name == Certificate.site)
    .outerjoin(NodeKey, and_(NodeKey.site == Certificate.site, NodeKey.current))
)
_SITES = (
    _columns(
        SiteRecord, Site, not_after=func.coalesce(_NEWEST, 0), node_key=_NODE_KEY, node_id=NodeKey.node_id.expression
    )
    .outerjoin(NodeKey, and_(NodeKey.site == Site.name, NodeKey.current))
    .order_by(Site.name)
)
_NODE_KEYS = _columns(NodeKeyRecord, NodeKey).order_by(NodeKey.added_at, NodeKey.public_key)
_Record = TypeVar("_Record")


class SiteRegistry(Database):
    """See the module."""

    def issue_token(
        self, *, site: str, address: str, ca_fingerprint: str, hours: float, reenroll: bool = False
    ) -> enrollment.JoinString:
        """A join string for one site, kept without its secret. Earlier ones for the same site stop working.

        `reenroll` lets an enrolled or revoked name come back with new keys; without it a taken name is an
        EnrollmentError.
        """
        now = self._now()
        join = enrollment.JoinString(
            address=address,
            site=enrollment.check_site_name(site),
            token_id=enrollment.new_token_id(),
            secret=enrollment.new_secret(),
            ca_fingerprint=ca_fingerprint,
            expires=int(self._clock() + hours * 3600),
        )
        der = enrollment.derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires).certificate_der
        with self.write() as connection:
            state = _state(connection, site)
            if state in ("enrolled", "revoked") and not reenroll:
                raise EnrollmentError(
                    f"the name {site} is {'taken' if state == 'enrolled' else 'revoked'}",
                    expected="a name that is free",
                    fix="choose another, or let the same site come back with --reenroll",
                )
            _withdraw_tokens(connection, site, now)
            connection.execute(
                insert(Token).values(
                    id=join.token_id,
                    site=site,
                    bootstrap_der=der,
                    fingerprint=enrollment.fingerprint(der),
                    reenroll=reenroll,
                    created_at=now,
                    expires=join.expires,
                )
            )
        return join

    def outstanding_tokens(self) -> list[KnownToken]:
        """Tokens that would be taken now, oldest first."""
        return self._found(KnownToken, _TOKENS.where(self._good_token()).order_by(Token.created_at, Token.id))

    def token(self, fingerprint: str) -> KnownToken | None:
        """The token whose bootstrap certificate this is, if it would be taken now."""
        good = _TOKENS.where(Token.fingerprint == fingerprint, self._good_token())
        return next(iter(self._found(KnownToken, good)), None)

    def enroll(
        self, token: KnownToken, *, node_key: str, moretta_version: str, issue: Callable[[], Issued]
    ) -> tuple[Issued, bool]:
        """Use a token up and enroll its site, or change nothing; returns the certificate, and if the name was known.

        The token is looked at again here, and `issue` signs once all else has held. Raises Refusal where the token was
        used meanwhile, the name is taken, or the node key cannot be had.
        """
        now = self._now()
        with self.write() as connection:
            used = update(Token).where(Token.id == token.token_id, self._good_token()).values(used_at=now)
            if connection.execute(used).rowcount != 1:
                raise Refusal("PERMISSION_DENIED", "token-used", "this join string was used, withdrawn, or has expired")
            state = _state(connection, token.site)
            if state in ("enrolled", "revoked") and not token.reenroll:
                raise Refusal("ALREADY_EXISTS", "name-taken", f"the name {token.site} is taken by another key")
            values = {"state": "enrolled", "enrolled_at": now, "changed_at": now, "moretta_version": moretta_version}
            if state is None:
                connection.execute(insert(Site).values(name=token.site, **values))
            else:
                connection.execute(update(Site).where(Site.name == token.site).values(**values))
            _revoke_certificates(connection, token.site, now)
            _change_node_key(connection, token.site, node_key, now)
            issued = issue()
            _add_certificate(connection, token.site, issued, now)
        return issued, state is not None

    def add_certificate(self, site: str, issued: Issued, *, moretta_version: str) -> None:
        """Keep a renewed certificate; those before it stay good to their end.

        Raises Refusal where the site was revoked meanwhile, or renews without end.
        """
        now = self._now()
        renewed = update(Site).where(Site.name == site, Site.state == "enrolled")
        ended = (Certificate.site == site, Certificate.not_after < now - _KEPT_SECONDS)
        recent = select(func.count()).where(Certificate.site == site, Certificate.issued_at > now - 3600)
        with self.write() as connection:
            if connection.execute(renewed.values(changed_at=now, moretta_version=moretta_version)).rowcount != 1:
                raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")
            connection.execute(delete(Certificate).where(*ended))
            if (connection.scalar(recent) or 0) >= _MOST_AN_HOUR:
                raise Refusal("RESOURCE_EXHAUSTED", "too-many-certificates", "more certificates than a site can need")
            _add_certificate(connection, site, issued, now)

    def end_site(self, site: str, state: str) -> bool:
        """Revoke a site (`revoked`) or let it go (`left`): its certificates, node key and tokens stop working.

        Returns whether that is new; raises EnrollmentError for an unknown site, and Refusal where a revoked one leaves,
        which would make its name free again.
        """
        now = self._now()
        with self.write() as connection:
            before = _state(connection, site)
            if before is None:
                raise EnrollmentError(f"no site is called {site}", fix="moretta server sites lists them")
            if state == "left" and before == "revoked":
                raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")
            connection.execute(update(Site).where(Site.name == site).values(state=state, changed_at=now))
            _revoke_certificates(connection, site, now)
            _change_node_key(connection, site, None, now)
            _withdraw_tokens(connection, site, now)
        return before != state

    def certificate(self, fingerprint: str) -> KnownCertificate | None:
        """The certificate with this fingerprint, whatever its state; None if this server never issued it."""
        found = self._found(KnownCertificate, _CERTIFICATES.where(Certificate.fingerprint == fingerprint))
        return next(iter(found), None)

    def note_revocation(self, fingerprint: str) -> bool:
        """Note that a site was informed of its revocation; False if it was before."""
        unseen = and_(Certificate.fingerprint == fingerprint, Certificate.revocation_told.is_(False))
        with self.write() as connection:
            return connection.execute(update(Certificate).where(unseen).values(revocation_told=True)).rowcount == 1

    def count_calls(self, site: str, *, calls: int, bytes_from: int, bytes_to: int, last_call: int) -> None:
        """Add to what a site has called so far."""
        values = {
            "calls": Site.calls + calls,
            "bytes_from": Site.bytes_from + bytes_from,
            "bytes_to": Site.bytes_to + bytes_to,
            "last_call": func.max(Site.last_call, last_call),
        }
        with self.write() as connection:
            connection.execute(update(Site).where(Site.name == site).values(**values))

    def ledger_head(self, site: str) -> tuple[str, int]:
        """The head of a site's privacy ledger that was countersigned last, and its length."""
        with self.read() as connection:
            row = connection.execute(select(LedgerHead.head, LedgerHead.length).where(LedgerHead.site == site)).first()
        return (row.head, row.length) if row else (START, 0)

    def advance_ledger(self, site: str, *, head: str, length: int, known_head: str) -> None:
        """Put a head in the place of `known_head`, which it continues; raises Refusal where another is there by now."""
        values = {"head": head, "length": length, "signed_at": self._now()}
        with self.write() as connection:
            before = connection.scalar(select(LedgerHead.head).where(LedgerHead.site == site))
            if (before or START) != known_head:
                raise Refusal("UNAVAILABLE", "ledger-changed", "another call was countersigned meanwhile: try again")
            if before is None:
                connection.execute(insert(LedgerHead).values(site=site, **values))
            else:
                connection.execute(update(LedgerHead).where(LedgerHead.site == site).values(**values))

    def reset_ledger(self, site: str, *, head: str, length: int) -> tuple[str, int]:
        """Let a site's privacy ledger go on from an earlier head; returns the head and length before.

        `length` counts the entries up to that head; 0 lets any ledger be its next. Raises EnrollmentError where no
        ledger of such a site was countersigned.
        """
        of_site = LedgerHead.site == site
        with self.write() as connection:
            row = connection.execute(select(LedgerHead.head, LedgerHead.length).where(of_site)).first()
            if row is None:
                raise EnrollmentError(
                    f"no privacy ledger of a site {site} was countersigned", fix="moretta server sites lists the sites"
                )
            if length:
                connection.execute(update(LedgerHead).where(of_site).values(head=head, length=length))
            else:
                connection.execute(delete(LedgerHead).where(of_site))
        return row.head, row.length

    def sites(self) -> list[SiteRecord]:
        """Every site there was, by name."""
        return self._found(SiteRecord, _SITES)

    def node_names(self) -> dict[int, str]:
        """Flower's node id to the site's name, for every node key that ever was registered."""
        return {key.node_id: key.site for key in self.node_keys() if key.node_id is not None}

    def node_keys(self) -> list[NodeKeyRecord]:
        """Every node key that there ever was, oldest first."""
        return self._found(NodeKeyRecord, _NODE_KEYS)

    def set_node_id(self, public_key: str, node_id: int) -> None:
        """Keep the node id that Flower gave a key."""
        with self.write() as connection:
            connection.execute(update(NodeKey).where(NodeKey.public_key == public_key).values(node_id=str(node_id)))

    def _now(self) -> int:
        return int(self._clock())

    def _good_token(self) -> ColumnElement[bool]:
        return and_(Token.used_at.is_(None), Token.withdrawn_at.is_(None), Token.expires > self._now())

    def _found(self, record: Callable[..., _Record], query: Executable) -> list[_Record]:
        """The rows of a query as records; a node id is a number in them."""
        with self.read() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        for row in rows:
            if row.get("node_id") is not None:
                row["node_id"] = int(row["node_id"])
        return [record(**row) for row in rows]


# Steps of the transactions above


def _state(connection: Connection, site: str) -> str | None:
    return connection.scalar(select(Site.state).where(Site.name == site))


def _withdraw_tokens(connection: Connection, site: str, now: int) -> None:
    out = (Token.site == site, Token.used_at.is_(None), Token.withdrawn_at.is_(None))
    connection.execute(update(Token).where(*out).values(withdrawn_at=now))


def _revoke_certificates(connection: Connection, site: str, now: int) -> None:
    good = (Certificate.site == site, Certificate.revoked_at.is_(None))
    connection.execute(update(Certificate).where(*good).values(revoked_at=now))


def _add_certificate(connection: Connection, site: str, issued: Issued, now: int) -> None:
    facts = {"fingerprint": issued.fingerprint, "serial": issued.serial, "not_after": issued.not_after}
    connection.execute(insert(Certificate).values(site=site, issued_at=now, **facts))


def _change_node_key(connection: Connection, site: str, public_key: str | None, now: int) -> None:
    """Give a site another node key, or none. Another site's is refused, and one that was given up once: Flower takes
    no key twice."""
    owner = connection.execute(select(NodeKey.site, NodeKey.current).where(NodeKey.public_key == public_key)).first()
    if owner is not None and owner.site != site:
        raise Refusal("PERMISSION_DENIED", "foreign-node-key", "this node key is another site's")
    if owner is not None and not owner.current:
        raise Refusal("FAILED_PRECONDITION", "retired-node-key", "this node key was given up once: make a new one")
    others = (NodeKey.site == site, NodeKey.current, NodeKey.public_key != (public_key or ""))
    connection.execute(update(NodeKey).where(*others).values(current=False))
    if public_key is not None and owner is None:
        connection.execute(insert(NodeKey).values(public_key=public_key, site=site, current=True, added_at=now))
