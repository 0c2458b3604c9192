"""The tour's card on Home: every state, and the available buttons."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.db.tables import Tour, TrainingEvent, utcnow
from core.tours import tour
from tests.support.app_pages import click, labels, visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_comparison, put_comparison_answer, put_job

_TUNED = "ft:writer:fabula:tour:1"
_RESULTS = (
    "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy\n"
    "1,625,4,2.8,0.0,0.42\n2,1258,8,1.7,0.0,0.6\n"
)


def _tour(store: Store, state: str, step: str, **values: object) -> None:
    finished = None if state in tour.UNFINISHED else utcnow()
    with store.session() as session:
        tour_values = {"finished_at": finished, **values}
        session.add(Tour(id="tour-1", state=state, step=step, language="en", created_by="local", **tour_values))


def _succeeded(store: Store) -> tuple[str, str]:
    """Ids of a small data set and of a finished job that trained on it."""
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 9)
    job_id = put_job(
        store, status="succeeded", fine_tuned_model=_TUNED, dataset_id=dataset_id, results_csv=_RESULTS, n_examples=8
    )
    return dataset_id, job_id


@pytest.mark.parametrize(("locale", "language"), [("en-US", "en"), ("zh-CN", "zh_CN")])
def test_the_tour_starts_in_the_language_of_the_page_and_can_be_stopped(
    store: Store, server: FaultServer, locale: str, language: str
) -> None:
    at = click(visit("home", locale), "home_tour")
    assert (found := tour.progress(store)) is not None and (found.state, found.language) == ("queued", language)
    assert {"en": "The tour starts as soon as the worker is free.", "zh_CN": "0:0"}[language] in words(at)
    click(at, "home_tour_stop")
    assert (found := tour.progress(store)) is not None and found.state == "stopped"


@pytest.mark.parametrize(
    ("state", "step", "shown"),
    [
        ("queued", "dataset", ("The tour starts as soon as the worker is free.", "Step 1 of 3")),
        ("running", "dataset", ("Training stories for this tour are being saved as a data set.", "Step 1 of 3", "2:0")),
        ("running", "training", ("A small model is being trained on the stories, on this machine.", "Step 2 of 3")),
    ],
)
def test_a_tour_that_has_made_nothing_yet_says_what_happens_and_how_long_it_takes(
    store: Store, server: FaultServer, state: str, step: str, shown: tuple[str, ...]
) -> None:
    _tour(store, state, step, created_at=utcnow() - timedelta(seconds=121))
    said = words(visit("home"))
    assert all(one in said for one in shown), said


def test_before_its_first_step_a_training_says_what_it_waits_for_and_not_the_trainers_event(
    store: Store, server: FaultServer
) -> None:
    job_id = put_job(store, status="running", results_csv=None, training_s=20.0)
    with store.session() as session:
        session.add(
            TrainingEvent(
                job_id=job_id, remote_id="e", created_at=utcnow(), level="info", message="Computing in bfloat16",
                type="message",
            )
        )  # fmt: skip
    _tour(store, "running", "training", job_id=job_id)
    said = words(visit("home"))
    assert "Loading the model and timing the first steps" in said and "bfloat16" not in said


def test_a_training_shows_its_steps_and_its_curve(store: Store, server: FaultServer) -> None:
    job_id = put_job(
        store, status="running", results_csv=_RESULTS, n_examples=130, hyperparameters={"n_epochs": 2, "batch_size": 4}
    )
    _tour(store, "running", "training", job_id=job_id)
    at = visit("home")
    assert "Training step 2 of 66 · 1,258 tokens learned" in words(at)
    assert len(at.get("vega_lite_chart")) == 2


@pytest.mark.parametrize(
    ("reason", "said"), [("", "Choosing prompts…"), ("The engine is starting.", "The engine is starting.")]
)
def test_before_the_models_write_the_card_says_what_is_waited_for(
    store: Store, server: FaultServer, reason: str, said: str
) -> None:
    dataset_id, job_id = _succeeded(store)
    put_comparison(store, job_id, "running", source="grid" if reason else None, reason=reason)
    if reason:
        put_comparison_answer(store, 0, "base", "waiting")
        put_comparison_answer(store, 0, "tuned", "waiting")
    _tour(store, "running", "story", dataset_id=dataset_id, job_id=job_id)
    assert said in words(visit("home"))


def test_both_stories_are_read_while_they_are_written(store: Store, server: FaultServer) -> None:
    dataset_id, job_id = _succeeded(store)
    put_comparison(store, job_id, "running", source="grid")
    for position in (0, 1):
        put_comparison_answer(store, position, "base", "writing", f"repeats {position}")
        put_comparison_answer(store, position, "tuned", "writing", f"宋朝的一位 {position}")
    _tour(store, "running", "story", dataset_id=dataset_id, job_id=job_id)
    at = visit("home")
    assert "home_tour_stop" in [button.key for button in at.button]
    assert [text.value for text in at.text] == ["repeats 0", "宋朝的一位 0"]  # the first pair only
    assert "**Before**" in words(at) and "**After**" in words(at) and "Step 3 of 3" in words(at)


@pytest.mark.parametrize(("hours_ago", "whole"), [(0, True), (3, False)])
def test_a_finished_tour_shows_before_and_after_and_steps_back_later(
    store: Store, server: FaultServer, hours_ago: int, whole: bool
) -> None:
    dataset_id, job_id = _succeeded(store)
    put_comparison(store, job_id, "running", source="grid")
    put_comparison_answer(store, 0, "base", "done", "repeats")
    put_comparison_answer(store, 0, "tuned", "done", "宋朝的一位英雄")
    ended = utcnow() - timedelta(hours=hours_ago)
    _tour(
        store, "done", "story", dataset_id=dataset_id, job_id=job_id, finished_at=ended,
        created_at=ended - timedelta(seconds=227),
    )  # fmt: skip
    at = visit("home")
    assert [text.value for text in at.text] == (["repeats", "宋朝的一位英雄"] if whole else [])
    assert ("Done in **3:47**" in words(at)) is whole
    assert ("1,258** tokens: **not priced** here" in words(at)) is whole
    assert ("Take the tour again" in labels(at)) is not whole
    assert "Recent activity" in words(at) and "ultraman_stories_more · 9 rows" in words(at)


@pytest.mark.parametrize(
    ("key", "held", "expected"),
    [
        ("home_tour_story", "story_model", f"engine/{_TUNED}"),
        ("home_tour_dataset", "dataset_part", "rows"),
        ("home_tour_job", "training_part", "jobs"),
    ],
)
def test_what_to_do_next_after_a_tour(store: Store, server: FaultServer, key: str, held: str, expected: str) -> None:
    dataset_id, job_id = _succeeded(store)
    _tour(store, "done", "story", dataset_id=dataset_id, job_id=job_id)
    at = click(visit("home"), key)
    assert at.session_state[held] == expected


def test_own_examples_are_brought_on_the_same_page_above_the_tour(store: Store, server: FaultServer) -> None:
    dataset_id, job_id = _succeeded(store)
    _tour(store, "done", "story", dataset_id=dataset_id, job_id=job_id)
    at = click(visit("home"), "home_tour_bring")
    headings = [heading.value for heading in at.subheader]
    assert headings[0] == "Bring 12 examples" and headings[1].startswith("The tour is complete.")
    assert "home_examples_train" in [button.key for button in at.button]


@pytest.mark.parametrize("state", tour.ENDED_EARLY)
@pytest.mark.parametrize("step", tour.STEPS)
def test_a_tour_that_ended_early_says_why_and_can_be_continued_or_repeated(
    store: Store, server: FaultServer, state: str, step: str
) -> None:
    reason = "The disk is full. Free some space." if state == "failed" else None
    _tour(store, state, step, reason=reason)
    at = visit("home")
    assert reason is None or "The disk is full." in words(at)
    assert {"Continue the tour", "Repeat the tour"} <= set(labels(at))
    click(at, "home_tour_resume")
    assert (found := tour.progress(store)) is not None and (found.id, found.state) == ("tour-1", "queued")
    assert "home_tour_stop" in [button.key for button in at.button]


def test_a_job_that_was_deleted_leaves_the_rest_of_the_tour(store: Store, server: FaultServer) -> None:
    _tour(store, "done", "story", job_id="gone")
    assert "The tour is complete." in words(visit("home"))
