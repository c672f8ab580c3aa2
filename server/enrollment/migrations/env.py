"""Run by Alembic: migrates within the transaction that `upgrade` was given."""

from __future__ import annotations

from alembic import context

from moretta.server.enrollment.database import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
    transactional_ddl=False,  # the caller's transaction holds it all
)
context.run_migrations()
