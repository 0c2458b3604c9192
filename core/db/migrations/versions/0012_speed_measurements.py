"""Measured speeds of the engine, used to convert the cost per hour into a price per token."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "speed_measurements",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("tokens_per_s", sa.Double(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_speed_measurements_at", "speed_measurements", ["at"])


def downgrade() -> None:
    op.drop_table("speed_measurements")
