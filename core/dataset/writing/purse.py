"""How much of a run's budget is left, also where several executors spend it: the ledger knows, this asks it cheaply."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.dataset.writing.ledger import Claim
from core.db.tables import Spend

AT_MOST = func.coalesce(Spend.cost_usd, Spend.estimated_usd, type_=Spend.cost_usd.type)
"""What a call cost; where nobody knows (cut off, no token counts), what it can have cost at most, if the price is."""


def total_spent(session: Session, run_id: str) -> Decimal:
    """What a run has spent or reserved. Amounts are text: equal ones are grouped by SQL, then summed.

    Not bounded by time: a clock that is set back must not hide what was spent.
    """
    query = select(AT_MOST, func.count()).where(Spend.reference == run_id).group_by(AT_MOST)
    return sum((cost * calls for cost, calls in session.execute(query) if cost is not None), Decimal(0))


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
        return budget_usd - total_spent(session, self._run_id)

    def reserved(self, claims: Iterable[Claim]) -> None:
        """These are claimed now, durably."""
        for claim in claims:
            self._mine += claim.reserved_usd or Decimal(0)
            self._fresh.add(claim.spend_id)

    def settled(self, claim: Claim, cost_usd: Decimal | None) -> None:
        """What it really cost; an unknown cost keeps its reservation."""
        if cost_usd is not None:
            self._mine += cost_usd - (claim.reserved_usd or Decimal(0))
