"""Comparisons of an old model and its replacement on programs' calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018_shadows"
down_revision = "0017_parity_votes"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "model_shadows",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("alias", sa.String(200), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("provider", sa.String(50), nullable=False),
        sa.Column("share", sa.Integer, nullable=False),
        sa.Column("threshold", sa.Double()),
        sa.Column("min_calls", sa.Integer, nullable=False),
        sa.Column("fallback", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("relayed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("dropped", sa.Integer, nullable=False),
        sa.Column("compared", sa.Integer, nullable=False),
        sa.Column("agreed", sa.Double(), nullable=False),
        sa.Column("collected", sa.Integer, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("ended_at", _TIME),
    )
    op.create_index("ix_model_shadows_alias", "model_shadows", ["alias"])
    op.create_index("ix_model_shadows_state", "model_shadows", ["state"])
    op.create_table(
        "shadow_pairs",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("shadow_id", sa.String(32), sa.ForeignKey("model_shadows.id"), nullable=False),
        sa.Column("remote_id", sa.String(60), nullable=False, unique=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("old", sa.Text, nullable=False),
        sa.Column("new", sa.Text),
        sa.Column("old_s", sa.Double()),
        sa.Column("new_s", sa.Double()),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_index("ix_shadow_pairs_shadow_id", "shadow_pairs", ["shadow_id"])


def downgrade() -> None:
    for table in ("shadow_pairs", "model_shadows"):
        op.drop_table(table)
