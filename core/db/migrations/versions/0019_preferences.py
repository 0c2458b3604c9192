"""Answers that were not preferred, with rows and versions, and the method of a training job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019_preferences"
down_revision = "0018_shadows"


def upgrade() -> None:
    for table in ("rows", "version_examples"):
        op.add_column(table, sa.Column("rejected", sa.Text))
    op.add_column("training_jobs", sa.Column("method", sa.String(20), nullable=False, server_default="supervised"))


def downgrade() -> None:
    op.drop_column("training_jobs", "method")
    for table in ("version_examples", "rows"):
        op.drop_column(table, "rejected")
