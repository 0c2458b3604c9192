"""The SQL for the answers of a batch: results into rows, and their cost into the batch's spend ledger entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from core.db.store import Store
from core.db.tables import Batch, Row, Run, Spend, utcnow
from core.generation.batch.batch_store import OVER, spend_of
from core.generation.run_store import FINAL

_FIELDS = ("state", "reason", "text", "finish_reason", "prompt_tokens", "completion_tokens", "cost_usd")


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """The result for the row with this key: done, failed, or pending (to be sent again).

    Attributes:
        cost_usd: None: unknown.
        may_be_billed: for a pending row: the request that brought no answer may be billed, at an unknown cost.
    """

    key: str
    state: str
    reason: str | None = None
    text: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: Decimal | None = None
    may_be_billed: bool = False


def settle(
    session: Session,
    dataset_id: str,
    batch_id: str,
    outcomes: Sequence[BatchOutcome],
    worst_case: Callable[[str], Decimal | None],
) -> None:
    """Write results in one transaction. Rows that are already settled, or not in this batch, stay as they are.

    Args:
        worst_case: maximum cost of a prompt in US dollars, None if the price is unknown.
    """
    table, now = Row.__table__.c, utcnow()
    conditions = (table.dataset_id == dataset_id, table.batch_id == batch_id, table.state == "sent")
    statement = update(Row.__table__).where(*conditions, table.key == bindparam("row"))  # type: ignore[arg-type]  # a Table
    settled = [o for o in outcomes if o.state != "pending"]
    if settled:
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _FIELDS}
        rows = [{"row": o.key, **{f"new_{name}": getattr(o, name) for name in _FIELDS}} for o in settled]
        session.execute(statement.values(values | {"updated_at": now}), rows)
    released = [{"row": o.key} for o in outcomes if o.state == "pending"]
    if released:
        lost = [o.key for o in outcomes if o.state == "pending" and o.may_be_billed]
        prompts = session.scalars(select(Row.prompt).where(*conditions, table.key.in_(lost))).all() if lost else ()
        _book_lost(session, batch_id, [worst_case(prompt) for prompt in prompts])
        session.execute(statement.values(state="pending", batch_id=None, updated_at=now), released)


def _book_lost(session: Session, batch_id: str, costs: Sequence[Decimal | None]) -> None:
    """Book requests that may be billed but brought no answer, and whose rows leave the batch to be sent again.

    They get a spend ledger entry of their own: an unknown cost, which counts at its maximum. The batch's entry reserves
    that much less.
    """
    reserved = spend_of(session, session.get_one(Batch, batch_id)) if costs else None
    if reserved is None:
        return
    usd = None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))
    shared = {
        name: getattr(reserved, name) for name in ("created_at", "actor", "page", "provider", "model", "reference")
    }
    session.add(Spend(**shared, cost_usd=None, estimated_usd=usd))
    if usd is not None and reserved.cost_usd is not None:
        reserved.cost_usd = reserved.estimated_usd = max(Decimal(0), reserved.cost_usd - usd)


def close(
    session: Session,
    batch_id: str,
    state: str,
    worst_case: Callable[[str], Decimal | None],
    reason: str | None = None,
    *,
    unknown: bool = False,
) -> None:
    """Finish a batch: rows without an answer become pending again, and its spend ledger entry gets the actual cost.

    If the cost is unknown, the entry keeps an estimate: the maximum cost.

    Args:
        state: done, failed or cancelled.
        worst_case: maximum cost of a prompt in US dollars, None if the price is unknown.
        reason: why the batch failed.
        unknown: it is not known what the provider has generated and bills.
    """
    batch = session.get_one(Batch, batch_id, with_for_update=True)
    if batch.state in OVER:
        return
    released = update(Row).where(Row.batch_id == batch_id, Row.state == "sent")
    session.execute(released.values(state="pending", batch_id=None, updated_at=utcnow()))
    tokens, cost, counts = _usage(session, batch_id)
    batch.completed, batch.failed = counts.get("done", 0), sum(counts.values()) - counts.get("done", 0)
    batch.state, batch.reason, batch.updated_at = state, reason, utcnow()
    spend = spend_of(session, batch)
    if spend is None:
        return
    if unknown:
        spend.prompt_tokens, spend.completion_tokens, spend.cost_usd = None, None, None
    elif not _was_executed(session, batch_id):
        batch.spend_id = None
        session.delete(spend)
    else:
        (spend.prompt_tokens, spend.completion_tokens), spend.cost_usd = tokens, cost
        if cost is None:
            spend.estimated_usd = _max_cost(session, batch_id, worst_case)


def _max_cost(session: Session, batch_id: str, worst_case: Callable[[str], Decimal | None]) -> Decimal | None:
    """The maximum cost of the settled rows of a batch. None if the price is unknown."""
    rows = session.execute(select(Row.prompt, Row.cost_usd).where(Row.batch_id == batch_id))
    costs = [worst_case(prompt) if cost is None else cost for prompt, cost in rows]
    return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))


def _was_executed(session: Session, batch_id: str) -> bool:
    """True if the model processed at least one row. Refused rows use no tokens and are not billed."""
    refused = (Row.prompt_tokens == 0) & (Row.completion_tokens == 0)
    unknown = Row.prompt_tokens.is_(None) | Row.completion_tokens.is_(None)
    query = select(Row.id).where(Row.batch_id == batch_id, unknown | ~refused).limit(1)
    return session.scalar(query) is not None


def _usage(session: Session, batch_id: str) -> tuple[tuple[int, int], Decimal | None, dict[str, int]]:
    """Tokens, cost and states of the settled rows. SQL groups equal amounts, Python adds them up."""
    query = (
        select(Row.state, Row.cost_usd, func.count(), func.sum(Row.prompt_tokens), func.sum(Row.completion_tokens))
        .where(Row.batch_id == batch_id)
        .group_by(Row.state, Row.cost_usd)
    )
    prompt, completion, cost, unknown = 0, 0, Decimal(0), False
    counts: dict[str, int] = {}
    for state, row_cost, rows, prompt_tokens, completion_tokens in session.execute(query):
        prompt, completion = prompt + int(prompt_tokens or 0), completion + int(completion_tokens or 0)
        cost, unknown = cost + (row_cost or Decimal(0)) * rows, unknown or row_cost is None
        counts[state] = counts.get(state, 0) + rows
    return (prompt, completion), None if unknown else cost, counts


def check_run(store: Store, run_id: str, note: str | None) -> tuple[str, Decimal | None]:
    """The run's state and budget. Updates the run's note if it has changed."""
    with store.reading() as session:
        run = session.get_one(Run, run_id)
        state, budget, current_note = run.state, run.budget_usd, run.note
    if current_note != note:
        with store.session() as session:
            session.execute(update(Run).where(Run.id == run_id, Run.state.not_in(FINAL)).values(note=note))
    return state, budget
