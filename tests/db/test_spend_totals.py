"""Totals of the spend ledger: exact after every change, and read instead of single lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, func, insert, select, update

from core.actor import LOCAL, Actor
from core.db import repair_spend_totals, spend_totals
from core.db.store import Store
from core.db.tables import Dataset, Row, Run, Spend, SpendTotal, utcnow
from core.errors import OverBudget
from core.generation import reservations, row_store, run_progress, run_store
from core.pricing import budget, spend
from core.settings import Settings
from tests.support.fault_server import FaultServer, held
from tests.support.live_runs import QUICK, book, executing, queue, recipe
from tests.support.stores import fresh
from tests.support.waiting import at_once, until

GONE = "0" * 12 + ":1:2:gone"  # a claimant on a machine without a worker
ANN = Actor(id="ann", name="Ann", role="editor")


def record(store: Store, usd: str | None, actor: Actor = LOCAL, reference: str = "run-1") -> int:
    amount = None if usd is None else Decimal(usd)
    with store.session() as session:
        return spend.record(session, actor, "dataset", provider="p", model="m", reference=reference, cost_usd=amount)


def there(store: Store) -> dict[spend_totals.Key, Decimal]:
    """The totals that are not zero."""
    with store.reading() as session:
        rows = session.scalars(select(SpendTotal)).all()
    return {(row.scope, row.subject, row.month): row.max_usd for row in rows if row.max_usd}


def agree(store: Store) -> bool:
    with store.reading() as session:
        counted = repair_spend_totals.recomputed(session)
    return there(store) == counted


# --- exact after every kind of change -------------------------------------------------------------------------------


def _settle(line: Spend) -> None:
    line.prompt_tokens, line.completion_tokens, line.cost_usd = 5, 5, Decimal("0.1")


def _unknown(line: Spend) -> None:
    line.cost_usd = None  # the estimate counts from now on


def _twice(line: Spend) -> None:
    line.cost_usd = Decimal("0.1")
    line.cost_usd = Decimal("0.3")


def _last_month(line: Spend) -> None:
    line.created_at = datetime(2026, 10, 31, 23, 59, tzinfo=UTC)


def _another_person(line: Spend) -> None:
    line.actor = "ann"


def _another_run(line: Spend) -> None:
    line.reference = "run-2"


def _model(line: Spend) -> None:
    line.model = "other"


MONTH = spend_totals.month(utcnow())
_CHANGES: list[tuple[Callable[[Spend], None], dict[spend_totals.Key, str]]] = [
    (_settle, {("person", "local", MONTH): "0.1", ("reference", "run-1", ""): "0.1"}),
    (_unknown, {("person", "local", MONTH): "0.25", ("reference", "run-1", ""): "0.25"}),
    (_twice, {("person", "local", MONTH): "0.3", ("reference", "run-1", ""): "0.3"}),
    (_last_month, {("person", "local", "2026-10"): "0.25", ("reference", "run-1", ""): "0.25"}),
    (_another_person, {("person", "ann", MONTH): "0.25", ("reference", "run-1", ""): "0.25"}),
    (_another_run, {("person", "local", MONTH): "0.25", ("reference", "run-2", ""): "0.25"}),
    (_model, {("person", "local", MONTH): "0.25", ("reference", "run-1", ""): "0.25"}),
]


@pytest.mark.parametrize(("change", "expected"), _CHANGES)
def test_totals_follow_a_line_that_changes(
    store: Store, change: Callable[[Spend], None], expected: dict[spend_totals.Key, str]
) -> None:
    spend_id = record(store, "0.25")
    with store.session() as session:
        change(session.get_one(Spend, spend_id))
    assert there(store) == {key: Decimal(usd) for key, usd in expected.items()} and agree(store)


def test_totals_follow_lines_that_come_and_go(store: Store) -> None:
    first, _ = record(store, "0.25"), record(store, None)
    with store.session() as session:
        line = session.get_one(Spend, first)
        line.cost_usd = Decimal(7)  # changed and deleted in one flush
        session.delete(line)
        session.add(Spend(actor="ann", page="story", provider="p", model="m", reference="s", estimated_usd=Decimal(2)))
    assert there(store) == {("person", "ann", MONTH): 2, ("reference", "s", ""): 2} and agree(store)


def test_rolled_back_calls_do_not_count(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.session() as session:
        spend.record(session, LOCAL, "story", provider="p", model="m", reference="s", cost_usd=Decimal(1))
        _ = 1 / 0
    assert there(store) == {}


_AMOUNTS = st.decimals(min_value=0, max_value=1000, places=9, allow_nan=False, allow_infinity=False)
_STEPS = st.one_of(
    st.tuples(st.sampled_from(("record", "settle")), _AMOUNTS),
    st.tuples(st.sampled_from(("unknown", "delete", "claim", "mark", "answer", "stop", "crash")), st.just(Decimal(0))),
)


@hypothesis_settings(max_examples=60, derandomize=True)
@given(steps=st.lists(_STEPS, max_size=20))
def test_totals_are_exact_after_anything(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    store = fresh(Settings.from_env({"FABULA_HOME": str(tmp_path_factory.mktemp("home"))}))
    run_id = queue(store, recipe(40))
    claims: list[row_store.Claim] = []
    for what, usd in steps:
        order = run_store.begin(store, run_id, GONE) if what in ("claim", "crash") else None
        claims = [] if what == "crash" else claims
        with store.session() as session:
            line = session.scalar(select(Spend).order_by(Spend.id.desc()).limit(1))
            if what == "record":
                spend.record(session, ANN, "story", provider="p", model="m", reference="s", cost_usd=usd)
            elif what == "settle" and line is not None:
                spend.settle(session, line.id, prompt_tokens=1, completion_tokens=1, cost_usd=usd)
            elif what == "unknown" and line is not None:
                line.cost_usd = None
            elif what == "delete" and line is not None:
                session.delete(line)
            elif what == "claim" and order is not None:
                claims = row_store.claim(session, order, 3, lambda prompt: Decimal("0.1"), None)[0]
            elif what == "mark":
                reservations.mark(session, [claim.spend_id for claim in claims[:2]])
            elif what == "answer":
                row_store.settle(session, [_answer(claim, None) for claim in claims[1:]], GONE)
                row_store.settle(session, [_answer(claim, "0.01") for claim in claims[:1]], GONE)
            elif what == "stop":
                row_store.release(session, claims[1:], [(claim, None) for claim in claims[:1]])
        assert agree(store)
    store.close()


def _answer(claim: row_store.Claim, usd: str | None) -> row_store.RowOutcome:
    cost = None if usd is None else Decimal(usd)
    return row_store.RowOutcome(claim, row_store.RowResult("done", None, "A story.", "stop", 1, 1, cost), utcnow())


def test_a_line_that_is_settled_twice_counts_once(store: Store) -> None:
    order = run_store.begin(store, queue(store, recipe(1)))
    assert order is not None
    with store.session() as session:
        (claim,), _ = row_store.claim(session, order, 1, lambda prompt: Decimal(1), None)
    for _ in range(2):
        with store.session() as session:
            row_store.settle(session, [_answer(claim, "0.25")])
    assert there(store)["reference", order.run_id, ""] == Decimal("0.25") and agree(store)


# --- checked and repaired --------------------------------------------------------------------------------------------


def test_totals_that_are_wrong_are_named_and_repaired(
    store: Store, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store, "0.25")
    record(store, "0.5", ANN)
    with store.session() as session:
        session.execute(update(SpendTotal).where(SpendTotal.subject == "ann").values(max_usd=Decimal(9)))
        session.execute(delete(SpendTotal).where(SpendTotal.scope == "reference"))
    monkeypatch.setenv("FABULA_HOME", str(settings.home))
    repair_spend_totals.main()
    assert "person ann" in (told := capsys.readouterr().out) and "$9 → $0.5" in told and "2 totals repaired" in told
    assert there(store)["reference", "run-1", ""] == Decimal("0.75") and agree(store)
    repair_spend_totals.main()
    assert "The totals agree" in capsys.readouterr().out


# --- budgets read totals, and reads take no lock ---------------------------------------------------------------------


def statements(store: Store) -> list[str]:
    """All SQL statements of the store's connections from now on."""
    seen: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda c, cursor, sql, *rest: seen.append(sql))
    return seen


