"""Budgets: spending limits per run, per person and month, and per month for everyone. They are checked when costs are
reserved, before a request is sent. Asking an admin for more: `budget_requests`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal, NamedTuple

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db import spend_totals
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Budget, utcnow
from core.errors import FabulaError, OverBudget
from core.message import msg, sentences, with_cause
from core.people.people import names_of
from core.sanitize import storable

Scope = Literal["run", "month", "person", "each"]
"""A budget for each run, for everyone per month, for one person per month, or for each person without their own."""
PREVIEW = "preview"
"""Used instead of a run id for previews, which count towards the month and the person but not towards a run."""
CENT = Decimal("0.01")
"""The smallest budget of a run."""
MAX_USD = Decimal(1_000_000_000)
MAX_SUBJECT_LENGTH = 100
"""Maximum characters of a person's name (column width in the database)."""
WARNING_SHARE = Decimal("0.8")
"""A budget of which this share is spent or reserved is nearly used up."""
_TEN_THOUSANDTH = Decimal("0.0001")  # US dollars; a story with a small model costs a few of them
_SETTING, _RESERVING = "budget settings", "budgets"  # names of locks, always taken in this order


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget with the amounts spent and left in US dollars. Both are None for `run` and `each`, which limit several.

    Attributes:
        name: the person's name, if `subject` is someone who has signed in; else `subject`.
    """

    scope: Scope
    subject: str
    amount_usd: Decimal
    spent_usd: Decimal | None
    left_usd: Decimal | None
    name: str = ""

    @property
    def nearly_used_up(self) -> bool:
        """Whether at least 80 % are spent or reserved."""
        return self.spent_usd is not None and self.spent_usd >= WARNING_SHARE * self.amount_usd

    @property
    def used_up(self) -> bool:
        """Whether nothing is left."""
        return self.left_usd is not None and self.left_usd <= 0


class AppliedBudget(NamedTuple):
    """A budget that limits a request. `scope` is `person` also for a budget of each person."""

    scope: Scope
    limit_usd: Decimal
    spent_usd: Decimal

    def left(self) -> Decimal:
        """What may still be reserved, in US dollars; negative if more was spent."""
        return self.limit_usd - self.spent_usd


def month_start(now: datetime) -> datetime:
    """The start of the calendar month (UTC)."""
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


@requires("admin")
def set_budget(store: Store, actor: Actor, scope: Scope, amount_usd: Decimal | None, subject: str = "") -> None:
    """Set a budget, or remove it (None). `subject`: the person (`Actor.id`) for scope `person`, otherwise empty.

    What is being reserved meanwhile counts: this waits until it is written.

    Raises:
        NotAllowed: the actor is not an admin. FabulaError: the amount is invalid, or the person is missing.
    """
    subject = storable(subject).strip()
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
        advisory_lock(session, _SETTING)
        session.execute(delete(Budget).where(Budget.scope == scope, Budget.subject == subject))
        if amount_usd is not None:
            session.add(Budget(id=new_id(), scope=scope, subject=subject, amount_usd=amount_usd, created_by=actor.id))


def budgets(store: Store) -> list[BudgetView]:
    """All budgets with the amounts spent and left this month, ordered by scope and person."""
    with store.reading() as session:
        rows = session.scalars(select(Budget).order_by(Budget.scope, Budget.subject)).all()
        spent_by_person = spend_totals.of_month(session, utcnow())
        names = names_of(session, [row.subject for row in rows])
        return [_view(_scope(row), row.subject, row.amount_usd, spent_by_person, names) for row in rows]


@requires("viewer")
def of_person(store: Store, actor: Actor) -> list[BudgetView]:
    """The budgets that limit what this person spends this month: everyone's, then their own."""
    with store.reading() as session:
        limits = limits_of(session, actor.id)
        spent_by_person = spend_totals.of_month(session, utcnow()) if limits else {}
        monthly: tuple[tuple[Scope, str], ...] = (("month", ""), ("person", actor.id))
        return [
            _view(scope, subject, limits[scope], spent_by_person, {actor.id: actor.name})
            for scope, subject in monthly
            if scope in limits
        ]


@requires("admin")
def nearly_used_up(store: Store, actor: Actor) -> list[BudgetView]:
    """This month's budgets of which at least 80 % are spent or reserved: everyone's, then those of persons by name."""
    with store.reading() as session:
        views = monthly(session, utcnow())
    return sorted((one for one in views if one.nearly_used_up), key=lambda one: (one.scope, one.name, one.subject))


def monthly(session: Session, now: datetime) -> list[BudgetView]:
    """The budgets of this month: everyone's, and that of each person who has their own or has spent something."""
    rows = session.execute(select(Budget.scope, Budget.subject, Budget.amount_usd))
    limits = {(scope, subject): limit for scope, subject, limit in rows if scope != "run"}
    if not limits:
        return []
    spent_by_person = spend_totals.of_month(session, now)
    people = sorted({*spent_by_person, *(subject for scope, subject in limits if scope == "person")})
    names = names_of(session, people)
    everyone, each = limits.get(("month", "")), limits.get(("each", ""))
    views = [] if everyone is None else [_view("month", "", everyone, spent_by_person, names)]
    for person in people:
        limit = limits.get(("person", person), each)
        if limit is not None:
            views.append(_view("person", person, limit, spent_by_person, names))
    return views


