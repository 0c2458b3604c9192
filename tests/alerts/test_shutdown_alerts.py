"""Alerts about models in use that stop soon: which models, once for each threshold, and none for what is past."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import select

from core.alerts import outbox, shutdown_events
from core.db.store import Store, new_id
from core.db.tables import AccountArchive, Alert, AliasChange, Evaluation, ModelShadow, RecipeVersion, Run, Story
from core.migrate import guard
from core.pricing.price_book import PriceBook
from core.settings import Settings
from tests.support import stores
from tests.support.ledger_rows import put_archived_tune, put_dataset, put_job, put_story

_DAY = date(2027, 1, 14)
_BOOK = PriceBook((), None, date(2026, 12, 1), last_days={("openai", "gpt-4o"): _DAY, ("openai", "ft:gpt-4o"): _DAY})


@pytest.fixture
def store(on_each_database: Settings) -> Iterator[Store]:
    """An empty ledger, once on each kind of database."""
    with closing(stores.fresh(on_each_database)) as ledger:
        yield ledger


def _before(days: int, hours: int = 12) -> datetime:
    return datetime(_DAY.year, _DAY.month, _DAY.day, hours, tzinfo=UTC) - timedelta(days=days)


def _titles(store: Store) -> list[str]:
    with store.reading() as session:
        found = session.execute(select(Alert.key, Alert.title).where(Alert.key != "start").order_by(Alert.key)).all()
    return [f"{key} {title}" for key, title in found]


def _collect(store: Store, now: datetime, channels: tuple[str, ...] = ("webhook",)) -> int:
    return outbox.collect(store, channels, now)


def test_each_threshold_is_one_alert_that_names_all_models(store: Store) -> None:
    archive = put_archived_tune(store, "ft:gpt-4o:acme::0", _DAY)
    for number in range(1, 60):
        put_archived_tune(store, f"ft:gpt-4o:acme::{number}", _DAY, archive_id=archive)
    sent = []
    for days in range(40, -3, -1):
        for hours in (0, 23):
            sent += [days] * _collect(store, _before(days, hours))
    assert sent == [30, 14, 7, 1]
    assert _titles(store) == [f"shutdown:2027-01-14:{days} 60 models stop on 2027-01-14" for days in (1, 14, 30, 7)]
    with store.reading() as session:
        text = session.scalar(select(Alert.text).where(Alert.key == "shutdown:2027-01-14:30")) or ""
    assert text.startswith("Days left: 30. Models: ft:gpt-4o:acme::0, ") and "and 50 more" in text


@pytest.mark.parametrize(
    ("days", "expected"), [(31, []), (30, ["30"]), (20, ["30"]), (5, ["7"]), (1, ["1"]), (0, ["1"]), (-1, [])]
)
def test_whoever_starts_late_gets_the_current_threshold_only(store: Store, days: int, expected: list[str]) -> None:
    put_archived_tune(store, "ft:gpt-4o:acme::1", _DAY)
    _collect(store, _before(days, 1))
    for hours in (2, 3):
        _collect(store, _before(days, hours))
    assert [title.split()[0].rpartition(":")[2] for title in _titles(store)] == expected


def test_two_channels_get_one_alert_each(store: Store) -> None:
    put_archived_tune(store, "ft:gpt-4o:acme::1", _DAY)
    for hours in (1, 2, 3):
        _collect(store, _before(10, hours), ("webhook", "email"))
    with store.reading() as session:
        assert sorted(session.scalars(select(Alert.channel).where(Alert.key != "start"))) == ["email", "webhook"]


def _story(store: Store, created_at: datetime, model: str, provider: str) -> None:
    put_story(store, 1, model="gpt-4o-2024", requested_model=model, created_at=created_at)
    with store.session() as session:
        session.get_one(Story, "s1").provider = provider


def _run(store: Store, created_at: datetime, model: str, provider: str) -> None:
    dataset_id = put_dataset(store, "heroes", 2, 1)
    with store.session() as session:
        given = {"state": "done", "provider": provider, "model": model, "created_at": created_at, "created_by": "ann"}
        session.add(Run(id=new_id(), dataset_id=dataset_id, **given))


def _evaluation(store: Store, created_at: datetime, model: str, provider: str) -> None:
    with store.session() as session:
        given = {"kind": "label", "settings": {}, "state": "done", "created_at": created_at, "created_by": "ann"}
        session.add(Evaluation(id=new_id(), dataset_id="d", provider=provider, model=model, **given))


def _job(store: Store, created_at: datetime, model: str, provider: str) -> None:
    values = {"provider": provider, "base_model": model, "status": "succeeded"}
    put_job(store, fine_tuned_model=model, created_at=created_at, **values)


def _training(store: Store, created_at: datetime, model: str, provider: str) -> None:
    put_job(store, provider=provider, base_model=model, status="running", created_at=created_at)


@pytest.mark.parametrize("use", [_story, _run, _evaluation, _job, _training])
@pytest.mark.parametrize(
    ("days_ago", "model", "provider", "named"),
    [
        (59, "gpt-4o", "openai", True),
        (59, "gpt-4o", "openai-2", True),
        (61, "gpt-4o", "openai", False),
        (1, "gpt-4o", "engine", False),
        (1, "gpt-99", "openai", False),
    ],
)
def test_models_used_lately_are_named(
    home_store: Store, use: object, days_ago: int, model: str, provider: str, named: bool
) -> None:
    now = _before(14)
    use(home_store, now - timedelta(days=days_ago), model, provider)  # type: ignore[operator]  # a table of functions
    found = guard.in_use(home_store, _BOOK, now, 30)
    assert [one.model for one in found] == ([model] if named else [])
    events = shutdown_events.find(home_store, now, (), _BOOK)
    assert [event.title for event in events] == ([f"{model} stops on 2027-01-14"] if named else [])


@pytest.fixture
def home_store(hermetic: None) -> Iterator[Store]:
    """An empty SQLite ledger."""
    with closing(stores.fresh(Settings.from_env())) as ledger:
        yield ledger


def test_a_model_whose_replacement_was_compared_is_settled(home_store: Store) -> None:
    now, model = _before(14), "ft:gpt-4o:acme::1"
    put_archived_tune(home_store, model, _DAY, state="data", dataset_id="d")
    _story(home_store, now, model, "openai")
    assert [one.model for one in guard.in_use(home_store, _BOOK, now, 30)] == [model]
    job_id = put_job(home_store, status="succeeded", dataset_id="d", fine_tuned_model="ft:writer::1")
    assert [one.model for one in guard.in_use(home_store, _BOOK, now, 30)] == [model]
    with home_store.session() as session:
        given = {"kind": "label", "settings": {}, "state": "done", "created_at": now, "created_by": "ann"}
        session.add(
            Evaluation(id=new_id(), job_id=job_id, dataset_id="d", provider="engine", model="ft:writer::1", **given)
        )
    assert guard.in_use(home_store, _BOOK, now, 30) == []


def _recipe(store: Store, model: str, version: int = 1, **values: object) -> None:
    recipe = {"provider": "openai", "model": model}
    with store.session() as session:
        given = {"family": "f", "version": version, "name": "heroes", "recipe": recipe, "created_by": "ann", **values}
        session.add(RecipeVersion(id=new_id(), **given))


def _alias(store: Store, model: str, leads_to: str | None = "ft:writer::1") -> None:
    with store.session() as session:
        session.add(AliasChange(alias=model, model=leads_to, previous=None, changed_by="ann"))


def _shadow(store: Store, model: str, state: str = "on") -> None:
    with store.session() as session:
        given = {"model": "ft:writer::1", "provider": "openai", "share": 10, "min_calls": 1, "fallback": True}
        session.add(ModelShadow(id=new_id(), alias=model, state=state, created_by="ann", **given))


def test_aliases_relayed_calls_and_saved_recipes_are_uses(home_store: Store) -> None:
    def named() -> list[str]:
        return [one.model for one in guard.in_use(home_store, _BOOK, _before(14), 30)]

    _recipe(home_store, "ft:gpt-4o:acme::old")
    _recipe(home_store, "ft:gpt-4o:acme::new", version=2)
    _recipe(home_store, "ft:gpt-4o:acme::deleted", family="g", deleted_at=_before(20))
    _shadow(home_store, "ft:gpt-4o:acme::relayed")
    _shadow(home_store, "ft:gpt-4o:acme::ended", state="stopped")
    _alias(home_store, "gpt-4o")
    assert named() == ["ft:gpt-4o:acme::new", "ft:gpt-4o:acme::relayed", "gpt-4o"]
    _alias(home_store, "gpt-4o", leads_to=None)
    assert named() == ["ft:gpt-4o:acme::new", "ft:gpt-4o:acme::relayed"]


def test_a_replaced_model_does_not_hide_one_of_the_same_name_at_another_provider(home_store: Store) -> None:
    now, model = _before(14), "gpt-4o"
    archive_id = put_archived_tune(home_store, model, _DAY)
    with home_store.session() as session:
        session.get_one(AccountArchive, archive_id).provider = "azure"
    _story(home_store, now, model, "openai")
    found = guard.in_use(home_store, _BOOK, now, 30)
    assert [(one.provider, one.model) for one in found] == [("azure", model), ("openai", model)]
    assert guard.by_day(found) == {_DAY: [model]}


def test_nothing_is_read_while_no_day_is_near(home_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_archived_tune(home_store, "ft:gpt-4o:acme::1", _DAY)
    monkeypatch.delattr(guard, "_used")
    assert guard.in_use(home_store, replace(_BOOK, last_days={}), _before(31), 30) == []


@pytest.mark.parametrize(
    ("left", "expected"),
    [(31, None), (30, 30), (15, 30), (14, 14), (8, 14), (7, 7), (2, 7), (1, 1), (0, 1), (-1, None)],
)
def test_the_threshold_passed_last(left: int, expected: int | None) -> None:
    assert guard.threshold(left) == expected
