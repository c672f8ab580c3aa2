"""The registry's tables, and the records that the registry returns.

Times are seconds since 1970; certificates are known by SHA-256 of their DER form. A change of a table needs a revision
in `migrations/versions`; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ForeignKey, Index, LargeBinary, MetaData, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Site(Base):
    """A name that was enrolled once. Names are never deleted: the audit log refers to them."""

    __tablename__ = "sites"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    """`enrolled`, `revoked` or `left`."""
    enrolled_at: Mapped[int]
    changed_at: Mapped[int]
    moretta_version: Mapped[str] = mapped_column(String(64))
    last_call: Mapped[int] = mapped_column(default=0, server_default="0")
    calls: Mapped[int] = mapped_column(default=0, server_default="0")
    bytes_from: Mapped[int] = mapped_column(default=0, server_default="0")
    """Bodies of relayed calls, site to server."""
    bytes_to: Mapped[int] = mapped_column(default=0, server_default="0")
    """Bodies of the responses."""


class NodeKey(Base):
    """A public key that signs Flower's Fleet calls. Flower takes no key again that was unregistered once."""

    __tablename__ = "node_keys"

    public_key: Mapped[str] = mapped_column(String(512), primary_key=True)
    """OpenSSH form without a comment."""
    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), index=True)
    current: Mapped[bool]
    """Whether it may sign. One key of a site at most may."""
    node_id: Mapped[str | None] = mapped_column(String(20))
    """Flower's, an unsigned 64-bit number in decimal: more than SQLite's integers hold. None until Flower gave one."""
    added_at: Mapped[int]

    __table_args__ = (Index("ix_node_keys_current", "site", unique=True, sqlite_where=text("current")),)


class Certificate(Base):
    """A site's certificate."""

    __tablename__ = "certificates"

    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    serial: Mapped[str] = mapped_column(String(40), unique=True)
    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), index=True)
    not_after: Mapped[int]
    issued_at: Mapped[int]
    revoked_at: Mapped[int | None]
    revocation_told: Mapped[bool] = mapped_column(default=False, server_default="0")


class Token(Base):
    """A join string that was printed: all of it but the secret."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), index=True)
    bootstrap_der: Mapped[bytes] = mapped_column(LargeBinary)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    reenroll: Mapped[bool]
    created_at: Mapped[int]
    expires: Mapped[int]
    used_at: Mapped[int | None]
    withdrawn_at: Mapped[int | None]


class LedgerHead(Base):
    """The head of a site's privacy ledger that was countersigned last. It outlives certificates and re-enrollment."""

    __tablename__ = "ledger_heads"

    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), primary_key=True)
    head: Mapped[str] = mapped_column(String(64))
    length: Mapped[int]
    signed_at: Mapped[int]


@dataclass(frozen=True, slots=True)
class KnownCertificate:
    """A site's certificate, as the registry has it at this moment."""

    site: str
    serial: str
    fingerprint: str
    not_after: int
    revoked: bool
    revocation_told: bool
    node_key: str
    """The site's current one, in OpenSSH form; empty if it has none."""
    last_call: int


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token that is neither used nor withdrawn nor expired."""

    token_id: str
    site: str
    fingerprint: str
    bootstrap_der: bytes
    reenroll: bool
    expires: int


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """A site, as the coordinator sees it."""

    name: str
    state: str
    """`enrolled`, `revoked` or `left`."""
    enrolled_at: int
    not_after: int
    """End of its newest certificate, in seconds since 1970."""
    node_key: str
    """OpenSSH form; empty if none is in use."""
    node_id: int | None
    """Flower's; None until Flower's SuperLink knows the node key."""
    moretta_version: str
    last_call: int
    calls: int
    bytes_from: int
    bytes_to: int


@dataclass(frozen=True, slots=True)
class NodeKeyRecord:
    """A node key that is, or was, a site's."""

    site: str
    public_key: str
    """OpenSSH form."""
    node_id: int | None
    current: bool
    """Whether Flower's SuperLink shall know it."""
