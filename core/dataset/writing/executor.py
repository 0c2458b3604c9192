"""Carries out a run: many requests in flight, every answer in the ledger before it counts, stoppable at any moment.

`Writing` sends and receives. Which rows come next is `supply`, what flies or waits `flight`, the way to the provider
`line`, what a reply means for its row and the run `arrivals`, how many fly at once `pace`, the SQL `ledger`, the
durable writing `keeper`.
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

from core.cost import own
from core.cost.book import PriceBook
from core.dataset.writing import claimants, ledger, orders
from core.dataset.writing.arrivals import Again, Arrivals, End, Kept, Tries, ended_by
from core.dataset.writing.flight import Flight
from core.dataset.writing.keeper import Keeper
from core.dataset.writing.ledger import Claim
from core.dataset.writing.line import Line
from core.dataset.writing.orders import Order
from core.dataset.writing.outcomes import Verdict
from core.dataset.writing.pace import Limits, Pace, ceiling
from core.dataset.writing.rate import Rate
from core.dataset.writing.rescue_entry import row_entry
from core.dataset.writing.sharing import money_for, tokens_for
from core.dataset.writing.supply import Supply, Work
from core.dataset.writing.tariff import Tariff
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
    limits: Limits | None = None,
    book: PriceBook | None = None,
) -> None:
    """Write the missing rows of a run's data set, until they are there or something ends the run.

    A provider that asks for a pause longer than `Limits.stall_s`, or limits the rate for so long without saying when
    that ends, lets the run wait: see `orders.due_in_s`.

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
    with claimants.present() as claimant:
        while not halt.is_set() and (order := orders.begin(store, run_id, claimant)) is not None:
            prices = book or own.book(store, Settings.from_env().home)
            asyncio.run(Writing(store, registry, order, prices, halt, limits or Limits()).run())


