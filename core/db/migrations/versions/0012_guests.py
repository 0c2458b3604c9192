"""Links for guests, and their votes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_guests"
down_revision = "0011_audit_log"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "guest_links",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("stage", sa.Boolean, nullable=False),
        sa.Column("round_id", sa.String(32)),
        sa.Column("story_ids", sa.JSON, nullable=False),
        sa.Column("max_guests", sa.Integer, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("closed_at", _TIME),
        sa.UniqueConstraint("token_hash"),
    )
    op.create_table(
        "guest_votes",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("link_id", sa.String(32), sa.ForeignKey("guest_links.id"), nullable=False),
        sa.Column("round_id", sa.String(32), nullable=False),
        sa.Column("guest", sa.String(64), nullable=False),
        sa.Column("story_id", sa.String(32)),
        sa.Column("created_at", _TIME, nullable=False),
        sa.UniqueConstraint("link_id", "round_id", "guest"),
    )
    op.create_index("ix_guest_votes_round_id", "guest_votes", ["round_id"])


def downgrade() -> None:
    for table in ("guest_votes", "guest_links"):
        op.drop_table(table)
