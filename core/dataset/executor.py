"""Carries out a run: many requests in flight, every answer in the ledger before it counts, stoppable at any moment.

`Writing` sends and receives. What a reply means for its row and the run is `arrivals`, how many fly at once `pace`,
the SQL `ledger`, the durable writing `keeper`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy.orm import Session

from core.cost.book import PriceBook, cost_of
from core.dataset import grid, ledger
from core.dataset.arrivals import Again, Arrivals, End, Kept, Tries, ended_by
from core.dataset.keeper import Keeper
from core.dataset.ledger import Claim, Order, Outcome
from core.dataset.pace import Limits, Pace, ceiling
from core.db.store import Store
from core.db.tables import Run, utcnow
from core.errors import FabulaError, RateLimited, Unavailable
from core.providers import Client, Completion, CompletionRequest, Registry
from core.providers.shapes import Endpoint
from core.settings import Settings

_TEMPLATE_TOKENS = 32  # what a chat template adds to a prompt at most: turn marks and role names


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

    Its end, and why, stands in the run's row afterwards; rows that were not written are pending there. When `stopping`
    is set it returns within a second and leaves the run as it is, to be taken in hand again.

    Raises:
        NotFound, BadRecipe: there is nothing to run.
        StorageFull: the database cannot be written, and `stopping` is set or the run could not even begin.
    """
    order = ledger.begin(store, run_id)
    if order is None:
        return
    prices = book or PriceBook.load(Settings.from_env().home)
    asyncio.run(Writing(store, registry, order, prices, stopping or threading.Event(), limits or Limits()).run())


@dataclass(slots=True, eq=False)
class Work:
    """A claimed row on its way."""

    claim: Claim
    tries: Tries = field(default_factory=Tries)


