"""Adds the table for providers that are added on the settings page, with encrypted keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_providers"
down_revision = "0001_initial"


def upgrade() -> None:
    op.create_table(
        "providers",
        sa.Column("id", sa.String(50), primary_key=True),
        sa.Column("preset", sa.String(30), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("encrypted_key", sa.Text, nullable=False),
        sa.Column("certificates", sa.Text, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("found", sa.JSON),
        sa.Column("revision", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("providers")