@requires("viewer")
def remaining(store: Store, actor: Actor, reference: str | None = None) -> Decimal | None:
    """US dollars that this person may still spend on this run, job or story, at least 0; None if no budget applies."""
    with store.reading() as session:
        return _lowest_remaining(applied(session, actor, reference))


def remaining_in(session: Session, actor: Actor, reference: str | None = None) -> Decimal | None:
    """Like `remaining`, with a lock until the end of the transaction, so that the amount can be reserved safely."""
    _lock_budgets(session)
    return _lowest_remaining(applied(session, actor, reference))


def check(session: Session, actor: Actor, amount: Decimal | None, reference: str | None = None) -> None:
    """Check that `amount` can be reserved. Call this in the transaction that reserves it, before sending.

    Args:
        amount: worst case in US dollars; None if the price is unknown, which no budget allows.
        reference: the run, job or story.

    Raises:
        OverBudget: it would exceed a budget; `what` names the one that leaves the least.
    """
    if amount == 0:
        return
    _lock_budgets(session)
    for scope, limit, spent in sorted(applied(session, actor, reference), key=AppliedBudget.left):
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
                _over_budget_message(scope, limit, spent, amount),
                msg("Choose a cheaper model, or ask an admin to raise the budget on the Cost page."),
                scope=scope,
                missing_usd=spent + amount - limit,
            )


def _over_budget_message(scope: Scope, limit: Decimal, spent: Decimal, amount: Decimal) -> str:
    """Whose budget it is, what is left of it, and by how much the request exceeds that."""
    used, most = in_words(spent), in_words(limit)
    if scope == "run":
        what = msg(
            "Blocked: this would exceed the budget per run. ${spent} of ${limit} spent or reserved.",
            spent=used,
            limit=most,
        )
    elif scope == "person":
        what = msg(
            "Blocked: this would exceed your budget for this month. ${spent} of ${limit} spent or reserved.",
            spent=used,
            limit=most,
        )
    else:
        what = msg(
            "Blocked: this would exceed this month's budget for everyone. ${spent} of ${limit} spent or reserved.",
            spent=used,
            limit=most,
        )
    missing = spent + amount - limit
    if missing < _TEN_THOUSANDTH:  # a run, which does not say what its next row costs
        return what
    exceeded = msg(
        "The request can cost up to ${amount}, which is ${missing} more than is left.",
        amount=in_words(amount),
        missing=in_words(missing.quantize(_TEN_THOUSANDTH, ROUND_CEILING)),
    )
    return with_cause(sentences(what, exceeded), "shared_budget")


def in_words(usd: Decimal) -> str:
    """An amount for a sentence: to the cent, or with four decimals if it has a part of a cent below a dollar."""
    part_of_a_cent = abs(usd) < 1 and usd != usd.quantize(CENT)
    return f"{usd:,.4f}" if part_of_a_cent else f"{usd:,.2f}"


def spent_on(session: Session, reference: str) -> Decimal:
    """US dollars spent or reserved by a run, job or story. Unknown costs count as their worst case."""
    return spend_totals.of_reference(session, reference)


def _lock_budgets(session: Session) -> None:
    """Prevent two workers from reserving the same money, and a budget from being set before all of it is counted."""
    advisory_lock(session, _SETTING, shared=True)
    if session.scalar(select(Budget.id).limit(1)) is not None:
        advisory_lock(session, _RESERVING)


def limits_of(session: Session, person: str) -> dict[Scope, Decimal]:
    """The limits that apply to what a person spends: scope `run`, `month` or `person` → US dollars."""
    query = select(Budget.scope, Budget.amount_usd).where(or_(Budget.scope != "person", Budget.subject == person))
    limits: dict[Any, Decimal] = dict(session.execute(query).all())  # a scope in the database is text
    if (each := limits.pop("each", None)) is not None:
        limits.setdefault("person", each)
    return limits


def applied(session: Session, actor: Actor, reference: str | None) -> list[AppliedBudget]:
    """Every budget that applies to this person's next request, and what is spent or reserved of it."""
    limits = limits_of(session, actor.id)
    found: list[AppliedBudget] = []
    if "run" in limits and reference is not None and reference != PREVIEW:
        found.append(AppliedBudget("run", limits["run"], spend_totals.of_reference(session, reference)))
    if "month" in limits or "person" in limits:
        spent_by_person = spend_totals.of_month(session, utcnow())
        if "month" in limits:
            found.append(AppliedBudget("month", limits["month"], sum(spent_by_person.values(), Decimal(0))))
        if "person" in limits:
            found.append(AppliedBudget("person", limits["person"], spent_by_person.get(actor.id, Decimal(0))))
    return found


def _lowest_remaining(budgets: Iterable[AppliedBudget]) -> Decimal | None:
    remaining_amounts = [one.left() for one in budgets]
    return max(min(remaining_amounts), Decimal(0)) if remaining_amounts else None


def _scope(row: Budget) -> Scope:
    return row.scope  # type: ignore[return-value]  # only set_budget writes it


def _view(
    scope: Scope, subject: str, amount: Decimal, spent_by_person: Mapping[str, Decimal], names: Mapping[str, str]
) -> BudgetView:
    spent = None
    if scope == "month":
        spent = sum(spent_by_person.values(), Decimal(0))
    elif scope == "person":
        spent = spent_by_person.get(subject, Decimal(0))
    left = None if spent is None else amount - spent
    return BudgetView(scope, subject, amount, spent, left, names.get(subject, subject))
