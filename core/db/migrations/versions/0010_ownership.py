"""Owners and sharing of recipes, data sets, jobs and stories, and who may use the models of a private job.

What people of a team have made until now belongs to its creator, and every editor may change it, as before. What was
made in local mode is left to the admins, who can hand it over.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010_ownership"
down_revision = "0009_accounts"

_CREATORS = {
    "datasets": "created_by",
    "recipe_versions": "created_by",
    "training_jobs": "created_by",
    "stories": "actor",
}


def upgrade() -> None:
    for table, creator in _CREATORS.items():
        op.add_column(table, sa.Column("owner_id", sa.String(100), nullable=False, server_default=""))
        op.add_column(table, sa.Column("sharing", sa.String(20), nullable=False, server_default="private"))
        op.execute(
            f"UPDATE {table} SET owner_id = {creator},"
            f" sharing = CASE {creator} WHEN 'local' THEN 'private' ELSE 'team_edit' END"
        )
    op.add_column("training_jobs", sa.Column("readers", sa.JSON, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("training_jobs", "readers")
    for table in _CREATORS:
        op.drop_column(table, "sharing")
        op.drop_column(table, "owner_id")
