"""Carries out a run through a provider's Batch API: hand in files of pending rows, watch, collect, hand in the rest.

The ledger says at every moment how far it is, so whoever takes the run in hand next goes on there: a batch is written
down before it exists, and its answers may be read twice. `steps` has the steps of one batch, `answers` what answers
mean, `batch_store` and `batch_settlement` the SQL. One worker at a time carries out a batch run; the worker's queue
sees to that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from core.cost import budget, custom_prices
from core.cost.price_book import PriceBook
from core.dataset.batch import batch_settlement, batch_store
from core.dataset.batch.batch_lifecycle import BatchLifecycle
from core.dataset.batch.batch_results import BatchRunEnd, FailureHistory, end_for_error
from core.dataset.batch.batch_store import BatchCapacity, BatchView, batches_of_run
from core.dataset.generation import run_budget, run_store
from core.dataset.generation.run_store import RunContext
from core.db.store import Store, new_id
from core.db.tables import Run, utcnow
from core.errors import FabulaError, NotFound, RateLimited, StorageFull, Unavailable
from core.message import msg
from core.providers import Registry
from core.providers.errors import retry_after_s
from core.providers.retry import wait_s
from core.settings import Settings

__all__ = ["BatchTiming", "BatchView", "batches_of_run", "carry_out", "due"]

_ENDING = msg("The provider is ending the batch; the texts written so far are collected.")
_COLLECTING = msg("A batch from an earlier run is still at the provider; it is collected first.")
_COLLECTED = BatchRunEnd("running")  # of a live run: no end, its rows are written by others
_COMPLETE = BatchRunEnd("done")  # and the ledger says so already
_SHORTEST_WAIT_S = 2.0  # less is waited for in place: another go costs some commits
_GATHERING = "gather"  # in place of a batch's id, while a new one is made


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """How often a batch run looks, and how much it hands in at once.

    Attributes:
        tick_s: how often a stop is looked for.
        poll_s, slowest_poll_s: a batch is looked at this often at first, and at least so often later (a twentieth of
            its age in between): small ones end in minutes, large ones in hours.
        settle_s: a POST that was on its way when we died is in the provider's list after this.
        base_s, cap_s: the first wait after trouble is at most `base_s`; each further one twice that, at most `cap_s`.
        most_requests: in one file; 50,000 is OpenAI's limit.
        most_bytes: of one file; the limit is 200 MB, and a margin is left.
        at_once: batches that are with the provider at the same time.
    """

    tick_s: float = 0.5
    poll_s: float = 5.0
    slowest_poll_s: float = 60.0
    settle_s: float = 10.0
    base_s: float = 2.0
    cap_s: float = 60.0
    most_requests: int = 50_000
    most_bytes: int = 190_000_000
    at_once: int = 4


def due(store: Store, run_id: str) -> bool:
    """Whether `carry_out` has something to do for this run: it is a batch run, or earlier batches are to be collected.

    Raises:
        NotFound: no such run.
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
    """Write the missing rows of a run's data set through batches, until they are there or something ends the run.

    A live run is only helped: batches that an earlier run has left with the provider are collected, for their rows are
    paid for. Then it is as it was, still running, and its own rows can be written.

    Its end, and why, stands in the run's row afterwards. When `stopping` is set it returns soon and leaves the run as
    it is, to be taken in hand again; what is with the provider goes on there meanwhile.

    Returns:
        Seconds until there is something to do, where everything waits for the provider; else None.

    Raises:
        NotFound, BadRecipe: there is nothing to run.
        StorageFull: the database cannot be written; nothing is lost, begin again.
    """
    memory = _memories.pop(run_id, None) or _BatchRunMemory()
    context = batch_store.begin(store, run_id)
    if context is None:
        return None
    schedule = timing or BatchTiming()
    prices = book or custom_prices.book(store, Settings.from_env().home)
    steps = BatchLifecycle(store, registry, context, prices, schedule.settle_s, memory.seen)
    wait_s = _BatchRunner(store, context, steps, stopping, schedule, memory).run()
    if wait_s is not None:
        _memories[run_id] = memory
    return wait_s


