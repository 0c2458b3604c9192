"""How much a run may still reserve: of its own budget, also where several executors spend it, and of those of the
cost page. The ledger knows, this asks it cheaply, and says which one ends it."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.cost import budget
from core.cost.budget import AT_MOST
from core.dataset.writing.ledger import Claim
from core.dataset.writing.orders import Order
from core.db.tables import Spend
from core.errors import OverBudget

_SMALLEST = Decimal("1e-12")  # US dollars; no request costs so little


def least(own_usd: Decimal | None, page_usd: Decimal | None) -> Decimal | None:
    """What two budgets leave together; None: neither says anything."""
    given = [amount for amount in (own_usd, page_usd) if amount is not None]
    return min(given) if given else None


def page_left(session: Session, order: Order, dearest_usd: Decimal | None) -> Decimal | None:
    """What the budgets of the cost page leave this run, in the transaction that also claims; None: they say nothing.

    Args:
        dearest_usd: what an empty prompt costs at most; where that is nothing, every row is free.
    """
    return None if dearest_usd == 0 else budget.left_in(session, order.actor, order.run_id)


def unpriced(session: Session, order: Order, budget_usd: Decimal | None, dearest_usd: Decimal | None) -> str | None:
    """Why the run cannot go on with a price that nobody knows; None: it can. `dearest_usd` as in `page_left`."""
    if dearest_usd is not None:
        return None
    if budget_usd is not None:
        return f"The price of {order.model} is unknown, so no budget can be kept. Start without one."
    return _refusal(session, order, None)


def used_up(session: Session, order: Order, budget_usd: Decimal | None, left_usd: Decimal | None) -> str | None:
    """Which budget has ended the run: its own, of which `left_usd` is left, or the one of the cost page with less."""
    page = budget.left_in(session, order.actor, order.run_id)
    if left_usd is not None and least(left_usd, page) == left_usd:
        return f"What is left of the budget of ${budget_usd} may not pay for the next row. Raise it to go on."
    return _refusal(session, order, (page or Decimal(0)) + _SMALLEST)


def _refusal(session: Session, order: Order, amount_usd: Decimal | None) -> str | None:
    try:
        budget.check(session, order.actor, amount_usd, order.run_id)
    except OverBudget as exc:
        return f"{exc.what} {exc.next_step}"
    return None


class Purse:
    """One executor's view of a budget.

    Its own reservations and costs are known exactly; those of others are read as they are reserved, so that what they
    give back later is seen only by `recount`: the view errs on the dear side. `left` and `recount` belong into the
    transaction that also claims, after the run's row has been locked.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._read_to = 0  # id in the spend ledger
        self._others = Decimal(0)
        self._mine = Decimal(0)
        self._fresh: set[int] = set()  # own lines that have not been read past yet

    def left(self, session: Session, budget_usd: Decimal) -> Decimal:
        """What may still be reserved."""
        lines = session.execute(
            select(AT_MOST, func.count(), func.max(Spend.id))
            .where(Spend.id > self._read_to, Spend.reference == self._run_id, Spend.id.not_in(self._fresh))
            .group_by(AT_MOST)
        )
        highest = max(self._fresh, default=self._read_to)
        for cost, count, last in lines:
            self._others += (cost or Decimal(0)) * count
            highest = max(highest, last)
        self._read_to, self._fresh = highest, set()
        return budget_usd - self._others - self._mine

    def recount(self, session: Session, budget_usd: Decimal) -> Decimal:
        """What may still be reserved, by a look at every line: slower, and sees what others have given back."""
        return budget_usd - budget.spent_on(session, self._run_id)

    def reserved(self, claims: Iterable[Claim]) -> None:
        """These are claimed now, durably."""
        for claim in claims:
            self._mine += claim.reserved_usd or Decimal(0)
            self._fresh.add(claim.spend_id)

    def settled(self, claim: Claim, cost_usd: Decimal | None) -> None:
        """What it really cost; an unknown cost keeps its reservation."""
        if cost_usd is not None:
            self._mine += cost_usd - (claim.reserved_usd or Decimal(0))
