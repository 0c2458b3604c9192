"""Blind votes on the answers of two models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017_parity_votes"
down_revision = "0016_answer_figures"


def upgrade() -> None:
    op.create_table(
        "parity_votes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("old_id", sa.String(32), nullable=False),
        sa.Column("new_id", sa.String(32), nullable=False),
        sa.Column("row_key", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("choice", sa.String(10), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("old_id", "new_id", "row_key", "actor"),
    )


def downgrade() -> None:
    op.drop_table("parity_votes")
