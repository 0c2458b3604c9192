"""Changes of the engine's aliases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015_alias_changes"
down_revision = "0014_archives"


def upgrade() -> None:
    op.create_table(
        "alias_changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("alias", sa.String(200), nullable=False),
        sa.Column("model", sa.String(200)),
        sa.Column("previous", sa.String(200)),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(100), nullable=False),
    )
    op.create_index("ix_alias_changes_alias", "alias_changes", ["alias"])


def downgrade() -> None:
    op.drop_table("alias_changes")
