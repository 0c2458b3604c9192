"""A run's rows: claim, settle and release them.

`run_store` handles the runs themselves, `reservations` their spend ledger entries, `grid_store` fills the grid, and
`bulk_sql` has SQL for groups of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Integer,
    Select,
    String,
    Table,
    Update,
    bindparam,
    func,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from core import message
from core.datasets.grid_store import fill
from core.db.rescue_files import Entry
from core.db.tables import Row, Spend, Utc, utcnow
from core.generation import reservations
from core.generation.bulk_sql import JsonRows, as_single_value, fresh_ids, on_postgres, read, run, to_json
from core.generation.run_store import RunContext, pending_conditions

_ROWS: Table = Row.__table__  # type: ignore[assignment]  # a Table, typed as FromClause


class Claim(NamedTuple):
    """A row that is about to be sent. `spend_id` is its entry in the spend ledger."""

    row_id: int
    key: str
    prompt: str
    spend_id: int
    reserved_usd: Decimal | None


class RowResult(NamedTuple):
    """A row's result, in a live run or a batch.

    Attributes:
        state: done, failed, or pending (to be sent again). A failed row has a `reason` (a sentence) and keeps its text.
        prompt_tokens, completion_tokens, cost_usd: None if unknown.
    """

    state: str
    reason: str | None = None
    text: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: Decimal | None = None


class RowOutcome(NamedTuple):
    """The result for a claimed row. If the database cannot be written, the row is later found by its key."""

    claim: Claim
    result: RowResult
    at: datetime


def claim(
    session: Session,
    context: RunContext,
    limit: int,
    worst_case: Callable[[str], Decimal | None],
    remaining_usd: Decimal | None,
    *,
    failed_only: bool = False,
) -> tuple[list[Claim], bool]:
    """Claim up to `limit` pending rows: set them to `sent` and reserve their worst-case cost.

    A request may be sent only after `mark` has recorded it.

    Args:
        worst_case: maximum cost of a prompt in US dollars, None if the price is unknown.
        remaining_usd: amount that may still be reserved; None means no limit.
        failed_only: whether to claim only rows that were queued for a retry in this run.

    Returns:
        The claims, and whether the budget limited them.
    """
    query = _pending_query(on_postgres(session), failed_only)
    params = {"dataset": context.dataset_id, "run": context.run_id, "limit": limit}
    rows = read(session, query, params)
    if not failed_only and len(rows) < limit and fill(session, context.dataset_id, context.recipe):
        rows = read(session, query, params)
    costs = _affordable([worst_case(prompt) for _, _, prompt in rows], remaining_usd)
    if not costs:
        return [], bool(rows)
    ids = fresh_ids(session, "spend", func.max(Spend.id), len(costs))
    claims = [
        Claim(row_id, key, prompt, spend_id, cost)
        for (row_id, key, prompt), spend_id, cost in zip(rows, ids, costs, strict=False)
    ]
    _mark_claimed(session, context, claims)
    return claims, len(claims) < len(rows)


def _affordable(costs: Sequence[Decimal | None], remaining_usd: Decimal | None) -> list[Decimal | None]:
    """The leading costs that `remaining_usd` covers together; None if costs are unknown or there is no limit."""
    affordable: list[Decimal | None] = []
    for cost in costs:
        if remaining_usd is not None and cost is not None:
            if cost > remaining_usd:
                break
            remaining_usd -= cost
        affordable.append(cost)
    return affordable


@cache
def _pending_query(postgres: bool, failed_only: bool) -> Select[*tuple[Any, ...]]:
    dataset, run = bindparam("dataset", type_=String()), bindparam("run", type_=String())
    query = (
        select(Row.id, Row.key, Row.prompt)
        .where(*pending_conditions(dataset, run, failed_only))
        .order_by(Row.updated_at, Row.id)  # follows the index, so no sorting is needed
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(skip_locked=True)
    )
    return as_single_value(query, postgres)


def _mark_claimed(session: Session, context: RunContext, claims: Sequence[Claim]) -> None:
    now = utcnow()
    params = {"packed": to_json([(c.row_id,) for c in claims]), "now": now, "run": context.run_id}
    run(session, _claim_statement(on_postgres(session)), {**params, "claimant": context.claimant or None})
    reservations.reserve(
        session,
        [(c.row_id, c.spend_id, c.reserved_usd) for c in claims],
        run_id=context.run_id,
        actor=context.actor.id,
        provider=context.provider,
        model=context.model,
        now=now,
    )


@cache
def _claim_statement(postgres: bool) -> Update:
    group = JsonRows(postgres)
    statement = update(_ROWS).where(_ROWS.c.id.in_(select(group.number(0)).select_from(group.table)))
    claimant, run, now = (
        bindparam("claimant", type_=String()),
        bindparam("run", type_=String()),
        bindparam("now", type_=Utc()),
    )
    return statement.values(state="sent", run_id=run, claimed_by=claimant, updated_at=now)


def settle(session: Session | Connection, outcomes: Sequence[RowOutcome], claimant: str = "") -> None:
    """Write the results for `claimant`'s rows, and their actual cost, in one transaction.

    A claimant that was considered dead (for example because its machine was asleep) has lost its rows. A row that
    another claimant or a batch has sent in the meantime, or that is settled, is left unchanged; a pending row accepts
    the late answer, so it is not paid for twice. The cost of every answer counts.
    """
    if outcomes:
        rows = to_json([(o.claim.row_id, *_column_values(o.result)) for o in outcomes])
        params = {"packed": rows, "now": max(o.at for o in outcomes), "claimant": claimant}
        run(session, _settle_statement(on_postgres(session)), params)
        reservations.settle(session, [(o.claim.spend_id, *o.result[-3:]) for o in outcomes])


@cache
def _settle_statement(postgres: bool) -> Update:
    group = JsonRows(postgres)
    columns = {
        "state": group.text(1),
        "reason": group.text(2),
        "text": group.text(3),
        "finish_reason": group.text(4),
        "prompt_tokens": group.number(5),
        "completion_tokens": group.number(6),
        "cost_usd": group.text(7),
        "claimed_by": null(),
        "updated_at": bindparam("now", type_=Utc()),
    }
    sent, pending = literal_column("'sent'", String()), literal_column("'pending'", String())
    claimed_by = func.coalesce(_ROWS.c.claimed_by, literal_column("''"))
    own_claim = (
        (_ROWS.c.state == sent) & (claimed_by == bindparam("claimant", type_=String())) & _ROWS.c.batch_id.is_(None)
    )
    still_open = or_(_ROWS.c.state == pending, own_claim)
    return update(_ROWS).where(_ROWS.c.id == group.number(0), still_open).values(columns)


def _column_values(result: RowResult) -> tuple[object, ...]:
    state, reason, text, finish_reason, prompt_tokens, completion_tokens, cost = result
    reason = None if reason is None else message.dumps(reason)
    return state, reason, text, finish_reason, prompt_tokens, completion_tokens, None if cost is None else str(cost)


def release(
    session: Session,
    unsent: Iterable[Claim],
    interrupted: Iterable[tuple[Claim, Decimal | None]],
    claimant: str = "",
) -> None:
    """Release rows. Requests that were never sent cost nothing; interrupted ones cost the given amount (None if
    unknown).

    Rows that another claimant has claimed in the meantime stay with that claimant.
    """
    unsent, interrupted = list(unsent), list(interrupted)
    if not unsent and not interrupted:
        return
    group = JsonRows(on_postgres(session))
    rows = to_json([(c.row_id,) for c in [*unsent, *(c for c, _ in interrupted)]])
    statement = update(_ROWS).where(
        _ROWS.c.id.in_(select(group.number(0)).select_from(group.table)), _ROWS.c.state == "sent"
    )
    if claimant:
        statement = statement.where(_ROWS.c.claimed_by == claimant)
    session.execute(statement.values(state="pending", claimed_by=None, updated_at=utcnow()), {"packed": rows})
    reservations.release(session, [c.spend_id for c in unsent])
    reservations.settle(session, [(c.spend_id, None, None, cost) for c, cost in interrupted])


def row_entry(context: RunContext, outcome: RowOutcome) -> Entry:
    """The rescue file entry for one outcome of a run."""
    claim, result = outcome.claim, outcome.result
    return {
        "kind": "row",
        "at": outcome.at.isoformat(),
        "dataset_id": context.dataset_id,
        "run_id": context.run_id,
        "key": claim.key,
        "claimed_by": context.claimant,
        **result._asdict(),
        "spend": {
            "id": claim.spend_id,
            "actor": context.actor.id,
            "page": "dataset",
            "provider": context.provider,
            "model": context.model,
            "reference": context.run_id,
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "cost_usd": result.cost_usd,
            "estimated_usd": claim.reserved_usd,
        },
    }
