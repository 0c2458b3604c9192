"""Runs that only retry failed rows, and the system text of a data set's chat files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("runs", sa.Column("scope", sa.String(10), nullable=False, server_default="all"))
    op.add_column("datasets", sa.Column("chat_system", sa.Text()))


def downgrade() -> None:
    op.drop_column("datasets", "chat_system")
    op.drop_column("runs", "scope")
