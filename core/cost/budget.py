"""Budgets: the most that any one run, one person in a month, or everybody in a month may spend. Checked where money is
reserved, before a request is sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store, hold, new_id
from core.db.tables import Budget, Spend, utcnow
from core.errors import FabulaError, OverBudget

Scope = Literal["run", "month", "person"]
PREVIEW = "preview"
"""In place of a run's id: what previews cost counts in a month, and for a person, but they are no run."""
MOST_USD = Decimal(1_000_000_000)
_CACHE = "fabula_budgets"  # in a session: what was read for its first check, so that a thousand rows read it once


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget and what is left of it. `left_usd` is None for `run`: each run has its own."""

    scope: Scope
    subject: str
    amount_usd: Decimal
    spent_usd: Decimal | None
    left_usd: Decimal | None


AT_MOST = func.coalesce(Spend.cost_usd, Spend.estimated_usd, type_=Spend.cost_usd.type)
"""What a call cost; where nobody knows (cut off, no token counts), what it can have cost at most, if the price is."""


def month_start(now: datetime) -> datetime:
    """The first moment of the calendar month (UTC)."""
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def set_budget(store: Store, actor: Actor, scope: Scope, amount_usd: Decimal | None, subject: str = "") -> None:
    """Set a budget, or take it away (None). `subject` is the person whose it is; empty for the other scopes.

    Raises:
        FabulaError: the amount cannot be a budget, or a person is missing; or the actor may not set one.
    """
    if actor.role != "admin":
        raise FabulaError("Only an admin can change budgets.", "Ask one.")
    subject = subject.strip()
    if (scope == "person") != bool(subject):
        raise FabulaError("A budget of a person needs the person, the others have none.", "Choose one.")
    if amount_usd is not None and not (amount_usd.is_finite() and 0 <= amount_usd <= MOST_USD):
        raise FabulaError(f"{amount_usd} dollars cannot be a budget.", "Give an amount of 0 or more.")
    with store.session() as session:
        hold(session, "budgets")
        session.execute(delete(Budget).where(Budget.scope == scope, Budget.subject == subject))
        if amount_usd is not None:
            session.add(Budget(id=new_id(), scope=scope, subject=subject, amount_usd=amount_usd, created_by=actor.id))


def budgets(store: Store) -> list[BudgetView]:
    """All budgets with what was spent and what is left this month: of everybody, of a run, then of persons."""
    with store.reading() as session:
        rows = session.scalars(select(Budget).order_by(Budget.scope, Budget.subject)).all()
        since = month_start(utcnow())
        return [_view(session, row, since) for row in rows]


def left(store: Store, actor: Actor, reference: str | None = None) -> Decimal | None:
    """US dollars that this person may still spend now, on this run, job or story; None: no budget says anything.

    Never below 0.
    """
    with store.reading() as reading:
        return _least(_State.read(reading), actor, reference, reading)


def left_in(session: Session, actor: Actor, reference: str | None = None) -> Decimal | None:
    """As `left`, in a transaction that may then reserve so much: nobody else does before it ends."""
    return _least(_state(session), actor, reference, session)


def check(session: Session, actor: Actor, amount: Decimal | None, reference: str | None = None) -> None:
    """See that `amount` may be reserved now. Call it in the transaction that reserves it, before anything is sent.

    Args:
        amount: US dollars at most, None where the price is unknown: then a budget could not be kept.
        reference: the run, job or story.

    Raises:
        OverBudget: it would go over one; `what` says which.
    """
    state = _state(session)
    if not state.amounts or amount == 0:
        return
    for scope, limit, spent in state.applying(actor, reference, session):
        if amount is None:
            raise OverBudget(
                "There is a budget, and the price of this model is unknown, so that the budget could not be kept.",
                "Set your own price for the model on the cost page, or have the budget taken away.",
            )
        if spent + amount > limit:
            raise OverBudget(
                _too_little(scope, f"{spent:,.2f}", f"{limit:,.2f}"),
                "Have it raised on the cost page, or choose a cheaper model.",
            )


def _too_little(scope: str, spent: str, limit: str) -> str:
    if scope == "run":
        return f"The budget of a run leaves too little for this: ${spent} of ${limit} spent or reserved."
    if scope == "person":
        return f"Your budget of this month leaves too little for this: ${spent} of ${limit} spent or reserved."
    return f"This month's budget leaves too little for this: ${spent} of ${limit} spent or reserved."


def spent_on(session: Session, reference: str) -> Decimal:
    """What a run, job or story has spent or reserved. Amounts are text (SQLite): SQL groups equal ones.

    Not bounded by time: a clock that is set back must not hide what was spent.
    """
    query = select(AT_MOST, func.count()).where(Spend.reference == reference, AT_MOST.is_not(None))
    found = session.execute(query.group_by(AT_MOST))
    return sum(((cost or Decimal(0)) * calls for cost, calls in found), Decimal(0))


def reserved(session: Session, actor: Actor, amount: Decimal | None, reference: str) -> None:
    """Take note, in this transaction, of an amount that was just reserved, so that the next check knows of it."""
    state: _State | None = session.info.get(_CACHE)
    if state is not None and amount:
        state.add(actor.id, reference, amount)


def forget(session: Session) -> None:
    """What this transaction knows of budgets is no longer true: amounts have been settled."""
    session.info.pop(_CACHE, None)


class _State:
    """Budgets and what counts against them, as one transaction has read them."""

    def __init__(
        self, amounts: dict[tuple[str, str], Decimal], everybody: Decimal, persons: dict[str, Decimal]
    ) -> None:
        self.amounts = amounts
        self.everybody = everybody
        self.persons = persons
        self.runs: dict[str, Decimal] = {}

    @classmethod
    def read(cls, session: Session) -> _State:
        rows = session.execute(select(Budget.scope, Budget.subject, Budget.amount_usd))
        amounts = {(scope, subject): amount for scope, subject, amount in rows}
        persons: dict[str, Decimal] = {}
        if any(scope != "run" for scope, _ in amounts):
            persons = _spent_by_person(session, month_start(utcnow()))
        return cls(amounts, sum(persons.values(), Decimal(0)), persons)

    def add(self, person: str, reference: str, amount: Decimal) -> None:
        self.everybody += amount
        self.persons[person] = self.persons.get(person, Decimal(0)) + amount
        if reference in self.runs:
            self.runs[reference] += amount

    def applying(self, actor: Actor, reference: str | None, session: Session) -> list[tuple[str, Decimal, Decimal]]:
        """(scope, limit, spent) of every budget that this person's next request counts against."""
        found = []
        if (limit := self.amounts.get(("run", ""))) is not None and reference not in (None, PREVIEW):
            if reference not in self.runs:
                self.runs[reference] = spent_on(session, reference)
            found.append(("run", limit, self.runs[reference]))
        if (limit := self.amounts.get(("month", ""))) is not None:
            found.append(("month", limit, self.everybody))
        if (limit := self.amounts.get(("person", actor.id))) is not None:
            found.append(("person", limit, self.persons.get(actor.id, Decimal(0))))
        return found


