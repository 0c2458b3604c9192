"""The rows of a run: claimed, settled, given back.

`run_store` has the runs themselves, `reservations` their lines of the spend ledger, `matrix` fills the grid, `bulk_sql`
is SQL for whole groups.
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
from core.dataset.generation import reservations
from core.dataset.generation.bulk_sql import JsonRows, as_single_value, fresh_ids, on_postgres, read, run, to_json
from core.dataset.generation.run_store import RunContext, begin, finish, waiting
from core.dataset.grid_store import fill
from core.db.tables import Row, Spend, Utc, utcnow

__all__ = ["Claim", "RowOutcome", "begin", "claim", "finish", "mark", "release", "settle"]

_ROWS: Table = Row.__table__  # type: ignore[assignment]  # a Table, typed as FromClause


class Claim(NamedTuple):
    """A row that is about to be sent. `spend_id` is its line in the spend ledger."""

    row_id: int
    key: str
    prompt: str
    spend_id: int
    reserved_usd: Decimal | None


class RowOutcome(NamedTuple):
    """What came back for a row. `state` is done or failed; a failed row keeps the text that it got.

    `key` and `reserved_usd` are the claim's: where the database cannot be written, the row is found by its key later.
    """

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
    key: str = ""
    reserved_usd: Decimal | None = None


def claim(
    session: Session,
    context: RunContext,
    most: int,
    worst: Callable[[str], Decimal | None],
    left_usd: Decimal | None,
    *,
    own: bool = False,
) -> tuple[list[Claim], bool]:
    """Take up to `most` pending rows: they are `sent` from now on, and their worst case is reserved as spend.

    None of them may go out before `mark` has written so.

    Args:
        worst: what a prompt costs at most, None where the price is unknown.
        left_usd: what may still be reserved, or None: no limit.
        own: only rows that were put back for this run.

    Returns:
        The claims, and whether the money ended them.
    """
    pending = _pending(on_postgres(session), own)
    given = {"dataset": context.dataset_id, "run": context.run_id, "most": most}
    found = read(session, pending, given)
    if not own and len(found) < most and fill(session, context.dataset_id, context.recipe):
        found = read(session, pending, given)
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
    _take(session, context, claims)
    return claims, len(claims) < len(found)


@cache
def _pending(postgres: bool, own: bool) -> Select[*tuple[Any, ...]]:
    dataset, run = bindparam("dataset", type_=String()), bindparam("run", type_=String())
    query = (
        select(Row.id, Row.key, Row.prompt)
        .where(*waiting(dataset, run, own))
        .order_by(Row.updated_at, Row.id)  # as the index has them: nothing is sorted
        .limit(bindparam("most", type_=Integer()))
        .with_for_update(skip_locked=True)
    )
    return as_single_value(query, postgres)


def _take(session: Session, context: RunContext, claims: Sequence[Claim]) -> None:
    now = utcnow()
    given = {"packed": to_json([(c.row_id,) for c in claims]), "now": now, "run": context.run_id}
    run(session, _taking(on_postgres(session)), {**given, "who": context.claimant or None})
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
def _taking(postgres: bool) -> Update:
    group = JsonRows(postgres)
    taken = update(_ROWS).where(_ROWS.c.id.in_(select(group.number(0)).select_from(group.table)))
    who, run, now = bindparam("who", type_=String()), bindparam("run", type_=String()), bindparam("now", type_=Utc())
    return taken.values(state="sent", run_id=run, claimed_by=who, updated_at=now)


def mark(on: Session | Connection, sent: Sequence[int], refused: Sequence[int] = ()) -> set[int]:
    """See `reservations.mark`."""
    return reservations.mark(on, sent, refused, utcnow())


def settle(session: Session | Connection, outcomes: Sequence[RowOutcome], claimant: str = "") -> None:
    """Write what came back for the rows of `claimant`, and what it really cost, in one transaction.

    A claimant that was taken for dead (its machine slept) has lost its rows. One that another claimant or a batch has
    sent meanwhile, or that is settled, stays as it is; one that still waits takes the late answer, which saves buying
    it again. The cost of every answer counts.
    """
    if outcomes:
        rows = to_json([(o.row_id, *_values(o)) for o in outcomes])
        given = {"packed": rows, "now": max(o.at for o in outcomes), "who": claimant}
        run(session, _settling(on_postgres(session)), given)
        lines = [(o.spend_id, o.prompt_tokens, o.completion_tokens, o.cost_usd) for o in outcomes]
        reservations.settle(session, lines)


@cache
def _settling(postgres: bool) -> Update:
    group = JsonRows(postgres)
    written = {
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
    mine = (_ROWS.c.state == sent) & (claimed_by == bindparam("who", type_=String())) & _ROWS.c.batch_id.is_(None)
    still_open = or_(_ROWS.c.state == pending, mine)
    return update(_ROWS).where(_ROWS.c.id == group.number(0), still_open).values(written)


def _values(o: RowOutcome) -> tuple[object, ...]:
    cost = None if o.cost_usd is None else str(o.cost_usd)
    reason = None if o.reason is None else message.dumps(o.reason)
    return o.state, reason, o.text, o.finish_reason, o.prompt_tokens, o.completion_tokens, cost


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
    group = JsonRows(on_postgres(session))
    rows = to_json([(c.row_id,) for c in [*unsent, *(c for c, _ in unknown)]])
    mine = update(_ROWS).where(
        _ROWS.c.id.in_(select(group.number(0)).select_from(group.table)), _ROWS.c.state == "sent"
    )
    if claimant:
        mine = mine.where(_ROWS.c.claimed_by == claimant)
    session.execute(mine.values(state="pending", claimed_by=None, updated_at=utcnow()), {"packed": rows})
    reservations.give_back(session, [c.spend_id for c in unsent])
    reservations.settle(session, [(c.spend_id, None, None, cost) for c, cost in unknown])
