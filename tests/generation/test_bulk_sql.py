"""Bulk statements: values read back unchanged through the models, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select

from core.db.store import Store
from core.db.tables import Row, Spend
from core.generation import reservations, row_store, run_store
from core.settings import Settings
from tests.support.live_runs import queue, recipe

RESERVED = Decimal("0.125")


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def settings(request: pytest.FixtureRequest, home: Path) -> Settings:
    if request.param == "PostgreSQL":
        found: Settings = request.getfixturevalue("on_postgres")
        return found
    return Settings.from_env({"FABULA_HOME": str(home)})


@dataclass(frozen=True, slots=True)
class WrittenRow:
    text: str | None = "A story."
    reason: str | None = None
    finish_reason: str | None = "stop"
    prompt_tokens: int | None = 12
    completion_tokens: int | None = 64
    cost_usd: Decimal | None = Decimal("0.000076")
    at: datetime = datetime(2026, 11, 29, 23, 59, 59, 999_999, tzinfo=UTC)


WRITTEN = {
    "a story": WrittenRow(),
    "quotes": WrittenRow(text="\"It's\" 'light', $[3] ? :now %(now)s %s \\ \n\t"),
    "Chinese and an emoji": WrittenRow(text="奥特曼的故事 🌟"),
    "a number as the text": WrittenRow(text="007"),
    "JSON as the text": WrittenRow(text='{"text": null}'),
    "a line separator": WrittenRow(text="one\u2028two"),
    "an empty text": WrittenRow(text="", reason="The answer was empty.", finish_reason=None),
    "nothing": WrittenRow(None, "It was refused.", None, None, None, None),
    "free": WrittenRow(prompt_tokens=0, completion_tokens=0, cost_usd=Decimal(0)),
    "a cost of many digits": WrittenRow(cost_usd=Decimal("12345678901234567890.123456789012")),
    "a tiny cost": WrittenRow(cost_usd=Decimal("1E-12")),
    "many tokens": WrittenRow(prompt_tokens=2**31 - 1, completion_tokens=2**31 - 1),
    "a whole second": WrittenRow(at=datetime(2026, 1, 1, tzinfo=UTC)),
    "another time zone": WrittenRow(at=datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=8)))),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_group_writes_reads_back_the_same(store: Store, name: str) -> None:
    wrote = WRITTEN[name]
    context = run_store.begin(store, queue(store, recipe(3)), "me")
    assert context is not None
    with store.session() as session:
        claims, by_money = row_store.claim(session, context, 2, lambda prompt: RESERVED, None)
        assert len(claims) == 2 and not by_money
        assert reservations.mark(session, [claims[0].spend_id], [claims[1].spend_id], wrote.at) == set()
    state = "failed" if wrote.reason else "done"
    expected = (state, wrote.reason, wrote.text, wrote.finish_reason, wrote.prompt_tokens, wrote.completion_tokens)
    with store.session() as session:
        answer = row_store.RowOutcome(claims[0], row_store.RowResult(*expected, wrote.cost_usd), wrote.at)
        row_store.settle(session, [answer], "me")
    with store.reading() as session:
        row, other = session.get_one(Row, claims[0].row_id), session.get_one(Row, claims[1].row_id)
        line, unsent = session.get_one(Spend, claims[0].spend_id), session.get_one(Spend, claims[1].spend_id)
        states = sorted(session.scalars(select(Row.state)))
    read = (row.state, row.reason, row.text, row.finish_reason, row.prompt_tokens, row.completion_tokens)
    assert read == expected and row.updated_at == wrote.at and row.claimed_by is None and row.run_id == context.run_id
    assert row.cost_usd == line.cost_usd == wrote.cost_usd and line.estimated_usd == RESERVED
    assert (line.prompt_tokens, line.completion_tokens) == (wrote.prompt_tokens, wrote.completion_tokens)
    assert (line.page, line.reference, line.row_id, line.sent_at) == ("dataset", context.run_id, row.id, wrote.at)
    assert (other.state, other.claimed_by, unsent.sent_at, unsent.cost_usd) == ("sent", "me", None, RESERVED)
    assert states == sorted([state, "sent", "pending"])


def test_missing_entries_are_returned(store: Store) -> None:
    context = run_store.begin(store, queue(store, recipe(3)))
    assert context is not None
    with store.session() as session:
        claims, _ = row_store.claim(session, context, 3, lambda prompt: RESERVED, None)
        lines = [claim.spend_id for claim in claims]
        reservations.release(session, lines[:1])
        assert reservations.mark(session, lines) == {lines[0]}
        assert reservations.mark(session, lines[1:], []) == set()
    with store.reading() as session:
        assert sorted(session.scalars(select(Spend.id).where(Spend.sent_at.is_not(None)))) == lines[1:]
