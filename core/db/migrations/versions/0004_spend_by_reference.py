"""Spend is looked up by run, job and story in every transaction that checks a budget."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_spend_reference", "spend", ["reference"])


def downgrade() -> None:
    op.drop_index("ix_spend_reference", "spend")
