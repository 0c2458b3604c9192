"""Totals of the spend ledger for budget checks: one row per scope, updated in the transaction that changes the ledger.

A budget check therefore reads two rows instead of a month of lines. Changes to `Spend` objects are tracked
automatically at each flush; bulk statements must call `change`. `core.db.repair_spend_totals` compares the totals with
the ledger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import Connection, Insert, Numeric, String, Table, bindparam, cast, func, inspect, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from core.db.tables import Spend, SpendTotal

Key: TypeAlias = tuple[str, str, str]
"""Scope, subject and month; see `SpendTotal`."""
_TOTALS: Table = SpendTotal.__table__  # type: ignore[assignment]  # a Table, typed as FromClause
_COLUMNS = ("created_at", "actor", "reference", "cost_usd", "estimated_usd")

MAX_COST = func.coalesce(Spend.cost_usd, Spend.estimated_usd, type_=Spend.cost_usd.type)
"""SQL for the cost of a call; if unknown (interrupted, no token counts), its maximum possible cost; if that is unknown
too, null.
"""


class Changes:
    """Changes to the totals, in US dollars."""

    def __init__(self) -> None:
        self.usd: dict[Key, Decimal] = defaultdict(Decimal)

    def add(self, at: datetime | str, actor: str, reference: str, usd: Decimal | None) -> None:
        """Add the change of one line of the spend ledger.

        Args:
            at: time of the line (UTC); as text, it starts with year and month.
            actor: who spent it.
            reference: id of the run, job or story.
            usd: the change, negative for a decrease; None (neither cost nor estimate is known) changes nothing.
        """
        if usd:
            self.usd["person", actor, month(at)] += usd
            self.usd["reference", reference, ""] += usd


def month(at: datetime | str) -> str:
    """The calendar month (UTC) of a time, in the format used by the totals: 2026-11."""
    return at[:7] if isinstance(at, str) else f"{at.astimezone(UTC):%Y-%m}"


def change(session: Session | Connection, changes: Changes) -> None:
    """Apply changes to the totals in the caller's transaction. Rows are locked in a fixed order to avoid deadlocks."""
    rows = [
        {"scope": scope, "subject": subject, "month": period, "usd": str(usd)}
        for (scope, subject, period), usd in sorted(changes.usd.items())
        if usd
    ]
    if rows:
        connection = session.connection() if isinstance(session, Session) else session
        connection.execute(_upsert(connection.dialect.name), rows)


@cache
def _upsert(dialect: str) -> Insert:
    """An exact "insert or add" statement: with PostgreSQL's numerics, or with `decimal_add` on SQLite."""
    usd = bindparam("usd", type_=String())
    values = {name: bindparam(name, type_=String()) for name in ("scope", "subject", "month")} | {"max_usd": usd}
    if dialect == "postgresql":
        statement = postgres_insert(_TOTALS).values(values)
        old, new = cast(_TOTALS.c.max_usd, Numeric), cast(statement.excluded.max_usd, Numeric)
        return statement.on_conflict_do_update(
            index_elements=_TOTALS.primary_key.columns, set_={"max_usd": cast(old + new, String)}
        )
    insert = sqlite_insert(_TOTALS).values(values)
    total = func.decimal_add(_TOTALS.c.max_usd, insert.excluded.max_usd, type_=String())
    return insert.on_conflict_do_update(index_elements=_TOTALS.primary_key.columns, set_={"max_usd": total})


def decimal_add(a: str, b: str) -> str:
    """The sum of two decimal amounts stored as text."""
    return str(Decimal(a) + Decimal(b))


def track_flush(session: Session, _context: object) -> None:
    """`after_flush` listener: record the changes to all `Spend` objects in the session."""
    changes = Changes()
    for line in session.new:
        if isinstance(line, Spend):
            _count(changes, {name: getattr(line, name) for name in _COLUMNS}, 1)
    for line in (*session.dirty, *session.deleted):
        if isinstance(line, Spend):
            _count(changes, {name: _old_value(line, name) for name in _COLUMNS}, -1)
            if line not in session.deleted:
                _count(changes, {name: getattr(line, name) for name in _COLUMNS}, 1)
    change(session, changes)


def _count(changes: Changes, line: Mapping[str, Any], sign: int) -> None:
    usd = line["estimated_usd"] if line["cost_usd"] is None else line["cost_usd"]
    changes.add(line["created_at"], line["actor"], line["reference"], None if usd is None else sign * usd)


def _old_value(line: Spend, name: str) -> Any:
    deleted = inspect(line).attrs[name].history.deleted
    return deleted[0] if deleted else getattr(line, name)


def of_month(session: Session, now: datetime) -> dict[str, Decimal]:
    """Amount that each person has spent or reserved in the calendar month of `now` (UTC), in US dollars."""
    query = select(SpendTotal.subject, SpendTotal.max_usd)
    return dict(session.execute(query.where(SpendTotal.scope == "person", SpendTotal.month == month(now))).all())


def of_reference(session: Session, reference: str) -> Decimal:
    """Amount that a run, job or story has spent or reserved in total, in US dollars, regardless of the month."""
    return session.scalar(select(SpendTotal.max_usd).where(*_key(("reference", reference, "")))) or Decimal(0)


def _key(key: Key) -> Iterable[Any]:
    return (SpendTotal.scope == key[0], SpendTotal.subject == key[1], SpendTotal.month == key[2])
