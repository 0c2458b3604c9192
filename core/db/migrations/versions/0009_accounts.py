"""The account that a batch or a training job was submitted to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009_accounts"
down_revision = "0008_budgets"
_TABLES = ("batches", "training_jobs")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("submitted_to", sa.Text))
        op.add_column(table, sa.Column("account", sa.String(32)))
    op.add_column("batches", sa.Column("stranded_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("batches", "stranded_at")
    for table in _TABLES:
        op.drop_column(table, "account")
        op.drop_column(table, "submitted_to")
