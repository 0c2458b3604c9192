"""Comparisons on calls: how far their ends are carried out, and how long their texts are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021_shadow_ends"
down_revision = "0020_evaluation_claims"

_TABLE = "model_shadows"


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column(_TABLE, sa.Column("lost", sa.Integer, nullable=False, server_default="0"))
    op.add_column(_TABLE, sa.Column("keep_days", sa.Integer, nullable=False, server_default="30"))
    op.add_column(_TABLE, sa.Column("ended_by", sa.String(100)))


def downgrade() -> None:
    for column in ("ended_by", "keep_days", "lost", "settled"):
        op.drop_column(_TABLE, column)
