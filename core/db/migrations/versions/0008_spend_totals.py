"""Spend totals, one row per scope; spend ledger lines refer to their row or batch and record whether they were sent."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0012"  # in order of arrival: the numbers were reserved earlier

_ROWS_AT_ONCE = 10_000


def upgrade() -> None:
    with op.batch_alter_table("spend") as batch:
        batch.add_column(sa.Column("row_id", sa.Integer()))
        batch.add_column(sa.Column("sent_at", sa.DateTime(timezone=True)))
        batch.create_foreign_key("spend_row", "rows", ["row_id"], ["id"], ondelete="SET NULL")
        batch.create_index("ix_spend_row_id", ["row_id"])
    with op.batch_alter_table("batches") as batch:
        batch.add_column(sa.Column("spend_id", sa.Integer()))
        batch.create_foreign_key("batch_spend", "spend", ["spend_id"], ["id"], ondelete="SET NULL")
        batch.create_index("ix_batches_spend_id", ["spend_id"])
    op.create_table(
        "spend_totals",
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("subject", sa.String(length=100), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("at_most_usd", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("scope", "subject", "month"),
    )
    op.execute("UPDATE spend SET sent_at = at")  # unknown which were not sent, so all count as possibly billed
    op.execute(
        "UPDATE batches SET spend_id = (SELECT min(spend.id) FROM spend"
        " WHERE spend.at = batches.created_at AND spend.reference = batches.run_id)"
    )
    _tie_rows()
    _fill_totals()


def _tie_rows() -> None:
    """Assign spend lines to rows in flight: a claim and its lines have the same timestamp."""
    on = op.get_bind()
    flying = on.execute(
        sa.text(
            "SELECT id, run_id, updated_at FROM rows WHERE state = 'sent' AND batch_id IS NULL AND run_id IS NOT NULL"
        )
    ).all()
    claims: dict[tuple[str, Any], list[int]] = defaultdict(list)
    for row_id, run_id, at in flying:
        claims[run_id, at].append(row_id)
    for (run_id, at), row_ids in claims.items():
        lines = on.execute(
            sa.text(
                "SELECT id FROM spend WHERE reference = :run AND at = :at AND row_id IS NULL"
                " AND prompt_tokens IS NULL AND completion_tokens IS NULL AND cost_usd IS NOT NULL ORDER BY id"
            ),
            {"run": run_id, "at": at},
        ).scalars()
        pairs = [{"line": line, "row": row} for line, row in zip(lines, sorted(row_ids), strict=False)]
        if pairs:
            on.execute(sa.text("UPDATE spend SET row_id = :row WHERE id = :line"), pairs)


def _fill_totals() -> None:
    """The same totals as in `core.db.spend_totals`: by person and month, and by run, job or story; exact, so not summed
    in SQL.
    """
    on = op.get_bind()
    when = "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM')" if on.dialect.name == "postgresql" else "substr(at, 1, 7)"
    usd = "coalesce(cost_usd, estimated_usd)"
    query = (
        f"SELECT {when}, actor, reference, {usd}, count(*) FROM spend"
        f" WHERE {usd} IS NOT NULL GROUP BY {when}, actor, reference, {usd}"
    )
    totals: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for month, actor, reference, amount, calls in on.execute(sa.text(query)):
        totals["person", actor, month] += Decimal(amount) * calls
        totals["reference", reference, ""] += Decimal(amount) * calls
    rows = [
        {"scope": scope, "subject": subject, "month": month, "usd": str(amount)}
        for (scope, subject, month), amount in totals.items()
    ]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        on.execute(
            sa.text("INSERT INTO spend_totals VALUES (:scope, :subject, :month, :usd)"),
            rows[start : start + _ROWS_AT_ONCE],
        )


def downgrade() -> None:
    op.drop_table("spend_totals")
    with op.batch_alter_table("batches") as batch:
        batch.drop_index("ix_batches_spend_id")
        batch.drop_constraint("batch_spend", type_="foreignkey")
        batch.drop_column("spend_id")
    with op.batch_alter_table("spend") as batch:
        batch.drop_index("ix_spend_row_id")
        batch.drop_constraint("spend_row", type_="foreignkey")
        batch.drop_column("row_id")
        batch.drop_column("sent_at")
