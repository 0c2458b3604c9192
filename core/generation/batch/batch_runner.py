"""Executes a run through a provider's Batch API: submit files of pending rows, watch the batches, collect their
answers, submit the rest.

The database always has the current state, so any worker can continue the run: a batch is recorded before it is created,
and its answers may be read twice. `batch_lifecycle` has the steps of one batch, `batch_results` classifies answers,
`batch_store` has the SQL. The worker's queue ensures that only one worker at a time executes a batch run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from core import shared_files
from core.db.store import Store, new_id
from core.db.tables import Run, utcnow
from core.errors import FabulaError, NotFound, ProviderChanged, ProviderRemoved, StorageFull, Transient
from core.generation import run_budget, run_store
from core.generation.batch import batch_store
from core.generation.batch.batch_lifecycle import BatchLifecycle
from core.generation.batch.batch_results import FailureHistory
from core.generation.batch.batch_store import BatchCapacity, BatchView
from core.generation.retry_policy import RunEnd, end_for_error
from core.generation.run_store import RunContext
from core.message import msg
from core.pricing import budget, custom_prices, stopped_models
from core.pricing.price_book import PriceBook
from core.providers import Registry, RetryPolicy
from core.settings import Settings

_CANCELLING = msg("The provider is ending the batch; the texts written so far are collected.")
_COLLECTING = msg("A batch from an earlier run is still at the provider; it is collected first.")
_COLLECTED = RunEnd("running")  # a live run continues: the executor writes its rows
_COMPLETE = RunEnd("done")  # already recorded in the database
_MIN_REQUEUE_S = 2.0  # shorter waits happen in this process, because returning to the queue costs some commits
_NEW_BATCH = "gather"  # used as the id of a batch that is being created


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """Polling intervals and size limits of a batch run.

    Attributes:
        tick_s: interval between checks for a stop request.
        poll_s, max_poll_s: a batch is polled at intervals of a twentieth of its age, within these limits, because small
            batches end in minutes and large ones in hours.
        settle_s: time after which a POST that was in flight when the process died appears in the provider's list.
        base_s, cap_s: the first wait after an error is at most `base_s`; this bound doubles with each further one, up
            to `cap_s`.
        max_requests: maximum requests per file; OpenAI's limit is 50,000.
        max_bytes: maximum bytes per file: OpenAI's limit of 200 MB, minus a margin.
        max_open: maximum number of batches at the provider at the same time.
    """

    tick_s: float = 0.5
    poll_s: float = 5.0
    max_poll_s: float = 60.0
    settle_s: float = 10.0
    base_s: float = 2.0
    cap_s: float = 60.0
    max_requests: int = 50_000
    max_bytes: int = 190_000_000
    max_open: int = 4


def has_work(store: Store, run_id: str) -> bool:
    """Whether `carry_out` has something to do for this run: it is a batch run, or earlier batches must be collected.

    Raises:
        NotFound: the run does not exist.
    """
    with store.reading() as session:
        run = session.get(Run, run_id)
        if run is None:
            raise NotFound(msg("This run no longer exists."), msg("Start another one."))
        return run.mode == "batch" or bool(batch_store.open_batches(session, run.dataset_id))


def carry_out(
    store: Store,
    registry: Registry,
    run_id: str,
    stopping: threading.Event,
    *,
    timing: BatchTiming | None = None,
    book: PriceBook | None = None,
) -> float | None:
    """Write the missing rows of a run's data set through batches, until all are written or the run ends.

    For a live run, only the batches that an earlier run left at the provider are collected, because their rows are paid
    for. Afterwards the run is still running, and its own rows can be written.

    The final state and its reason are in the run's database row. When `stopping` is set, this returns soon and leaves
    the run unfinished, to be continued later; batches at the provider continue there in the meantime.

    Returns:
        Seconds until there is something to do, if everything is waiting for the provider; otherwise None.

    Raises:
        NotFound, BadRecipe: there is nothing to run.
        StorageFull: the database cannot be written; nothing is lost, start again.
    """
    state = _waiting_runs.pop(run_id, None) or _BatchRunState()
    context = batch_store.begin(store, run_id)
    if context is None:
        return None
    schedule = timing or BatchTiming()
    prices = book or custom_prices.book(store, shared_files.storage(Settings.from_env()))
    lifecycle = BatchLifecycle(store, registry, context, prices, schedule.settle_s, state.history)
    wait_s = _BatchRunner(store, context, lifecycle, stopping, schedule, state).run()
    if wait_s is not None:
        _waiting_runs[run_id] = state
    return wait_s


@dataclass(slots=True)
class _BatchRunState:
    """State kept between calls for the same run.

    If it is lost (another worker, a restart), the counters restart from zero.

    Attributes:
        next_at: batch → time of its next poll, by the monotonic clock.
        attempts: batch → consecutive errors.
        errors: batch → message about what it is waiting for.
        max_requests: maximum requests per file after the provider rejected a larger file.
        queue_full_at: the number of other batches when the provider's queue was full.
        history: failures of earlier batches.
    """

    next_at: dict[str, float] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    max_requests: int | None = None
    queue_full_at: int | None = None
    history: FailureHistory = field(default_factory=FailureHistory)


_waiting_runs: dict[str, _BatchRunState] = {}  # run id → state


class _BatchRunner:
    """A single call of `carry_out` for one run."""

    def __init__(
        self,
        store: Store,
        context: RunContext,
        lifecycle: BatchLifecycle,
        stopping: threading.Event,
        timing: BatchTiming,
        state: _BatchRunState,
    ) -> None:
        self._store, self._context, self._lifecycle = store, context, lifecycle
        self._stopping, self._timing, self._state = stopping, timing, state
        self._creates_batches = context.mode == "batch"  # otherwise this call only collects open batches
        self._next_at, self._attempts, self._errors = state.next_at, state.attempts, state.errors
        self._budget: Decimal | None = None
        self._stop_reason: str | None = None

    def run(self) -> float | None:
        """Run until the run ends, is paused or stopped, or the worker stops.

        Returns:
            Seconds to wait if everything is waiting for the provider; otherwise None.
        """
        while not self._stopping.is_set():
            state, self._budget = self._check_run()
            if state == "pausing":
                self._finish(RunEnd("paused"))
                if batch_store.begin(self._store, self._context.run_id) is None:
                    return None
                continue  # the run was resumed in the meantime
            if state not in ("running", "stopping"):
                return None
            self._stop_reason = self._owner_disabled()
            if (state == "stopping" or self._stop_reason) and not self._lifecycle.stop:
                self._lifecycle.stop = True
                self._next_at.clear()
            end = self._do_step()
            if end is not None:
                if end not in (_COLLECTED, _COMPLETE):
                    self._finish(end)
                return None
            wait_s = self._seconds_until_due()
            if wait_s >= _MIN_REQUEUE_S:
                self._check_run()  # updates the note
                return wait_s
            self._stopping.wait(self._timing.tick_s)
        return None

    def _seconds_until_due(self) -> float:
        """Seconds until the next batch, or the next attempt to create one, is due; 0 or less means now."""
        ids = [batch.id for batch in self._open_batches()]
        if not ids or _NEW_BATCH in self._errors:
            ids.append(_NEW_BATCH)
        return min(self._next_at.get(batch_id, 0.0) for batch_id in ids) - time.monotonic()

    def _check_run(self) -> tuple[str, Decimal | None]:
        default = _CANCELLING if self._lifecycle.stop else None if self._creates_batches else _COLLECTING
        note = next(iter(self._errors.values()), default)
        return run_store.check_run(self._store, self._context.run_id, note)

    def _owner_disabled(self) -> str | None:
        with self._store.reading() as session:
            return run_store.owner_disabled(session, self._context.run_id)

    def _finish(self, end: RunEnd) -> None:
        context, book = self._context, self._lifecycle.book
        with self._store.session() as session:
            reason = end.reason and stopped_models.explained_reason(
                session, book, context.provider, context.model, end.reason, reader=context.actor
            )
            run_store.finish(session, context.run_id, end.state, reason)

    def _do_step(self) -> RunEnd | None:
        """Perform all pending work. Return the run's end if it has ended, else None."""
        for batch in self._open_batches():
            if self._stopping.is_set():
                return None
            self._next_at.setdefault(batch.id, 0.0)
            if time.monotonic() >= self._next_at[batch.id]:
                end = self._advance(batch)
                if end is not None:
                    return end
        if self._lifecycle.results.end is not None:
            return self._cancel_all(self._lifecycle.results.end)
        open_count = len(self._open_batches())
        if self._lifecycle.stop:
            return None if open_count else RunEnd("stopped", self._stop_reason)
        if not self._creates_batches:
            return None if open_count else _COLLECTED
        if not self._may_create(open_count):
            return None
        return self._attempt(_NEW_BATCH, lambda: self._create_batch(alone=open_count == 0), open_count > 0)

    def _open_batches(self) -> list[BatchView]:
        with self._store.reading() as session:
            return batch_store.open_batches(session, self._context.dataset_id)

    def _advance(self, batch: BatchView) -> RunEnd | None:
        """Advance one batch by a step, and schedule its next poll."""
        if batch.state == "waiting":
            age_s = 0.0 if self._lifecycle.stop else (utcnow() - batch.created_at).total_seconds()
            pause_s = min(self._timing.max_poll_s, max(self._timing.poll_s, age_s / 20))
            self._next_at[batch.id] = time.monotonic() + pause_s
        end = self._attempt(batch.id, lambda: self._lifecycle.advance(batch), batch.remote_id is not None)
        if batch.state == "waiting" and self._has_changed(batch):
            self._next_at[batch.id] = 0.0
        return end

    def _has_changed(self, batch: BatchView) -> bool:
        return any(current.id == batch.id and current.state != batch.state for current in self._open_batches())

    def _attempt(self, batch_id: str, action: Callable[[], RunEnd | None], submitted: bool) -> RunEnd | None:
        """Run `action`. A temporary error is shown and retried later.

        Any other error ends the run; rows and batches are kept. `submitted`: whether at least one batch is at the
        provider.
        """
        if time.monotonic() < self._next_at.get(batch_id, 0.0) and batch_id == _NEW_BATCH:
            return None
        try:
            end = action()
        except StorageFull:
            raise
        except Transient as exc:
            self._attempts[batch_id] = self._attempts.get(batch_id, 0) + 1
            policy = RetryPolicy(base_s=self._timing.base_s, cap_s=self._timing.cap_s)
            pause_s = policy.wait_s(self._attempts[batch_id], exc.retry_after_s)
            self._next_at[batch_id] = time.monotonic() + pause_s
            self._errors[batch_id] = msg("Waiting {seconds} s. {cause}", seconds=max(1, round(pause_s)), cause=exc.what)
            return None
        except FabulaError as exc:
            reason = end_for_error(exc).reason
            if submitted and not isinstance(exc, ProviderChanged | ProviderRemoved):
                reason = msg(
                    "{reason} Rows already at the provider continue there, and are collected when you resume.",
                    reason=reason,
                )
            return RunEnd("stopped" if self._lifecycle.stop else "failed", reason)
        self._attempts.pop(batch_id, None)
        self._errors.pop(batch_id, None)
        return end

    def _cancel_all(self, end: RunEnd) -> RunEnd:
        """Cancel all batches when the run's results end it: they would bring the same results and cost money."""
        for batch in self._open_batches():
            try:
                self._lifecycle.cancel(batch)
            except StorageFull:
                raise
            except FabulaError:  # the batch ends within a day; its answers are collected when the run is resumed
                continue
        return end

    # --- a new batch ---------------------------------------------------------------------------------------------

    def _may_create(self, open_count: int) -> bool:
        """Whether another batch may be created now."""
        queue_limit, self._lifecycle.queue_limit = self._lifecycle.queue_limit, None
        if queue_limit is not None and queue_limit.others:
            self._state.queue_full_at = queue_limit.others
        elif queue_limit is not None:  # this is the only batch, and it is still too large
            self._state.max_requests = max(1, queue_limit.rows // 2)
        if self._state.queue_full_at is not None and open_count < self._state.queue_full_at:
            self._state.queue_full_at = None
        return open_count < self._timing.max_open and self._state.queue_full_at is None

    def _create_batch(self, alone: bool) -> RunEnd | None:
        """Put pending rows into a new batch, within size limits and budget. `alone`: whether no other batch is open."""
        batch_id, requests, size_bytes, over_budget = new_id(), 0, 0, False
        client, lifecycle, budget_usd = self._lifecycle.client(), self._lifecycle, self._budget
        max_requests = self._state.max_requests or self._timing.max_requests
        with self._store.session() as session:
            spent_usd = budget.spent_on(session, self._context.run_id)
            unpriced = run_budget.unpriced(session, self._context, budget_usd, lifecycle.request_cost.worst_case(""))
        if unpriced is not None:
            return RunEnd("failed", unpriced)
        while requests < max_requests and not self._stopping.is_set():
            remaining_usd = None if budget_usd is None else budget_usd - spent_usd
            capacity = BatchCapacity(max_requests - requests, self._timing.max_bytes - size_bytes, remaining_usd)
            with self._store.session() as session:
                claimed = batch_store.claim(
                    session,
                    self._context,
                    batch_id,
                    capacity,
                    lambda row: len(lifecycle.line(client, row)),
                    lifecycle.request_cost.worst_case,
                )
            requests, size_bytes, spent_usd = (
                requests + claimed.requests,
                size_bytes + claimed.size_bytes,
                spent_usd + claimed.usd,
            )
            over_budget = claimed.over_budget
            if claimed.more or not claimed.requests:
                break
        if requests or not alone or self._stopping.is_set():
            return None
        with self._store.session() as session:
            if over_budget:
                remaining_usd = None if budget_usd is None else budget_usd - spent_usd
                return RunEnd("stopped", run_budget.exhausted(session, self._context, budget_usd, remaining_usd))
            return _COMPLETE if run_store.finish_if_complete(session, self._context) else None
