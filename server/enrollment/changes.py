"""Steps that the registry's transactions are made of. Each runs within one; none begins or ends it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select, update

from moretta.server.enrollment.authority import Issued
from moretta.server.enrollment.models import Certificate, NodeKey, Token
from moretta.server.refusal import Refusal

_KEPT_SECONDS = 30 * 24 * 3600
_MOST_AN_HOUR = 600


def withdraw_tokens(connection: Connection, site: str, now: int) -> None:
    """Tokens of a site that are still out stop working."""
    out = (Token.site == site, Token.used_at.is_(None), Token.withdrawn_at.is_(None))
    connection.execute(update(Token).where(*out).values(withdrawn_at=now))


def revoke_certificates(connection: Connection, site: str, now: int) -> None:
    """Certificates of a site that still count stop working."""
    good = (Certificate.site == site, Certificate.revoked_at.is_(None))
    connection.execute(update(Certificate).where(*good).values(revoked_at=now))


def add_certificate(connection: Connection, site: str, issued: Issued, now: int) -> None:
    """Keep a certificate that was signed for a site."""
    connection.execute(
        insert(Certificate).values(
            fingerprint=issued.fingerprint, serial=issued.serial, site=site, not_after=issued.not_after, issued_at=now
        )
    )


def forget_old_certificates(connection: Connection, site: str, now: int) -> None:
    """Certificates that ended long ago; the audit log still has them.

    Raises:
        Refusal: the site was given more within an hour than any life of a certificate could need.
    """
    ended = (Certificate.site == site, Certificate.not_after < now - _KEPT_SECONDS)
    connection.execute(delete(Certificate).where(*ended))
    recent = (Certificate.site == site, Certificate.issued_at > now - 3600)
    if (connection.scalar(select(func.count()).where(*recent)) or 0) >= _MOST_AN_HOUR:
        raise Refusal("RESOURCE_EXHAUSTED", "too-many-certificates", "more certificates than a site can need")


def change_node_key(connection: Connection, site: str, public_key: str | None, now: int) -> None:
    """Give a site another node key, or none; the same one stays as it is.

    Raises:
        Refusal: the key is another site's, or was given up once: Flower takes no key twice.
    """
    owner = connection.execute(select(NodeKey.site, NodeKey.current).where(NodeKey.public_key == public_key)).first()
    if owner is not None and owner.site != site:
        raise Refusal("PERMISSION_DENIED", "foreign-node-key", "this node key is another site's")
    if owner is not None and not owner.current:
        raise Refusal("FAILED_PRECONDITION", "retired-node-key", "this node key was given up once: make a new one")
    others = (NodeKey.site == site, NodeKey.current, NodeKey.public_key != (public_key or ""))
    connection.execute(update(NodeKey).where(*others).values(current=False))
    if public_key is not None and owner is None:
        connection.execute(insert(NodeKey).values(public_key=public_key, site=site, current=True, added_at=now))