class Writing:
    """One go at one run, on one event loop."""

    def __init__(
        self, store: Store, registry: Registry, order: Order, book: PriceBook, halt: threading.Event, limits: Limits
    ) -> None:
        self._order, self._halt, self._limits = order, halt, limits
        self._wake = asyncio.Event()
        self._tariff = Tariff(book, order)
        self._flight = Flight(side_by_side=order.provider == "engine")
        self._supply = Supply(order, self._tariff, self._clearable, self._flight.weigh, self._wake.set)
        self._keeper = Keeper(
            store, limits.storage_s, self._recorded, self._supply, entry=partial(row_entry, order),
            claimant=order.claimant,
        )  # fmt: skip
        self._line = Line(registry, order, limits.tick_s, self._wake.set)
        self._pace = Pace(limits.ceiling or ceiling(order.provider))
        self._arrivals = Arrivals(limits, self._pace, order.recipe.max_tokens, time.monotonic())
        self._lanes: set[asyncio.Task[None]] = set()
        self._landing = False
        self._unbought: list[Claim] = []
        self._tries: dict[int, Tries] = {}  # by row, of those that are claimed once more
        self._rate = Rate(time.monotonic())
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
                await self._rest()
        finally:
            await self._land()
        if not self._halt.is_set():
            await self._keeper.insist(self._finish, self._halt)

    def _finish(self, session: Session) -> None:
        """Write down how the run ends."""
        run_id, end = self._order.run_id, self._arrivals.end or End(self._asked or "done")
        not_before = None
        if end.wait_s is not None:
            not_before = orders.pause_until(session, run_id, end.wait_s, growing=end.growing)
        orders.finish(session, run_id, end.state, end.reason, self._order.claimant, not_before=not_before)

    def _over(self) -> bool:
        for lane in [lane for lane in self._lanes if lane.done()]:
            self._lanes.discard(lane)
            lane.result()  # an unforeseen error ends the run here, not in silence
        self._supply.check()  # likewise
        if self._halt.is_set() or self._asked is not None:
            return True
        if self._keeper.lost is not None:
            return not self._flight  # what was sent is paid for: its answers go into the rescue file
        if self._flight or self._keeper.unrecorded:
            return False
        return self._arrivals.end is not None or self._supply.complete

    @property
    def _sending(self) -> bool:
        """Whether requests may go out now."""
        ended = self._arrivals.end is not None or self._asked is not None or self._halt.is_set()
        return not ended and not self._landing and not self._keeper.down and self._line.open

    async def _look(self) -> None:
        """A few times a second: is a stop asked for, does the endpoint still answer, what do people read."""
        now = time.monotonic()
        if now - self._looked_at < self._limits.tick_s:
            return
        self._looked_at = now
        self._rate.take(now)
        run_id, note = self._order.run_id, self._note(now) or "\n".join(self._line.notes) or None
        state = await self._keeper.look(lambda session: session.scalar(select(Run.state).where(Run.id == run_id)))
        if note != self._noted and await self._keeper.call(lambda session: _write_note(session, run_id, note)):
            self._noted = note
        if state not in (None, "running"):
            self._asked = _ENDS.get(state or "", "stopped")
        if not self._keeper.down:
            self._arrivals.stalled(now, self._flight.all_retried)

    async def _rest(self) -> None:
        """Until something has changed, a wait is over, or it is time to look."""
        timeout = self._limits.tick_s
        if self._flight.next_at is not None and self._room():
            timeout = min(timeout, max(0.0, self._flight.next_at - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout)
        self._wake.clear()

    # --- what goes out -------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """How many more may fly. An answer holds its slot until it is durable: a crash loses no more than these."""
        return self._pace.room(self._flight.weight + self._keeper.unrecorded)

    def _clearable(self) -> int:
        """How many more requests may be marked as sent: no more than will have room once this group is in the ledger.

        Those whose wait is over go first. (The keeper asks while it takes a group: the slots of its answers are free
        by the time that the marks are durable.)
        """
        if not self._sending:
            return 0
        cleared = self._supply.cleared
        taken = self._flight.weight + sum(map(self._flight.weigh, cleared)) + self._flight.due_count(time.monotonic())
        return min(self._pace.room(taken), self._may_wait() - len(cleared))

    def _stock(self) -> None:
        """See that there are rows to send. Those that wait for another try hold no slot, but not too many may wait."""
        supply = self._supply
        if supply.unpriced:
            self._arrivals.ended(End("failed", supply.unpriced))
        idle = not (self._flight or self._flight.waiting or len(supply) or self._keeper.unrecorded)
        if idle and supply.broke:
            self._arrivals.ended(End("stopped", supply.broke))
        if self._sending and not supply.claiming:
            rate = self._rate.at_least(self._pace.allowed, time.monotonic())
            supply.top_up(self._keeper, min(self._room(), self._may_wait()), rate, idle)

    def _may_wait(self) -> int:
        """How many more rows may be begun: each that flies may have to wait."""
        begun = self._flight.waiting + len(self._flight)
        return max(0, self._limits.most_waiting + int(self._rate.per_s) - begun)

    def _dispatch(self) -> None:
        """Send as much as there is room for, and have the next marked. Called whenever there is more of either."""
        while (work := self._next()) is not None:
            self._lanes.add(asyncio.create_task(self._lane(work)))
        self._stock()
        self._keeper.start()

    def _next(self) -> Work | None:
        """What goes out now: what has waited long enough, then new rows. Only what is marked as sent goes out."""
        if not self._sending or not self._room():
            return None
        now, work = time.monotonic(), None
        while (work := self._flight.due(now)) is not None and not work.marked:
            self._supply.ready.appendleft(work)
        while work is None and self._supply.cleared:
            work = self._supply.cleared.popleft()
            work.tries = next((t for c in work.claims if (t := self._tries.pop(c.row_id, None))), work.tries)
            if work.tries.not_before > now:
                self._supply.refused(work)  # it has not gone out
                self._flight.wait(work, work.tries.not_before)
                work = None
        if work is not None:
            self._flight.sent(work)
        return work

    async def _lane(self, work: Work | None) -> None:
        """One request after another, as long as there is room and something to send."""
        while work is not None:
            work.tries.count += 1
            work.tries.sent_at = time.monotonic()
            try:
                answer = await self._line.ask(work.claims[0], len(work.claims))
            except FabulaError as exc:
                self._flight.landed(work)
                self._failed(work, exc)
            else:
                self._flight.landed(work)
                self._came(work, answer)
            work = self._next()
        if not self._flight:
            self._wake.set()

    def _connect(self) -> None:
        """An engine that is still starting is waited for."""
        if self._arrivals.end is not None or self._keeper.down:
            return
        try:
            self._line.connect()
        except (RateLimited, Unavailable) as exc:
            self._arrivals.cause = exc.what
        except FabulaError as exc:
            self._arrivals.ended(ended_by(exc))

    # --- what comes back -----------------------------------------------------------------------------------------

    def _recorded(self) -> None:
        """A group is in the ledger: the slots of its answers are free, what it marks may go out."""
        if not self._landing:
            self._dispatch()
        if not self._flight:
            self._wake.set()

    def _came(self, work: Work, answer: Completion) -> None:
        """One request was answered. With fewer texts than asked for, the endpoint knows no `n`: the rest goes alone."""
        kept = self._arrivals.answer(answer, time.monotonic(), len(work.claims))
        self._rate.came(len(kept))
        if work.split or len(kept) < len(work.claims):
            self._supply.together = 1
        self._split(work.claims[len(kept) :])
        cost = self._tariff.price(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
        self._keep(work.claims, kept, money_for(cost, len(kept)))

    def _failed(self, work: Work, error: FabulaError) -> None:
        """One request has ended with an error."""
        now = time.monotonic()
        if len(work.claims) > 1 and isinstance(error, BadRequest) and not isinstance(error, ModelNotFound):
            self._split(work.claims)
            return
        told = self._arrivals.error(error, work.tries, now)
        if isinstance(told, Again):
            if told.lost:
                self._give_up(work, now + told.wait_s)
                return
            if isinstance(error, ProviderError) and not error.may_be_billed:
                self._supply.refused(work)
            self._flight.wait(work, now + told.wait_s)
            self._wake.set()
        elif isinstance(told, Kept):
            parts = len(work.claims)
            prompt, written = (tokens_for(t, parts) for t in (told.prompt_tokens, told.completion_tokens))
            kept = [Kept(told.said, *used) for used in zip(prompt, written, strict=True)]
            cost = self._tariff.price(told.prompt_tokens, told.completion_tokens)
            self._keep(work.claims, kept, money_for(cost, parts))
        else:
            self._unbought += work.claims

    def _give_up(self, work: Work, not_before: float) -> None:
        """A request that may be billed brought no answer: its cost is unknown, and counts as what was reserved.

        Its rows are pending again. Whoever claims them reserves the money for another request, as far as it is there.
        """
        work.tries.not_before = not_before
        self._tries.update((claim.row_id, work.tries) for claim in work.claims)
        lost, cost = Kept(Verdict("pending", None, None, None), None, None), self._tariff.price(None, None)
        self._keep(work.claims, [lost] * len(work.claims), [cost] * len(work.claims))

    def _split(self, claims: Sequence[Claim]) -> None:
        """Send rows one by one, next. If that works, it was the sharing, and there is no more of it in this run."""
        self._supply.cleared.extendleft(Work((claim,), split=True, marked=True) for claim in reversed(claims))

    def _keep(self, claims: Sequence[Claim], kept: Sequence[Kept], costs: Sequence[Decimal | None]) -> None:
        now, outcomes = utcnow(), []
        for claim, one, cost in zip(claims, kept, costs, strict=False):
            outcomes.append(one.outcome(claim, cost, now))
        self._keeper.add(outcomes)

    async def _land(self) -> None:
        """End what flies, keep what has come, give back the rest."""
        self._landing = True
        for lane in self._lanes:
            lane.cancel()
        ended = await asyncio.gather(*self._lanes, return_exceptions=True)
        try:
            try:
                await self._keeper.flush(self._halt)
            finally:
                await self._release()
        finally:
            self._keeper.close()
            await self._line.close()
        self._supply.check()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _release(self) -> None:
        """Give back what was not sent; what was cut off, or has failed and may be billed, costs an unknown amount."""
        unknown = self._tariff.price(None, None)
        billed = [*self._flight.flying_claims(), *self._flight.waiting_claims(marked=True)]
        cut = [(claim, unknown) for claim in billed]
        waiting = self._flight.waiting_claims(marked=False)
        unsent = [*self._unbought, *waiting, *await self._supply.close()]
        claimant = self._order.claimant
        await self._keeper.insist(lambda session: ledger.release(session, unsent, cut, claimant), self._halt)

    def _note(self, now: float) -> str | None:
        """What the run waits for right now; None when it writes."""
        cause = self._arrivals.cause
        if self._flight or self._arrivals.end is not None:
            return None
        if not self._line.open and cause:
            return msg("Waiting for the provider. {cause}", cause=cause)
        if self._flight.next_at is None:
            return None
        seconds = max(1, round(self._flight.next_at - now))
        return msg("Waiting {seconds} s. {cause}", seconds=seconds, cause=cause)


def _write_note(session: Session, run_id: str, note: str | None) -> bool:
    session.get_one(Run, run_id).note = note
    return True
