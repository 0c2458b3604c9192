"""The rows that one executor has claimed: how it gets more of them, and which of them may be sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from core.dataset.writing import ledger, orders, purse
from core.dataset.writing.arrivals import Tries
from core.dataset.writing.keeper import Keeper
from core.dataset.writing.ledger import Claim
from core.dataset.writing.orders import Order
from core.dataset.writing.sharing import MOST_SHARED, together
from core.dataset.writing.tariff import Tariff

_AHEAD_S = 0.5  # rows for so long are claimed before there is room for them, where a commit would hold the next up
_FAST = 20  # answers a second; below that nothing is claimed ahead, so that what is `sent` is on its way


@dataclass(slots=True, eq=False)
class Work:
    """Claimed rows that go in one request.

    Attributes:
        split: they were refused together, and go one by one now.
        marked: they are in the ledger as sent, so that they may go out.
    """

    claims: tuple[Claim, ...]
    tries: Tries = field(default_factory=Tries)
    split: bool = False
    marked: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """What one claim brought. `broke`: why the money ended it; `others`: rows of those who may give some back."""

    claims: list[Claim]
    broke: str | None = None
    others: int = 0
    complete: bool = False


class Supply:
    """Claims in the background, ahead of need where answers come fast, and has the next requests marked as sent.

    A request goes from `ready` to `cleared` with the group commit that marks it: after a crash only what is marked may
    have been billed. (It is the `Marks` of the keeper.)

    Attributes:
        ready: not marked as sent yet, first come first served.
        cleared: marked as sent, durably: these may go out.
        together: how many repeats of a cell may share a request.
        broke: why nothing more can be reserved, where nobody is about to give anything back.
        unpriced: why a budget cannot be kept: there is no price.
        complete: everything is written; the run is done.

    Args:
        room: how many more requests may be cleared now.
        weigh: how many of the slots a request takes.
        news: called on the event loop when a claim has ended.
    """

    def __init__(
        self,
        order: Order,
        tariff: Tariff,
        room: Callable[[], int],
        weigh: Callable[[Work], int],
        news: Callable[[], None],
    ) -> None:
        self._order, self._tariff, self._news = order, tariff, news
        self._room, self._weigh = room, weigh
        self._claiming: asyncio.Task[None] | None = None
        self._exhausted = False
        alone = order.recipe.seed is not None or order.recipe.repeats == 1  # each row has a seed of its own
        self.together = 1 if alone else MOST_SHARED
        self.ready: deque[Work] = deque()
        self.cleared: deque[Work] = deque()
        self._marking: list[Work] = []  # in the group that is being written
        self._refused: list[int] = []  # lines that are not sent any more, and have to be written as such
        self._unmarking: list[int] = []  # of these, those in the group that is being written
        self.broke: str | None = None
        self.unpriced: str | None = None
        self.complete = False

    def __len__(self) -> int:
        """Requests that have not gone out."""
        return len(self.ready) + len(self.cleared) + len(self._marking)

    @property
    def claiming(self) -> bool:
        """A claim is under way, or has ended with an error that `check` raises."""
        return self._claiming is not None

    def check(self) -> None:
        """Raise what the last claim has raised."""
        if self._claiming is not None and self._claiming.done():
            claiming, self._claiming = self._claiming, None
            claiming.result()

    def top_up(self, keeper: Keeper, room: int, rate: float, idle: bool) -> None:
        """See that there is something to send for `room` more requests, at `rate` answers a second.

        With `idle`, nothing of this executor is under way: once all is claimed, it is looked whether the run is done.
        """
        ahead = int(rate * _AHEAD_S) if rate >= _FAST else 0
        have = len(self)
        if self._claiming is not None or have > room + ahead // 2 or (have >= room and not ahead):
            return
        if self._exhausted and (have or not idle):
            return
        most = (room + ahead - have) * min(self.together, self._order.recipe.repeats)
        if most > 0:
            self._claiming = asyncio.create_task(self._claim(keeper, most, idle))

    # --- marks -------------------------------------------------------------------------------------------------------

    def refused(self, work: Work) -> None:
        """It was refused, or never arrived, and costs nothing: it is not sent any more, until it is marked again."""
        work.marked = False
        self._refused += [claim.spend_id for claim in work.claims]

    @property
    def wanted(self) -> bool:
        """Whether there is something to mark."""
        return bool(self._refused) or (bool(self.ready) and self._room() > 0)

    def take(self) -> tuple[Sequence[int], Sequence[int]]:
        """Lines of the spend ledger to be marked now: as sent, as refused."""
        room = self._room() if self.ready else 0
        while self.ready and room > 0:
            self._marking.append(work := self.ready.popleft())
            room -= self._weigh(work)
        sent = [claim.spend_id for work in self._marking for claim in work.claims]
        again = set(sent)
        self._unmarking, self._refused = [line for line in self._refused if line not in again], []
        return sent, self._unmarking

    def written(self, gone: set[int] | None) -> None:
        """What was taken is marked, but for lines that are `gone`: others have those rows now. None: nothing is."""
        marking, self._marking = self._marking, []
        unmarking, self._unmarking = self._unmarking, []
        if gone is None:
            self.ready.extendleft(reversed(marking))
            self._refused += unmarking
            return
        for work in marking:
            work.claims = tuple(claim for claim in work.claims if claim.spend_id not in gone)
            work.marked = True
            if work.claims:
                self.cleared.append(work)

    async def close(self) -> list[Claim]:
        """Wait for a claim that is under way; all rows that were claimed and have not gone out."""
        if self._claiming is not None:
            await asyncio.wait([self._claiming])
        left = [*self.cleared, *self._marking, *self.ready]
        self.cleared.clear()
        self.ready.clear()
        return [claim for work in left for claim in work.claims]

    # --- claims ------------------------------------------------------------------------------------------------------

    async def _claim(self, keeper: Keeper, most: int, idle: bool) -> None:
        """The next rows. What this raises, `check` raises; the loop is woken for it."""
        work = self._finish if self._exhausted else lambda session: self._take(session, most)
        news = True
        try:
            found = await keeper.call(work)
            news = found is not None and self._found(found, idle)
            self._claiming = None  # not where it raised
        finally:
            if news:
                self._news()

    def _found(self, found: _Found, idle: bool) -> bool:
        """Take in what a claim has brought; whether there is something new to do."""
        self.ready.extend(Work(claims) for claims in together(found.claims, self.together))
        self.complete = found.complete
        self.broke = found.broke if idle and not found.claims and not found.others else None
        self._exhausted = not found.claims and not found.broke and not self._exhausted
        return bool(found.claims or self._exhausted or self.complete or self.broke or self.unpriced)

    def _take(self, session: Session, most: int) -> _Found:
        state, limit, own = orders.held(session, self._order.run_id)
        if state != "running":
            return _Found([])
        order, worst = self._order, self._tariff.worst
        self.unpriced = purse.unpriced(session, order, limit, worst(""))
        if self.unpriced is not None:
            return _Found([])
        left = purse.own_left(session, order.run_id, limit)
        page = purse.page_left(session, order, worst(""))
        claims, broke = ledger.claim(session, order, most, worst, purse.least(left, page), own=own)
        if claims or not broke:
            return _Found(claims)
        return _Found([], purse.used_up(session, order, limit, left), orders.others(session, order))

    def _finish(self, session: Session) -> _Found:
        return _Found([], complete=orders.finish_complete(session, self._order))
