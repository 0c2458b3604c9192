"""What counts against budgets, kept as one row per scope and changed in the transaction that changes the spend ledger.

A budget check then reads two rows instead of a month of lines. Objects of `Spend` are followed by themselves: every
session of the store books what a flush has changed. Statements that change many lines at once say so with `change`.
`python -m core.db.spend_totals` compares the totals with the ledger and repairs them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import Connection, Insert, Numeric, String, Table, bindparam, cast, func, inspect, select, text
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from core.db.tables import Spend, SpendTotal

Key: TypeAlias = tuple[str, str, str]
"""Scope, subject, month: see `SpendTotal`."""
_TOTALS: Table = SpendTotal.__table__  # type: ignore[assignment]  # a Table, typed as FromClause
_PARTS = ("at", "actor", "reference", "cost_usd", "estimated_usd")

AT_MOST = func.coalesce(Spend.cost_usd, Spend.estimated_usd, type_=Spend.cost_usd.type)
"""What a call cost; where that is unknown (cut off, no token counts), the most that it can have cost; else null."""


class Changes:
    """By how much totals change, in US dollars."""

    def __init__(self) -> None:
        self.usd: dict[Key, Decimal] = defaultdict(Decimal)

    def add(self, at: datetime | str, actor: str, reference: str, usd: Decimal | None) -> None:
        """A line of the spend ledger counts so much more (less, where it is negative) than before.

        Args:
            at: when it was written, UTC; as text it begins with year and month.
            usd: None counts nothing: neither cost nor estimate is known.
        """
        if usd:
            self.usd["person", actor, month(at)] += usd
            self.usd["reference", reference, ""] += usd


def month(at: datetime | str) -> str:
    """The calendar month (UTC) of a moment, as the totals have it: 2026-11."""
    return at[:7] if isinstance(at, str) else f"{at.astimezone(UTC):%Y-%m}"


def change(on: Session | Connection, changes: Changes) -> None:
    """Add to the totals, in the caller's transaction. Rows are taken in one order everywhere: no deadlock."""
    rows = [
        {"scope": scope, "subject": subject, "month": when, "usd": str(usd)}
        for (scope, subject, when), usd in sorted(changes.usd.items())
        if usd
    ]
    if rows:
        connection = on.connection() if isinstance(on, Session) else on
        connection.execute(_adding(connection.dialect.name), rows)


@cache
def _adding(dialect: str) -> Insert:
    """Insert or add, exactly: PostgreSQL has numbers of any size, SQLite gets `decimal_add` from `core.db.store`."""
    usd = bindparam("usd", type_=String())
    values = {name: bindparam(name, type_=String()) for name in ("scope", "subject", "month")} | {"at_most_usd": usd}
    if dialect == "postgresql":
        making = postgres_insert(_TOTALS).values(values)
        old, new = cast(_TOTALS.c.at_most_usd, Numeric), cast(making.excluded.at_most_usd, Numeric)
        return making.on_conflict_do_update(
            index_elements=_TOTALS.primary_key.columns, set_={"at_most_usd": cast(old + new, String)}
        )
    adding = sqlite_insert(_TOTALS).values(values)
    both = func.decimal_add(_TOTALS.c.at_most_usd, adding.excluded.at_most_usd, type_=String())
    return adding.on_conflict_do_update(index_elements=_TOTALS.primary_key.columns, set_={"at_most_usd": both})


def decimal_add(one: str, other: str) -> str:
    """The sum of two amounts as SQLite keeps them: as text."""
    return str(Decimal(one) + Decimal(other))


def follow(session: Session, _context: object) -> None:
    """After a flush: what the objects in it have changed."""
    changes = Changes()
    for line in session.new:
        if isinstance(line, Spend):
            _count(changes, {name: getattr(line, name) for name in _PARTS}, 1)
    for line in (*session.dirty, *session.deleted):
        if isinstance(line, Spend):
            _count(changes, {name: _before(line, name) for name in _PARTS}, -1)
            if line not in session.deleted:
                _count(changes, {name: getattr(line, name) for name in _PARTS}, 1)
    change(session, changes)


def _count(changes: Changes, line: Mapping[str, Any], sign: int) -> None:
    usd = line["estimated_usd"] if line["cost_usd"] is None else line["cost_usd"]
    changes.add(line["at"], line["actor"], line["reference"], None if usd is None else sign * usd)


def _before(line: Spend, name: str) -> Any:
    deleted = inspect(line).attrs[name].history.deleted
    return deleted[0] if deleted else getattr(line, name)


def of_month(session: Session, now: datetime) -> dict[str, Decimal]:
    """What each person has spent or reserved in the calendar month of `now` (UTC)."""
    query = select(SpendTotal.subject, SpendTotal.at_most_usd)
    return dict(session.execute(query.where(SpendTotal.scope == "person", SpendTotal.month == month(now))).all())


def of_reference(session: Session, reference: str) -> Decimal:
    """What a run, job or story has spent or reserved, ever: a clock that is set back hides nothing."""
    return session.scalar(select(SpendTotal.at_most_usd).where(*_key(("reference", reference, "")))) or Decimal(0)


def _key(key: Key) -> Iterable[Any]:
    return (SpendTotal.scope == key[0], SpendTotal.subject == key[1], SpendTotal.month == key[2])


def counted(on: Session | Connection) -> dict[Key, Decimal]:
    """What the totals ought to be, by a look at every line. Equal amounts are grouped by SQL, summed here, exact."""
    line, changes = Spend.__table__.c, Changes()
    when = func.substr(line.at, 1, 7, type_=String())
    if on.connection().dialect.name == "postgresql" if isinstance(on, Session) else on.dialect.name == "postgresql":
        when = func.to_char(func.timezone("UTC", line.at), "YYYY-MM", type_=String())
    usd = func.coalesce(line.cost_usd, line.estimated_usd, type_=line.cost_usd.type)
    query = select(when, line.actor, line.reference, usd, func.count()).where(usd.is_not(None))
    for at, actor, reference, amount, calls in on.execute(query.group_by(when, line.actor, line.reference, usd)):
        changes.add(at, actor, reference, amount * calls)
    return {key: amount for key, amount in changes.usd.items() if amount}


def repair(session: Session) -> dict[Key, tuple[Decimal, Decimal]]:
    """Make the totals what the ledger says; those that were wrong, each with what it was and what it is now."""
    if session.connection().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE spend_totals IN EXCLUSIVE MODE"))  # whoever is writing lines ends first
    rows = session.execute(select(SpendTotal.scope, SpendTotal.subject, SpendTotal.month, SpendTotal.at_most_usd))
    there = {(scope, subject, when): usd for scope, subject, when, usd in rows}
    right = counted(session)
    wrong = {
        key: (there.get(key, Decimal(0)), right.get(key, Decimal(0)))
        for key in there.keys() | right.keys()
        if there.get(key, Decimal(0)) != right.get(key, Decimal(0))
    }
    changes = Changes()
    changes.usd.update({key: now - before for key, (before, now) in wrong.items()})
    change(session, changes)
    return wrong


def main() -> None:
    """Compare the totals of this studio with its spend ledger, and repair what differs."""
    from core.db.store import Store
    from core.settings import Settings

    store = Store.open(Settings.from_env())
    with store.session() as session:
        wrong = repair(session)
    for (scope, subject, when), (before, now) in sorted(wrong.items()):
        print(f"{scope} {subject} {when}: ${before} → ${now}")
    print(f"{len(wrong)} totals repaired." if wrong else "The totals agree with the spend ledger.")


if __name__ == "__main__":
    main()
