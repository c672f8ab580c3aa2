"""The heads of sites' privacy ledgers that were countersigned last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "ledger_heads",
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("head", sa.String(64), nullable=False),
        sa.Column("length", sa.Integer, nullable=False),
        sa.Column("signed_at", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("site", name="pk_ledger_heads"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"], name="fk_ledger_heads_site"),
    )
