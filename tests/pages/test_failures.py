"""Failing background work of a page: shown as a card with a next step, never as an empty area, and never cached for
long.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets, export
from core.db.store import Store
from core.errors import BadTrainingFile, FabulaError, Misconfigured, Refused, StorageFull, Unavailable
from core.generation import previewing
from core.pricing.tokens import TokenCount
from core.providers import Client, ModelInfo
from pages.ui import background, cache
from pages.ui.background import BackgroundIterator, BackgroundTask
from pages.ui.dataset import training_file
from pages.ui.training import cached_training
from tests.support.app_pages import again, click, next_step, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_job
from tests.support.waiting import until

_MODEL = ModelInfo("writer", "engine", None, "both", None)
_ERRORS = [
    ZeroDivisionError("division by zero"),
    KeyError("messages"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    sqlite3.OperationalError("database is locked"),
    OSError(5, "Input/output error"),
]
_every_error = pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
_OURS = [StorageFull("The disk is full.", "Make room."), BadTrainingFile("Line 3 is empty.", "Fill it.")]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is retried on the next read."""
    monkeypatch.setattr(background, "FAILURE_KEPT_S", 0.0)


def _dataset(store: Store) -> str:
    rows = [(f"c{n % 6}", f"story {n}") for n in range(30)]
    return datasets.from_frame(store, LOCAL, "x", pd.DataFrame(rows, columns=["cell", "story"]), ["cell"], "story")


def _raising(error: Exception) -> Callable[..., Any]:
    def fail(*_given: object, **_named: object) -> Any:
        raise error

    return fail


# --- the two kinds of background work -----------------------------------------------------------------------


@_every_error
@pytest.mark.parametrize("rows", [3, 1_000_000], ids=["few rows", "many rows"])
def test_an_error_that_nobody_foresaw_is_told_and_logged(
    error: Exception, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    work = BackgroundTask(_raising(error), rows)
    until(lambda: work.done, "the work")
    for _ in range(2):  # each read reports it
        with pytest.raises(FabulaError) as caught:
            work.get()
    assert caught.value.what and caught.value.next_step and caught.value.__cause__ is error
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("error", _OURS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("rows", [3, 1_000_000], ids=["few rows", "many rows"])
def test_our_own_error_is_told_as_it_is(error: FabulaError, rows: int) -> None:
    work = BackgroundTask(_raising(error), rows)
    until(lambda: work.done, "the work")
    with pytest.raises(type(error)) as caught:
        work.get()
    assert caught.value is error


@_every_error
def test_what_is_gathered_ends_with_its_error(error: Exception) -> None:
    def make(_stop: threading.Event) -> Iterator[int]:
        yield 1
        raise error

    gathering = BackgroundIterator(make, expected=3)
    until(lambda: gathering.done, "the end")
    assert gathering.items == [1] and gathering.error is not None and gathering.error.next_step


def test_a_failure_is_kept_for_a_moment_and_then_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[Any] = iter([ZeroDivisionError(), "an answer"])
    asked: list[str] = []

    @background.shared_task(max_entries=4, key=lambda key: key, version=lambda key: None)
    def look(key: str) -> BackgroundTask[str]:
        def make(_seen: object) -> str:
            asked.append(key)
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        return BackgroundTask(make, 1)

    first = look("a")
    assert look("a") is first  # all concurrent viewers see the same card
    with pytest.raises(FabulaError):
        first.get()
    monkeypatch.setattr(background, "FAILURE_KEPT_S", 0.0)
    assert look("a").get() == "an answer"
    assert look("a").get() == "an answer" and asked == ["a", "a"]


# --- on the pages -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("many", [False, True], ids=["few rows", "many rows"])
def test_a_preparation_that_fails_is_a_card_and_the_next_look_is_another_try(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    if many:
        monkeypatch.setattr(background, "FEW_ROWS", 10)
    dataset_id = _dataset(store)
    with monkeypatch.context() as broken:
        broken.setattr(export, "plan", _raising(ZeroDivisionError()))
        at = visit("dataset", dataset_part="use", dataset_open=dataset_id)
        until(lambda: "Something went wrong" in trouble(again(at)), "the card")
        assert "Try again in a few seconds" in trouble(at) and not at.exception
    until(lambda: "The data has 30 prompt-completion pairs" in words(again(at)), "the check")
    assert "Something went wrong" not in trouble(at) and not at.exception


def test_one_hiccup_of_the_engine_does_not_stick_to_the_count_of_tokens(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = _dataset(store)
    real, hiccups = Client.count_tokens, [Unavailable("The engine did not answer in time.", "Wait.")]

    def count_tokens(self: Client, model: str, text: str) -> int:
        if hiccups:
            raise hiccups.pop()
        return real(self, model, text)

    monkeypatch.setattr(Client, "count_tokens", count_tokens)

    def count() -> TokenCount | None:
        work = training_file.tokens_of(dataset_id, None, 30, training_file.TrainingFormat(), _MODEL)
        until(lambda: work.done, "the count")
        return work.get()

    until(lambda: cache.status().engine.state == "up", "the engine")
    first = count()
    assert first is not None and first.unanswered and not first.exact and first.tokens > 0
    assert count() == first
    monkeypatch.setattr(background, "FAILURE_KEPT_S", 0.0)
    counted = count()
    assert counted == TokenCount(30 * 7, exact=True)  # the server returns 7 for every text


def test_a_preview_that_fails_is_a_card(server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previewing, "preview", _raising(KeyError("template")))
    at = click(visit("dataset"), "dataset_preview")
    until(lambda: at.session_state["studio"].preview.gathering.done, "the preview")
    assert "Something went wrong" in trouble(again(at)) and not at.exception


def test_a_list_of_models_that_fails_is_a_card(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "models", _raising(ZeroDivisionError()))
    found = cache.models()
    assert found.found == () and "went wrong" in found.problems["engine"].what


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unavailable("It is in trouble.", "Wait."), "could not be reached"),
        (Misconfigured("The certificate has expired.", "Ask."), "not allowed"),
    ],
)
def test_whether_an_account_may_train_is_asked_again_after_a_failure_that_may_pass(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: FabulaError, said: str
) -> None:
    answers: Iterator[Any] = iter([_raising(error), lambda _self: iter(())])
    monkeypatch.setattr(Client, "jobs", lambda self: next(answers)(self))
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    first = cached_training.account("compatible", "m")
    assert not first.answered and said in first.reason
    assert cached_training.account("compatible", "m") == first
    monkeypatch.setattr(background, "FAILURE_KEPT_S", 0.0)
    second = cached_training.account("compatible", "m")
    assert second.answered
    assert cached_training.account("compatible", "m") == second  # the answer is cached: a third call would get none


def test_an_account_that_was_refused_is_asked_again_only_on_a_click(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    asked: list[str] = []

    def refuse(client: Client) -> Iterator[Any]:
        asked.append(client.provider.id)
        raise Refused("No.", "Ask your administrator.")

    monkeypatch.setattr(Client, "jobs", refuse)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    put_job(store, status="failed", dataset_id=_dataset(store), provider="compatible")
    at = next_step(click(visit("training"), "training_again"))
    for _look in range(2):
        assert "Ask your administrator." in words(again(at)) and at.button(key="training_next").disabled
    assert asked == ["compatible"]
    click(at, "training_account_again")
    assert asked == ["compatible"] * 2
    monkeypatch.setattr(Client, "jobs", lambda _self: iter(()))
    click(at, "training_account_again")
    assert "lists this account's jobs" in words(at) and not at.button(key="training_next").disabled
    assert "training_account_again" not in [button.key for button in at.button]
