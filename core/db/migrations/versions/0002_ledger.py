"""Saved recipes, versions of data sets, batches; rows that can be edited, restored, split and shared by workers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _new() -> dict[str, tuple[sa.Column[Any], ...]]:
    """Columns added to tables of the first schema."""
    return {
        "datasets": (
            sa.Column("recipe_id", sa.String(length=32), nullable=True),
            sa.Column("filled", sa.Integer(), nullable=False, server_default="0"),
            sa.Column("parts", sa.JSON(none_as_null=True), nullable=True),
        ),
        "rows": (
            sa.Column("claimed_by", sa.String(length=64), nullable=True),
            sa.Column("batch_id", sa.String(length=32), nullable=True),
            sa.Column("original_text", sa.Text(), nullable=True),
            sa.Column("state_before", sa.String(length=20), nullable=True),
            sa.Column("split", sa.String(length=20), nullable=True),
        ),
        "runs": (sa.Column("mode", sa.String(length=10), nullable=False, server_default="live"),),
        "training_jobs": (
            sa.Column("version_id", sa.String(length=32), nullable=True),
            sa.Column("validation_file", sa.String(length=200), nullable=True),
            sa.Column("validation_share", sa.Double(), nullable=True),
        ),
    }


def upgrade() -> None:
    for table, columns in _new().items():
        for column in columns:
            op.add_column(table, column)
    op.create_index("ix_rows_batch_id", "rows", ["batch_id"])
    op.execute("UPDATE datasets SET filled = (SELECT count(*) FROM rows WHERE rows.dataset_id = datasets.id)")
    op.create_table(
        "recipes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("family", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("copied_from", sa.String(length=32), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("family", "version"),
    )
    op.create_index("ix_recipes_family", "recipes", ["family"])
    op.create_table(
        "dataset_versions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("dataset_id", sa.String(length=32), sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("n_train", sa.Integer(), nullable=False),
        sa.Column("n_validation", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dataset_id", "number"),
    )
    op.create_index("ix_dataset_versions_dataset_id", "dataset_versions", ["dataset_id"])
    op.create_table(
        "version_examples",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("version_id", sa.String(length=32), sa.ForeignKey("dataset_versions.id"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("split", sa.String(length=20), nullable=False),
        sa.Column("row_key", sa.String(length=64), nullable=False),
        sa.Column("column_values", sa.JSON(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("version_id", "position"),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.String(length=32), sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=30), nullable=True),
        sa.Column("input_file", sa.String(length=200), nullable=True),
        sa.Column("remote_id", sa.String(length=200), nullable=True),
        sa.Column("output_file", sa.String(length=200), nullable=True),
        sa.Column("error_file", sa.String(length=200), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_batches_run_id", "batches", ["run_id"])
    op.create_index("ix_batches_state", "batches", ["state"])


def downgrade() -> None:
    for table in ("batches", "version_examples", "dataset_versions", "recipes"):
        op.drop_table(table)
    op.drop_index("ix_rows_batch_id", "rows")
    for table, columns in _new().items():
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column.name)
