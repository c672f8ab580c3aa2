"""Alembic's revisions of the registry: numbered files in `versions`; a published one never changes."""
