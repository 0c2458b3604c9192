"""Adds the tables for people, the accounts that they sign in with, invitations and sign-ins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_people"
down_revision = "0002_providers"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "people",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("disabled_at", _TIME),
        sa.Column("signed_out_at", _TIME),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_index("ix_people_email", "people", ["email"])
    op.create_table(
        "sign_in_accounts",
        sa.Column("issuer", sa.String(300), primary_key=True),
        sa.Column("subject", sa.String(255), primary_key=True),
        sa.Column("person_id", sa.String(32), sa.ForeignKey("people.id"), nullable=False),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("email_verified", sa.Boolean, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_index("ix_sign_in_accounts_person_id", "sign_in_accounts", ["person_id"])
    op.create_table(
        "invitations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("provider", sa.String(100), nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("accepted_at", _TIME),
        sa.Column("accepted_by", sa.String(32)),
    )
    op.create_index("ix_invitations_email", "invitations", ["email"])
    op.create_table(
        "sign_ins",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("person_id", sa.String(32), sa.ForeignKey("people.id"), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("origin", sa.String(200), nullable=False),
        sa.Column("ended_at", _TIME),
    )
    op.create_index("ix_sign_ins_person_id", "sign_ins", ["person_id"])


def downgrade() -> None:
    for table in ("sign_ins", "invitations", "sign_in_accounts", "people"):
        op.drop_table(table)
