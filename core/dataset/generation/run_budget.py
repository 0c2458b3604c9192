"""How much a run may still reserve, of its own budget and of those of the cost page, and which of them ends it."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy.orm import Session

from core.cost import budget
from core.dataset.generation.run_store import RunContext
from core.errors import OverBudget
from core.message import msg, sentences

_SMALLEST = Decimal("1e-12")  # US dollars; no request costs so little


def smaller(own_usd: Decimal | None, page_usd: Decimal | None) -> Decimal | None:
    """What two budgets leave together; None: neither says anything."""
    given = [amount for amount in (own_usd, page_usd) if amount is not None]
    return min(given) if given else None


def own_remaining(session: Session, run_id: str, budget_usd: Decimal | None) -> Decimal | None:
    """What a run's own budget leaves, in the transaction that also claims; None: it has none."""
    return None if budget_usd is None else budget_usd - budget.spent_on(session, run_id)


def page_remaining(session: Session, context: RunContext, dearest_usd: Decimal | None) -> Decimal | None:
    """What the budgets of the cost page leave this run, in the transaction that also claims; None: they say nothing.

    Args:
        dearest_usd: what an empty prompt costs at most; where that is nothing, every row is free.
    """
    return None if dearest_usd == 0 else budget.remaining_in(session, context.actor, context.run_id)


def unpriced(
    session: Session, context: RunContext, budget_usd: Decimal | None, dearest_usd: Decimal | None
) -> str | None:
    """Why the run cannot go on with a price that nobody knows; None: it can. `dearest_usd` as in `page_remaining`."""
    if dearest_usd is not None:
        return None
    if budget_usd is not None:
        return msg("The price of {model} is unknown, so no budget can be kept. Start without one.", model=context.model)
    return _refusal(session, context, None)


def exhausted(
    session: Session, context: RunContext, budget_usd: Decimal | None, left_usd: Decimal | None
) -> str | None:
    """Which budget has ended the run: its own, of which `left_usd` is left, or the one of the cost page with less."""
    page = budget.remaining_in(session, context.actor, context.run_id)
    if left_usd is not None and smaller(left_usd, page) == left_usd:
        return msg(
            "What is left of the budget of ${budget_usd} may not pay for the next row. Raise it to go on.",
            budget_usd=budget_usd,
        )
    return _refusal(session, context, (page or Decimal(0)) + _SMALLEST)


def _refusal(session: Session, context: RunContext, amount_usd: Decimal | None) -> str | None:
    try:
        budget.check(session, context.actor, amount_usd, context.run_id)
    except OverBudget as exc:
        return sentences(exc.what, exc.next_step)
    return None
