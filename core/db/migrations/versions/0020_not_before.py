"""When to resume a run or training job whose provider has asked for a long pause."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    for table in ("runs", "training_jobs"):
        op.add_column(table, sa.Column("not_before", sa.DateTime(timezone=True)))


def downgrade() -> None:
    for table in ("training_jobs", "runs"):
        op.drop_column(table, "not_before")
