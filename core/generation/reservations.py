"""The spend ledger entries for a run's rows: reserved, marked as sent, settled, or released.

An entry is written when its row is claimed, marked as sent before the request is sent, and settled with the answer.
After a crash, the mark shows which requests may have been billed. Every change to an entry also updates the totals that
budgets read, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Insert,
    Select,
    String,
    Table,
    Update,
    bindparam,
    case,
    delete,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.orm import Session

from core.db import spend_totals
from core.db.tables import Spend, Utc, utcnow
from core.generation.bulk_sql import JsonRows, as_single_value, on_postgres, read, run, to_json

_SPEND: Table = Spend.__table__  # type: ignore[assignment]  # a Table, typed as FromClause
_TOTAL_COLUMNS = (
    _SPEND.c.id,
    _SPEND.c.created_at,
    _SPEND.c.actor,
    _SPEND.c.reference,
    _SPEND.c.cost_usd,
    _SPEND.c.estimated_usd,
)


def reserve(
    session: Session,
    entries: Sequence[tuple[int, int, Decimal | None]],
    *,
    run_id: str,
    actor: str,
    provider: str,
    model: str,
    now: datetime,
) -> None:
    """Reserve the worst-case cost of claimed rows, given as (row id, id of the new entry, US dollars or None if the
    price is unknown).
    """
    params = {"run": run_id, "actor": actor, "provider": provider, "model": model, "now": now}
    rows = to_json([(row_id, spend_id, _text(usd)) for row_id, spend_id, usd in entries])
    run(session, _reserve_statement(on_postgres(session)), {"packed": rows, **params})
    changes = spend_totals.Changes()
    changes.add(now, actor, run_id, sum((usd for _, _, usd in entries if usd is not None), Decimal(0)))
    spend_totals.change(session, changes)


@cache
def _reserve_statement(postgres: bool) -> Insert:
    group = JsonRows(postgres)
    params = {name: bindparam(name, type_=String()) for name in ("run", "actor", "provider", "model")}
    shared: dict[str, ColumnElement[Any]] = {
        "created_at": bindparam("now", type_=Utc()),
        "actor": params["actor"],
        "page": literal("dataset"),
        "provider": params["provider"],
        "model": params["model"],
        "reference": params["run"],
    }
    per_row = {
        "id": group.number(1),
        "row_id": group.number(0),
        "cost_usd": group.text(2),
        "estimated_usd": group.text(2),
    }
    entries = select(*shared.values(), *per_row.values()).select_from(group.table)
    return insert(_SPEND).from_select([*shared, *per_row], entries)


def mark(
    on: Session | Connection, sent: Sequence[int], refused: Sequence[int] = (), now: datetime | None = None
) -> set[int]:
    """Record which requests are about to be `sent`, and clear the mark of unbilled `refused` ones.

    Returns:
        Entries in `sent` that no longer exist: other executors considered this one dead and released its rows.
    """
    if not sent and not refused:
        return set()
    marks = [(spend_id, 1) for spend_id in sent] + [(spend_id, 0) for spend_id in refused]
    result = run(on, _mark_statement(on_postgres(on)), {"packed": to_json(marks), "now": now or utcnow()})
    if result.rowcount == len(marks):
        return set()
    return set(sent) - {entry[0] for entry in _read_entries(on, sent)}


@cache
def _mark_statement(postgres: bool) -> Update:
    group = JsonRows(postgres)
    sent_at = case((group.number(1) == 1, bindparam("now", type_=Utc())), else_=null())
    return update(_SPEND).where(_SPEND.c.id == group.number(0)).values(sent_at=sent_at)


def settle(on: Session | Connection, entries: Sequence[tuple[int, int | None, int | None, Decimal | None]]) -> None:
    """Replace reservations with actual usage: (entry, prompt tokens, completion tokens, US dollars); None means
    unknown.

    An entry with an unknown cost still counts as its reserved amount.
    """
    if not entries:
        return
    costs = {spend_id: usd for spend_id, _, _, usd in entries}
    changes = spend_totals.Changes()
    for spend_id, time, actor, reference, cost, estimated in _read_entries(on, list(costs)):
        old_usd = estimated if cost is None else cost
        new_usd = estimated if costs[spend_id] is None else costs[spend_id]
        changes.add(time, actor, reference, _usd(new_usd) - _usd(old_usd))
    rows = to_json([(spend_id, prompt, completion, _text(usd)) for spend_id, prompt, completion, usd in entries])
    run(on, _settle_statement(on_postgres(on)), {"packed": rows})
    spend_totals.change(on, changes)


@cache
def _settle_statement(postgres: bool) -> Update:
    group = JsonRows(postgres)
    usage = {"prompt_tokens": group.number(1), "completion_tokens": group.number(2), "cost_usd": group.text(3)}
    return update(_SPEND).where(_SPEND.c.id == group.number(0)).values(usage)


def release(on: Session | Connection, spend_ids: Sequence[int]) -> None:
    """Delete the entries of requests that were never sent, or rejected without being charged."""
    if not spend_ids:
        return
    changes = spend_totals.Changes()
    for _, time, actor, reference, cost, estimated in _read_entries(on, spend_ids):
        changes.add(time, actor, reference, -_usd(estimated if cost is None else cost))
    run(on, _delete_statement(on_postgres(on)), {"packed": to_json([(spend_id,) for spend_id in spend_ids])})
    spend_totals.change(on, changes)


@cache
def _delete_statement(postgres: bool) -> Delete:
    group = JsonRows(postgres)
    return delete(_SPEND).where(_SPEND.c.id.in_(select(group.number(0)).select_from(group.table)))


def settle_abandoned(session: Session, rows: Select[tuple[int]]) -> None:
    """Settle the reservations of rows claimed by a dead executor. Requests that were never sent are released.

    Those that were sent may have been billed: their cost becomes unknown and counts as the reserved amount. Entries
    with a cost of 0 are left unchanged.
    """
    unsettled = (Spend.prompt_tokens.is_(None), Spend.completion_tokens.is_(None))
    query = select(Spend.id, Spend.sent_at, Spend.cost_usd).where(Spend.row_id.in_(rows), *unsettled)
    entries = session.execute(query.with_for_update()).all()
    release(session, [spend_id for spend_id, sent_at, _ in entries if sent_at is None])
    settle(
        session, [(spend_id, None, None, None) for spend_id, sent_at, cost in entries if sent_at is not None and cost]
    )


def _read_entries(on: Session | Connection, spend_ids: Sequence[int]) -> list[list[Any]]:
    """Read what these entries currently count: id, time, actor, reference, cost, estimate. Locks them in this
    transaction.
    """
    return read(on, _entries_query(on_postgres(on)), {"packed": to_json([(spend_id,) for spend_id in spend_ids])})


@cache
def _entries_query(postgres: bool) -> Select[*tuple[Any, ...]]:
    group = JsonRows(postgres)
    query = select(*_TOTAL_COLUMNS).join(group.table, _SPEND.c.id == group.number(0)).with_for_update(of=_SPEND)
    return as_single_value(query, postgres)


def _usd(amount: Decimal | str | None) -> Decimal:
    return Decimal(amount or 0)


def _text(usd: Decimal | None) -> str | None:
    return None if usd is None else str(usd)
