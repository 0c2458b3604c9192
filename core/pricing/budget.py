"""Budgets: spending limits per run, per person and month, and per month for everyone. They are checked when costs are
reserved, before a request is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db import spend_totals
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Budget, utcnow
from core.errors import FabulaError, OverBudget
from core.message import msg, with_cause

Scope = Literal["run", "month", "person"]
PREVIEW = "preview"
"""Used instead of a run id for previews, which count towards the month and the person but not towards a run."""
CENT = Decimal("0.01")
"""The smallest budget of a run."""
MAX_USD = Decimal(1_000_000_000)
MAX_SUBJECT_LENGTH = 100
"""Maximum characters of a person's name (column width in the database)."""


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget with the amounts spent and left in US dollars. Both are None for `run`, which applies to each run."""

    scope: Scope
    subject: str
    amount_usd: Decimal
    spent_usd: Decimal | None
    left_usd: Decimal | None


def month_start(now: datetime) -> datetime:
    """The start of the calendar month (UTC)."""
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


@requires("admin")
def set_budget(store: Store, actor: Actor, scope: Scope, amount_usd: Decimal | None, subject: str = "") -> None:
    """Set a budget, or remove it (None). `subject`: the person's name for scope `person`, otherwise empty.

    Raises:
        NotAllowed: the actor is not an admin. FabulaError: the amount is invalid, or the person is missing.
    """
    subject = subject.strip()
    if (scope == "person") != bool(subject):
        raise FabulaError(msg("A budget for one person needs a name; other budgets take none."), msg("Enter a name."))
    if (count := len(subject)) > MAX_SUBJECT_LENGTH:
        raise FabulaError(
            msg(
                "The person's name has {count} characters; the limit is {limit}.", count=count, limit=MAX_SUBJECT_LENGTH
            ),
            msg("Enter the name that the person signs in with."),
        )
    if amount_usd is not None and not (amount_usd.is_finite() and 0 <= amount_usd <= MAX_USD):
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
    """All budgets with the amounts spent and left this month, ordered by scope and person."""
    with store.reading() as session:
        rows = session.scalars(select(Budget).order_by(Budget.scope, Budget.subject)).all()
        spent_by_person = spend_totals.of_month(session, utcnow())
        return [_view(row, spent_by_person) for row in rows]


@requires("viewer")
def remaining(store: Store, actor: Actor, reference: str | None = None) -> Decimal | None:
    """US dollars that this person may still spend on this run, job or story, at least 0; None if no budget applies."""
    with store.reading() as session:
        return _lowest_remaining(_applicable_budgets(session, actor, reference))


def remaining_in(session: Session, actor: Actor, reference: str | None = None) -> Decimal | None:
    """Like `remaining`, with a lock until the end of the transaction, so that the amount can be reserved safely."""
    _lock_budgets(session)
    return _lowest_remaining(_applicable_budgets(session, actor, reference))


def check(session: Session, actor: Actor, amount: Decimal | None, reference: str | None = None) -> None:
    """Check that `amount` can be reserved. Call this in the transaction that reserves it, before sending.

    Args:
        amount: worst case in US dollars; None if the price is unknown, which no budget allows.
        reference: the run, job or story.

    Raises:
        OverBudget: it would exceed a budget; `what` names it.
    """
    if amount == 0:
        return
    _lock_budgets(session)
    for scope, limit, spent in _applicable_budgets(session, actor, reference):
        if amount is None:
            raise OverBudget(
                with_cause(
                    msg("Blocked: the price of this model is unknown, so the budget can't be enforced."),
                    "unknown_price",
                ),
                msg("Set your own price for the model on the Cost page, or ask an admin to remove the budget."),
            )
        if spent + amount > limit:
            raise OverBudget(
                _over_budget_message(scope, f"{spent:,.2f}", f"{limit:,.2f}"),
                msg("Choose a cheaper model, or ask an admin to raise the budget on the Cost page."),
            )


def _over_budget_message(scope: str, spent: str, limit: str) -> str:
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
    """US dollars spent or reserved by a run, job or story. Unknown costs count as their worst case."""
    return spend_totals.of_reference(session, reference)


def _lock_budgets(session: Session) -> None:
    """Prevent two workers from reserving the same money."""
    if session.scalar(select(Budget.id).limit(1)) is not None:
        advisory_lock(session, "budgets")


def _applicable_budgets(session: Session, actor: Actor, reference: str | None) -> list[tuple[str, Decimal, Decimal]]:
    """(scope, limit, spent) of every budget that applies to this person's next request."""
    rows = session.execute(select(Budget.scope, Budget.subject, Budget.amount_usd))
    limits = {(scope, subject): limit for scope, subject, limit in rows}
    applicable = []
    if (limit := limits.get(("run", ""))) is not None and reference is not None and reference != PREVIEW:
        applicable.append(("run", limit, spend_totals.of_reference(session, reference)))
    month, person = limits.get(("month", "")), limits.get(("person", actor.id))
    spent_by_person = {} if month is None and person is None else spend_totals.of_month(session, utcnow())
    if month is not None:
        applicable.append(("month", month, sum(spent_by_person.values(), Decimal(0))))
    if person is not None:
        applicable.append(("person", person, spent_by_person.get(actor.id, Decimal(0))))
    return applicable


def _lowest_remaining(applicable: Iterable[tuple[str, Decimal, Decimal]]) -> Decimal | None:
    remaining_amounts = [limit - spent for _, limit, spent in applicable]
    return max(min(remaining_amounts), Decimal(0)) if remaining_amounts else None


def _view(row: Budget, spent_by_person: Mapping[str, Decimal]) -> BudgetView:
    spent = None
    if row.scope == "month":
        spent = sum(spent_by_person.values(), Decimal(0))
    elif row.scope == "person":
        spent = spent_by_person.get(row.subject, Decimal(0))
    scope: Scope = row.scope  # type: ignore[assignment]  # only set_budget writes it
    return BudgetView(scope, row.subject, row.amount_usd, spent, None if spent is None else row.amount_usd - spent)