def test_a_budget_check_reads_no_lines(store: Store) -> None:
    with store.session() as session:
        line = {"actor": "local", "page": "dataset", "provider": "p", "model": "m", "reference": "run-1"}
        session.execute(
            insert(Spend), [{**line, "created_at": utcnow(), "cost_usd": Decimal("0.01")} for _ in range(1_000)]
        )
        repair_spend_totals.repair(session)
    for scope, subject, usd in (("month", "", "20"), ("person", "local", "11"), ("run", "", "12")):
        budget.set_budget(store, LOCAL, scope, Decimal(usd), subject)  # type: ignore[arg-type]  # scopes
    queries = statements(store)
    with store.session() as session:
        assert budget.remaining_in(session, LOCAL, "run-1") == 1
        budget.check(session, LOCAL, Decimal(1), "run-1")
        with pytest.raises(OverBudget, match="your budget for this month"):
            budget.check(session, LOCAL, Decimal("1.01"), "run-1")
    assert [view.spent_usd for view in budget.budgets(store)] == [Decimal(10), Decimal(10), None]
    assert queries and not [sql for sql in queries if "FROM spend " in sql or "FROM spend\n" in sql]


def test_a_run_that_waits_for_answers_takes_no_write_lock(store: Store, server: FaultServer) -> None:
    server.default = held()
    run_id = queue(store, recipe(4))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=4)):
        server.wait_for(lambda s: s.flying == 4)
        queries = statements(store)
        until(lambda: sum("FROM runs" in sql for sql in queries) >= 5, "five looks at the run")
        assert "BEGIN" in queries and "BEGIN IMMEDIATE" not in queries
        server.release()
    assert run_progress.get(store, run_id).done == 4


