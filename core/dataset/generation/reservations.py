"""The lines of the spend ledger that a run's rows have: reserved, marked as sent, settled, or given back.

A line is written when its row is claimed, marked as sent before the request goes out, and settled with the answer.
After a crash the mark tells what may have been billed. Every change of a line changes the totals that budgets read, in
the same transaction.
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

from core.dataset.generation.bulk_sql import JsonRows, as_single_value, on_postgres, read, run, to_json
from core.db import spend_totals
from core.db.tables import Spend, Utc

_SPEND: Table = Spend.__table__  # type: ignore[assignment]  # a Table, typed as FromClause
_COUNTED = (_SPEND.c.id, _SPEND.c.at, _SPEND.c.actor, _SPEND.c.reference, _SPEND.c.cost_usd, _SPEND.c.estimated_usd)


def reserve(
    session: Session,
    lines: Sequence[tuple[int, int, Decimal | None]],
    *,
    run_id: str,
    actor: str,
    provider: str,
    model: str,
    now: datetime,
) -> None:
    """Reserve the worst case of claimed rows: (row, id of the new line, US dollars; None: the price is unknown)."""
    given = {"run": run_id, "actor": actor, "provider": provider, "model": model, "now": now}
    rows = to_json([(row_id, line, _text(usd)) for row_id, line, usd in lines])
    run(session, _reserving(on_postgres(session)), {"packed": rows, **given})
    changes = spend_totals.Changes()
    changes.add(now, actor, run_id, sum((usd for _, _, usd in lines if usd is not None), Decimal(0)))
    spend_totals.change(session, changes)


@cache
def _reserving(postgres: bool) -> Insert:
    group = JsonRows(postgres)
    given = {name: bindparam(name, type_=String()) for name in ("run", "actor", "provider", "model")}
    same: dict[str, ColumnElement[Any]] = {
        "at": bindparam("now", type_=Utc()),
        "actor": given["actor"],
        "page": literal("dataset"),
        "provider": given["provider"],
        "model": given["model"],
        "reference": given["run"],
    }
    each = {"id": group.number(1), "row_id": group.number(0), "cost_usd": group.text(2), "estimated_usd": group.text(2)}
    lines = select(*same.values(), *each.values()).select_from(group.table)
    return insert(_SPEND).from_select([*same, *each], lines)


def mark(on: Session | Connection, sent: Sequence[int], refused: Sequence[int], now: datetime) -> set[int]:
    """Write down, before they go out, which requests are `sent`; those that were `refused`, unbilled, no longer are.

    Returns:
        Lines among `sent` that are not there any more: others have taken this executor for dead, and their rows back.
    """
    if not sent and not refused:
        return set()
    marks = [(line, 1) for line in sent] + [(line, 0) for line in refused]
    done = run(on, _marking(on_postgres(on)), {"packed": to_json(marks), "now": now})
    if done.rowcount == len(marks):
        return set()
    return set(sent) - {line[0] for line in _lines(on, sent)}


@cache
def _marking(postgres: bool) -> Update:
    group = JsonRows(postgres)
    at = case((group.number(1) == 1, bindparam("now", type_=Utc())), else_=null())
    return update(_SPEND).where(_SPEND.c.id == group.number(0)).values(sent_at=at)


def settle(on: Session | Connection, lines: Sequence[tuple[int, int | None, int | None, Decimal | None]]) -> None:
    """Replace what was reserved by what it took: (line, prompt tokens, completion tokens, US dollars), None: unknown.

    A line with an unknown cost goes on counting what was reserved.
    """
    if not lines:
        return
    costs = {line: usd for line, _, _, usd in lines}
    changes = spend_totals.Changes()
    for line, at, actor, reference, cost, estimated in _lines(on, list(costs)):
        before = estimated if cost is None else cost
        after = estimated if costs[line] is None else costs[line]
        changes.add(at, actor, reference, _usd(after) - _usd(before))
    rows = to_json([(line, prompt, completion, _text(usd)) for line, prompt, completion, usd in lines])
    run(on, _settling(on_postgres(on)), {"packed": rows})
    spend_totals.change(on, changes)


@cache
def _settling(postgres: bool) -> Update:
    group = JsonRows(postgres)
    took = {"prompt_tokens": group.number(1), "completion_tokens": group.number(2), "cost_usd": group.text(3)}
    return update(_SPEND).where(_SPEND.c.id == group.number(0)).values(took)


def give_back(on: Session | Connection, lines: Sequence[int]) -> None:
    """Delete lines of requests that were never sent, or refused without a bill."""
    if not lines:
        return
    changes = spend_totals.Changes()
    for _, at, actor, reference, cost, estimated in _lines(on, lines):
        changes.add(at, actor, reference, -_usd(estimated if cost is None else cost))
    run(on, _deleting(on_postgres(on)), {"packed": to_json([(line,) for line in lines])})
    spend_totals.change(on, changes)


@cache
def _deleting(postgres: bool) -> Delete:
    group = JsonRows(postgres)
    return delete(_SPEND).where(_SPEND.c.id.in_(select(group.number(0)).select_from(group.table)))


def abandoned(session: Session, rows: Select[tuple[int]]) -> None:
    """The executor that had claimed these rows is dead. What it never sent is given back.

    What it sent may have been billed: an unknown cost from now on, which counts as what was reserved. What costs
    nothing costs nothing.
    """
    open_lines = (Spend.prompt_tokens.is_(None), Spend.completion_tokens.is_(None))
    query = select(Spend.id, Spend.sent_at, Spend.cost_usd).where(Spend.row_id.in_(rows), *open_lines)
    lines = session.execute(query.with_for_update()).all()
    give_back(session, [line for line, sent_at, _ in lines if sent_at is None])
    settle(session, [(line, None, None, None) for line, sent_at, cost in lines if sent_at is not None and cost])


def _lines(on: Session | Connection, lines: Sequence[int]) -> list[list[Any]]:
    """What these lines count now: id, time, actor, reference, cost, estimate; nobody else changes them meanwhile."""
    return read(on, _counting(on_postgres(on)), {"packed": to_json([(line,) for line in lines])})


@cache
def _counting(postgres: bool) -> Select[*tuple[Any, ...]]:
    group = JsonRows(postgres)
    query = select(*_COUNTED).join(group.table, _SPEND.c.id == group.number(0)).with_for_update(of=_SPEND)
    return as_single_value(query, postgres)


def _usd(amount: Decimal | str | None) -> Decimal:
    return Decimal(amount or 0)


def _text(usd: Decimal | None) -> str | None:
    return None if usd is None else str(usd)
