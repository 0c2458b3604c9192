"""Seconds and tokens of each answer of an evaluation."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0016_answer_figures"
down_revision = "0015_alias_changes"

_FIGURES: tuple[tuple[str, sa.types.TypeEngine[Any]], ...] = (
    ("seconds", sa.Double()),
    ("prompt_tokens", sa.Integer()),
    ("completion_tokens", sa.Integer()),
)


def upgrade() -> None:
    for name, kind in _FIGURES:
        op.add_column("evaluation_answers", sa.Column(name, kind))


def downgrade() -> None:
    for name, _kind in _FIGURES:
        op.drop_column("evaluation_answers", name)