@dataclass(slots=True)
class _BatchRunMemory:
    """What is remembered from one go at a run to the next. The ledger has all that matters; where this is lost (another
    worker, a restart), tries and strikes are counted from zero.

    Attributes:
        due: batch → when it is looked at next, by the monotonic clock.
        tries: batch → troubles in a row.
        trouble: batch → what it waits for.
        most: requests in one file, once the provider has said that more is too much.
        queue_full_at: how many other batches there were when the provider said that they are too many.
        seen: what answers have shown.
    """

    due: dict[str, float] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    most: int | None = None
    queue_full_at: int | None = None
    seen: FailureHistory = field(default_factory=FailureHistory)


_memories: dict[str, _BatchRunMemory] = {}  # of runs that wait, by id


class _BatchRunner:
    """One go at one batch run."""

    def __init__(
        self,
        store: Store,
        context: RunContext,
        steps: BatchLifecycle,
        halt: threading.Event,
        timing: BatchTiming,
        memory: _BatchRunMemory,
    ) -> None:
        self._store, self._context, self._steps = store, context, steps
        self._halt, self._timing, self._memory = halt, timing, memory
        self._writes = context.mode == "batch"  # makes new batches, too; else it only collects open ones
        self._due, self._tries, self._trouble = memory.due, memory.tries, memory.trouble
        self._budget: Decimal | None = None

    def run(self) -> float | None:
        """Until the run is over, somebody pauses or stops it, the worker stops, or all that is left is to wait: then
        for how many seconds."""
        while not self._halt.is_set():
            state, self._budget = self._look()
            if state == "pausing":
                self._finish(BatchRunEnd("paused"))
                if batch_store.begin(self._store, self._context.run_id) is None:
                    return None
                continue  # somebody has resumed it meanwhile
            if state not in ("running", "stopping"):
                return None
            if state == "stopping" and not self._steps.stop:
                self._steps.stop = True
                self._due.clear()
            end = self._step()
            if end is not None:
                if end not in (_COLLECTED, _COMPLETE):
                    self._finish(end)
                return None
            wait_s = self._idle_s()
            if wait_s >= _SHORTEST_WAIT_S:
                self._look()  # whoever reads the run sees what it waits for
                return wait_s
            self._halt.wait(self._timing.tick_s)
        return None

    def _idle_s(self) -> float:
        """Seconds until the next batch, or the next try to make one, is due; 0: there is something to do."""
        names = [batch.id for batch in self._open()]
        if not names or _GATHERING in self._trouble:
            names.append(_GATHERING)
        return min(self._due.get(name, 0.0) for name in names) - time.monotonic()

    def _look(self) -> tuple[str, Decimal | None]:
        usual = _ENDING if self._steps.stop else None if self._writes else _COLLECTING
        note = next(iter(self._trouble.values()), usual)
        return batch_settlement.check_run(self._store, self._context.run_id, note)

    def _finish(self, end: BatchRunEnd) -> None:
        with self._store.session() as session:
            run_store.finish(session, self._context.run_id, end.state, end.reason)

    def _step(self) -> BatchRunEnd | None:
        """Everything that can be done now; why the run is over, if it is."""
        for batch in self._open():
            if self._halt.is_set():
                return None
            self._due.setdefault(batch.id, 0.0)
            if time.monotonic() >= self._due[batch.id]:
                end = self._tried(batch)
                if end is not None:
                    return end
        if self._steps.answers.end is not None:
            return self._given_up(self._steps.answers.end)
        under_way = len(self._open())
        if self._steps.stop:
            return None if under_way else BatchRunEnd("stopped")
        if not self._writes:
            return None if under_way else _COLLECTED
        if not self._room(under_way):
            return None
        return self._attempt(_GATHERING, lambda: self._gather(alone=under_way == 0), under_way > 0)

    def _open(self) -> list[BatchView]:
        with self._store.reading() as session:
            return batch_store.open_batches(session, self._context.dataset_id)

    def _tried(self, batch: BatchView) -> BatchRunEnd | None:
        """The next step of one batch, and when it is looked at again."""
        if batch.state == "waiting":
            age_s = 0.0 if self._steps.stop else (utcnow() - batch.created_at).total_seconds()
            pause_s = min(self._timing.slowest_poll_s, max(self._timing.poll_s, age_s / 20))
            self._due[batch.id] = time.monotonic() + pause_s
        end = self._attempt(batch.id, lambda: self._steps.advance(batch), batch.remote_id is not None)
        if batch.state == "waiting" and self._moved_on(batch):
            self._due[batch.id] = 0.0
        return end

    def _moved_on(self, batch: BatchView) -> bool:
        return any(now.id == batch.id and now.state != batch.state for now in self._open())

    def _attempt(self, name: str, work: Callable[[], BatchRunEnd | None], away: bool) -> BatchRunEnd | None:
        """Do `work`; trouble that passes is shown and waited for, any other ends the run: rows and batches are kept.

        `away`: something is with the provider.
        """
        if time.monotonic() < self._due.get(name, 0.0) and name == _GATHERING:
            return None
        try:
            end = work()
        except StorageFull:
            raise
        except (RateLimited, Unavailable) as exc:
            self._tries[name] = self._tries.get(name, 0) + 1
            pause_s = wait_s(self._tries[name], retry_after_s(exc), self._timing.base_s, self._timing.cap_s)
            self._due[name] = time.monotonic() + pause_s
            self._trouble[name] = msg("Waiting {seconds} s. {cause}", seconds=max(1, round(pause_s)), cause=exc.what)
            return None
        except FabulaError as exc:
            reason = end_for_error(exc).reason
            if away:
                reason = msg(
                    "{reason} Rows already at the provider continue there, and are collected when you resume.",
                    reason=reason,
                )
            return BatchRunEnd("stopped" if self._steps.stop else "failed", reason)
        self._tries.pop(name, None)
        self._trouble.pop(name, None)
        return end

    def _given_up(self, end: BatchRunEnd) -> BatchRunEnd:
        """The run ends for what answers have said; other batches would bring the same, and cost."""
        for batch in self._open():
            try:
                self._steps.cancel(batch)
            except StorageFull:
                raise
            except FabulaError:  # it ends by itself within a day; what it writes is collected when the run goes on
                continue
        return end

    # --- a new batch ---------------------------------------------------------------------------------------------

    def _room(self, under_way: int) -> bool:
        """Whether another batch may be made now."""
        queue_limit, self._steps.queue_limit = self._steps.queue_limit, None
        if queue_limit is not None and queue_limit.others:
            self._memory.queue_full_at = queue_limit.others
        elif queue_limit is not None:  # alone, and still too much
            self._memory.most = max(1, queue_limit.rows // 2)
        if self._memory.queue_full_at is not None and under_way < self._memory.queue_full_at:
            self._memory.queue_full_at = None
        return under_way < self._timing.at_once and self._memory.queue_full_at is None

    def _gather(self, alone: bool) -> BatchRunEnd | None:
        """Put pending rows into a new batch, as far as limits and money allow. `alone`: no other one is under way."""
        batch_id, requests, size, over_budget = new_id(), 0, 0, False
        client, steps, limit = self._steps.client(), self._steps, self._budget
        most = self._memory.most or self._timing.most_requests
        with self._store.session() as session:
            spent = budget.spent_on(session, self._context.run_id)
            why = run_budget.unpriced(session, self._context, limit, steps.worst(""))
        if why is not None:
            return BatchRunEnd("failed", why)
        while requests < most and not self._halt.is_set():
            left = None if limit is None else limit - spent
            room = BatchCapacity(most - requests, self._timing.most_bytes - size, left)
            with self._store.session() as session:
                taken = batch_store.claim(
                    session, self._context, batch_id, room, lambda sent: len(steps.line(client, sent)), steps.worst
                )
            requests, size, spent = requests + taken.requests, size + taken.size_bytes, spent + taken.usd
            over_budget = taken.over_budget
            if taken.more or not taken.requests:
                break
        if requests or not alone or self._halt.is_set():
            return None
        with self._store.session() as session:
            if over_budget:
                left = None if limit is None else limit - spent
                return BatchRunEnd("stopped", run_budget.exhausted(session, self._context, limit, left))
            return _COMPLETE if run_store.finish_complete(session, self._context) else None
