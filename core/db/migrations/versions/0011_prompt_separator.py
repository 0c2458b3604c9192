"""The separator between the columns of a data set's prompts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0018"  # in order of arrival: the numbers were reserved earlier


def upgrade() -> None:
    op.add_column("datasets", sa.Column("prompt_separator", sa.String(20), nullable=False, server_default=","))


def downgrade() -> None:
    op.drop_column("datasets", "prompt_separator")
