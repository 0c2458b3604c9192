"""Checkpoints, evaluations, own prices, budgets, votes; more columns for jobs, spend and stories."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _new() -> dict[str, tuple[sa.Column[Any], ...]]:
    """Columns added to earlier tables."""
    return {
        "training_jobs": (
            sa.Column("parent_id", sa.String(length=32), nullable=True),
            sa.Column("file_bytes", sa.Integer(), nullable=True),
            sa.Column("uploaded_bytes", sa.Integer(), nullable=True),
            sa.Column("estimated_usd", sa.String(length=40), nullable=True),
            sa.Column("estimated_s", sa.Double(), nullable=True),
            sa.Column("trackers", sa.JSON(none_as_null=True), nullable=True),
        ),
        "spend": (
            sa.Column("estimated_usd", sa.String(length=40), nullable=True),
            sa.Column("counted_prompt_tokens", sa.Integer(), nullable=True),
            sa.Column("counted_completion_tokens", sa.Integer(), nullable=True),
        ),
        "stories": (
            sa.Column("asked_model", sa.String(length=200), nullable=True),
            sa.Column("prompt_tokens", sa.Integer(), nullable=True),
            sa.Column("cost_usd", sa.String(length=40), nullable=True),
            sa.Column("error", sa.Text(), nullable=True),
            sa.Column("edited_text", sa.Text(), nullable=True),
            sa.Column("stars", sa.Integer(), nullable=True),
            sa.Column("liked", sa.Boolean(), nullable=True),
            sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
            sa.Column("column_values", sa.JSON(none_as_null=True), nullable=True),
            sa.Column("round_id", sa.String(length=32), nullable=True),
            sa.Column("step", sa.String(length=20), nullable=True),
            sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        ),
    }


def upgrade() -> None:
    for table, columns in _new().items():
        for column in columns:
            op.add_column(table, column)
    op.create_index("ix_training_jobs_parent_id", "training_jobs", ["parent_id"])
    op.create_index("ix_stories_round_id", "stories", ["round_id"])
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(length=32), sa.ForeignKey("training_jobs.id"), nullable=False),
        sa.Column("remote_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "remote_id"),
    )
    op.create_index("ix_checkpoints_job_id", "checkpoints", ["job_id"])
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=True),
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("version_id", sa.String(length=32), nullable=True),
        sa.Column("provider", sa.String(length=50), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_evaluations_job_id", "evaluations", ["job_id"])
    op.create_index("ix_evaluations_state", "evaluations", ["state"])
    op.create_table(
        "answers",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("evaluation_id", sa.String(length=32), sa.ForeignKey("evaluations.id"), nullable=False),
        sa.Column("row_key", sa.String(length=64), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.String(length=30), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("right", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("evaluation_id", "row_key"),
    )
    op.create_table(
        "own_prices",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("provider", sa.String(length=50), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("what", sa.String(length=20), nullable=False),
        sa.Column("amount", sa.String(length=40), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("unit", sa.String(length=10), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("subject", sa.String(length=100), nullable=False),
        sa.Column("amount_usd", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("scope", "subject"),
    )
    op.create_table(
        "votes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("round_id", sa.String(length=32), nullable=False),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("order", sa.JSON(), nullable=False),
        sa.Column("winner", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("round_id", "actor"),
    )
    op.create_index("ix_votes_round_id", "votes", ["round_id"])


def downgrade() -> None:
    for table in ("votes", "budgets", "own_prices", "answers", "evaluations", "checkpoints"):
        op.drop_table(table)
    op.drop_index("ix_stories_round_id", "stories")
    op.drop_index("ix_training_jobs_parent_id", "training_jobs")
    for table, columns in _new().items():
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column.name)
