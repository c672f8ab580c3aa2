"""The registry's SQLite file and its tables: readable by its owner only, write-ahead logged, migrated when opened.

Times are seconds since 1970; certificates are known by SHA-256 of their DER form. A change of a table needs a revision
in `migrations/versions`; a test holds the two together.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import Connection, ForeignKey, String, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from moretta.shared.core.errors import HomeError

HEAD = "0002"
"""The newest revision in `migrations`, here so that opening a registry of this age need not load Alembic."""
_BUSY_SECONDS = 10.0
"""How long a writer waits for another process, such as `moretta server token` beside a running server."""
_VERSION = sa.text("SELECT version_num FROM alembic_version")


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can."""

    metadata = sa.MetaData(
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
    """Bodies of relayed calls, site to server; then those of the responses."""
    bytes_to: Mapped[int] = mapped_column(default=0, server_default="0")


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

    __table_args__ = (sa.Index("ix_node_keys_current", "site", unique=True, sqlite_where=sa.text("current")),)


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
    """Whether the site was informed of its revocation."""


class Token(Base):
    """A join string that was printed: all of it but the secret."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), index=True)
    bootstrap_der: Mapped[bytes] = mapped_column(sa.LargeBinary)
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
    enrolled_at: int
    not_after: int
    """End of its newest certificate."""
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


class Database:
    """Transactions on one file. Thread-safe. Readers never wait; writers take turns, across processes too."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = path
        self._clock = clock
        self._engine = _engine(path)
        self._inode = path.stat().st_ino

    @classmethod
    def create(cls, path: Path, clock: Callable[[], float] = time.time) -> Self:
        """Make a new file; raises HomeError where it is there already."""
        try:
            # SQLite gives its other files this mode
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError as error:
            raise HomeError(f"{path} is there already", fix="keep it, or choose another folder") from error
        return cls.open(path, clock)

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Self:
        """Open a file, and bring an older Moretta's to the newest revision; raises HomeError where it cannot."""
        restore = "restore it from the backup"
        if not path.exists():
            raise HomeError(f"{path} is missing", expected="the registry that `init` made", fix=restore)
        database = cls(path, clock)
        try:
            with database.read() as connection:
                has_any = connection.dialect.has_table(connection, "alembic_version")
                revision = connection.execute(_VERSION).scalar_one() if has_any else None
            if revision != HEAD:
                with database.write() as connection:
                    upgrade(connection)
        except DatabaseError as error:
            raise HomeError(f"{path} cannot be opened: {_reason(error)}", fix=restore) from error
        except Exception as error:
            if type(error).__module__.startswith("alembic"):
                fix = "install that version or newer"
                raise HomeError(f"{path} is of another version of Moretta", fix=fix) from error
            raise
        return database

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """All or nothing, and the only writer from its first statement on: what it reads stays true until it ends."""
        with self._engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    def problem(self) -> str | None:
        """The reason why the file cannot be used, such as that it was replaced or removed; None if it can be used."""
        try:
            if self.path.stat().st_ino != self._inode:
                return f"{self.path.name} was replaced while the server runs"
            with self.read() as connection:
                connection.execute(_VERSION).scalar_one()
        except (OSError, DatabaseError) as error:
            return f"{self.path.name} cannot be read: {_reason(error)}"
        return None


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """Bring the database behind an open transaction to `revision`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver would otherwise begin transactions of its own, too late
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", error)).splitlines()[0]
