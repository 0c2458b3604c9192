"""Carries out a run: many requests in flight, every answer in the ledger before it counts, stoppable at any moment.

`RunExecutor` sends and receives. Which rows come next is `claims`, what flies or waits `in_flight`, the way to the
provider `provider_connection`, what a reply means for its row and the run `retry_policy`, how many fly at once
`concurrency`, the SQL `row_store`, the durable writing `group_commit_writer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.cost import custom_prices
from core.cost.price_book import PriceBook
from core.dataset.generation import leases, row_store, run_store
from core.dataset.generation.claims import ClaimQueue, PendingRequest
from core.dataset.generation.concurrency import ConcurrencyControl, RunLimits, ceiling
from core.dataset.generation.group_commit_writer import GroupCommitWriter
from core.dataset.generation.in_flight import InFlight
from core.dataset.generation.provider_connection import ProviderConnection
from core.dataset.generation.request_cost import RequestCost
from core.dataset.generation.request_grouping import split_cost, split_tokens
from core.dataset.generation.rescue_entry import row_entry
from core.dataset.generation.response_classification import ResponseVerdict
from core.dataset.generation.retry_policy import (
    RequestRetryPolicy,
    RetryRow,
    RowAttempts,
    RunEnd,
    SettleRow,
    end_for_error,
)
from core.dataset.generation.row_store import Claim
from core.dataset.generation.run_store import RunContext
from core.dataset.generation.throughput import Throughput
from core.db.store import Store
from core.db.tables import Run, utcnow
from core.errors import BadRequest, FabulaError, ModelNotFound, ProviderError, RateLimited, Unavailable
from core.message import msg
from core.providers import Completion, Registry
from core.settings import Settings

_ENDS = {
    "stopping": "stopped",
    "pausing": "paused",
    "waiting": "waiting",
}  # asked for → the run's end


def execute(
    store: Store,
    registry: Registry,
    run_id: str,
    stopping: threading.Event | None = None,
    *,
    limits: RunLimits | None = None,
    book: PriceBook | None = None,
) -> None:
    """Write the missing rows of a run's data set, until they are there or something ends the run.

    A provider that asks for a pause longer than `RunLimits.stall_s`, or limits the rate for so long without saying when
    that ends, lets the run wait: see `run_store.due_in_s`.

    Its end, and why, stands in the run's row afterwards; rows that were not written are pending there. When `stopping`
    is set it returns within a second and leaves the run as it is, to be taken in hand again. Any number of executors
    may work on one run; each returns when the whole run has ended.

    Raises:
        NotFound, BadRecipe: there is nothing to run.
        StorageFull: the database cannot be written, and `stopping` is set or the run could not even begin.
        DatabaseLost: it was deleted, damaged or cannot be written any more. Nothing was sent from then on; answers that
            came later are in a rescue file (see `core.recovery`).
    """
    halt = stopping or threading.Event()
    with leases.hold_lease() as claimant:
        while not halt.is_set() and (context := run_store.begin(store, run_id, claimant)) is not None:
            prices = book or custom_prices.book(store, Settings.from_env().home)
            asyncio.run(RunExecutor(store, registry, context, prices, halt, limits or RunLimits()).run())


class RunExecutor:
    """One go at one run, on one event loop."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        context: RunContext,
        book: PriceBook,
        halt: threading.Event,
        limits: RunLimits,
    ) -> None:
        self._context, self._halt, self._limits = context, halt, limits
        self._wake = asyncio.Event()
        self._request_cost = RequestCost(book, context)
        self._in_flight = InFlight(side_by_side=context.provider == "engine")
        self._claim_queue = ClaimQueue(
            context, self._request_cost, self._clearable, self._in_flight.slots_for, self._wake.set
        )
        self._writer = GroupCommitWriter(
            store, limits.storage_s, self._recorded, self._claim_queue, entry=partial(row_entry, context),
            claimant=context.claimant,
        )  # fmt: skip
        self._connection = ProviderConnection(registry, context, limits.tick_s, self._wake.set)
        self._concurrency = ConcurrencyControl(limits.ceiling or ceiling(context.provider))
        self._retry_policy = RequestRetryPolicy(limits, self._concurrency, context.recipe.max_tokens, time.monotonic())
        self._send_loops: set[asyncio.Task[None]] = set()
        self._shutting_down = False
        self._unsent: list[Claim] = []
        self._tries: dict[int, RowAttempts] = {}  # by row, of those that are claimed once more
        self._throughput = Throughput(time.monotonic())
        self._asked: str | None = None  # how a person wants the run to end
        self._noted: str | None = None  # what the run's row says that it waits for
        self._looked_at = float("-inf")

    async def run(self) -> None:
        """Until nothing is left to do, or the run is ended from inside or outside."""
        try:
            while not self._over():
                await self._look()
                self._connect()
                self._dispatch()
                await self._wait()
        finally:
            await self._shut_down()
        if not self._halt.is_set():
            await self._writer.call_until_done(self._finish, self._halt)

    def _finish(self, session: Session) -> None:
        """Write down how the run ends."""
        run_id, end = self._context.run_id, self._retry_policy.end or RunEnd(self._asked or "done")
        not_before = None
        if end.wait_s is not None:
            not_before = run_store.pause_until(session, run_id, end.wait_s, growing=end.growing)
        run_store.finish(session, run_id, end.state, end.reason, self._context.claimant, not_before=not_before)

    def _over(self) -> bool:
        for loop in [loop for loop in self._send_loops if loop.done()]:
            self._send_loops.discard(loop)
            loop.result()  # an unforeseen error ends the run here, not in silence
        self._claim_queue.check()  # likewise
        if self._halt.is_set() or self._asked is not None:
            return True
        if self._writer.lost is not None:
            return not self._in_flight  # what was sent is paid for: its answers go into the rescue file
        if self._in_flight or self._writer.unrecorded:
            return False
        return self._retry_policy.end is not None or self._claim_queue.complete

    @property
    def _sending(self) -> bool:
        """Whether requests may go out now."""
        ended = self._retry_policy.end is not None or self._asked is not None or self._halt.is_set()
        return not ended and not self._shutting_down and not self._writer.down and self._connection.open

    async def _look(self) -> None:
        """A few times a second: is a stop asked for, does the endpoint still answer, what do people read."""
        now = time.monotonic()
        if now - self._looked_at < self._limits.tick_s:
            return
        self._looked_at = now
        self._throughput.take(now)
        run_id, note = self._context.run_id, self._note(now) or "\n".join(self._connection.notes) or None
        state = await self._writer.look(lambda session: session.scalar(select(Run.state).where(Run.id == run_id)))
        if note != self._noted and await self._writer.call(lambda session: _write_note(session, run_id, note)):
            self._noted = note
        if state not in (None, "running"):
            self._asked = _ENDS.get(state or "", "stopped")
        if not self._writer.down:
            self._retry_policy.stalled(now, self._in_flight.all_retried)

    async def _wait(self) -> None:
        """Until something has changed, a wait is over, or it is time to look."""
        timeout = self._limits.tick_s
        if self._in_flight.next_at is not None and self._room():
            timeout = min(timeout, max(0.0, self._in_flight.next_at - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout)
        self._wake.clear()

    # --- what goes out -------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """How many more may fly. An answer holds its slot until it is durable: a crash loses no more than these."""
        return self._concurrency.room(self._in_flight.weight + self._writer.unrecorded)

    def _clearable(self) -> int:
        """How many more requests may be marked as sent: no more than will have room once this group is in the ledger.

        Those whose wait is over go first. (The writer asks while it takes a group: the slots of its answers are free
        by the time that the marks are durable.)
        """
        if not self._sending:
            return 0
        cleared = self._claim_queue.cleared
        taken = (
            self._in_flight.weight
            + sum(map(self._in_flight.slots_for, cleared))
            + self._in_flight.due_count(time.monotonic())
        )
        return min(self._concurrency.room(taken), self._may_wait() - len(cleared))

    def _claim_more(self) -> None:
        """See that there are rows to send. Those that wait for another try hold no slot, but not too many may wait."""
        claim_queue = self._claim_queue
        if claim_queue.unpriced:
            self._retry_policy.ended(RunEnd("failed", claim_queue.unpriced))
        idle = not (self._in_flight or self._in_flight.waiting or len(claim_queue) or self._writer.unrecorded)
        if idle and claim_queue.over_budget:
            self._retry_policy.ended(RunEnd("stopped", claim_queue.over_budget))
        if self._sending and not claim_queue.claiming:
            rate = self._throughput.at_least(self._concurrency.allowed, time.monotonic())
            claim_queue.claim_ahead(self._writer, min(self._room(), self._may_wait()), rate, idle)

    def _may_wait(self) -> int:
        """How many more rows may be begun: each that flies may have to wait."""
        begun = self._in_flight.waiting + len(self._in_flight)
        return max(0, self._limits.most_waiting + int(self._throughput.per_s) - begun)

    def _dispatch(self) -> None:
        """Send as much as there is room for, and have the next marked. Called whenever there is more of either."""
        while (request := self._next()) is not None:
            self._send_loops.add(asyncio.create_task(self._send_loop(request)))
        self._claim_more()
        self._writer.start()

    def _next(self) -> PendingRequest | None:
        """What goes out now: what has waited long enough, then new rows. Only what is marked as sent goes out."""
        if not self._sending or not self._room():
            return None
        now, request = time.monotonic(), None
        while (request := self._in_flight.due(now)) is not None and not request.marked:
            self._claim_queue.ready.appendleft(request)
        while request is None and self._claim_queue.cleared:
            request = self._claim_queue.cleared.popleft()
            request.tries = next((t for c in request.claims if (t := self._tries.pop(c.row_id, None))), request.tries)
            if request.tries.not_before > now:
                self._claim_queue.refused(request)  # it has not gone out
                self._in_flight.wait(request, request.tries.not_before)
                request = None
        if request is not None:
            self._in_flight.sent(request)
        return request

    async def _send_loop(self, request: PendingRequest | None) -> None:
        """One request after another, as long as there is room and something to send."""
        while request is not None:
            request.tries.count += 1
            request.tries.sent_at = time.monotonic()
            try:
                answer = await self._connection.ask(request.claims[0], len(request.claims))
            except FabulaError as exc:
                self._in_flight.finished(request)
                self._failed(request, exc)
            else:
                self._in_flight.finished(request)
                self._on_answer(request, answer)
            request = self._next()
        if not self._in_flight:
            self._wake.set()

    def _connect(self) -> None:
        """An engine that is still starting is waited for."""
        if self._retry_policy.end is not None or self._writer.down:
            return
        try:
            self._connection.connect()
        except (RateLimited, Unavailable) as exc:
            self._retry_policy.cause = exc.what
        except FabulaError as exc:
            self._retry_policy.ended(end_for_error(exc))

    # --- what comes back -----------------------------------------------------------------------------------------

    def _recorded(self) -> None:
        """A group is in the ledger: the slots of its answers are free, what it marks may go out."""
        if not self._shutting_down:
            self._dispatch()
        if not self._in_flight:
            self._wake.set()

    def _on_answer(self, request: PendingRequest, answer: Completion) -> None:
        """One request was answered. With fewer texts than asked for, the endpoint knows no `n`: the rest goes alone."""
        kept = self._retry_policy.answer(answer, time.monotonic(), len(request.claims))
        self._throughput.record(len(kept))
        if request.split or len(kept) < len(request.claims):
            self._claim_queue.together = 1
        self._split(request.claims[len(kept) :])
        cost = self._request_cost.price(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
        self._keep(request.claims, kept, split_cost(cost, len(kept)))

    def _failed(self, request: PendingRequest, error: FabulaError) -> None:
        """One request has ended with an error."""
        now = time.monotonic()
        if len(request.claims) > 1 and isinstance(error, BadRequest) and not isinstance(error, ModelNotFound):
            self._split(request.claims)
            return
        decision = self._retry_policy.error(error, request.tries, now)
        if isinstance(decision, RetryRow):
            if decision.lost:
                self._give_up(request, now + decision.wait_s)
                return
            if isinstance(error, ProviderError) and not error.may_be_billed:
                self._claim_queue.refused(request)
            self._in_flight.wait(request, now + decision.wait_s)
            self._wake.set()
        elif isinstance(decision, SettleRow):
            parts = len(request.claims)
            prompt, written = (split_tokens(t, parts) for t in (decision.prompt_tokens, decision.completion_tokens))
            kept = [SettleRow(decision.verdict, *used) for used in zip(prompt, written, strict=True)]
            cost = self._request_cost.price(decision.prompt_tokens, decision.completion_tokens)
            self._keep(request.claims, kept, split_cost(cost, parts))
        else:
            self._unsent += request.claims

    def _give_up(self, request: PendingRequest, not_before: float) -> None:
        """A request that may be billed brought no answer: its cost is unknown, and counts as what was reserved.

        Its rows are pending again. Whoever claims them reserves the money for another request, as far as it is there.
        """
        request.tries.not_before = not_before
        self._tries.update((claim.row_id, request.tries) for claim in request.claims)
        lost, cost = (
            SettleRow(ResponseVerdict("pending", None, None, None), None, None),
            self._request_cost.price(None, None),
        )
        self._keep(request.claims, [lost] * len(request.claims), [cost] * len(request.claims))

    def _split(self, claims: Sequence[Claim]) -> None:
        """Send rows one by one, next. If that works, it was the sharing, and there is no more of it in this run."""
        self._claim_queue.cleared.extendleft(
            PendingRequest((claim,), split=True, marked=True) for claim in reversed(claims)
        )

    def _keep(self, claims: Sequence[Claim], kept: Sequence[SettleRow], costs: Sequence[Decimal | None]) -> None:
        now, outcomes = utcnow(), []
        for claim, one, cost in zip(claims, kept, costs, strict=False):
            outcomes.append(one.outcome(claim, cost, now))
        self._writer.add(outcomes)

    async def _shut_down(self) -> None:
        """End what flies, keep what has come, give back the rest."""
        self._shutting_down = True
        for loop in self._send_loops:
            loop.cancel()
        ended = await asyncio.gather(*self._send_loops, return_exceptions=True)
        try:
            try:
                await self._writer.flush(self._halt)
            finally:
                await self._release()
        finally:
            self._writer.close()
            await self._connection.close()
        self._claim_queue.check()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _release(self) -> None:
        """Give back what was not sent; what was cut off, or has failed and may be billed, costs an unknown amount."""
        unknown = self._request_cost.price(None, None)
        billed = [*self._in_flight.in_flight_claims(), *self._in_flight.waiting_claims(marked=True)]
        cut = [(claim, unknown) for claim in billed]
        waiting = self._in_flight.waiting_claims(marked=False)
        unsent = [*self._unsent, *waiting, *await self._claim_queue.close()]
        claimant = self._context.claimant
        await self._writer.call_until_done(
            lambda session: row_store.release(session, unsent, cut, claimant), self._halt
        )

    def _note(self, now: float) -> str | None:
        """What the run waits for right now; None when it writes."""
        cause = self._retry_policy.cause
        if self._in_flight or self._retry_policy.end is not None:
            return None
        if not self._connection.open and cause:
            return msg("Waiting for the provider. {cause}", cause=cause)
        if self._in_flight.next_at is None:
            return None
        seconds = max(1, round(self._in_flight.next_at - now))
        return msg("Waiting {seconds} s. {cause}", seconds=seconds, cause=cause)


def _write_note(session: Session, run_id: str, note: str | None) -> bool:
    session.get_one(Run, run_id).note = note
    return True
