"""Reads the spend ledger for assertions, call by call, unlike the sums in `core.pricing.spend_history`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import Spend


@dataclass(frozen=True, slots=True)
class Spent:
    """Number of calls and the sum of their known costs; `unknown`: number of calls without a known cost."""

    calls: int
    unknown: int
    cost_usd: Decimal
    prompt_tokens: int
    completion_tokens: int


def spent(store: Store, since: datetime, reference: str | None = None) -> Spent:
    """Sum up all calls made since `since` (UTC), or those of one run, job or story."""
    with store.reading() as session:
        rows = session.scalars(select(Spend).where(Spend.created_at >= since)).all()
    return _sum([row for row in rows if reference in (None, row.reference)])


def _sum(rows: Sequence[Spend]) -> Spent:
    return Spent(
        calls=len(rows),
        unknown=sum(row.cost_usd is None for row in rows),
        cost_usd=sum((row.cost_usd or Decimal(0) for row in rows), Decimal(0)),
        prompt_tokens=sum(row.prompt_tokens or 0 for row in rows),
        completion_tokens=sum(row.completion_tokens or 0 for row in rows),
    )
