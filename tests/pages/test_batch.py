"""The panel of a batch run, as a visitor sees it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store, new_id
from core.db.tables import Batch, Run, utcnow
from core.generation import runs
from pages.ui import cache
from tests.support.waiting import WAIT_LIMIT_S


@pytest.fixture
def run_id(store: Store) -> str:
    made = Recipe("s", (Column("n", ("a", "b", "c", "d")),), "{n}", provider="openai", model="writer")
    run_id = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, made))
    with store.session() as session:
        run = session.get_one(Run, run_id)
        run.state, run.mode = "running", "batch"
    return run_id


def add(store: Store, run_id: str, state: str, status: str | None = None, hours: float = 1, **given: Any) -> None:
    values = {"total": 4, "completed": 2, "remote_id": "batch_7", **given}
    with store.session() as session:
        batch = Batch(id=new_id(), run_id=run_id, state=state, remote_status=status, **values)
        batch.created_at = utcnow() - timedelta(hours=hours)
        session.add(batch)


def show(store: Store, run_id: str, locale: str = "en-US") -> str:
    """All texts of the panel."""

    def page(run_id: str) -> None:
        from core.generation import run_progress
        from pages.ui import cache
        from pages.ui.dataset import run_tab

        run_tab.batches(run_progress.get(cache.store(), run_id))

    cache.refresh()
    at = AppTest.from_function(page, args=(run_id,), default_timeout=WAIT_LIMIT_S)
    at.context = {"locale": locale, "timezone": "Asia/Shanghai"}
    at.run()
    assert not at.exception
    texts = [str(element.value) for kind in (at.markdown, at.caption) for element in kind]
    return "\n".join([*texts, *(str(bar.text) for bar in at.progress)]).replace("\\", "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"state": "preparing", "remote_id": None}, ("Preparing", "Writing the rows to a file")),
        ({"state": "submitting", "remote_id": None}, ("Submitting", "exactly once")),
        (
            {"state": "waiting", "status": "validating"},
            ("The provider is checking the file", "then starts writing", "batch_7"),
        ),
        ({"state": "waiting", "status": "in_progress"}, ("2 of 4", "Up to 23 h left", "60 min ago")),
        ({"state": "waiting", "status": "in_progress", "hours": 25}, ("one-day limit has passed",)),
        ({"state": "waiting", "status": "finalizing"}, ("Almost ready", "collects them as soon as")),
        ({"state": "waiting", "status": "cancelling"}, ("Cancelling the batch", "ten minutes")),
        ({"state": "waiting", "status": "a_new_word"}, ("a_new_word",)),
        ({"state": "collecting", "status": "completed"}, ("Collecting results", "to their rows")),
        ({"state": "waiting", "status": "in_progress", "stranded_at": utcnow()}, ("At another account", "Set it back")),
        ({"state": "done", "status": "completed", "failed": 2}, ("Collected", "2 failed", "2 rows collected")),
        ({"state": "done", "status": "expired"}, ("Expired", "submitted again")),
        ({"state": "cancelled", "status": "cancelled"}, ("Ended early", "Finished rows are kept")),
        ({"state": "failed", "status": "failed", "reason": "Line 2 is *wrong*."}, ("Line 2 is *wrong*.",)),
    ],
)
def test_each_place_of_a_batch_is_told_with_what_happens_next(
    store: Store, run_id: str, given: dict[str, Any], expected: tuple[str, ...]
) -> None:
    add(store, run_id, **given)
    said = show(store, run_id)
    assert [part for part in expected if part not in said] == []


def test_before_the_first_batch_it_says_that_nobody_need_wait(store: Store, run_id: str) -> None:
    assert "you can close this page" in show(store, run_id)


def test_a_paused_run_says_that_the_provider_goes_on(store: Store, run_id: str) -> None:
    add(store, run_id, "waiting", "in_progress")
    with store.session() as session:
        session.get_one(Run, run_id).state = "paused"
    assert "resume the run to collect them" in show(store, run_id)


def test_of_many_batches_the_newest_are_shown(store: Store, run_id: str) -> None:
    for _ in range(7):
        add(store, run_id, "done", "completed")
    said = show(store, run_id)
    assert said.count("batch_7") == 4 and "and 3 earlier batches" in said


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_it_opens_in_both_languages(store: Store, run_id: str, locale: str) -> None:
    add(store, run_id, "waiting", "in_progress")
    assert "batch_7" in show(store, run_id, locale)
