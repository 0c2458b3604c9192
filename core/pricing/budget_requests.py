"""Requests to the admins for a higher budget: asked with one click, granted or declined on the settings page.

A request is open until an admin answers it. It also ends when the budget it names is raised or removed, and, for a
monthly budget, with the month.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import BudgetRequest, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.people.people import names_of
from core.pricing import budget
from core.pricing.budget import CENT, AppliedBudget, Scope, in_words, month_start

State = Literal["open", "granted", "declined", "ended"]
"""`ended`: no admin answered it, and its month is over."""
_LOCK = "budget requests"
_MORE = Decimal("1.5")  # the amount proposed to the admin: half as much again, and what the blocked request needs


@dataclass(frozen=True, slots=True)
class BudgetRequestView:
    """One request.

    Attributes:
        name: of the person.
        limit_usd: the budget now; None: it was removed.
        proposed_usd: a new budget that covers the blocked request; None: there is no budget any more.
        decided_by: name of the admin who answered; "" if no admin has, or if it ended without an answer.
    """

    id: str
    person_id: str
    name: str
    scope: Scope
    state: State
    limit_usd: Decimal | None
    proposed_usd: Decimal | None
    created_at: datetime
    decided_at: datetime | None
    decided_by: str


@requires("viewer")
def ask(
    store: Store,
    actor: Actor,
    scope: Scope | None = None,
    *,
    reference: str | None = None,
    missing_usd: Decimal | None = None,
) -> str:
    """Ask the admins to raise one of the budgets that limit this person. Asking twice is one request.

    Args:
        scope: which budget; None: the one that leaves the least.
        reference: the run, job or story that was blocked.
        missing_usd: how much more than the rest of the budget it can cost.

    Returns:
        The id of the request.

    Raises:
        FabulaError: no such budget limits this person.
    """
    with store.session() as session:
        advisory_lock(session, _LOCK)
        asked = _budget_of(session, actor, scope, reference)
        if (open_one := _newest_open(session, actor.id, asked[0])) is not None:
            return open_one.id
        request = BudgetRequest(
            id=new_id(), person_id=actor.id, scope=asked[0], limit_usd=asked[1], missing_usd=missing_usd
        )
        session.add(request)
        return request.id


@requires("viewer")
def own(store: Store, actor: Actor) -> Mapping[Scope, BudgetRequestView]:
    """This person's newest request for each budget, as far as it is open or was answered this month."""
    query = select(BudgetRequest).where(BudgetRequest.person_id == actor.id).order_by(BudgetRequest.created_at)
    since = month_start(utcnow())
    with store.reading() as session:
        views = _views(session, [one for one in session.scalars(query) if (one.decided_at or one.created_at) >= since])
    return {one.scope: one for one in views if one.state != "ended"}


@requires("admin")
def open_requests(store: Store, actor: Actor) -> list[BudgetRequestView]:
    """The open requests, oldest first."""
    with store.reading() as session:
        return open_in(session)


def open_in(session: Session, since: datetime | None = None) -> list[BudgetRequestView]:
    """The open requests, oldest first. `since`: only those that were made after this time."""
    query = select(BudgetRequest).where(BudgetRequest.decided_at.is_(None)).order_by(BudgetRequest.created_at)
    if since is not None:
        query = query.where(BudgetRequest.created_at > since)
    return [one for one in _views(session, list(session.scalars(query))) if one.state == "open"]


@requires("admin")
def grant(store: Store, actor: Actor, request_id: str, amount_usd: Decimal) -> None:
    """Raise the budget that a request names. A budget of each person becomes this person's own.

    Args:
        amount_usd: the new budget.

    Raises:
        NotFound: the request has been answered already. FabulaError: the amount is invalid, or not higher than before.
    """
    with store.session() as session:
        advisory_lock(session, _LOCK)
        request, limit = _to_answer(session, request_id)
        if amount_usd.is_finite() and amount_usd <= limit:  # `set_budget` checks everything else
            raise FabulaError(
                msg("${amount} is not more than the budget has now.", amount=in_words(amount_usd)),
                msg("Enter more than ${limit}, or decline the request.", limit=in_words(limit)),
            )
        scope = _scope(request)
        budget.set_budget(store, actor, scope, amount_usd, request.person_id if scope == "person" else "")
        request.decided_at, request.decided_by, request.granted_usd = utcnow(), actor.id, amount_usd


