"""Accounts that are moved here: tuned models and files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014_archives"
down_revision = "0013_unable_workers"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "account_archives",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("provider", sa.String(50), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("account", sa.String(32)),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("goal", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("next_step", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("jobs_cursor", sa.String(200)),
        sa.Column("usage_note", sa.Text),
        sa.Column("listed_at", _TIME),
        sa.Column("started_at", _TIME),
        sa.Column("done_at_start", sa.Integer, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
    )
    op.create_index("ix_account_archives_state", "account_archives", ["state"])
    op.create_table(
        "archived_tunes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("archive_id", sa.String(32), sa.ForeignKey("account_archives.id"), nullable=False),
        sa.Column("remote_id", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("model", sa.String(200)),
        sa.Column("base_model", sa.String(200), nullable=False),
        sa.Column("method", sa.String(40), nullable=False),
        sa.Column("status", sa.String(30), nullable=False),
        sa.Column("trained_tokens", sa.BigInteger),
        sa.Column("trained_rows", sa.Integer),
        sa.Column("training_file", sa.String(200)),
        sa.Column("validation_file", sa.String(200)),
        sa.Column("result_files", sa.JSON, nullable=False),
        sa.Column("created_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("dark_on", sa.Date),
        sa.Column("dark_source", sa.String(10)),
        sa.Column("last_used", _TIME),
        sa.Column("calls", sa.Integer),
        sa.Column("usd", sa.String(40)),
        sa.Column("details_stored", sa.Boolean, nullable=False),
        sa.Column("raw", sa.JSON, nullable=False),
        sa.Column("job_id", sa.String(32)),
        sa.Column("dataset_id", sa.String(32)),
        sa.Column("version_id", sa.String(32)),
        sa.UniqueConstraint("archive_id", "remote_id"),
    )
    op.create_index("ix_archived_tunes_dataset_id", "archived_tunes", ["dataset_id"])
    op.create_table(
        "archived_files",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("archive_id", sa.String(32), sa.ForeignKey("account_archives.id"), nullable=False),
        sa.Column("remote_id", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("purpose", sa.String(40), nullable=False),
        sa.Column("filename", sa.String(300), nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("created_at", _TIME),
        sa.Column("sha256", sa.String(64)),
        sa.Column("stored_bytes", sa.BigInteger),
        sa.Column("stored_at", _TIME),
        sa.UniqueConstraint("archive_id", "remote_id"),
    )


def downgrade() -> None:
    for table in ("archived_files", "archived_tunes", "account_archives"):
        op.drop_table(table)