class Writing:
    """One go at one run, on one event loop."""

    def __init__(
        self, store: Store, registry: Registry, order: Order, book: PriceBook, halt: threading.Event, limits: Limits
    ) -> None:
        self._registry, self._order, self._book = registry, order, book
        self._halt, self._limits = halt, limits
        self._keeper = Keeper(store, limits.storage_s)
        self._pace = Pace(limits.ceiling or ceiling(order.provider))
        self._arrivals = Arrivals(limits, self._pace, order.recipe.max_tokens, time.monotonic())
        self._clients: set[Client] = set()
        self._endpoint: Endpoint | None = None
        self._connecting: asyncio.Task[Endpoint] | None = None
        self._connect_at = 0.0
        self._flying: dict[asyncio.Task[Completion], Work] = {}
        self._waiting: list[tuple[float, int, Work]] = []  # a heap by the time of the next try
        self._unbought: list[Claim] = []
        self._spent = order.spent_usd
        self._all_claimed = False
        self._stopped = False
        self._looked_at = float("-inf")

    async def run(self) -> None:
        """Until nothing is left to do, or the run is ended from inside or outside."""
        if self._order.budget_usd is not None and self._worst("") is None:
            why = f"The price of {self._order.model} is unknown, so no budget can be kept. Start without one."
            self._arrivals.ended(End("failed", why))
        try:
            while not self._over():
                await self._look()
                await self._admit()
                self._keeper.start()
                await self._pause()
        finally:
            await self._land()
        if not self._halt.is_set():
            end = self._arrivals.end or End("stopped" if self._stopped else "done")
            run_id = self._order.run_id
            await self._keeper.insist(lambda s: ledger.finish(s, run_id, end.state, end.reason), self._halt)

    def _over(self) -> bool:
        if self._halt.is_set() or self._stopped:
            return True
        if self._flying or not self._keeper.empty:
            return False
        return self._arrivals.end is not None or (self._all_claimed and not self._waiting)

    # --- what goes out -------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """A few times a second: is a stop asked for, does the endpoint still answer, what do people read."""
        now = time.monotonic()
        if now - self._looked_at < self._limits.tick_s:
            return
        self._looked_at = now
        note = self._note(now)
        state = await self._keeper.call(lambda session: _state(session, self._order.run_id, note))
        self._stopped = self._stopped or state not in (None, "running")
        if not self._keeper.down:
            self._arrivals.stalled(now, all(work.tries.count > 1 for work in self._flying.values()))

    async def _admit(self) -> None:
        """Send what has waited long enough, then new rows, as far as there is room. A row that waits holds no slot."""
        if self._arrivals.end is not None or self._stopped or self._keeper.down or not self._connected():
            return
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now and self._pace.room(len(self._flying)):
            self._send(heapq.heappop(self._waiting)[2])
        open_rows = len(self._waiting) + len(self._flying)  # each that flies may have to wait
        room = min(self._pace.room(len(self._flying)), self._limits.most_waiting - open_rows)
        if room > 0 and not self._all_claimed:
            await self._claim(room)

    async def _claim(self, room: int) -> None:
        budget = self._order.budget_usd
        left = None if budget is None else budget - self._spent
        found = await self._keeper.call(lambda session: ledger.claim(session, self._order, room, self._worst, left))
        if found is None:
            return
        claims, broke = found
        self._spent += sum((c.reserved_usd or Decimal(0) for c in claims), Decimal(0))
        for claim in claims:
            self._send(Work(claim))
        self._all_claimed = not claims and not broke
        if broke and not self._flying and not self._waiting and self._keeper.empty:
            self._arrivals.ended(End("stopped", f"The budget of ${budget} is used up. Raise it to go on."))

    def _connected(self) -> bool:
        """Whether it is known how the model wants to be asked. An engine that is still starting is waited for."""
        if self._endpoint is not None:
            return True
        try:
            if self._connecting is None and time.monotonic() >= self._connect_at:
                self._connect_at = time.monotonic() + self._limits.tick_s
                self._connecting = asyncio.create_task(self._client().aendpoint(self._order.model))
            elif self._connecting is not None and self._connecting.done():
                task, self._connecting = self._connecting, None
                self._endpoint = task.result()
        except (RateLimited, Unavailable) as exc:
            self._arrivals.cause = exc.what
        except FabulaError as exc:
            self._arrivals.ended(ended_by(exc))
        return self._endpoint is not None

    def _client(self) -> Client:
        """Asked for anew each time: an engine that was started again has another address."""
        client = self._registry.get(self._order.provider)
        self._clients.add(client)
        return client

    def _send(self, work: Work) -> None:
        work.tries.count += 1
        work.tries.sent_at = time.monotonic()
        self._flying[asyncio.create_task(self._ask(work.claim))] = work

    async def _ask(self, claim: Claim) -> Completion:
        recipe = self._order.recipe
        request = CompletionRequest(
            model=self._order.model,
            prompt=claim.prompt,
            system=recipe.system,
            endpoint=self._endpoint or "chat",
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            max_tokens=recipe.max_tokens,
            seed=grid.row_seed(recipe, claim.key),
        )
        return await self._client().acomplete(request)

    # --- what comes back -----------------------------------------------------------------------------------------

    async def _pause(self) -> None:
        """Until an answer or a commit is there, a wait is over, or it is time to look."""
        timeout = self._limits.tick_s
        if self._waiting and self._pace.room(len(self._flying)):
            timeout = min(timeout, max(0.0, self._waiting[0][0] - time.monotonic()))
        under_way: list[asyncio.Task[Completion] | asyncio.Task[bool] | asyncio.Task[Endpoint]] = [*self._flying]
        under_way += [task for task in (self._keeper.task, self._connecting) if task is not None]
        if under_way:
            await asyncio.wait(under_way, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        elif not self._over():
            await asyncio.sleep(timeout)
        self._keeper.collect()
        for task in [task for task in self._flying if task.done()]:
            self._came(task, self._flying.pop(task))

    def _came(self, task: asyncio.Task[Completion], work: Work) -> None:
        """One request has ended, in one way or another."""
        now = time.monotonic()
        try:
            decision = self._arrivals.answer(task.result(), now)
        except FabulaError as exc:
            told = self._arrivals.error(exc, work.tries, now)
            if isinstance(told, Again):
                heapq.heappush(self._waiting, (now + told.wait_s, work.claim.row_id, work))
                return
            if not isinstance(told, Kept):
                self._unbought.append(work.claim)
                return
            decision = told
        self._keep(work.claim, decision)

    def _keep(self, claim: Claim, kept: Kept) -> None:
        cost = self._price(kept.prompt_tokens, kept.completion_tokens)
        if cost is not None:  # an unknown cost keeps its reservation
            self._spent += cost - (claim.reserved_usd or Decimal(0))
        self._keeper.add(
            Outcome(
                row_id=claim.row_id,
                spend_id=claim.spend_id,
                state=kept.said.state,
                reason=kept.said.reason,
                text=kept.said.text,
                finish_reason=kept.said.finish_reason,
                prompt_tokens=kept.prompt_tokens,
                completion_tokens=kept.completion_tokens,
                cost_usd=cost,
                at=utcnow(),
            )
        )

    async def _land(self) -> None:
        """End what flies, keep what has come, give back the rest."""
        under_way = [*self._flying, *([self._connecting] if self._connecting else [])]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        cut: list[tuple[Claim, Decimal | None]] = []
        for task, work in self._flying.items():
            if task.cancelled():
                cut.append((work.claim, self._price(None, None)))
            else:
                self._came(task, work)
        self._flying = {}
        unsent = [*self._unbought, *(work.claim for _, _, work in self._waiting)]
        await self._keeper.flush(self._halt)
        await self._keeper.insist(lambda session: ledger.release(session, unsent, cut), self._halt)
        for client in self._clients:
            with contextlib.suppress(Exception):  # it is over; a connection that cannot be closed is no news
                await client.aclose()

    # --- figures -------------------------------------------------------------------------------------------------

    def _price(self, prompt_tokens: int | None, completion_tokens: int | None) -> Decimal | None:
        return cost_of(self._book, self._order.provider, self._order.model, prompt_tokens, completion_tokens)

    def _worst(self, prompt: str) -> Decimal | None:
        """What a request can cost at most: no tokenizer in use makes more tokens than there are bytes."""
        recipe = self._order.recipe
        return self._price(len((prompt + recipe.system).encode()) + _TEMPLATE_TOKENS, recipe.max_tokens)

    def _note(self, now: float) -> str | None:
        """What the run waits for right now; None when it writes."""
        cause = self._arrivals.cause
        if self._flying or self._arrivals.end is not None:
            return None
        if self._endpoint is None and cause:
            return f"Waiting for the provider. {cause}"
        if not self._waiting:
            return None
        seconds = max(1, round(self._waiting[0][0] - now))
        return f"Waiting {seconds} s. {cause}"


def _state(session: Session, run_id: str, note: str | None) -> str:
    run = session.get_one(Run, run_id)
    if run.note != note:
        run.note = note
    return run.state
