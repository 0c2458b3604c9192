"""Requests to an admin for a higher budget."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_budgets"
down_revision = "0005_alerts"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "budget_requests",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("person_id", sa.String(100), nullable=False),
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("limit_usd", sa.String(40), nullable=False),
        sa.Column("missing_usd", sa.String(40)),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("decided_at", _TIME),
        sa.Column("decided_by", sa.String(100)),
        sa.Column("granted_usd", sa.String(40)),
    )
    op.create_index("ix_budget_requests_person_id", "budget_requests", ["person_id"])


def downgrade() -> None:
    op.drop_table("budget_requests")
