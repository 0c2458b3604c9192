"""Workers that cannot use the provider of a run, and have left it to others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_unable_workers"
down_revision = "0012_guests"


def upgrade() -> None:
    op.add_column("runs", sa.Column("unable_workers", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("runs", "unable_workers")
