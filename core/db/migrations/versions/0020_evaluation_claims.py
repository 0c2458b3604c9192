"""The worker that may send an evaluation's requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020_evaluation_claims"
down_revision = "0019_preferences"


def upgrade() -> None:
    op.add_column("evaluations", sa.Column("claimed_by", sa.String(150)))


def downgrade() -> None:
    op.drop_column("evaluations", "claimed_by")
