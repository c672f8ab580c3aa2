"""The registry's SQLite file: made readable by its owner only, write-ahead logged, migrated when opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError

from moretta.shared.core.errors import HomeError

HEAD = "0002"
"""The newest revision in `migrations`, here so that opening a registry of this age need not load Alembic."""
_BUSY_SECONDS = 10.0
"""How long a writer waits for another process, such as `moretta server token` beside a running server."""


class Database:
    """Transactions on one file. Readers never wait; writers take turns, across processes too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = _engine(path)
        self._inode = path.stat().st_ino

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
        """Why the file cannot be used, or None. A file that was swapped or removed under its server counts."""
        try:
            if self.path.stat().st_ino != self._inode:
                return f"{self.path.name} was replaced while the server runs"
            with self.read() as connection:
                connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        except (OSError, DatabaseError) as error:
            return f"{self.path.name} cannot be read: {_reason(error)}"
        return None


def create_database(path: Path) -> Database:
    """Make a new file.

    Raises:
        HomeError: it is there already.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite gives its other files this mode
    except FileExistsError as error:
        raise HomeError(f"{path} is there already", fix="keep it, or choose another folder") from error
    return open_database(path)


def open_database(path: Path) -> Database:
    """Open a file, and bring it to the newest revision if it is of an older Moretta.

    Raises:
        HomeError: it is missing, no database, or of a newer Moretta.
    """
    if not path.exists():
        raise HomeError(
            f"{path} is missing", expected="the registry that `init` made", fix="restore it from the backup"
        )
    database = Database(path)
    try:
        if _revision(database) != HEAD:
            with database.write() as connection:
                upgrade(connection)
    except DatabaseError as error:
        raise HomeError(f"{path} cannot be opened: {_reason(error)}", fix="restore it from the backup") from error
    except Exception as error:
        if type(error).__module__.startswith("alembic"):
            raise HomeError(f"{path} is of another version of Moretta", fix="install that version or newer") from error
        raise
    return database


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """Bring the database behind an open transaction to `revision`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        if not connection.dialect.has_table(connection, "alembic_version"):
            return None
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS})

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
