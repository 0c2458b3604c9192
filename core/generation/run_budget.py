"""Budgets of a run: what its requests may cost, how much it may still reserve, and which budget ended it.

Two kinds of budget apply: the run's own, and those set on the cost page.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.tables import Spend
from core.errors import OverBudget
from core.generation.run_store import RunContext
from core.message import msg, sentences, with_cause
from core.pricing import budget
from core.pricing.price_book import PriceBook
from core.pricing.prices import USD

_CENT = Decimal("0.01")
_MIN_USD = Decimal("1e-12")  # US dollars; less than the cost of any request
TEMPLATE_TOKENS = 32
"""Maximum number of tokens that a chat template adds to a prompt: turn markers and role names."""


def min_limit(run_usd: Decimal | None, page_usd: Decimal | None) -> Decimal | None:
    """The lower of two limits; None means no limit."""
    limits = [amount for amount in (run_usd, page_usd) if amount is not None]
    return min(limits) if limits else None


def total_usd(amounts: Sequence[Decimal | None]) -> Decimal | None:
    """The sum of the amounts; None if any is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(amounts) else None


def own_remaining(session: Session, run_id: str, budget_usd: Decimal | None) -> Decimal | None:
    """What is left of the run's own budget, read in the claiming transaction; None if it has no budget."""
    return None if budget_usd is None else budget_usd - budget.spent_on(session, run_id)


def page_remaining(session: Session, context: RunContext, empty_prompt_usd: Decimal | None) -> Decimal | None:
    """What the cost page's budgets leave for this run, read in the claiming transaction; None means no limit.

    Args:
        empty_prompt_usd: maximum cost of an empty prompt. 0 means that all requests are free.
    """
    return None if empty_prompt_usd == 0 else budget.remaining_in(session, context.actor, context.run_id)


def unpriced(
    session: Session, context: RunContext, budget_usd: Decimal | None, empty_prompt_usd: Decimal | None
) -> str | None:
    """Why the run cannot continue with an unknown price; None if it can. `empty_prompt_usd`: see `page_remaining`."""
    if empty_prompt_usd is not None:
        return None
    if budget_usd is not None:
        return with_cause(
            msg(
                "The price of {model} is unknown, so a budget can't be enforced. Start without one.",
                model=context.model,
            ),
            "unknown_price",
        )
    return _refusal(session, context, None)


def exhausted(
    session: Session, context: RunContext, budget_usd: Decimal | None, remaining_usd: Decimal | None
) -> str | None:
    """Which budget ended the run: its own, with `remaining_usd` left, or one from the cost page with less left.

    If part of the run's spending is the worst-case cost of requests with an unknown cost, the reason states how much.
    """
    page = budget.remaining_in(session, context.actor, context.run_id)
    reason: str | None
    if remaining_usd is not None and min_limit(remaining_usd, page) == remaining_usd:
        reason = with_cause(
            msg(
                "The rest of the ${budget_usd} budget may not cover the next row. Raise the budget to continue.",
                budget_usd=budget_usd,
            ),
            "budget",
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
    """The total amount at which the run's requests with an unknown cost are counted."""
    query = select(Spend.estimated_usd).where(Spend.reference == run_id, Spend.cost_usd.is_(None))
    return sum((usd for usd in session.scalars(query) if usd is not None), Decimal(0))


def _refusal(session: Session, context: RunContext, amount_usd: Decimal | None) -> str | None:
    try:
        budget.check(session, context.actor, amount_usd, context.run_id)
    except OverBudget as exc:
        return sentences(exc.what, exc.next_step)
    return None


def token_upper_bound(text: str) -> int:
    """An upper bound on the tokens of a text: no tokenizer in use produces more tokens than UTF-8 bytes."""
    return len(text.encode("utf-8", "replace"))


class RequestCost:
    """The price of a run's model, and the maximum cost of one of its requests.

    Args:
        batch: whether requests are sent in a batch. If the price book has no batch price, the live price is used, which
            is not lower.
    """

    def __init__(self, book: PriceBook, context: RunContext, *, batch: bool = False) -> None:
        price = book.find(context.provider, context.model)  # looked up only once
        self._price = price if price is not None and price.currency == USD else None
        self._batch = batch
        shared = context.recipe.system + context.recipe.response_format  # a schema is billed like a prompt
        self._system = token_upper_bound(shared) + TEMPLATE_TOKENS
        self._max_tokens = context.recipe.max_tokens

    def price(self, prompt_tokens: int | None, completion_tokens: int | None, cached_tokens: int = 0) -> Decimal | None:
        """Cost in US dollars; None if unknown."""
        if self._price is None:
            return None
        if self._batch:
            batch_price = self._price.call(prompt_tokens, completion_tokens, cached_tokens=cached_tokens, batch=True)
            if batch_price is not None:
                return batch_price
        return self._price.call(prompt_tokens, completion_tokens, cached_tokens=cached_tokens)

    def worst_case(self, prompt: str) -> Decimal | None:
        """The maximum cost of a request in US dollars; None if unknown."""
        return self.price(token_upper_bound(prompt) + self._system, self._max_tokens)