def test_many_at_once_keep_the_totals_exact(store: Store) -> None:
    def spend_some() -> None:
        for _ in range(10):
            spend_id = record(store, "0.003")
            with store.session() as session:
                spend.settle(session, spend_id, prompt_tokens=1, completion_tokens=1, cost_usd=Decimal("0.001"))

    at_once(6, spend_some)
    assert there(store)["reference", "run-1", ""] == Decimal("0.060") and agree(store)


class TestOnPostgres:
    """The same with concurrent writers."""

    @pytest.fixture
    def settings(self, on_postgres: Settings) -> Settings:
        return on_postgres

    def test_many_at_once_keep_the_totals_exact(self, store: Store) -> None:
        test_many_at_once_keep_the_totals_exact(store)

    def test_an_executor_and_a_repair_at_once(self, store: Store, server: FaultServer) -> None:
        run_id = queue(store, recipe(60), budget_usd=Decimal(9))
        with executing(store, server.registry(), run_id, replace(QUICK, ceiling=8), book=book()):
            for _ in range(10):
                with store.session() as session:
                    assert repair_spend_totals.repair(session) == {}
        assert run_progress.get(store, run_id).done == 60 and agree(store)

    def test_a_crash_gives_back_what_was_never_sent(self, store: Store) -> None:
        test_a_crash_gives_back_what_was_never_sent(store)


# --- a crash ---------------------------------------------------------------------------------------------------------


def test_a_crash_gives_back_what_was_never_sent(store: Store) -> None:
    """Rows claimed in advance: marked rows may have been billed, the others cost nothing."""
    run_id = queue(store, recipe(20))
    order = run_store.begin(store, run_id, GONE)
    assert order is not None
    with store.session() as session:
        claims, _ = row_store.claim(session, order, 10, lambda prompt: Decimal("0.1"), None)
        reservations.mark(session, [claim.spend_id for claim in claims[:4]])
        reservations.mark(session, [], [claims[3].spend_id])  # rate limited, not billed
        row_store.settle(session, [_answer(claims[0], "0.01")], GONE)
        assert budget.spent_on(session, run_id) == Decimal("0.91")
    assert run_store.begin(store, run_id) is not None
    with store.reading() as session:
        assert budget.spent_on(session, run_id) == Decimal("0.21")
        lines = session.execute(select(Spend.row_id, Spend.cost_usd, Spend.estimated_usd).order_by(Spend.id)).all()
        assert [tuple(line) for line in lines] == [
            (claims[0].row_id, Decimal("0.01"), Decimal("0.1")),
            (claims[1].row_id, None, Decimal("0.1")),
            (claims[2].row_id, None, Decimal("0.1")),
        ]
        assert session.scalar(select(func.count()).select_from(Row).where(Row.state == "pending")) == 19
    assert agree(store)


def test_rows_released_by_others_are_not_sent(store: Store) -> None:
    """The machine slept before marking its rows and another one released them, so they can't be marked."""
    order = run_store.begin(store, queue(store, recipe(3)), "0" * 12 + ":1:2:slept")
    assert order is not None
    with store.session() as session:
        claims, _ = row_store.claim(session, order, 3, lambda prompt: Decimal(1), None)
        lines = [claim.spend_id for claim in claims]
        assert reservations.mark(session, lines[:1]) == set()
    assert run_store.begin(store, order.run_id) is not None
    with store.session() as session:
        assert reservations.mark(session, lines) == set(lines[1:])


def test_rows_of_a_data_set_can_go_and_their_lines_stay(store: Store) -> None:
    order = run_store.begin(store, queue(store, recipe(2)))
    assert order is not None
    with store.session() as session:
        claims, _ = row_store.claim(session, order, 2, lambda prompt: Decimal(1), None)
        session.execute(delete(Row).where(Row.id == claims[0].row_id))
    with store.reading() as session:
        assert session.scalars(select(Spend.row_id).order_by(Spend.id)).all() == [None, claims[1].row_id]
        assert session.scalar(select(func.count()).select_from(Run)) == 1
        assert session.get(Dataset, order.dataset_id) is not None
