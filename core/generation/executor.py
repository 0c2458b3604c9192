"""Executes a run: many requests are in flight, every answer is durable before it counts, and the run can be stopped at
any time.

`RunExecutor` sends and receives. `claims` supplies the next rows and tracks the requests in flight or waiting,
`provider_connection` communicates with the provider, `retry_policy` decides what a reply means for its row and the run,
`replies` carries out that decision, `concurrency` limits the requests in flight, `row_store` has the SQL,
`group_commit_writer` writes durably.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import shared_files
from core.db import leases
from core.db.store import Store
from core.db.tables import Run
from core.errors import FabulaError, Transient
from core.generation import row_store, run_sharing, run_store
from core.generation.claims import ClaimQueue, InFlight, PendingRequest
from core.generation.concurrency import DEFAULT_LIMIT, ConcurrencyControl, RunLimits, Throughput
from core.generation.group_commit_writer import GroupCommitWriter
from core.generation.provider_connection import ProviderConnection
from core.generation.replies import ReplyHandler
from core.generation.retry_policy import RequestRetryPolicy, RunEnd, end_for_error
from core.generation.row_store import row_entry
from core.generation.run_budget import RequestCost
from core.generation.run_store import RunContext
from core.message import lines, msg
from core.pricing import custom_prices, stopped_models
from core.pricing.price_book import PriceBook
from core.providers import Registry
from core.settings import Settings

_FINAL_STATES = {"stopping": "stopped", "pausing": "paused"}  # requested state → final state


def execute(
    store: Store,
    registry: Registry,
    run_id: str,
    stopping: threading.Event | None = None,
    *,
    limits: RunLimits | None = None,
    book: PriceBook | None = None,
) -> None:
    """Write the missing rows of a run's data set, until all are written or the run ends for another reason.

    If a provider asks for a pause longer than `RunLimits.stall_s`, or limits the rate for that long without giving an
    end, the run waits; see `run_store.due_in_s`. If this process cannot use the provider but another
    worker may, this returns and leaves the run unfinished; see `run_sharing.leave`.

    Afterwards, the final state and its reason are in the run's database row, and rows that were not written are
    pending. When `stopping` is set, nothing more is sent; this returns when the requests in flight are answered, or
    after `RunLimits.drain_s`, and leaves the run unfinished, to be continued later. Several executors may work on one
    run; each returns when the whole run has ended.

    Raises:
        NotFound, BadRecipe: there is nothing to run.
        StorageFull: the database cannot be written, and `stopping` is set or the run could not be started.
        DatabaseLost: the database was deleted, damaged, or is no longer writable. Nothing was sent after that; later
            answers are in a rescue file (see `core.jobs.recovery`).
    """
    stop_event = stopping or threading.Event()
    with leases.hold_lease() as claimant:
        while not stop_event.is_set() and (context := run_store.begin(store, run_id, claimant)) is not None:
            prices = book or custom_prices.book(store, shared_files.storage(Settings.from_env()))
            try:
                asyncio.run(RunExecutor(store, registry, context, prices, stop_event, limits or RunLimits()).run())
            except BaseException:
                run_sharing.leave_claims(claimant, run_id)
                raise


class RunExecutor:
    """Executes one run on one event loop."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        context: RunContext,
        book: PriceBook,
        stopping: threading.Event,
        limits: RunLimits,
    ) -> None:
        self._context, self._book, self._stopping, self._limits = context, book, stopping, limits
        self._wake = asyncio.Event()
        self._request_cost = RequestCost(book, context)
        self._in_flight = InFlight(slot_per_row=context.provider == "engine")
        self._claim_queue = ClaimQueue(
            context, self._request_cost, self._clearable_count, self._in_flight.slots_for, self._wake.set
        )
        self._writer = GroupCommitWriter(
            store, limits.storage_retry_s, self._on_recorded, self._claim_queue, entry=partial(row_entry, context),
            claimant=context.claimant,
        )  # fmt: skip
        self._connection = ProviderConnection(registry, context, limits.tick_s, self._wake.set)
        self._concurrency = ConcurrencyControl(limits.ceiling or DEFAULT_LIMIT)
        self._retry_policy = RequestRetryPolicy(limits, self._concurrency, context.recipe.max_tokens, time.monotonic())
        self._send_loops: set[asyncio.Task[None]] = set()
        self._shutting_down = False
        self._throughput = Throughput(time.monotonic())
        self._replies = ReplyHandler(
            self._request_cost, self._retry_policy, self._claim_queue, self._in_flight, self._throughput, self._writer,
            self._wake.set,
        )  # fmt: skip
        self._requested_end: str | None = None  # final state requested by the user
        self._ended_elsewhere = False  # another executor of this run has recorded its end
        self._written_note: str | None = None  # the note in the run's database row
        self._polled_at = float("-inf")
        self._drain_until: float | None = None  # set when the worker stops

    async def run(self) -> None:
        """Run until nothing is left to do or the run ends."""
        try:
            while not self._is_finished():
                await self._poll()
                self._connect()
                self._dispatch()
                await self._wait()
        finally:
            await self._shut_down()
        if not self._stopping.is_set():
            await self._writer.call_until_done(self._finish, self._stopping)

    def _finish(self, session: Session) -> None:
        """Write the final state of the run, unless another executor has: the run may have been resumed since."""
        if self._ended_elsewhere:
            run = run_store.lock_run(session, self._context.run_id)
            run_store.release_dead_claims(session, run.dataset_id, self._context.claimant)
            return
        run_id, end = self._context.run_id, self._retry_policy.end or RunEnd(self._requested_end or "done")
        if end.unable and run_sharing.leave(session, run_id, self._context.claimant, end.reason or ""):
            return
        not_before = None
        if end.wait_s is not None:
            not_before = run_store.resume_time(session, run_id, end.wait_s, increasing=end.increasing)
        reason = self._explained(session, end.reason)
        run_store.finish(session, run_id, end.state, reason, self._context.claimant, not_before=not_before)

    def _explained(self, session: Session, reason: str | None) -> str | None:
        """The reason; for a model that has stopped, since when, and what to do."""
        context = self._context
        return reason and stopped_models.explained_reason(
            session, self._book, context.provider, context.model, reason, reader=context.actor
        )

    def _is_finished(self) -> bool:
        for loop in [loop for loop in self._send_loops if loop.done()]:
            self._send_loops.discard(loop)
            loop.result()  # raises an unexpected error of the loop
        self._claim_queue.check()
        if self._requested_end is not None:
            return True
        if self._stopping.is_set():
            return not self._in_flight or self._is_drain_over()
        if self._writer.lost is not None:
            return not self._in_flight  # answers that are already paid for go into the rescue file
        if self._in_flight or self._writer.unrecorded:
            return False
        return self._retry_policy.end is not None or self._ended_elsewhere or self._claim_queue.complete

    def _is_drain_over(self) -> bool:
        """Whether a stopping worker has waited long enough for the answers to requests in flight."""
        now = time.monotonic()
        if self._drain_until is None:
            self._drain_until = now + self._limits.drain_s
        return now >= self._drain_until

    @property
    def _may_send(self) -> bool:
        """Whether requests may be sent now."""
        ended = self._retry_policy.end is not None or self._requested_end is not None or self._ended_elsewhere
        return (
            not ended
            and not self._stopping.is_set()
            and not self._shutting_down
            and not self._writer.down
            and self._connection.open
        )

    async def _poll(self) -> None:
        """Check for a stop request and a stall a few times per second, and update the note that users see."""
        now = time.monotonic()
        if now - self._polled_at < self._limits.tick_s:
            return
        self._polled_at = now
        self._throughput.update(now)
        run_id, note = self._context.run_id, self._waiting_note(now) or lines(*self._connection.notes) or None
        state, disabled = await self._writer.read(lambda session: _requested_end(session, run_id)) or (None, None)
        if note != self._written_note and await self._writer.call(lambda session: _write_note(session, run_id, note)):
            self._written_note = note
        if disabled is not None:  # requests in flight are paid for, so their answers are kept
            self._retry_policy.end_run(RunEnd("stopped", disabled))
        if state in _FINAL_STATES:
            self._requested_end = _FINAL_STATES[state]
        elif state not in (None, "running"):  # as for `disabled`
            self._ended_elsewhere = True
        waits_for_others = self._claim_queue.all_taken and not (self._in_flight or self._in_flight.waiting)
        if not self._writer.down and not waits_for_others:
            self._retry_policy.check_stalled(now, self._in_flight.all_retried)

    async def _wait(self) -> None:
        """Wait until something changes, a retry is due, or it is time to poll."""
        timeout = self._limits.tick_s
        if self._in_flight.next_at is not None and self._free_slots():
            timeout = min(timeout, max(0.0, self._in_flight.next_at - time.monotonic()))
        elif not self._in_flight and (resume_at := self._retry_policy.resume_at) is not None:
            timeout = min(timeout, max(0.0, resume_at - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout)
        self._wake.clear()

    # --- sending -------------------------------------------------------------------------------------------------

    def _free_slots(self) -> int:
        """Number of free slots. An answer occupies its slot until it is durable, which limits how much a crash can
        lose.
        """
        return self._retry_policy.available(self._in_flight.weight + self._writer.unrecorded, time.monotonic())

    def _clearable_count(self) -> int:
        """How many more requests may be marked as sent: at most the number of slots that are free once this group is
        written.

        Due retries take precedence. (The writer calls this while it takes a group; the slots of the group's answers are
        free once the marks are durable.)
        """
        if not self._may_send:
            return 0
        cleared, now = self._claim_queue.cleared, time.monotonic()
        occupied = (
            self._in_flight.weight + sum(map(self._in_flight.slots_for, cleared)) + self._in_flight.due_count(now)
        )
        return min(self._retry_policy.available(occupied, now), self._startable_count() - len(cleared))

    def _claim_ahead(self) -> None:
        """Claim more rows if needed. Waiting retries occupy no slot, but their number is limited."""
        claim_queue = self._claim_queue
        if claim_queue.unpriced:
            self._retry_policy.end_run(RunEnd("failed", claim_queue.unpriced))
        idle = not (self._in_flight or self._in_flight.waiting or len(claim_queue) or self._writer.unrecorded)
        if idle and claim_queue.over_budget:
            self._retry_policy.end_run(RunEnd("stopped", claim_queue.over_budget))
        if self._may_send and not claim_queue.claiming:
            rate = self._throughput.estimate(self._concurrency.allowed, time.monotonic())
            claim_queue.claim_ahead(self._writer, min(self._free_slots(), self._startable_count()), rate, idle)

    def _startable_count(self) -> int:
        """How many more rows may be started, given that every row in flight may have to wait for a retry."""
        started = self._in_flight.waiting + len(self._in_flight)
        return max(0, self._limits.max_waiting + int(self._throughput.per_s) - started)

    def _dispatch(self) -> None:
        """Send as many requests as there are free slots, and request marks for the next ones. Called when the slots or
        the requests change.
        """
        while (request := self._next_request()) is not None:
            self._send_loops.add(asyncio.create_task(self._send_loop(request)))
        self._claim_ahead()
        self._writer.start()

    def _next_request(self) -> PendingRequest | None:
        """Return the next request to send. Only requests marked as sent may be sent; due retries are marked before new
        rows.
        """
        if not self._may_send or not self._free_slots():
            return None
        now = time.monotonic()
        while (request := self._in_flight.due(now)) is not None:
            self._claim_queue.ready.appendleft(request)
        while request is None and self._claim_queue.cleared:
            request = self._claim_queue.cleared.popleft()
            self._replies.restore_attempts(request)
            if request.attempts.not_before > now:
                self._claim_queue.refused(request)  # the request was not sent
                self._in_flight.wait(request, request.attempts.not_before)
                request = None
        if request is not None:
            self._in_flight.sent(request)
        return request

    async def _send_loop(self, request: PendingRequest | None) -> None:
        """Send one request after another while slots and requests are available."""
        while request is not None:
            request.attempts.count += 1
            request.attempts.sent_at = time.monotonic()
            try:
                answer = await self._connection.ask(request.claims[0], len(request.claims))
            except FabulaError as exc:
                self._in_flight.finished(request)
                self._replies.failed(request, exc)
            else:
                self._in_flight.finished(request)
                self._replies.answered(request, answer)
            request = self._next_request()
        if not self._in_flight:
            self._wake.set()

    def _connect(self) -> None:
        """Connect to the provider. If the engine is starting, wait for it."""
        if self._connection.open or self._retry_policy.end is not None or self._writer.down:
            return
        try:
            self._connection.connect()
            if self._connection.open and self._limits.ceiling is None:
                self._concurrency.start(self._connection.parallel or DEFAULT_LIMIT)
        except Transient as exc:
            self._retry_policy.cause = exc.what
        except FabulaError as exc:
            self._retry_policy.end_run(end_for_error(exc))

    # --- answers -------------------------------------------------------------------------------------------------

    def _on_recorded(self) -> None:
        """Handle a written group: its answers' slots are free, and the requests it marked may be sent."""
        if not self._shutting_down:
            self._dispatch()
        if not self._in_flight:
            self._wake.set()

    async def _shut_down(self) -> None:
        """Cancel requests in flight, write the answers received, and release the rest."""
        self._shutting_down = True
        for loop in self._send_loops:
            loop.cancel()
        results = await asyncio.gather(*self._send_loops, return_exceptions=True)
        try:
            try:
                await self._writer.flush(self._stopping)
            finally:
                await self._release()
        finally:
            self._writer.close()
            await self._connection.close()
        self._claim_queue.check()
        for error in results:
            if isinstance(error, Exception):
                raise error

    async def _release(self) -> None:
        """Release rows that were not sent. Cancelled requests have an unknown cost."""
        unknown = self._request_cost.price(None, None)
        interrupted = [(claim, unknown) for claim in self._in_flight.in_flight_claims()]
        unsent = [*self._replies.unsent, *self._in_flight.waiting_claims(), *await self._claim_queue.close()]
        claimant = self._context.claimant
        await self._writer.call_until_done(
            lambda session: row_store.release(session, unsent, interrupted, claimant), self._stopping
        )

    def _waiting_note(self, now: float) -> str | None:
        """What the run is waiting for; None while it is writing."""
        cause = self._retry_policy.cause
        if self._in_flight or self._retry_policy.end is not None:
            return None
        if not self._connection.open and cause:
            return msg("Waiting for the provider. {cause}", cause=cause)
        next_at = self._retry_policy.resume_at or self._in_flight.next_at
        if next_at is None:
            return None
        seconds = max(1, round(next_at - now))
        return msg("Waiting {seconds} s. {cause}", seconds=seconds, cause=cause)


def _requested_end(session: Session, run_id: str) -> tuple[str | None, str | None]:
    """The run's state, and why it must not continue although no user has stopped it."""
    return session.scalar(select(Run.state).where(Run.id == run_id)), run_store.owner_disabled(session, run_id)


def _write_note(session: Session, run_id: str, note: str | None) -> bool:
    session.get_one(Run, run_id).note = note
    return True
