"""The rows that one executor has claimed and not sent yet, and how it comes by more of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy.orm import Session

from core.dataset.writing import ledger, orders, purse
from core.dataset.writing.arrivals import Tries
from core.dataset.writing.keeper import Keeper
from core.dataset.writing.ledger import Claim
from core.dataset.writing.orders import Order
from core.dataset.writing.purse import Purse
from core.dataset.writing.sharing import MOST_SHARED, together
from core.dataset.writing.tariff import Tariff

_AHEAD_S = 0.5  # rows for so long are claimed before there is room for them, where a commit would hold the next up
_FAST = 20  # answers a second; below that nothing is claimed ahead, so that what is `sent` is on its way


@dataclass(slots=True, eq=False)
class Work:
    """Claimed rows that go in one request. `split`: they were refused together, and go one by one now."""

    claims: tuple[Claim, ...]
    tries: Tries = field(default_factory=Tries)
    split: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """What one claim brought. `broke`: why the money ended it; `others`: rows of those who may give some back."""

    claims: list[Claim]
    broke: str | None = None
    others: int = 0
    complete: bool = False


class Supply:
    """Claims in the background, ahead of need where answers come fast.

    Attributes:
        ready: to be sent, first come first served.
        together: how many repeats of a cell may share a request.
        broke: why nothing more can be reserved, where nobody is about to give anything back.
        unpriced: why a budget cannot be kept: there is no price.
        complete: everything is written; the run is done.

    Args:
        news: called on the event loop when a claim has ended.
    """

    def __init__(self, keeper: Keeper, order: Order, tariff: Tariff, news: Callable[[], None]) -> None:
        self._keeper, self._order, self._tariff, self._news = keeper, order, tariff, news
        self._purse = Purse(order.run_id)
        self._claiming: asyncio.Task[None] | None = None
        self._exhausted = False
        alone = order.recipe.seed is not None or order.recipe.repeats == 1  # each row has a seed of its own
        self.together = 1 if alone else MOST_SHARED
        self.ready: deque[Work] = deque()
        self.broke: str | None = None
        self.unpriced: str | None = None
        self.complete = False

    @property
    def claiming(self) -> bool:
        """A claim is under way."""
        return self._claiming is not None

    def top_up(self, room: int, rate: float, idle: bool) -> None:
        """See that there is something to send for `room` more requests, at `rate` answers a second.

        With `idle`, nothing of this executor is under way: once all is claimed, it is looked whether the run is done.
        """
        ahead = int(rate * _AHEAD_S) if rate >= _FAST else 0
        have = len(self.ready)
        if self._claiming is not None or have > room + ahead // 2 or (have >= room and not ahead):
            return
        if self._exhausted and (have or not idle):
            return
        most = (room + ahead - have) * min(self.together, self._order.recipe.repeats)
        if most > 0:
            self._claiming = asyncio.create_task(self._claim(most, idle))

    def settled(self, claim: Claim, cost_usd: Decimal | None) -> None:
        """What a claimed row really cost; an unknown cost keeps its reservation."""
        self._purse.settled(claim, cost_usd)

    async def close(self) -> list[Claim]:
        """Wait for a claim that is under way; all rows that were claimed and not sent."""
        if self._claiming is not None:
            await asyncio.wait([self._claiming])
        left, self.ready = self.ready, deque()
        return [claim for work in left for claim in work.claims]

    async def _claim(self, most: int, idle: bool) -> None:
        work = self._finish if self._exhausted else lambda session: self._take(session, most)
        try:
            found = await self._keeper.call(work)
        finally:
            self._claiming = None
        if found is None:
            return
        self._purse.reserved(found.claims)
        self.ready.extend(Work(claims) for claims in together(found.claims, self.together))
        self.complete = found.complete
        self.broke = found.broke if idle and not found.claims and not found.others else None
        self._exhausted = not found.claims and not found.broke and not self._exhausted
        if found.claims or self._exhausted or self.complete or self.broke or self.unpriced:
            self._news()

    def _take(self, session: Session, most: int) -> _Found:
        state, limit, own = orders.held(session, self._order.run_id)
        if state != "running":
            return _Found([])
        order, worst = self._order, self._tariff.worst
        self.unpriced = purse.unpriced(session, order, limit, worst(""))
        if self.unpriced is not None:
            return _Found([])
        page = purse.page_left(session, order, worst(""))
        left = None if limit is None else self._purse.left(session, limit)
        claims, broke = ledger.claim(session, order, most, worst, purse.least(left, page), own=own)
        if broke and not claims and limit is not None:
            left = self._purse.recount(session, limit)
            claims, broke = ledger.claim(session, order, most, worst, purse.least(left, page), own=own)
        if claims or not broke:
            return _Found(claims)
        return _Found([], purse.used_up(session, order, limit, left), orders.others(session, order))

    def _finish(self, session: Session) -> _Found:
        return _Found([], complete=orders.finish_complete(session, self._order))
