"""Alembic's revisions of the registry; `upgrade` brings a file of any age to the newest."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

HEAD = "0002"
"""The newest revision, here so that opening a registry of this age need not load Alembic."""


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """Bring the database behind an open transaction to `revision`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
