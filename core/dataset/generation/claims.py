"""The rows that one executor has claimed: how it gets more of them, and which of them may be sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from core.dataset.generation import row_store, run_budget, run_store
from core.dataset.generation.group_commit_writer import GroupCommitWriter
from core.dataset.generation.request_cost import RequestCost
from core.dataset.generation.request_grouping import MOST_SHARED, group_claims
from core.dataset.generation.retry_policy import RowAttempts
from core.dataset.generation.row_store import Claim
from core.dataset.generation.run_store import RunContext

_AHEAD_S = 0.5  # rows for so long are claimed before there is room for them, where a commit would hold the next up
_FAST = 20  # answers a second; below that nothing is claimed ahead, so that what is `sent` is on its way


@dataclass(slots=True, eq=False)
class PendingRequest:
    """Claimed rows that go in one request.

    Attributes:
        split: they were refused together, and go one by one now.
        marked: they are in the ledger as sent, so that they may go out.
    """

    claims: tuple[Claim, ...]
    tries: RowAttempts = field(default_factory=RowAttempts)
    split: bool = False
    marked: bool = False


@dataclass(frozen=True, slots=True)
class _ClaimResult:
    """What one claim brought. `over_budget`: why the money ended it; `others`: rows of those who may give some back."""

    claims: list[Claim]
    over_budget: str | None = None
    others: int = 0
    complete: bool = False


class ClaimQueue:
    """Claims in the background, ahead of need where answers come fast, and has the next requests marked as sent.

    A request goes from `ready` to `cleared` with the group commit that marks it: after a crash only what is marked may
    have been billed. (It is the `SendMarks` of the writer.)

    Attributes:
        ready: not marked as sent yet, first come first served.
        cleared: marked as sent, durably: these may go out.
        together: how many repeats of a cell may share a request.
        over_budget: why nothing more can be reserved, where nobody is about to give anything back.
        unpriced: why a budget cannot be kept: there is no price.
        complete: everything is written; the run is done.

    Args:
        room: how many more requests may be cleared now.
        slots_for: how many of the slots a request takes.
        notify: called on the event loop when a claim has ended.
    """

    def __init__(
        self,
        context: RunContext,
        request_cost: RequestCost,
        room: Callable[[], int],
        slots_for: Callable[[PendingRequest], int],
        notify: Callable[[], None],
    ) -> None:
        self._context, self._request_cost, self._notify = context, request_cost, notify
        self._room, self._weigh = room, slots_for
        self._claiming: asyncio.Task[None] | None = None
        self._exhausted = False
        alone = context.recipe.seed is not None or context.recipe.repeats == 1  # each row has a seed of its own
        self.together = 1 if alone else MOST_SHARED
        self.ready: deque[PendingRequest] = deque()
        self.cleared: deque[PendingRequest] = deque()
        self._marking: list[PendingRequest] = []  # in the group that is being written
        self._refused: list[int] = []  # lines that are not sent any more, and have to be written as such
        self._unmarking: list[int] = []  # of these, those in the group that is being written
        self.over_budget: str | None = None
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

    def claim_ahead(self, writer: GroupCommitWriter, room: int, rate: float, idle: bool) -> None:
        """See that there is something to send for `room` more requests, at `rate` answers a second.

        With `idle`, nothing of this executor is under way: once all is claimed, it is looked whether the run is done.
        """
        ahead = int(rate * _AHEAD_S) if rate >= _FAST else 0
        have = len(self)
        if self._claiming is not None or have > room + ahead // 2 or (have >= room and not ahead):
            return
        if self._exhausted and (have or not idle):
            return
        most = (room + ahead - have) * min(self.together, self._context.recipe.repeats)
        if most > 0:
            self._claiming = asyncio.create_task(self._claim(writer, most, idle))

    # --- marks -------------------------------------------------------------------------------------------------------

    def refused(self, request: PendingRequest) -> None:
        """It was refused, or never arrived, and costs nothing: it is not sent any more, until it is marked again."""
        request.marked = False
        self._refused += [claim.spend_id for claim in request.claims]

    @property
    def wanted(self) -> bool:
        """Whether there is something to mark."""
        return bool(self._refused) or (bool(self.ready) and self._room() > 0)

    def take(self) -> tuple[Sequence[int], Sequence[int]]:
        """Lines of the spend ledger to be marked now: as sent, as refused."""
        room = self._room() if self.ready else 0
        while self.ready and room > 0:
            self._marking.append(request := self.ready.popleft())
            room -= self._weigh(request)
        sent = [claim.spend_id for request in self._marking for claim in request.claims]
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
        for request in marking:
            request.claims = tuple(claim for claim in request.claims if claim.spend_id not in gone)
            request.marked = True
            if request.claims:
                self.cleared.append(request)

    async def close(self) -> list[Claim]:
        """Wait for a claim that is under way; all rows that were claimed and have not gone out."""
        if self._claiming is not None:
            await asyncio.wait([self._claiming])
        left = [*self.cleared, *self._marking, *self.ready]
        self.cleared.clear()
        self.ready.clear()
        return [claim for request in left for claim in request.claims]

    # --- claims ------------------------------------------------------------------------------------------------------

    async def _claim(self, writer: GroupCommitWriter, most: int, idle: bool) -> None:
        """The next rows. What this raises, `check` raises; the loop is woken for it."""
        work = self._finish if self._exhausted else lambda session: self._take(session, most)
        notify = True
        try:
            found = await writer.call(work)
            notify = found is not None and self._found(found, idle)
            self._claiming = None  # not where it raised
        finally:
            if notify:
                self._notify()

    def _found(self, found: _ClaimResult, idle: bool) -> bool:
        """Take in what a claim has brought; whether there is something new to do."""
        self.ready.extend(PendingRequest(claims) for claims in group_claims(found.claims, self.together))
        self.complete = found.complete
        self.over_budget = found.over_budget if idle and not found.claims and not found.others else None
        self._exhausted = not found.claims and not found.over_budget and not self._exhausted
        return bool(found.claims or self._exhausted or self.complete or self.over_budget or self.unpriced)

    def _take(self, session: Session, most: int) -> _ClaimResult:
        state, limit, own = run_store.lock_controls(session, self._context.run_id)
        if state != "running":
            return _ClaimResult([])
        context, worst = self._context, self._request_cost.worst
        self.unpriced = run_budget.unpriced(session, context, limit, worst(""))
        if self.unpriced is not None:
            return _ClaimResult([])
        left = run_budget.own_remaining(session, context.run_id, limit)
        page = run_budget.page_remaining(session, context, worst(""))
        claims, over_budget = row_store.claim(session, context, most, worst, run_budget.smaller(left, page), own=own)
        if claims or not over_budget:
            return _ClaimResult(claims)
        return _ClaimResult(
            [], run_budget.exhausted(session, context, limit, left), run_store.rows_held_by_others(session, context)
        )

    def _finish(self, session: Session) -> _ClaimResult:
        return _ClaimResult([], complete=run_store.finish_complete(session, self._context))
