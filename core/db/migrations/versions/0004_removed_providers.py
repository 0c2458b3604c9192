"""Adds the table for removed providers' ids, so that no id is used again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_removed_providers"
down_revision = "0003_people"


def upgrade() -> None:
    op.create_table(
        "removed_providers",
        sa.Column("id", sa.String(50), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_by", sa.String(100), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("removed_providers")
