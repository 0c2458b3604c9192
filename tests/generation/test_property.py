"""Property test: after any sequence of actions and faults, the ledger matches the provider's charges."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, grid_store
from core.datasets.recipe import Recipe
from core.db.store import Store
from core.db.tables import Row, Spend
from core.errors import BadRecipe
from core.generation import executor, reservations, row_store, run_progress, run_store, runs
from core.settings import Settings
from tests.support.fault_server import Answer, FaultServer, error, rate_limit, text
from tests.support.live_runs import QUICK, book, recipe
from tests.support.stores import fresh

_PRICE = Decimal("0.011")  # ten prompt tokens and one completion token, at a thousandth of a dollar each
_ACTIONS = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 2)),  # 0: good answers; 1: rate limits; 2: refusals between them
    st.tuples(st.just("stop"), st.integers(1, 6)),  # a worker is stopped after this many answers
    st.tuples(st.just("kill"), st.integers(1, 4)),  # … or killed with this many claimed rows
    st.tuples(st.just("pause"), st.just(0)),
    st.tuples(st.just("retry"), st.integers(0, 2)),  # failed rows only, with answers as at a start
    st.tuples(st.just("repeats"), st.integers(1, 2)),
    st.tuples(st.just("value"), st.integers(1, 2)),
    st.tuples(st.just("exclude"), st.integers(1, 3)),
    st.tuples(st.just("restore"), st.just(0)),
)


class World:
    """A database, a server that records its charges, and the possible actions and faults."""

    def __init__(self, store: Store, server: FaultServer) -> None:
        self.store, self.server = store, server
        self.sold: Counter[str] = Counter()  # answers by prompt
        self.lost: Counter[str] = Counter()  # rows whose answer may be lost, by prompt
        self.failed: Counter[str] = Counter()
        self.fault = 0
        self.halt = threading.Event()
        self.halt_after = 10_000
        self._lock = threading.Lock()
        self._asked = 0
        server.default = self._answer
        self.made: Recipe = replace(recipe(4), seed=5)  # with a seed each row has its own request
        self.dataset_id = datasets.create(store, LOCAL, self.made)

    def _answer(self, prompt: str) -> Answer:
        with self._lock:
            self._asked += 1
            if self.fault == 1 and self._asked % 3 == 0:
                return rate_limit(retry_after_ms="1")
            if self.fault == 2 and self._asked % 3 == 0:
                self.failed[prompt] += 1
                return error(400, f"not this one: {prompt}")
            self.sold[prompt] += 1
            if self.sold.total() >= self.halt_after:
                self.halt.set()
            return text(f"A story of {prompt}.")

    def do(self, action: str, amount: int) -> None:
        """One random action or fault."""
        if action in ("start", "stop", "pause", "kill"):
            run_id = self._enqueue()
            if run_id is not None:
                getattr(self, f"_{action}")(run_id, amount)
        elif action == "retry":
            self._retry(amount)
        elif action in ("repeats", "value"):
            more = [f"n{len(self.made.columns[0].values) + i:04}" for i in range(amount)]
            grown = (
                grid_store.more_repeats(self.made, amount)
                if action == "repeats"
                else grid_store.with_values(self.made, "number", more)
            )
            self.made = grown
            grid_store.grow(self.store, LOCAL, self.dataset_id, grown)
        else:
            rows = dataset_rows.page(self.store, self.dataset_id, limit=1_000)
            ids = [row.id for row in rows]
            if action == "exclude":
                dataset_rows.exclude(self.store, LOCAL, ids[:: amount + 1], "Not wanted.")
            else:
                dataset_rows.restore(self.store, LOCAL, ids)

    def _enqueue(self) -> str | None:
        try:
            return runs.enqueue(self.store, LOCAL, self.dataset_id)
        except BadRecipe:
            return None  # everything is written

    def _start(self, run_id: str, fault: int) -> None:
        self.fault = fault
        self._execute(run_id)
        self.fault = 0

    def _retry(self, fault: int) -> None:
        """Only failed rows are requested, unless a run for all rows is active."""
        counts, last = self._counts(), run_progress.latest(self.store, self.dataset_id)
        asked = self._asked
        try:
            run_id = runs.retry_failed(self.store, LOCAL, self.dataset_id)
        except BadRecipe:
            return  # nothing has failed
        own = run_progress.get(self.store, run_id).failed_only
        assert own or (last is not None and last.state in run_progress.ACTIVE)
        self._start(run_id, fault)
        if own and fault == 0:
            before = counts.failed + (last.remaining if last is not None and last.run_id == run_id else 0)
            assert self._asked - asked <= before
            assert self._counts().pending == counts.pending - (before - counts.failed)

    def _counts(self) -> grid_store.Counts:
        with self.store.reading() as session:
            return grid_store.counts(session, [self.dataset_id])[self.dataset_id]

    def _stop(self, run_id: str, answers: int) -> None:
        self.halt_after = self.sold.total() + answers
        self._execute(run_id)
        self.halt_after, self.halt = 10_000, threading.Event()

    def _execute(self, run_id: str) -> None:
        """Rows in flight at a stop have a spend entry without tokens: their answers were paid for but not received."""
        limits = replace(QUICK, ceiling=3, max_repeated_failures=1_000)
        executor.execute(self.store, self.server.registry(), run_id, self.halt, limits=limits, book=book())

    def _kill(self, run_id: str, rows: int) -> None:
        """The state after kill -9: rows claimed, half of them billed but not recorded, and the process dead."""
        context = run_store.begin(self.store, run_id, "0" * 12 + ":1:2:gone")
        assert context is not None
        with self.store.session() as session:
            claims, _ = row_store.claim(session, context, rows, lambda prompt: Decimal("0.1"), None)
            sent = claims[: (len(claims) + 1) // 2]
            reservations.mark(session, [claim.spend_id for claim in sent])
        for claim in sent:
            self.sold[claim.prompt] += 1
            self.lost[claim.prompt] += 1

    def _pause(self, run_id: str, _: int) -> None:
        runs.request_pause(self.store, LOCAL, run_id)
        assert run_store.begin(self.store, run_id) is None  # no executor is active

    def check(self) -> None:
        """The ledger contains exactly the charges."""
        with self.store.reading() as session:
            rows = session.scalars(select(Row).where(Row.dataset_id == self.dataset_id)).all()
            seen = select(func.count()).select_from(Spend).where(Spend.completion_tokens == 1)
            unseen = select(func.count()).select_from(Spend).where(Spend.completion_tokens.is_(None))
            settled, unsettled = session.scalar(seen) or 0, session.scalar(unseen) or 0
            lines = session.scalars(select(Spend).where(Spend.completion_tokens == 1)).all()
        assert len({row.key for row in rows}) == len(rows)
        written = [row for row in rows if row.text]
        assert all(row.text == f"A story of {row.prompt}." for row in written)
        assert all(row.cost_usd == _PRICE for row in written) and all(line.cost_usd == _PRICE for line in lines)
        # every answer received is one row with its text, and one spend entry with its price; none was paid for twice
        assert settled == len(written)
        # an answer that was billed but not received also has an entry, with its maximum cost
        assert settled <= self.sold.total() <= settled + unsettled

    def finish(self) -> None:
        """Without further faults, everything is written."""
        self.do("start", 0)
        counts = self._counts()
        assert counts.pending == 0 and counts.failed == 0 and counts.sent == 0
        assert counts.total == self.made.rows()


@contextmanager
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as home, FaultServer() as server:
        store = fresh(Settings.from_env({"FABULA_HOME": home}))
        try:
            yield World(store, server)
        finally:
            store.close()


@settings(max_examples=20, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(_ACTIONS, min_size=1, max_size=8))
def test_the_ledger_matches_sales_after_any_sequence_of_faults(actions: list[tuple[str, int]]) -> None:
    with world() as this:
        for action, amount in actions:
            this.do(action, amount)
            this.check()
        this.finish()
        this.check()
