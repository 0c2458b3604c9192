"""Spend is asked for by run, job and story, in every transaction that a budget watches."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_spend_reference", "spend", ["reference"])


def downgrade() -> None:
    op.drop_index("ix_spend_reference", "spend")
