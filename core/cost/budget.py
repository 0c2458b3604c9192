"""Budgets: the most that any one run, one person in a month, or everybody in a month may spend. Checked where money is
reserved, before a request is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db import spend_totals
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Budget, utcnow
from core.errors import FabulaError, OverBudget
from core.message import msg

Scope = Literal["run", "month", "person"]
PREVIEW = "preview"
"""In place of a run's id: what previews cost counts in a month, and for a person, but they are no run."""
MOST_USD = Decimal(1_000_000_000)
LONGEST_SUBJECT = 100
"""Characters of a person's name, as the ledger holds them."""


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget and what is left of it. `left_usd` is None for `run`: each run has its own."""

    scope: Scope
    subject: str
    amount_usd: Decimal
    spent_usd: Decimal | None
    left_usd: Decimal | None


def month_start(now: datetime) -> datetime:
    """The first moment of the calendar month (UTC)."""
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def set_budget(store: Store, actor: Actor, scope: Scope, amount_usd: Decimal | None, subject: str = "") -> None:
    """Set a budget, or take it away (None). `subject` is the person whose it is; empty for the other scopes.

    Raises:
        FabulaError: the amount cannot be a budget, or a person is missing; or the actor may not set one.
    """
    if actor.role != "admin":
        raise FabulaError(msg("Only admins can change budgets."), msg("Ask an admin."))
    subject = subject.strip()
    if (scope == "person") != bool(subject):
        raise FabulaError(msg("A budget for one person needs a name; other budgets take none."), msg("Enter a name."))
    if (count := len(subject)) > LONGEST_SUBJECT:
        raise FabulaError(
            msg("The person's name has {count} characters; up to {most} fit.", count=count, most=LONGEST_SUBJECT),
            msg("Enter the name that the person signs in with."),
        )
    if amount_usd is not None and not (amount_usd.is_finite() and 0 <= amount_usd <= MOST_USD):
        raise FabulaError(
            msg("A budget of {amount_usd} US dollars is not valid.", amount_usd=amount_usd),
            msg("Enter an amount of 0 or more."),
        )
    with store.session() as session:
        advisory_lock(session, "budgets")
        session.execute(delete(Budget).where(Budget.scope == scope, Budget.subject == subject))
        if amount_usd is not None:
            session.add(Budget(id=new_id(), scope=scope, subject=subject, amount_usd=amount_usd, created_by=actor.id))


def budgets(store: Store) -> list[BudgetView]:
    """All budgets with what was spent and what is left this month: of everybody, of a run, then of persons."""
    with store.reading() as session:
        rows = session.scalars(select(Budget).order_by(Budget.scope, Budget.subject)).all()
        persons = spend_totals.of_month(session, utcnow())
        return [_view(row, persons) for row in rows]


def remaining(store: Store, actor: Actor, reference: str | None = None) -> Decimal | None:
    """US dollars that this person may still spend now, on this run, job or story; None: no budget says anything.

    Never below 0.
    """
    with store.reading() as session:
        return _least(_applying(session, actor, reference))


def remaining_in(session: Session, actor: Actor, reference: str | None = None) -> Decimal | None:
    """As `remaining`, in a transaction that may then reserve so much: nobody else does before it ends."""
    _hold(session)
    return _least(_applying(session, actor, reference))


def check(session: Session, actor: Actor, amount: Decimal | None, reference: str | None = None) -> None:
    """See that `amount` may be reserved now. Call it in the transaction that reserves it, before anything is sent.

    Args:
        amount: US dollars at most, None where the price is unknown: then a budget could not be kept.
        reference: the run, job or story.

    Raises:
        OverBudget: it would go over one; `what` says which.
    """
    if amount == 0:
        return
    _hold(session)
    for scope, limit, spent in _applying(session, actor, reference):
        if amount is None:
            raise OverBudget(
                msg("Blocked: the price of this model is unknown, so the budget can't be enforced."),
                msg("Set your own price for the model on the Cost page, or ask an admin to remove the budget."),
            )
        if spent + amount > limit:
            raise OverBudget(
                _too_little(scope, f"{spent:,.2f}", f"{limit:,.2f}"),
                msg("Choose a cheaper model, or ask an admin to raise the budget on the Cost page."),
            )


def _too_little(scope: str, spent: str, limit: str) -> str:
    if scope == "run":
        return msg(
            "Blocked: this would exceed the budget per run. ${spent} of ${limit} spent or reserved.",
            spent=spent,
            limit=limit,
        )
    if scope == "person":
        return msg(
            "Blocked: this would exceed your budget for this month. ${spent} of ${limit} spent or reserved.",
            spent=spent,
            limit=limit,
        )
    return msg(
        "Blocked: this would exceed this month's budget. ${spent} of ${limit} spent or reserved.",
        spent=spent,
        limit=limit,
    )


def spent_on(session: Session, reference: str) -> Decimal:
    """What a run, job or story has spent or reserved; an unknown cost counts as what it can have been at most."""
    return spend_totals.of_reference(session, reference)


def _hold(session: Session) -> None:
    """Two workers must not both reserve the last dollar."""
    if session.scalar(select(Budget.id).limit(1)) is not None:
        advisory_lock(session, "budgets")


def _applying(session: Session, actor: Actor, reference: str | None) -> list[tuple[str, Decimal, Decimal]]:
    """(scope, limit, spent) of every budget that this person's next request counts against."""
    rows = session.execute(select(Budget.scope, Budget.subject, Budget.amount_usd))
    limits = {(scope, subject): limit for scope, subject, limit in rows}
    found = []
    if (limit := limits.get(("run", ""))) is not None and reference is not None and reference != PREVIEW:
        found.append(("run", limit, spend_totals.of_reference(session, reference)))
    month, person = limits.get(("month", "")), limits.get(("person", actor.id))
    persons = {} if month is None and person is None else spend_totals.of_month(session, utcnow())
    if month is not None:
        found.append(("month", month, sum(persons.values(), Decimal(0))))
    if person is not None:
        found.append(("person", person, persons.get(actor.id, Decimal(0))))
    return found


def _least(applying: Iterable[tuple[str, Decimal, Decimal]]) -> Decimal | None:
    rests = [limit - spent for _, limit, spent in applying]
    return max(min(rests), Decimal(0)) if rests else None


def _view(row: Budget, persons: Mapping[str, Decimal]) -> BudgetView:
    spent = None
    if row.scope == "month":
        spent = sum(persons.values(), Decimal(0))
    elif row.scope == "person":
        spent = persons.get(row.subject, Decimal(0))
    scope: Scope = row.scope  # type: ignore[assignment]  # only set_budget writes it
    return BudgetView(scope, row.subject, row.amount_usd, spent, None if spent is None else row.amount_usd - spent)
