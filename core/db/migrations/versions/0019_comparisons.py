"""Comparisons of the base and the tuned model of each job; tours store their language and show such a pair."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "comparisons",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("training_jobs.id"), nullable=False, unique=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("source", sa.String(20)),
        sa.Column("settings", sa.JSON()),
        sa.Column("reason", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("created_by", sa.String(100), nullable=False),
    )
    op.create_index("ix_comparisons_state", "comparisons", ["state"])
    op.create_table(
        "comparison_answers",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("comparison_id", sa.String(32), sa.ForeignKey("comparisons.id"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("side", sa.String(10), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text()),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("story_id", sa.String(32)),
        sa.UniqueConstraint("comparison_id", "position", "side"),
    )
    op.add_column("tours", sa.Column("language", sa.String(10), nullable=False, server_default="zh_CN"))


def downgrade() -> None:
    op.drop_column("tours", "language")
    op.drop_table("comparison_answers")
    op.drop_table("comparisons")
