"""The rows of a run: claimed, settled, given back.

`orders` has the runs themselves, `matrix` fills the grid, `wholesale` is SQL for whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    String,
    Table,
    Update,
    bindparam,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.orm import Session

from core.dataset.matrix import fill
from core.dataset.writing.orders import Order, begin, finish, waiting
from core.dataset.writing.wholesale import Group, fetched, fresh_ids, on_postgres, packed
from core.db.tables import Row, Spend, Utc, utcnow

__all__ = ["Claim", "Outcome", "begin", "claim", "finish", "release", "settle"]

_ROWS: Table = Row.__table__  # type: ignore[assignment]  # a Table, typed as FromClause
_SPEND: Table = Spend.__table__  # type: ignore[assignment]  # the same


@dataclass(frozen=True, slots=True)
class Claim:
    """A row that is about to be sent. `spend_id` is its line in the spend ledger."""

    row_id: int
    key: str
    prompt: str
    spend_id: int
    reserved_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back for a row. `state` is done or failed; a failed row keeps the text that it got."""

    row_id: int
    spend_id: int
    state: str
    reason: str | None
    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    at: datetime


def claim(
    session: Session,
    order: Order,
    most: int,
    worst: Callable[[str], Decimal | None],
    left_usd: Decimal | None,
    *,
    own: bool = False,
) -> tuple[list[Claim], bool]:
    """Take up to `most` pending rows: they are `sent` from now on, and their worst case is reserved as spend.

    Args:
        worst: what a prompt costs at most, None where the price is unknown.
        left_usd: what may still be reserved, or None: no limit.
        own: only rows that were put back for this run.

    Returns:
        The claims, and whether the money ended them.
    """
    pending = (
        select(Row.id, Row.key, Row.prompt)
        .where(*waiting(order.dataset_id, order.run_id, own))
        .order_by(Row.updated_at, Row.id)  # as the index has them: nothing is sorted
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    found = fetched(session, pending)
    if not own and len(found) < most and fill(session, order.dataset_id, order.recipe):
        found = fetched(session, pending)
    costs: list[Decimal | None] = []
    for _, _, prompt in found:
        cost = worst(prompt)
        if left_usd is not None and cost is not None:
            if cost > left_usd:
                break
            left_usd -= cost
        costs.append(cost)
    if not costs:
        return [], bool(found)
    ids = fresh_ids(session, "spend", func.max(Spend.id), len(costs))
    claims = [
        Claim(row_id, key, prompt, spend_id, cost)
        for (row_id, key, prompt), spend_id, cost in zip(found, ids, costs, strict=False)
    ]
    _take(session, order, claims)
    return claims, len(claims) < len(found)


def _take(session: Session, order: Order, claims: Sequence[Claim]) -> None:
    taken, reserved = _taking(on_postgres(session))
    rows = packed([(c.row_id, c.spend_id, None if c.reserved_usd is None else str(c.reserved_usd)) for c in claims])
    given = {"packed": rows, "now": utcnow(), "run": order.run_id, "who": order.claimant or None}
    session.execute(taken, given)
    session.execute(reserved, {**given, "actor": order.actor.id, "provider": order.provider, "model": order.model})


@cache
def _taking(postgres: bool) -> tuple[Update, Insert]:
    """The statements that put rows on their way: rows, lines of the spend ledger."""
    group, now = Group(postgres), bindparam("now", type_=Utc())
    taken = update(_ROWS).where(_ROWS.c.id.in_(select(group.number(0)).select_from(group.table)))
    given = {name: bindparam(name, type_=String()) for name in ("run", "who", "actor", "provider", "model")}
    taken = taken.values(state="sent", run_id=given["run"], claimed_by=given["who"], updated_at=now)
    same: dict[str, ColumnElement[Any]] = {
        "at": now,
        "actor": given["actor"],
        "page": literal("dataset"),
        "provider": given["provider"],
        "model": given["model"],
        "reference": given["run"],
    }
    lines = select(group.number(1), *same.values(), group.text(2), group.text(2)).select_from(group.table)
    return taken, insert(_SPEND).from_select(["id", *same, "cost_usd", "estimated_usd"], lines)


def settle(session: Session | Connection, outcomes: Sequence[Outcome]) -> None:
    """Write what came back, and what it really cost, in one transaction.

    A row that others have settled meanwhile (this machine slept, they took it for dead) stays as it is; the cost of
    both answers counts.
    """
    if outcomes:
        given = {
            "packed": packed([(o.row_id, o.spend_id, *_values(o)) for o in outcomes]),
            "now": max(o.at for o in outcomes),
        }
        for statement in _settling(on_postgres(session)):
            session.execute(statement, given)


@cache
def _settling(postgres: bool) -> tuple[Update, Update]:
    """The statements that write outcomes: rows, lines of the spend ledger."""
    group = Group(postgres)
    took = {"prompt_tokens": group.number(6), "completion_tokens": group.number(7), "cost_usd": group.text(8)}
    written = {
        "state": group.text(2),
        "reason": group.text(3),
        "text": group.text(4),
        "finish_reason": group.text(5),
        "claimed_by": null(),
        "updated_at": bindparam("now", type_=Utc()),
    }
    rows = update(_ROWS).where(_ROWS.c.id == group.number(0), _ROWS.c.state.in_(("sent", "pending")))
    return rows.values({**written, **took}), update(_SPEND).where(_SPEND.c.id == group.number(1)).values(took)


def _values(o: Outcome) -> tuple[object, ...]:
    cost = None if o.cost_usd is None else str(o.cost_usd)
    return o.state, o.reason, o.text, o.finish_reason, o.prompt_tokens, o.completion_tokens, cost


def release(
    session: Session,
    unsent: Iterable[Claim],
    unknown: Iterable[tuple[Claim, Decimal | None]],
    claimant: str = "",
) -> None:
    """Give rows back. Those that never left cost nothing; those that were cut off cost what is said, None: unknown.

    Rows that another claimant has in hand by now stay with it.
    """
    unsent, unknown = list(unsent), list(unknown)
    if not unsent and not unknown:
        return
    group = Group(on_postgres(session))
    rows = packed([(c.row_id,) for c in [*unsent, *(c for c, _ in unknown)]])
    mine = update(_ROWS).where(
        _ROWS.c.id.in_(select(group.number(0)).select_from(group.table)), _ROWS.c.state == "sent"
    )
    if claimant:
        mine = mine.where(_ROWS.c.claimed_by == claimant)
    session.execute(mine.values(state="pending", claimed_by=None, updated_at=utcnow()), {"packed": rows})
    gone = delete(_SPEND).where(_SPEND.c.id.in_(select(group.number(0)).select_from(group.table)))
    session.execute(gone, {"packed": packed([(c.spend_id,) for c in unsent])})
    cut = update(_SPEND).where(_SPEND.c.id == group.number(0))
    cut = cut.values(prompt_tokens=None, completion_tokens=None, cost_usd=group.text(1))
    costs = [(c.spend_id, None if cost is None else str(cost)) for c, cost in unknown]
    session.execute(cut, {"packed": packed(costs)})
