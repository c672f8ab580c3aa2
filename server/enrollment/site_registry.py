"""The registry: which sites there are, by which certificates and node keys they are known, and which tokens are out.

The one place that decides over names and keys. Every change is one transaction that is on disk when it returns, and
holds against other processes on the same file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, insert, or_, select, update

from moretta.server.enrollment.authority import Clock, Issued
from moretta.server.enrollment.database import Database, create_database, open_database
from moretta.server.enrollment.tables import (
    Certificate,
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
from moretta.shared.core.errors import EnrollmentError
from moretta.shared.enrollment.identifiers import check_site_name, fingerprint
from moretta.shared.enrollment.join_string import JoinString, derive_bootstrap, new_secret, new_token_id

_KEPT_SECONDS = 30 * 24 * 3600
"""How long certificates that have ended are kept; the audit log has them for ever."""
_MOST_AN_HOUR = 600
"""Certificates of one site: more than any life of a certificate could need."""


class SiteRegistry:
    """See the module. Thread-safe."""

    def __init__(self, database: Database, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock

    @classmethod
    def create(cls, path: Path, clock: Clock = time.time) -> SiteRegistry:
        """Make a new file.

        Raises:
            HomeError: it is there already.
        """
        return cls(create_database(path), clock)

    @classmethod
    def open(cls, path: Path, clock: Clock = time.time) -> SiteRegistry:
        """Open a file, whatever Moretta it is of.

        Raises:
            HomeError: it is missing or cannot be used.
        """
        return cls(open_database(path), clock)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def problem(self) -> str | None:
        """Why the registry cannot be used, or None."""
        return self._database.problem()

    # --- tokens ---

    def issue_token(
        self, *, site: str, address: str, ca_fingerprint: str, hours: float, reenroll: bool = False
    ) -> JoinString:
        """A join string for one site, kept without its secret. Earlier ones for the same site stop working.

        Args:
            site: the only name that it enrolls.
            address: where the site reaches the server, HOST:PORT.
            ca_fingerprint: what the site pins.
            hours: until it expires.
            reenroll: lets an enrolled or revoked name come back with new keys.

        Raises:
            EnrollmentError: the name cannot be, or is taken and `reenroll` is not set.
        """
        now = self._now()
        join = JoinString(
            address=address,
            site=check_site_name(site),
            token_id=new_token_id(),
            secret=new_secret(),
            ca_fingerprint=ca_fingerprint,
            expires=int(self._clock() + hours * 3600),
        )
        der = derive_bootstrap(join.secret, token_id=join.token_id, expires=join.expires).certificate_der
        with self._database.write() as connection:
            state = connection.scalar(select(Site.state).where(Site.name == site))
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
                    fingerprint=fingerprint(der),
                    reenroll=reenroll,
                    created_at=now,
                    expires=join.expires,
                )
            )
        return join

    def outstanding_tokens(self) -> list[KnownToken]:
        """Tokens that would be taken now, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(_tokens().where(self._good_token()).order_by(Token.created_at, Token.id))
            return [KnownToken(**row._mapping) for row in rows]

    def token(self, fingerprint: str) -> KnownToken | None:
        """The token whose bootstrap certificate this is, if it would be taken now."""
        with self._database.read() as connection:
            row = connection.execute(_tokens().where(Token.fingerprint == fingerprint, self._good_token())).first()
        return KnownToken(**row._mapping) if row else None

    # --- sites ---

    def enroll(
        self, token: KnownToken, *, node_key: str, moretta_version: str, issue: Callable[[], Issued]
    ) -> tuple[Issued, bool]:
        """Use a token up and enroll its site, or change nothing.

        Args:
            token: as `token` gave it; looked at again here.
            node_key: canonical, see `keys.py`.
            moretta_version: the site's.
            issue: signs the certificate; called once all else has held.

        Returns:
            The certificate, and whether the name was known before.

        Raises:
            Refusal: the token was used meanwhile, the name is taken, or the node key cannot be had.
        """
        now = self._now()
        with self._database.write() as connection:
            used = connection.execute(
                update(Token).where(Token.id == token.token_id, self._good_token()).values(used_at=now)
            )
            if used.rowcount != 1:
                raise Refusal("PERMISSION_DENIED", "token-used", "this join string was used, withdrawn, or has expired")
            state = connection.scalar(select(Site.state).where(Site.name == token.site))
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

        Raises:
            Refusal: the site was revoked meanwhile, or renews without end.
        """
        now = self._now()
        with self._database.write() as connection:
            renewed = connection.execute(
                update(Site)
                .where(Site.name == site, Site.state == "enrolled")
                .values(changed_at=now, moretta_version=moretta_version)
            )
            if renewed.rowcount != 1:
                raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")
            ended = (Certificate.site == site, Certificate.not_after < now - _KEPT_SECONDS)
            connection.execute(delete(Certificate).where(*ended))
            recent = (Certificate.site == site, Certificate.issued_at > now - 3600)
            if (connection.scalar(select(func.count()).where(*recent)) or 0) >= _MOST_AN_HOUR:
                raise Refusal("RESOURCE_EXHAUSTED", "too-many-certificates", "more certificates than a site can need")
            _add_certificate(connection, site, issued, now)

    def end_site(self, site: str, state: str) -> bool:
        """Revoke a site (`revoked`) or let it go (`left`): its certificates, node key and tokens stop working.

        False if it was in that state already.

        Raises:
            EnrollmentError: there is no such site.
            Refusal: a site that was revoked leaves: that would make its name free again.
        """
        now = self._now()
        with self._database.write() as connection:
            before = connection.scalar(select(Site.state).where(Site.name == site))
            if before is None:
                raise EnrollmentError(f"no site is called {site}", fix="moretta server sites lists them")
            if state == "left" and before == "revoked":
                raise Refusal("UNAUTHENTICATED", "revoked", "this site's enrollment was revoked")
            connection.execute(update(Site).where(Site.name == site).values(state=state, changed_at=now))
            _revoke_certificates(connection, site, now)
            _change_node_key(connection, site, None, now)
            _withdraw_tokens(connection, site, now)
        return bool(before != state)

    def certificate(self, fingerprint: str) -> KnownCertificate | None:
        """The certificate with this fingerprint, whatever its state; None if this server never issued it."""
        query = (
            select(
                Certificate.site,
                Certificate.serial,
                Certificate.fingerprint,
                Certificate.not_after,
                or_(Certificate.revoked_at.is_not(None), Site.state != "enrolled").label("revoked"),
                Certificate.revocation_told,
                func.coalesce(NodeKey.public_key, "").label("node_key"),
                Site.last_call,
            )
            .join(Site, Site.name == Certificate.site)
            .outerjoin(NodeKey, and_(NodeKey.site == Certificate.site, NodeKey.current))
            .where(Certificate.fingerprint == fingerprint)
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return KnownCertificate(**row._mapping) if row else None

    def note_revocation(self, fingerprint: str) -> bool:
        """Note that a site was informed of its revocation; False if it was before."""
        unseen = and_(Certificate.fingerprint == fingerprint, Certificate.revocation_told.is_(False))
        with self._database.write() as connection:
            return connection.execute(update(Certificate).where(unseen).values(revocation_told=True)).rowcount == 1

    def count_calls(self, site: str, *, calls: int, bytes_from: int, bytes_to: int, last_call: int) -> None:
        """Add to what a site has called so far."""
        with self._database.write() as connection:
            connection.execute(
                update(Site)
                .where(Site.name == site)
                .values(
                    calls=Site.calls + calls,
                    bytes_from=Site.bytes_from + bytes_from,
                    bytes_to=Site.bytes_to + bytes_to,
                    last_call=func.max(Site.last_call, last_call),
                )
            )

    def reset_ledger(self, site: str, *, head: str, length: int) -> tuple[str, int]:
        """Let a site's privacy ledger go on from an earlier head; returns the head and length before.

        Args:
            site: its name.
            head: that its next ledger must continue.
            length: entries up to that head; 0 lets any ledger be its next.

        Raises:
            EnrollmentError: no ledger of such a site was countersigned.
        """
        of_site = LedgerHead.site == site
        with self._database.write() as connection:
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
        newest = select(func.max(Certificate.not_after)).where(Certificate.site == Site.name).scalar_subquery()
        query = (
            select(
                Site.name,
                Site.state,
                Site.enrolled_at,
                func.coalesce(newest, 0).label("not_after"),
                func.coalesce(NodeKey.public_key, "").label("node_key"),
                NodeKey.node_id,
                Site.moretta_version,
                Site.last_call,
                Site.calls,
                Site.bytes_from,
                Site.bytes_to,
            )
            .outerjoin(NodeKey, and_(NodeKey.site == Site.name, NodeKey.current))
            .order_by(Site.name)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [SiteRecord(**{**row._mapping, "node_id": _number(row.node_id)}) for row in rows]

    # --- node keys, as Flower's SuperLink must know them ---

    def node_names(self) -> dict[int, str]:
        """Flower's node id to the site's name, for every node key that ever was registered."""
        return {key.node_id: key.site for key in self.node_keys() if key.node_id is not None}

    def node_keys(self) -> list[NodeKeyRecord]:
        """Every node key that there ever was, oldest first."""
        query = select(NodeKey.site, NodeKey.public_key, NodeKey.node_id, NodeKey.current)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(NodeKey.added_at, NodeKey.public_key)).all()
        return [NodeKeyRecord(row.site, row.public_key, _number(row.node_id), row.current) for row in rows]

    def set_node_id(self, public_key: str, node_id: int) -> None:
        """Keep the node id that Flower gave a key."""
        with self._database.write() as connection:
            connection.execute(update(NodeKey).where(NodeKey.public_key == public_key).values(node_id=str(node_id)))

    def _now(self) -> int:
        return int(self._clock())

    def _good_token(self) -> ColumnElement[bool]:
        return and_(Token.used_at.is_(None), Token.withdrawn_at.is_(None), Token.expires > self._now())


# Steps of the transactions above


def _withdraw_tokens(connection: Connection, site: str, now: int) -> None:
    out = (Token.site == site, Token.used_at.is_(None), Token.withdrawn_at.is_(None))
    connection.execute(update(Token).where(*out).values(withdrawn_at=now))


def _revoke_certificates(connection: Connection, site: str, now: int) -> None:
    good = (Certificate.site == site, Certificate.revoked_at.is_(None))
    connection.execute(update(Certificate).where(*good).values(revoked_at=now))


def _add_certificate(connection: Connection, site: str, issued: Issued, now: int) -> None:
    connection.execute(
        insert(Certificate).values(
            fingerprint=issued.fingerprint, serial=issued.serial, site=site, not_after=issued.not_after, issued_at=now
        )
    )


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


def _tokens() -> Select[str, str, str, bytes, bool, int]:
    return select(
        Token.id.label("token_id"), Token.site, Token.fingerprint, Token.bootstrap_der, Token.reenroll, Token.expires
    )


def _number(node_id: str | None) -> int | None:
    return None if node_id is None else int(node_id)
