"""A click at the moment when what a live part shows begins or ends is not lost: the part is drawn before the page is.

A part that reruns the page before its buttons are read drops the click on one of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.presets import example_samples
from core.datasets.quality import quality_store
from core.datasets.quality.report import QualityReport
from core.db.store import Store
from core.db.tables import BeforeAfter, Tour, TrainingJob, utcnow
from core.errors import StorageFull
from core.evaluation import before_after
from core.finetuning import examples
from core.finetuning.job_views import JobView
from pages.ui import background
from pages.ui.background import RefreshedReport
from pages.ui.dataset import quality_report, quality_tab, run_tab
from pages.ui.home import examples_card, tour_card
from pages.ui.training import job_list, job_view
from tests.support.app_pages import again, click, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_comparison, put_job, put_labelled_rows
from tests.support.waiting import until


class _Change:
    """Lets a live part find that its state has changed since the page was drawn, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType, part: str) -> None:
        self.due = False
        self._draw = getattr(module, part)
        monkeypatch.setattr(module, part, self._drawn)

    def _drawn(self, *arguments: Any) -> None:
        *others, was_active = arguments
        changed, self.due = self.due, False
        self._draw(*others, was_active ^ changed)


def _ended_tour(store: Store) -> str:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 9)
    with store.session() as session:
        session.add(
            Tour(
                id="tour-1", state="done", step="story", language="en", created_by="local", finished_at=utcnow(),
                dataset_id=dataset_id,
            )
        )  # fmt: skip
    return dataset_id


def _examples_job(store: Store) -> tuple[str]:
    job_id = examples.train(store, LOCAL, example_samples("en")[0].pairs, name="Intents", suffix="i", base="writer")
    with store.session() as session:
        session.get_one(TrainingJob, job_id).status = "cancelled"
    return (job_id,)


def _stories(store: Store) -> str:
    return datasets.load_sample(store, LOCAL, "ultraman_stories_more", 9)


@pytest.mark.parametrize(
    ("module", "part", "prepare", "page", "key", "opened"),
    [
        (tour_card, "_card", _ended_tour, "home", "home_tour_dataset", "dataset_open"),
        (examples_card, "_card", _examples_job, "home", "home_examples_open", job_list.OPEN),
        (run_tab, "_watch", _stories, "dataset", "dataset_train", "training_dataset"),
    ],
)
def test_a_button_that_opens_a_page_opens_it(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch, module: ModuleType, part: str,
    prepare: Callable[[Store], object], page: str, key: str, opened: str,
) -> None:  # fmt: skip
    wanted = prepare(store)
    change = _Change(monkeypatch, module, part)
    at = visit(page, **({"dataset_part": "rows"} if page == "dataset" else {}))
    change.due = True
    click(at, key)
    assert at.session_state[opened] == wanted


def test_a_measurement_that_is_asked_for_begins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _stories(store)
    asked: list[int] = []

    def full(*_: object) -> None:
        asked.append(1)
        raise StorageFull("The disk is full.", "Make room.")

    monkeypatch.setattr(quality_store, "dataset_report", full)
    change = _Change(monkeypatch, quality_tab, "_watch")
    at = visit("dataset", dataset_part="quality")
    until(lambda: "The disk is full" in trouble(again(at)), "the error")
    before, change.due = len(asked), True
    click(at, "dataset_quality_again")
    until(lambda: len(asked) == before + 1, "another measurement")


def test_a_comparison_that_ends_while_it_is_drawn_is_drawn_again(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt is added between two ticks of the timer, and refused before the page has been drawn."""
    dataset_id = put_labelled_rows(store, held_out=4)
    put_comparison(store, put_job(store, status="succeeded", fine_tuned_model="ft:m", dataset_id=dataset_id), "queued")
    draw = job_view._one

    def then_end(job: JobView) -> None:
        draw(job)
        with store.session() as session:
            before_after.finish(session, session.get_one(BeforeAfter, "c"), "failed", "The model is gone.")

    monkeypatch.setattr(job_view, "_one", then_end)
    monkeypatch.setattr(job_view, "_all", partial(job_view._all, False))
    monkeypatch.setattr(job_view, "show", job_view._all)
    assert "The model is gone." in words(visit("training"))


def test_a_measurement_that_ends_while_it_is_drawn_is_drawn_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stories(store)
    gate, measure, bar, watch = (
        threading.Event(), quality_store.dataset_report, quality_report.progress_bar, quality_tab._watch
    )  # fmt: skip

    def gated(*arguments: Any, **options: Any) -> Any:
        gate.wait()
        return measure(*arguments, **options)

    def then_end(measurement: RefreshedReport[QualityReport]) -> None:
        bar(measurement)
        gate.set()
        until(lambda: not measurement.running, "the report")

    monkeypatch.setattr(background, "REPORT_WAIT_S", 0.0)
    monkeypatch.setattr(quality_store, "dataset_report", gated)
    monkeypatch.setattr(quality_report, "progress_bar", then_end)
    monkeypatch.setattr(quality_tab, "_watch", lambda dataset_id, _: watch(dataset_id, False))
    at = visit("dataset", dataset_part="quality")
    assert not at.progress and at.metric
