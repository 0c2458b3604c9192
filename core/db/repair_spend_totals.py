"""`python -m core.db.repair_spend_totals` compares the totals with the spend ledger and corrects them."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import Connection, String, func, select, text
from sqlalchemy.orm import Session

from core.db.spend_totals import Changes, Key, change
from core.db.store import Store
from core.db.tables import Spend, SpendTotal
from core.settings import Settings


def recomputed(session: Session | Connection) -> dict[Key, Decimal]:
    """Recompute the totals from all ledger lines. SQL groups equal amounts; the exact sum is computed here."""
    line, changes = Spend.__table__.c, Changes()
    period = func.substr(line.created_at, 1, 7, type_=String())
    connection = session.connection() if isinstance(session, Session) else session
    if connection.dialect.name == "postgresql":
        period = func.to_char(func.timezone("UTC", line.created_at), "YYYY-MM", type_=String())
    usd = func.coalesce(line.cost_usd, line.estimated_usd, type_=line.cost_usd.type)
    query = select(period, line.actor, line.reference, usd, func.count()).where(usd.is_not(None))
    for at, actor, reference, amount, calls in session.execute(query.group_by(period, line.actor, line.reference, usd)):
        changes.add(at, actor, reference, amount * calls)
    return {key: amount for key, amount in changes.usd.items() if amount}


def differences(session: Session) -> dict[Key, tuple[Decimal, Decimal]]:
    """The totals that do not agree with the ledger: stored and recomputed amount."""
    rows = session.execute(select(SpendTotal.scope, SpendTotal.subject, SpendTotal.month, SpendTotal.max_usd))
    stored = {(scope, subject, period): usd for scope, subject, period, usd in rows}
    expected = recomputed(session)
    return {
        key: (stored.get(key, Decimal(0)), expected.get(key, Decimal(0)))
        for key in stored.keys() | expected.keys()
        if stored.get(key, Decimal(0)) != expected.get(key, Decimal(0))
    }


def repair(session: Session) -> dict[Key, tuple[Decimal, Decimal]]:
    """Correct the totals from the ledger; return the wrong ones with their old and new values."""
    if session.connection().dialect.name == "postgresql":
        # Waits for transactions that are writing ledger lines.
        session.execute(text("LOCK TABLE spend_totals IN EXCLUSIVE MODE"))
    wrong = differences(session)
    changes = Changes()
    changes.usd.update({key: new - old for key, (old, new) in wrong.items()})
    change(session, changes)
    return wrong


def main() -> None:
    """Compare the totals with the spend ledger and correct differences."""
    store = Store.open(Settings.from_env())
    with store.session() as session:
        wrong = repair(session)
    for (scope, subject, period), (old, new) in sorted(wrong.items()):
        print(f"{scope} {subject} {period}: ${old} → ${new}")
    print(f"{len(wrong)} totals repaired." if wrong else "The totals agree with the spend ledger.")


if __name__ == "__main__":
    main()