def _state(session: Session) -> _State:
    state: _State | None = session.info.get(_CACHE)
    if state is None:
        if session.scalar(select(Budget.id).limit(1)) is not None:
            hold(session, "budgets")  # two workers must not both reserve the last dollar
        state = session.info[_CACHE] = _State.read(session)
    return state


def _least(state: _State, actor: Actor, reference: str | None, session: Session) -> Decimal | None:
    rests = [limit - spent for _, limit, spent in state.applying(actor, reference, session)]
    return max(min(rests), Decimal(0)) if rests else None


def _view(session: Session, row: Budget, since: datetime) -> BudgetView:
    spent = None
    if row.scope == "month":
        spent = sum(_spent_by_person(session, since).values(), Decimal(0))
    elif row.scope == "person":
        spent = _spent_by_person(session, since).get(row.subject, Decimal(0))
    scope: Scope = row.scope  # type: ignore[assignment]  # only set_budget writes it
    return BudgetView(scope, row.subject, row.amount_usd, spent, None if spent is None else row.amount_usd - spent)


def _spent_by_person(session: Session, since: datetime) -> dict[str, Decimal]:
    """Spent and reserved since then. Amounts are text (SQLite), so SQL only groups equal ones."""
    query = select(Spend.actor, AT_MOST, func.count()).where(Spend.at >= since, AT_MOST.is_not(None))
    found: dict[str, Decimal] = {}
    for person, cost, calls in session.execute(query.group_by(Spend.actor, AT_MOST)):
        found[person] = found.get(person, Decimal(0)) + (cost or Decimal(0)) * calls
    return found
