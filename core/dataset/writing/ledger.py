"""The rows of a run: claimed, settled, given back. `matrix` fills the grid, `wholesale` is SQL for whole groups."""

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

from core.actor import Actor
from core.dataset.matrix import fill, recipe_of
from core.dataset.recipe import Recipe
from core.dataset.writing import claimants
from core.dataset.writing.wholesale import Group, fetched, fresh_ids, on_postgres, packed
from core.db.store import Store
from core.db.tables import Dataset, Row, Run, Spend, Utc, utcnow
from core.errors import NotFound

FINAL = ("done", "failed", "stopped", "paused")  # nobody works on it (any more)
_ROWS: Table = Row.__table__  # type: ignore[assignment]  # a Table, typed as FromClause
_SPEND: Table = Spend.__table__  # type: ignore[assignment]  # the same
AT_MOST = func.coalesce(Spend.cost_usd, Spend.estimated_usd, type_=Spend.cost_usd.type)
"""What a call cost; where nobody knows (cut off, no token counts), what it can have cost at most, if the price is."""


@dataclass(frozen=True, slots=True)
class Order:
    """One run as its executor needs it.

    Attributes:
        spent_usd: what earlier goes have spent or reserved, as far as known.
        claimant: who has the rows in hand that this executor claims, see `claimants`; "": nobody in particular.
    """

    run_id: str
    dataset_id: str
    provider: str
    model: str
    actor: Actor
    recipe: Recipe
    budget_usd: Decimal | None
    spent_usd: Decimal
    claimant: str = ""


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


def begin(store: Store, run_id: str, claimant: str = "") -> Order | None:
    """Take a run in hand; None when there is nothing (more) to do for it.

    Rows that a killed executor had sent are pending again: whether they were bought nobody knows.

    Raises:
        NotFound: no such run.
        BadRecipe: its data set has no recipe, or one that cannot be run.
    """
    with store.session() as session:
        run = session.get(Run, run_id, with_for_update=True)
        if run is None:
            raise NotFound("This run is not there any more.", "Start another one.")
        if run.state in _ASKED:
            finish(session, run_id, _ASKED[run.state], None)
        if run.state not in ("queued", "running"):
            return None
        recipe = recipe_of(session, run.dataset_id)
        recipe.check()
        run.state, run.note = "running", None
        run.started_at = run.started_at or utcnow()
        give_back(session, run.dataset_id)
        actor = Actor(id=run.created_by, name=run.created_by, role="editor")
        return Order(
            run_id=run.id,
            dataset_id=run.dataset_id,
            provider=run.provider,
            model=run.model,
            actor=actor,
            recipe=recipe,
            budget_usd=run.budget_usd,
            spent_usd=total_spent(session, run.id),
            claimant=claimant,
        )


_ASKED = {"stopping": "stopped", "pausing": "paused"}


def total_spent(session: Session, run_id: str) -> Decimal:
    """What a run has spent or reserved. Amounts are text: equal ones are grouped by SQL, then summed.

    Not bounded by time: a clock that is set back must not hide what was spent.
    """
    query = select(AT_MOST, func.count()).where(Spend.reference == run_id).group_by(AT_MOST)
    return sum((cost * calls for cost, calls in session.execute(query) if cost is not None), Decimal(0))


def held(session: Session, run_id: str) -> tuple[str, Decimal | None]:
    """State and budget of a run, which nobody else changes before this transaction ends: claims of a run queue here."""
    found = session.execute(select(Run.state, Run.budget_usd).where(Run.id == run_id).with_for_update()).one()
    return found.state, found.budget_usd


def claim(
    session: Session, order: Order, most: int, worst: Callable[[str], Decimal | None], left_usd: Decimal | None
) -> tuple[list[Claim], bool]:
    """Take up to `most` pending rows: they are `sent` from now on, and their worst case is reserved as spend.

    Args:
        worst: what a prompt costs at most, None where the price is unknown.
        left_usd: what may still be reserved, or None: no limit.

    Returns:
        The claims, and whether the money ended them.
    """
    pending = (
        select(Row.id, Row.key, Row.prompt)
        .where(Row.dataset_id == order.dataset_id, Row.state == "pending")
        .order_by(Row.updated_at, Row.id)  # as the index has them: nothing is sorted
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    found = fetched(session, pending)
    if len(found) < most and fill(session, order.dataset_id, order.recipe):
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


def give_back(session: Session, dataset_id: str, claimant: str = "") -> dict[str, int]:
    """Rows that `claimant` or a dead executor had sent are pending again; how many each of the others has in hand.

    Rows of a batch are not touched: the provider has them, and nobody needs to be alive for that.
    """
    sent = (_ROWS.c.dataset_id == dataset_id, _ROWS.c.state == "sent", _ROWS.c.batch_id.is_(None))
    query = select(_ROWS.c.claimed_by, func.count()).where(*sent).group_by(_ROWS.c.claimed_by)
    counts: dict[str | None, int] = {who: count for who, count in session.execute(query)}
    lost = {None, claimant, *claimants.dead(session, [who for who in counts if who])} & counts.keys()
    if lost:
        theirs = _ROWS.c.claimed_by.in_([who for who in lost if who])
        back = update(_ROWS).where(*sent, theirs | _ROWS.c.claimed_by.is_(None))
        session.execute(back.values(state="pending", claimed_by=None, updated_at=utcnow()))
    return {who: count for who, count in counts.items() if who is not None and who not in lost}


def others(session: Session, order: Order) -> int:
    """How many rows other living executors have in hand; what the dead had is given back."""
    living = give_back(session, order.dataset_id)
    return sum(count for who, count in living.items() if who != order.claimant)


def finish_complete(session: Session, order: Order) -> bool:
    """End the run as done if nothing is left to write, with nobody; whether it was so."""
    give_back(session, order.dataset_id)
    missing = select(Row.id).where(Row.dataset_id == order.dataset_id, Row.state.in_(("pending", "sent")))
    if session.scalar(missing.limit(1)) is not None:
        return False
    filled = session.scalar(select(Dataset.filled).where(Dataset.id == order.dataset_id))
    if filled is None or filled < 0 or fill(session, order.dataset_id, order.recipe):
        return False
    finish(session, order.run_id, "done", None)
    return True


def finish(
    session: Session, run_id: str, state: str, reason: str | None, claimant: str = "", *, held: bool = False
) -> None:
    """The end of a run: its state, why, and no row left in dead hands. The first end counts.

    A run that was resumed while it was being paused goes on instead; with `held` it is paused in any case. One that was
    to stop meanwhile is stopped.
    """
    run = session.get_one(Run, run_id, with_for_update=True)
    resumed = state == "paused" and run.state in ("running", "queued") and not held
    if state == "paused" and run.state == "stopping":
        state = "stopped"
    if run.state not in FINAL and not resumed:
        run.state, run.reason, run.note, run.finished_at = state, reason, None, utcnow()
    give_back(session, run.dataset_id, claimant)
