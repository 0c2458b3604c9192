"""How much a run may still reserve (its own budget and those of the cost page), and which budget ended the run."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.tables import Spend
from core.errors import OverBudget
from core.generation.run_store import RunContext
from core.message import msg, sentences
from core.pricing import budget

_CENT = Decimal("0.01")
_MIN_USD = Decimal("1e-12")  # US dollars; less than any request costs


def min_limit(run_usd: Decimal | None, page_usd: Decimal | None) -> Decimal | None:
    """The lower of two limits. None: no limit."""
    limits = [amount for amount in (run_usd, page_usd) if amount is not None]
    return min(limits) if limits else None


def own_remaining(session: Session, run_id: str, budget_usd: Decimal | None) -> Decimal | None:
    """What is left of the run's own budget, read in the claiming transaction. None: it has no budget."""
    return None if budget_usd is None else budget_usd - budget.spent_on(session, run_id)


def page_remaining(session: Session, context: RunContext, empty_prompt_usd: Decimal | None) -> Decimal | None:
    """What the budgets of the cost page leave for this run, read in the claiming transaction. None: no limit.

    Args:
        empty_prompt_usd: maximum cost of an empty prompt. 0 means that every request is free.
    """
    return None if empty_prompt_usd == 0 else budget.remaining_in(session, context.actor, context.run_id)


def unpriced(
    session: Session, context: RunContext, budget_usd: Decimal | None, empty_prompt_usd: Decimal | None
) -> str | None:
    """Why the run cannot continue with an unknown price. None: it can. `empty_prompt_usd` as in `page_remaining`."""
    if empty_prompt_usd is not None:
        return None
    if budget_usd is not None:
        return msg(
            "The price of {model} is unknown, so a budget can't be enforced. Start without one.", model=context.model
        )
    return _refusal(session, context, None)


def exhausted(
    session: Session, context: RunContext, budget_usd: Decimal | None, remaining_usd: Decimal | None
) -> str | None:
    """Which budget ended the run: its own, with `remaining_usd` left, or one of the cost page with less left.

    If part of the run's spending is the worst case of requests with an unknown cost, the reason says how much.
    """
    page = budget.remaining_in(session, context.actor, context.run_id)
    reason: str | None
    if remaining_usd is not None and min_limit(remaining_usd, page) == remaining_usd:
        reason = msg(
            "The rest of the ${budget_usd} budget may not cover the next row. Raise the budget to continue.",
            budget_usd=budget_usd,
        )
    else:
        reason = _refusal(session, context, (page or Decimal(0)) + _MIN_USD)
    uncertain = _uncertain_usd(session, context.run_id)
    if reason is None or not uncertain:
        return reason
    uncertain_part = msg(
        "${usd} of it is reserved for requests with an unknown cost: check the provider's usage page for what was "
        "billed.",
        usd=f"{uncertain:,.2f}" if uncertain >= _CENT else f"{uncertain.normalize():f}",
    )
    return sentences(reason, uncertain_part)


def _uncertain_usd(session: Session, run_id: str) -> Decimal:
    """What the requests of the run with an unknown cost count in total."""
    query = select(Spend.estimated_usd).where(Spend.reference == run_id, Spend.cost_usd.is_(None))
    return sum((usd for usd in session.scalars(query) if usd is not None), Decimal(0))


def _refusal(session: Session, context: RunContext, amount_usd: Decimal | None) -> str | None:
    try:
        budget.check(session, context.actor, amount_usd, context.run_id)
    except OverBudget as exc:
        return sentences(exc.what, exc.next_step)
    return None
