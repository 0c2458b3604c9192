"""The rows claimed by one executor: claims more of them, and tracks which are ready to send, in flight, or waiting for
a retry.

Repeats of one cell share a request (`n`).
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from core.generation import row_store, run_budget, run_store
from core.generation.concurrency import MAX_SHARED
from core.generation.group_commit_writer import GroupCommitWriter
from core.generation.retry_policy import RowAttempts
from core.generation.row_store import Claim
from core.generation.run_budget import RequestCost
from core.generation.run_store import RunContext

_CLAIM_AHEAD_S = 0.5  # claim rows for this long in advance, so that sending does not wait for a commit
# answers per second; below that nothing is claimed in advance, so that `sent` rows are actually in flight
_MIN_RATE = 20


@dataclass(slots=True, eq=False)
class PendingRequest:
    """Claimed rows that are sent in one request.

    Attributes:
        split: whether the rows were refused together and are now sent one by one.
    """

    claims: tuple[Claim, ...]
    attempts: RowAttempts = field(default_factory=RowAttempts)
    split: bool = False


def group_claims(claims: Iterable[Claim], max_size: int) -> list[tuple[Claim, ...]]:
    """Group claims with equal prompts, at most `max_size` per group, in their original order."""
    groups: list[list[Claim]] = []
    open_groups: dict[str, list[Claim]] = {}
    for claim in claims:
        group = open_groups.get(claim.prompt) if max_size > 1 else None
        if group is None or len(group) >= max_size:
            groups.append(group := [])
            open_groups[claim.prompt] = group
        group.append(claim)
    return [tuple(group) for group in groups]


@dataclass(frozen=True, slots=True)
class _ClaimResult:
    """The result of one claim.

    Attributes:
        over_budget: why the budget does not cover another row; None if it does.
        held_by_others: number of rows claimed by other executors, which may still release some of the budget.
        complete: whether no row is left to write, and the run has ended.
    """

    claims: list[Claim]
    over_budget: str | None = None
    held_by_others: int = 0
    complete: bool = False


class ClaimQueue:
    """Claims rows in the background (ahead of need if answers arrive fast), and provides the next requests to mark as
    sent.

    A request moves from `ready` to `cleared` with the group commit that marks it; after a crash, only marked requests
    may have been billed. (Implements `SendMarks` for the writer.)

    Attributes:
        ready: requests not yet marked as sent, first in, first out.
        cleared: requests durably marked as sent, which may now be sent.
        max_shared: maximum number of repeats of a cell that may share a request.
        over_budget: why nothing more can be reserved, if no other executor may release budget.
        all_taken: whether the last claim found no pending row: what is left is claimed by executors.
        unpriced: why a budget cannot be enforced (the price is unknown).
        complete: whether everything is written and the run is done.

    Args:
        available: how many more requests may be cleared now.
        slots_for: number of slots that a request takes.
        notify: called on the event loop when a claim has ended.
    """

    def __init__(
        self,
        context: RunContext,
        request_cost: RequestCost,
        available: Callable[[], int],
        slots_for: Callable[[PendingRequest], int],
        notify: Callable[[], None],
    ) -> None:
        self._context, self._request_cost, self._notify = context, request_cost, notify
        self._available, self._slots_for = available, slots_for
        self._claiming: asyncio.Task[None] | None = None
        self._exhausted = False
        # with a seed, each row has its own seed and request
        single = context.recipe.seed is not None or context.recipe.repeats == 1
        self.max_shared = 1 if single else MAX_SHARED
        self.ready: deque[PendingRequest] = deque()
        self.cleared: deque[PendingRequest] = deque()
        self._marking: list[PendingRequest] = []  # requests marked by the group being written
        self._refused: list[int] = []  # ledger entries whose mark must be cleared
        self._clearing: list[int] = []  # those of `_refused` in the group being written
        self.over_budget: str | None = None
        self.unpriced: str | None = None
        self.all_taken = False
        self.complete = False

    def __len__(self) -> int:
        """Number of requests that have not been sent."""
        return len(self.ready) + len(self.cleared) + len(self._marking)

    @property
    def claiming(self) -> bool:
        """Whether a claim is in progress, or has ended with an error, which `check` will raise."""
        return self._claiming is not None

    def check(self) -> None:
        """Raise the error of the last claim, if any."""
        if self._claiming is not None and self._claiming.done():
            claiming, self._claiming = self._claiming, None
            claiming.result()

    def claim_ahead(self, writer: GroupCommitWriter, available: int, rate: float, idle: bool) -> None:
        """Start a claim if there are too few requests for `available` slots at `rate` answers per second.

        With `idle`, this executor has nothing in flight; once everything is claimed, check whether the run is done.
        """
        ahead = int(rate * _CLAIM_AHEAD_S) if rate >= _MIN_RATE else 0
        queued = len(self)
        if self._claiming is not None or queued > available + ahead // 2 or (queued >= available and not ahead):
            return
        if self._exhausted and (queued or not idle):
            return
        limit = (available + ahead - queued) * min(self.max_shared, self._context.recipe.repeats)
        if limit > 0:
            self._claiming = asyncio.create_task(self._claim(writer, limit, idle))

    # --- marks -------------------------------------------------------------------------------------------------------

    def refused(self, request: PendingRequest) -> None:
        """Handle a request that was refused or never arrived, and costs nothing: clear its mark until it is marked
        again.
        """
        self._refused += [claim.spend_id for claim in request.claims]

    @property
    def wanted(self) -> bool:
        """Whether there is something to mark or clear."""
        return bool(self._refused) or (bool(self.ready) and self._available() > 0)

    def take(self) -> tuple[Sequence[int], Sequence[int]]:
        """Take the spend ledger entries to mark as sent, and those whose mark must be cleared."""
        available = self._available() if self.ready else 0
        while self.ready and available > 0:
            self._marking.append(request := self.ready.popleft())
            available -= self._slots_for(request)
        sent = [claim.spend_id for request in self._marking for claim in request.claims]
        sent_again = set(sent)
        self._clearing, self._refused = [spend_id for spend_id in self._refused if spend_id not in sent_again], []
        return sent, self._clearing

    def written(self, missing: set[int] | None) -> None:
        """Handle the end of a write: everything taken was written except the `missing` entries, which others have
        claimed.

        None means that nothing was written.
        """
        marked, self._marking = self._marking, []
        cleared, self._clearing = self._clearing, []
        if missing is None:
            self.ready.extendleft(reversed(marked))
            self._refused += cleared
            return
        for request in marked:
            request.claims = tuple(claim for claim in request.claims if claim.spend_id not in missing)
            if request.claims:
                self.cleared.append(request)

    async def close(self) -> list[Claim]:
        """Wait for a claim in progress. Return all claimed rows that have not been sent."""
        if self._claiming is not None:
            await asyncio.wait([self._claiming])
        requests = [*self.cleared, *self._marking, *self.ready]
        self.cleared.clear()
        self.ready.clear()
        return [claim for request in requests for claim in request.claims]

    # --- claims ------------------------------------------------------------------------------------------------------

    async def _claim(self, writer: GroupCommitWriter, limit: int, idle: bool) -> None:
        """Claim the next rows and notify the loop. If this raises, `check` raises the same error."""
        transaction = self._check_complete if self._exhausted else lambda session: self._claim_rows(session, limit)
        notify = True
        try:
            result = await writer.call(transaction)
            notify = result is not None and self._on_claimed(result, idle)
            self._claiming = None  # only after success: `check` raises the error of a failed claim
        finally:
            if notify:
                self._notify()

    def _on_claimed(self, result: _ClaimResult, idle: bool) -> bool:
        """Queue the claimed rows. Return True if there is something new to do."""
        self.ready.extend(PendingRequest(claims) for claims in group_claims(result.claims, self.max_shared))
        self.complete = result.complete
        self.all_taken = not result.claims and (self._exhausted or not result.over_budget)
        self.over_budget = result.over_budget if idle and not result.claims and not result.held_by_others else None
        self._exhausted = not result.claims and not result.over_budget and not self._exhausted
        return bool(result.claims or self._exhausted or self.complete or self.over_budget or self.unpriced)

    def _claim_rows(self, session: Session, limit: int) -> _ClaimResult:
        state, budget_usd, failed_only = run_store.lock_controls(session, self._context.run_id)
        if state != "running":
            return _ClaimResult([])
        context, worst_case = self._context, self._request_cost.worst_case
        self.unpriced = run_budget.unpriced(session, context, budget_usd, worst_case(""))
        if self.unpriced is not None:
            return _ClaimResult([])
        own = run_budget.own_remaining(session, context.run_id, budget_usd)
        page = run_budget.page_remaining(session, context, worst_case(""))
        claims, over_budget = row_store.claim(
            session, context, limit, worst_case, run_budget.min_limit(own, page), failed_only=failed_only
        )
        if claims or not over_budget:
            return _ClaimResult(claims)
        return _ClaimResult(
            [], run_budget.exhausted(session, context, budget_usd, own), run_store.rows_held_by_others(session, context)
        )

    def _check_complete(self, session: Session) -> _ClaimResult:
        return _ClaimResult([], complete=run_store.finish_if_complete(session, self._context))


class InFlight:
    """Requests that are claimed but neither settled nor released.

    Args:
        slot_per_row: whether each row takes a slot, because the provider generates the answers to one request in
            parallel.
    """

    def __init__(self, slot_per_row: bool) -> None:
        self._slot_per_row = slot_per_row
        self._requests: dict[PendingRequest, int] = {}  # request → slots it takes
        self._waiting: list[tuple[float, int, PendingRequest]] = []  # a heap ordered by the time of the retry
        self.weight = 0
        """Number of slots in use."""

    def __bool__(self) -> bool:
        """Whether a request is in flight."""
        return bool(self._requests)

    def __len__(self) -> int:
        """Number of requests in flight."""
        return len(self._requests)

    @property
    def waiting(self) -> int:
        """Number of requests waiting for a retry."""
        return len(self._waiting)

    @property
    def next_at(self) -> float | None:
        """When the first waiting request is due (monotonic seconds); None if none is waiting."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def all_retried(self) -> bool:
        """Whether no request in flight is on its first attempt."""
        return all(request.attempts.count > 1 for request in self._requests)

    def sent(self, request: PendingRequest) -> None:
        """Count the request as in flight."""
        self._requests[request] = self.slots_for(request)
        self.weight += self._requests[request]

    def slots_for(self, request: PendingRequest) -> int:
        """Number of slots that a request takes."""
        return len(request.claims) if self._slot_per_row else 1

    def finished(self, request: PendingRequest) -> None:
        """Free the slots of a request that has ended."""
        self.weight -= self._requests.pop(request)

    def wait(self, request: PendingRequest, until: float) -> None:
        """Schedule the request to be sent again at `until` (monotonic seconds)."""
        heapq.heappush(self._waiting, (until, request.claims[0].row_id, request))

    def due(self, now: float) -> PendingRequest | None:
        """Take the next request whose wait is over; None if there is none."""
        return heapq.heappop(self._waiting)[2] if self._waiting and self._waiting[0][0] <= now else None

    def due_count(self, now: float) -> int:
        """Number of requests whose wait is over."""
        if not self._waiting or self._waiting[0][0] > now:
            return 0
        return sum(until <= now for until, _, _ in self._waiting)

    def in_flight_claims(self) -> Iterator[Claim]:
        """The rows in flight."""
        return (claim for request in self._requests for claim in request.claims)

    def waiting_claims(self) -> Iterator[Claim]:
        """The rows waiting for a retry that has a reservation and has not been sent."""
        return (claim for _, _, request in self._waiting for claim in request.claims)
