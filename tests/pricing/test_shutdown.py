"""When a model stops, the notice about it, and what an error about a model that has stopped says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from core.db.store import Store, new_id
from core.db.tables import TrainingJob
from core.errors import FabulaError, ModelNotFound, ServerError
from core.message import with_cause
from core.pricing import shutdown, stopped_models
from core.pricing.price_book import PriceBook
from core.settings import Settings
from tests.support import stores
from tests.support.ledger_rows import put_archived_tune

_DAY = date(2027, 1, 14)
_TUNED = "ft:gpt-4o-mini-2024-07-18:acme:intents:A1"
_OTHER = "ft:gpt-9:acme:intents:B2"
_ERROR = ModelNotFound("OpenAI does not have this model: The model has been deprecated.", "Choose another model.")


@pytest.fixture
def store(hermetic: None) -> Iterator[Store]:
    ledger = stores.fresh(Settings.from_env())
    yield ledger
    ledger.close()


def _book(today: date = _DAY) -> PriceBook:
    return PriceBook.load(now=datetime(today.year, today.month, today.day, 23, 59, tzinfo=UTC))


@pytest.mark.parametrize(
    ("provider", "model", "base", "announced", "expected"),
    [
        ("openai", "gpt-4o", None, {}, (_DAY, "list")),
        ("openai-2", "gpt-4o", None, {}, (_DAY, "list")),
        ("openai", "gpt-4o", None, {"gpt-4o": date(2027, 2, 1)}, (date(2027, 2, 1), "api")),
        ("openai", _TUNED, None, {}, (_DAY, "list")),
        ("openai", f"{_TUNED}:ckpt-step-20", None, {}, (_DAY, "list")),
        ("openai", f"{_TUNED}:ckpt-step-20", None, {_TUNED: date(2027, 2, 1)}, (date(2027, 2, 1), "api")),
        ("openai", _TUNED, None, {"gpt-4o-mini-2024-07-18": date(2027, 3, 1)}, (date(2027, 3, 1), "api")),
        ("openai", "my-deployment", "gpt-4o", {}, (_DAY, "list")),
        ("openai", None, "gpt-4o", {}, (_DAY, "list")),
        # a base model and the models tuned from it can have different days
        ("openai", "babbage-002", None, {}, (date(2026, 9, 28), "list")),
        ("openai", "babbage-002", "babbage-002", {}, (date(2026, 9, 28), "list")),
        ("openai", "ft:babbage-002:acme::1", "babbage-002", {}, (date(2026, 10, 23), "list")),
        ("openai", "gpt-99", None, {}, None),
        ("engine", "gpt-4o", None, {"gpt-4o": _DAY}, None),
        ("groq", "gpt-4o", None, {}, None),
    ],
)
def test_the_last_day_of_a_model(
    provider: str, model: str | None, base: str | None, announced: dict[str, date], expected: tuple[date, str] | None
) -> None:
    found = shutdown.of(model, base, announced, _book(), provider)
    assert (None if found is None else (found.day, found.source)) == expected


@pytest.mark.parametrize(
    ("day", "kind"),
    [(-300, "dark"), (-1, "dark"), (0, "soon"), (1, "soon"), (60, "soon"), (61, None), (None, None)],
)
def test_a_notice_begins_60_days_before_and_stays(day: int | None, kind: str | None) -> None:
    today = date(2026, 12, 1)
    found = shutdown.notice(None if day is None else today + timedelta(days=day), today)
    assert (None if found is None else (found.kind, found.days_left)) == (None if kind is None else (kind, day))


def _put_job(store: Store, model: str, *, provider: str = "openai", base: str = "gpt-4o-mini-2024-07-18") -> None:
    with store.session() as session:
        session.add(
            TrainingJob(
                id=new_id(), dataset_id="d", name="intents", provider=provider, base_model=base, hyperparameters={},
                file_format="chat", fine_tuned_model=model, status="succeeded", created_by="local",
            )
        )  # fmt: skip


@pytest.mark.parametrize(
    ("today", "stopped"), [(date(2027, 1, 13), False), (date(2027, 1, 14), True), (date(2028, 1, 1), True)]
)
def test_an_error_about_a_stopped_model_names_its_day(store: Store, today: date, stopped: bool) -> None:
    error = stopped_models.explained(store, _book(today), "openai", _TUNED, _ERROR, today)
    assert (error is not _ERROR) is stopped
    if stopped:
        assert isinstance(error, ModelNotFound) and error.__cause__ is _ERROR
        assert error.what.startswith(f"{_TUNED} stopped on 2027-01-14.") and "kept" in error.what
        assert "page Move" in error.next_step


def test_other_errors_stay_as_they_are(store: Store) -> None:
    error: FabulaError = ServerError("OpenAI has a server error (500): model overloaded", "", None)
    assert stopped_models.explained(store, _book(), "openai", _TUNED, error, _DAY) is error
    missing = stopped_models.explained(store, _book(), "openai", "gpt-99", _ERROR, _DAY)
    assert missing is _ERROR


def test_the_archived_account_knows_the_day(store: Store) -> None:
    put_archived_tune(store, _OTHER, date(2026, 12, 3))
    error = stopped_models.explained(store, _book(), "openai", _OTHER, _ERROR, date(2026, 12, 3))
    assert "stopped on 2026-12-03" in error.what


def test_the_successor_is_the_newest_model_on_the_same_data_set_that_still_answers(store: Store) -> None:
    _put_job(store, _TUNED)
    step = stopped_models.explained(store, _book(), "openai", _TUNED, _ERROR, _DAY).next_step
    assert "Train a model that stays on its data set" in step
    _put_job(store, "ft:writer:fabula:intents:1", provider="engine", base="writer")
    _put_job(store, "ft:gpt-4o-2024-08-06:acme:intents:C3", base="gpt-4o-2024-08-06")  # newer, but stops as well
    step = stopped_models.explained(store, _book(), "openai", _TUNED, _ERROR, _DAY).next_step
    assert step == "Use ft:writer:fabula:intents:1, which was trained on the same data set."


@pytest.mark.parametrize(
    ("reason", "explained"),
    [
        (with_cause("OpenAI does not have this model: gone", "model_not_found"), True),
        (with_cause("The key is wrong.", "bad_key"), False),
        ("The model is gone.", False),
    ],
)
def test_stored_reasons_are_explained_by_their_cause(store: Store, reason: str, explained: bool) -> None:
    with store.reading() as session:
        found = stopped_models.explained_reason(session, _book(), "openai", "gpt-4o", reason, _DAY)
    assert found.startswith("gpt-4o stopped on 2027-01-14.") is explained
    assert explained or found is reason
