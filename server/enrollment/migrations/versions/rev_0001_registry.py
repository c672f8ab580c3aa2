"""The first registry: sites, node keys, certificates, tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sites",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("enrolled_at", sa.Integer, nullable=False),
        sa.Column("changed_at", sa.Integer, nullable=False),
        sa.Column("moretta_version", sa.String(64), nullable=False),
        sa.Column("last_call", sa.Integer, nullable=False, server_default="0"),
        sa.Column("calls", sa.Integer, nullable=False, server_default="0"),
        sa.Column("bytes_from", sa.Integer, nullable=False, server_default="0"),
        sa.Column("bytes_to", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("name", name="pk_sites"),
    )
    op.create_table(
        "node_keys",
        sa.Column("public_key", sa.String(512), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("current", sa.Boolean, nullable=False),
        sa.Column("node_id", sa.String(20), nullable=True),
        sa.Column("added_at", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("public_key", name="pk_node_keys"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"], name="fk_node_keys_site"),
    )
    op.create_index("ix_node_keys_site", "node_keys", ["site"])
    op.create_index("ix_node_keys_current", "node_keys", ["site"], unique=True, sqlite_where=sa.text("current"))
    op.create_table(
        "certificates",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("not_after", sa.Integer, nullable=False),
        sa.Column("issued_at", sa.Integer, nullable=False),
        sa.Column("revoked_at", sa.Integer, nullable=True),
        sa.Column("revocation_told", sa.Boolean, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_certificates"),
        sa.UniqueConstraint("serial", name="uq_certificates_serial"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"], name="fk_certificates_site"),
    )
    op.create_index("ix_certificates_site", "certificates", ["site"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("bootstrap_der", sa.LargeBinary, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("reenroll", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("expires", sa.Integer, nullable=False),
        sa.Column("used_at", sa.Integer, nullable=True),
        sa.Column("withdrawn_at", sa.Integer, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("fingerprint", name="uq_tokens_fingerprint"),
    )
    op.create_index("ix_tokens_site", "tokens", ["site"])