@requires("admin")
def decline(store: Store, actor: Actor, request_id: str) -> None:
    """Leave the budget as it is. The person sees that their request was declined.

    Raises:
        NotFound: the request has been answered already.
    """
    with store.session() as session:
        advisory_lock(session, _LOCK)
        request, _ = _to_answer(session, request_id)
        request.decided_at, request.decided_by = utcnow(), actor.id


def _budget_of(session: Session, actor: Actor, scope: Scope | None, reference: str | None) -> tuple[Scope, Decimal]:
    """The scope and limit of the budget that is asked about."""
    limits = budget.limits_of(session, actor.id)
    if scope is None:
        applied = budget.applied(session, actor, reference)
        scope = min(applied, key=AppliedBudget.left).scope if applied else None
    if scope is None or scope not in limits:
        raise FabulaError(
            msg("There is no such budget any more. Nothing was asked."), msg("Send the blocked request again.")
        )
    return scope, limits[scope]


def _newest_open(session: Session, person_id: str, scope: Scope) -> BudgetRequest | None:
    query = select(BudgetRequest).where(BudgetRequest.person_id == person_id, BudgetRequest.scope == scope)
    unanswered = session.scalars(query.where(BudgetRequest.decided_at.is_(None)).order_by(BudgetRequest.created_at))
    limit = budget.limits_of(session, person_id).get(scope)
    return next((one for one in reversed(unanswered.all()) if _state(one, limit) == "open"), None)


def _to_answer(session: Session, request_id: str) -> tuple[BudgetRequest, Decimal]:
    """An open request, and the budget that it is about."""
    request = session.get(BudgetRequest, request_id)
    limit = None if request is None else budget.limits_of(session, request.person_id).get(_scope(request))
    if request is None or limit is None or _state(request, limit) != "open":
        raise NotFound(msg("This request is not open any more. Nothing was changed."), msg("Reload the page."))
    return request, limit


def _state(request: BudgetRequest, limit: Decimal | None) -> State:
    """`limit`: the budget that limits this person now."""
    if request.decided_at is not None:
        return "declined" if request.granted_usd is None else "granted"
    if request.scope != "run" and request.created_at < month_start(utcnow()):
        return "ended"
    return "granted" if limit is None or limit > request.limit_usd else "open"


def _views(session: Session, requests: list[BudgetRequest]) -> list[BudgetRequestView]:
    names = names_of(session, [one.person_id for one in requests] + [one.decided_by or "" for one in requests])
    return [_view(one, budget.limits_of(session, one.person_id).get(_scope(one)), names) for one in requests]


def _view(one: BudgetRequest, limit: Decimal | None, names: Mapping[str, str]) -> BudgetRequestView:
    return BudgetRequestView(
        id=one.id,
        person_id=one.person_id,
        name=names.get(one.person_id, one.person_id),
        scope=_scope(one),
        state=_state(one, limit),
        limit_usd=limit,
        proposed_usd=None if limit is None else proposed(limit, one.missing_usd or Decimal(0)),
        created_at=one.created_at,
        decided_at=one.decided_at,
        decided_by=names.get(one.decided_by, one.decided_by) if one.decided_by else "",
    )


def proposed(limit: Decimal, missing: Decimal) -> Decimal:
    """A new budget in US dollars: half as much again, at least what the blocked request needs, in whole dollars."""
    amount = max(limit * _MORE, limit + missing, limit + CENT)
    return amount.quantize(Decimal(1) if amount >= 1 else CENT, ROUND_CEILING)


def _scope(request: BudgetRequest) -> Scope:
    return request.scope  # type: ignore[return-value]  # only `ask` writes it
