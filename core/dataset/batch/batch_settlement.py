"""The SQL of batch runs, homeward: answers into rows, and what they cost into the batch's line of the spend ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from core.dataset.batch.batch_store import OVER, spend_of
from core.dataset.generation.run_store import FINAL
from core.db.store import Store
from core.db.tables import Batch, Row, Run, utcnow

_FIELDS = ("state", "reason", "text", "finish_reason", "prompt_tokens", "completion_tokens", "cost_usd")


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What came back for the row with this key: done or failed, or pending: it is to be sent again."""

    key: str
    state: str
    reason: str | None = None
    text: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: Decimal | None = None


def settle(session: Session, dataset_id: str, batch_id: str, outcomes: Sequence[BatchOutcome]) -> None:
    """Write what came back, in one transaction. A row that is settled already, or in no such batch, stays as it is."""
    table, now = Row.__table__.c, utcnow()
    mine = (table.dataset_id == dataset_id, table.batch_id == batch_id, table.state == "sent")
    change = update(Row.__table__).where(*mine, table.key == bindparam("row"))  # type: ignore[arg-type]  # a Table
    kept = [o for o in outcomes if o.state != "pending"]
    if kept:
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _FIELDS}
        rows = [{"row": o.key, **{f"new_{name}": getattr(o, name) for name in _FIELDS}} for o in kept]
        session.execute(change.values(values | {"updated_at": now}), rows)
    back = [{"row": o.key} for o in outcomes if o.state == "pending"]
    if back:
        session.execute(change.values(state="pending", batch_id=None, updated_at=now), back)


def close(
    session: Session,
    batch_id: str,
    state: str,
    worst: Callable[[str], Decimal | None],
    reason: str | None = None,
    *,
    unknown: bool = False,
) -> None:
    """The end of a batch: rows without an answer are pending again, and its line of the spend ledger is what it cost.

    Where that is not known, the line's estimate stays: the most that it can have cost.

    Args:
        state: done, failed or cancelled.
        worst: what a prompt costs at most, None where the price is unknown.
        reason: why it failed.
        unknown: nobody knows what the provider has written, and bills.
    """
    batch = session.get_one(Batch, batch_id, with_for_update=True)
    if batch.state in OVER:
        return
    back = update(Row).where(Row.batch_id == batch_id, Row.state == "sent")
    session.execute(back.values(state="pending", batch_id=None, updated_at=utcnow()))
    tokens, cost, counts = _bought(session, batch_id)
    batch.completed, batch.failed = counts.get("done", 0), sum(counts.values()) - counts.get("done", 0)
    batch.state, batch.reason, batch.updated_at = state, reason, utcnow()
    spend = spend_of(session, batch)
    if spend is None:
        return
    if unknown:
        spend.prompt_tokens, spend.completion_tokens, spend.cost_usd = None, None, None
    elif not _carried_out(session, batch_id):
        batch.spend_id = None
        session.delete(spend)
    else:
        (spend.prompt_tokens, spend.completion_tokens), spend.cost_usd = tokens, cost
        if cost is None:
            spend.estimated_usd = _at_most(session, batch_id, worst)


def _at_most(session: Session, batch_id: str, worst: Callable[[str], Decimal | None]) -> Decimal | None:
    """What the settled rows of a batch can have cost; None where the price is unknown."""
    rows = session.execute(select(Row.prompt, Row.cost_usd).where(Row.batch_id == batch_id))
    costs = [worst(prompt) if cost is None else cost for prompt, cost in rows]
    return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))


def _carried_out(session: Session, batch_id: str) -> bool:
    """Whether a row of the batch was read by the model: what was refused took no tokens, and is billed by nobody."""
    refused = (Row.prompt_tokens == 0) & (Row.completion_tokens == 0)
    untold = Row.prompt_tokens.is_(None) | Row.completion_tokens.is_(None)
    query = select(Row.id).where(Row.batch_id == batch_id, untold | ~refused).limit(1)
    return session.scalar(query) is not None


def _bought(session: Session, batch_id: str) -> tuple[tuple[int, int], Decimal | None, dict[str, int]]:
    """Tokens, cost and states of the rows that a batch has settled. Equal amounts are grouped by SQL, summed here."""
    query = (
        select(Row.state, Row.cost_usd, func.count(), func.sum(Row.prompt_tokens), func.sum(Row.completion_tokens))
        .where(Row.batch_id == batch_id)
        .group_by(Row.state, Row.cost_usd)
    )
    prompt, written, total, unknown = 0, 0, Decimal(0), False
    counts: dict[str, int] = {}
    for state, cost, rows, read, wrote in session.execute(query):
        prompt, written = prompt + int(read or 0), written + int(wrote or 0)
        total, unknown = total + (cost or Decimal(0)) * rows, unknown or cost is None
        counts[state] = counts.get(state, 0) + rows
    return (prompt, written), None if unknown else total, counts


def check_run(store: Store, run_id: str, note: str | None) -> tuple[str, Decimal | None]:
    """The run's state and budget now; what it waits for is written when it has changed."""
    with store.reading() as session:
        run = session.get_one(Run, run_id)
        state, budget, seen = run.state, run.budget_usd, run.note
    if seen != note:
        with store.session() as session:
            session.execute(update(Run).where(Run.id == run_id, Run.state.not_in(FINAL)).values(note=note))
    return state, budget
