"""Comparisons on calls: when their texts were deleted, so that those on their way are not stored afterwards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022_shadow_texts"
down_revision = "0021_shadow_ends"


def upgrade() -> None:
    op.add_column("model_shadows", sa.Column("texts_deleted_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("model_shadows", "texts_deleted_at")
