"""Training jobs: exactly one POST, everything in the database, and an explanation of every state."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import datasets, versions
from core.db.store import Store
from core.db.tables import Spend, TrainingJob, utcnow
from core.errors import (
    BadRequest,
    BadTrainingFile,
    EngineMissing,
    FabulaError,
    NotFound,
    NotThere,
    RateLimited,
    Refused,
    Unavailable,
)
from core.finetuning import job_events, job_explanation, job_views, jobs, submit, watch
from core.finetuning.job_form import JobForm
from core.finetuning.job_views import JobView
from tests.support.fakes import MOMENT, RESULTS, FakeClient, FakeRegistry, event, remote_job
from tests.support.waiting import InstantStopSignal, at_once

AWAY = Unavailable("The engine cannot be reached.", "It may still be starting.")


# --- submit --------------------------------------------------------------------------------------------------------


def test_submit_keeps_the_form_and_a_second_submit_is_the_first(store: Store, form: JobForm) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    assert jobs.submit(store, LOCAL, form) == job_id
    job = job_views.get(store, job_id)
    assert (job.status, job.suffix, job.seed) == ("preparing", "tour", 7)
    assert job.hyperparameters == {"n_epochs": 2, "batch_size": 4}


@pytest.mark.parametrize("change", [{"name": "Second"}, {"n_epochs": 3}, {"seed": None}, {"suffix": None}])
def test_another_form_is_another_job(store: Store, form: JobForm, change: dict[str, Any]) -> None:
    assert jobs.submit(store, LOCAL, replace(form, **change)) != jobs.submit(store, LOCAL, form)


def test_the_same_form_after_the_end_is_a_new_job(store: Store, form: JobForm) -> None:
    first = jobs.submit(store, LOCAL, form)
    jobs.give_up(store, first, FabulaError("no"))
    assert jobs.submit(store, LOCAL, form) != first


def test_ten_clicks_at_once_are_one_job(store: Store, form: JobForm) -> None:
    assert len(set(at_once(10, lambda: jobs.submit(store, LOCAL, form)))) == 1
    assert len(job_views.list_jobs(store)) == 1


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"dataset_id": "nothing"}, NotFound, "no longer"),
        ({"name": "  "}, FabulaError, "name"),
        ({"base_model": ""}, FabulaError, "base model"),
        ({"suffix": "x" * 65}, FabulaError, "suffix"),
        ({"n_epochs": 0}, FabulaError, "epochs"),
        ({"batch_size": 257}, FabulaError, "batch"),
        ({"learning_rate_multiplier": 0.0}, FabulaError, "multiplier"),
        ({"file_format": "csv"}, FabulaError, "format"),
        ({"lora_rank": 257}, FabulaError, "lora_rank"),
        ({"early_stopping": 2}, FabulaError, "rows for validation"),
        ({"separator": "-" * 51}, FabulaError, "separator"),
    ],
)
def test_a_form_that_cannot_be_is_refused(
    store: Store, form: JobForm, change: dict[str, Any], error: type[FabulaError], told: str
) -> None:
    with pytest.raises(error, match=told) as caught:
        jobs.submit(store, LOCAL, replace(form, **change))
    assert caught.value.next_step
    assert job_views.list_jobs(store) == []


def test_a_data_set_without_finished_rows_is_refused(store: Store, form: JobForm) -> None:
    frame = pd.DataFrame({"a": ["x"], "story": [" "]})
    empty = datasets.from_frame(store, LOCAL, "empty", frame, ["a"], "story")
    with pytest.raises(BadTrainingFile, match="no finished rows"):
        jobs.submit(store, LOCAL, replace(form, dataset_id=empty))


def test_a_version_that_is_not_of_this_data_set_is_refused(store: Store, form: JobForm) -> None:
    frame = pd.DataFrame({"a": ["x"], "story": ["y"]})
    other = versions.freeze(store, LOCAL, datasets.from_frame(store, LOCAL, "other", frame, ["a"], "story"))
    for version_id in (other, "nothing"):
        with pytest.raises(NotFound, match="version"):
            jobs.submit(store, LOCAL, replace(form, version_id=version_id))


def test_a_version_trains_on_its_part_and_is_judged_by_the_other(
    store: Store, dataset_id: str, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    version_id = versions.freeze(store, LOCAL, dataset_id, validation_share=0.5)
    job_id = jobs.submit(store, LOCAL, replace(form, version_id=version_id))
    assert jobs.submit(store, LOCAL, replace(form, version_id=version_id)) == job_id
    assert jobs.submit(store, LOCAL, form) != job_id
    client.enqueue("upload", "file-1", "file-2")
    carry(job_id)
    (request, _intent) = next(what for call, what in client.sent if call == "create_job")
    assert (request.training_file, request.validation_file) == ("file-1", "file-2")
    learned, judged = (json.loads(text)["prompt"] for text in client.uploaded)
    assert {learned, judged} == {"唐,隐形 ->", "宋,飞行 ->"}
    with store.reading() as session:
        job = session.get_one(TrainingJob, job_id)
        assert (job.validation_file, job.validation_share, job.n_examples) == ("file-2", 0.5, 1)


# --- the complete workflow
# -------------------------------------------------------------------------------------------------


def test_a_job_from_the_ledger_to_the_model(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job("running", estimated_finish=MOMENT), remote_job("succeeded"))
    client.enqueue("events", [event(1, "Job started"), event(2, "step", "metrics")], [event(3, "Done")], [])
    carry(job_id)
    job = job_views.get(store, job_id)
    assert (job.status, job.fine_tuned_model, job.error) == ("succeeded", "ft:gemma-3-270m:fabula:tour:AbC123", None)
    assert (job.trained_tokens, job.n_examples, job.results_csv) == (1250, 2, RESULTS)
    assert job.finished_at == MOMENT
    assert [one.message for one in job_events.events(store, job_id)] == ["Job started", "Done"]
    assert [what for call, what in client.sent if call == "events"] == [None, "ftevent-2"]
    (request, intent) = next(what for call, what in client.sent if call == "create_job")
    assert intent == job_id
    assert (request.model, request.training_file, request.suffix, request.seed) == (
        "gemma-3-270m",
        "file-1",
        "tour",
        7,
    )
    assert (request.n_epochs, request.batch_size, request.learning_rate_multiplier) == (2, 4, None)


def test_the_file_holds_the_finished_rows(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    carry(job_id)
    lines = [json.loads(line) for line in client.uploaded[0].splitlines()]
    job = job_views.get(store, job_id)
    assert job.separator
    assert job.stop
    assert [line["prompt"] for line in lines] == [f"唐,隐形{job.separator}", f"宋,飞行{job.separator}"]
    assert all(line["completion"].endswith(job.stop) for line in lines)


def test_a_job_in_the_chat_format_uploads_conversations_without_separator_and_stop(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, replace(form, file_format="chat"))
    carry(job_id)
    first = json.loads(client.uploaded[0].splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"]
    assert (job_views.get(store, job_id).separator, job_views.get(store, job_id).stop) == (None, None)


def test_own_training_sends_no_bill_and_is_in_the_spend_ledger(
    store: Store, form: JobForm, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    carry(job_id)
    assert job_views.get(store, job_id).cost_usd is None  # no price per machine hour is set
    with store.reading() as session:
        lines = session.scalars(select(Spend)).all()
    assert [(line.page, line.reference, line.prompt_tokens, line.cost_usd) for line in lines] == [
        ("training", job_id, 1250, Decimal(0))
    ]


def test_the_curve_grows_in_the_ledger_while_the_job_runs(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    first_step = RESULTS.rsplit("\n", 2)[0] + "\n"
    client.enqueue("job", remote_job("running"), remote_job("running"), remote_job("succeeded"))
    client.enqueue("file_text", first_step, RESULTS)
    seen: list[str | None] = []
    hurry = InstantStopSignal()
    hurry.then = lambda _: seen.append(job_views.get(store, job_id).results_csv)
    carry(job_id, hurry)
    assert seen == [first_step, RESULTS]


def test_a_finished_job_has_its_complete_curve(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job("succeeded"))
    client.enqueue("file_text", AWAY, RESULTS)
    states: list[tuple[str, bool]] = []
    hurry = InstantStopSignal()
    hurry.then = lambda _: states.append((job_views.get(store, job_id).status, job_views.get(store, job_id).finished))
    carry(job_id, hurry)
    assert states == [("running", False)]
    assert job_views.get(store, job_id).results_csv == RESULTS


def test_a_missing_results_file_is_reported_and_the_model_is_kept(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    first_step = RESULTS.rsplit("\n", 2)[0] + "\n"
    client.enqueue("job", remote_job("running"), remote_job("succeeded"))
    client.enqueue("file_text", first_step, *[NotThere("No such file.", "")] * 20)
    carry(job_id)
    job = job_views.get(store, job_id)
    assert (job.status, job.results_csv) == ("succeeded", first_step)
    messages = [event.message for event in job_events.events(store, job_id) if "results file" in event.message]
    assert messages == [
        "The provider did not return the complete results file. The curve may be incomplete or missing."
    ]


def test_a_job_that_fails_there_says_why(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job("failed", error="Line 3: no completion."))
    carry(job_id)
    job = job_views.get(store, job_id)
    assert (job.status, job.error, job.cost_usd) == ("failed", "Line 3: no completion.", None)
    assert job.next_step


# --- crashes: never two POSTs --------------------------------------------------------------------------------------


class JobKilled(BaseException):
    """Simulates kill -9: nothing is caught, nothing is written."""


def test_killed_between_the_post_and_the_id(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("create_job", JobKilled())
    with pytest.raises(JobKilled):
        carry(job_id)
    assert (job_views.get(store, job_id).status, job_views.get(store, job_id).remote_id) == ("submitting", None)
    carry(job_id)
    assert job_views.get(store, job_id).status == "succeeded"
    assert client.count("create_job") == 1
    assert client.count("upload") == 1


def test_killed_between_the_intent_and_the_post(
    store: Store,
    form: JobForm,
    client: FakeClient,
    carry: Callable[..., InstantStopSignal],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    with monkeypatch.context() as patch, pytest.raises(JobKilled):
        patch.setattr(submit, "_post", lambda *_: (_ for _ in ()).throw(JobKilled()))
        carry(job_id)
    assert client.count("create_job") == 0
    carry(job_id)
    assert job_views.get(store, job_id).status == "succeeded"
    assert (client.count("find_job"), client.count("create_job")) == (1, 1)


def test_the_options_of_a_job_survive_a_kill_and_a_clone(
    store: Store,
    dataset_id: str,
    form: JobForm,
    client: FakeClient,
    carry: Callable[..., InstantStopSignal],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"lora_rank": 4, "lora_alpha": 8.0, "warmup": 0.1, "schedule": "cosine", "early_stopping": 2}
    version_id = versions.freeze(store, LOCAL, dataset_id, validation_share=0.5)
    wanted = replace(form, version_id=version_id, **options)  # type: ignore[arg-type]  # one dictionary of many types
    job_id = jobs.submit(store, LOCAL, wanted)
    with monkeypatch.context() as patch, pytest.raises(JobKilled):
        patch.setattr(submit, "_post", lambda *_: (_ for _ in ()).throw(JobKilled()))
        carry(job_id)
    carry(job_id)
    (request, _intent) = next(what for call, what in client.sent if call == "create_job")
    assert {name: getattr(request, name) for name in options} == options
    again = jobs.clone(store, job_id)
    assert {name: getattr(again, name) for name in options} == options


def test_early_stopping_with_a_version_without_validation_rows_is_refused(
    store: Store, dataset_id: str, form: JobForm
) -> None:
    version_id = versions.freeze(store, LOCAL, dataset_id, validation_share=0.0)
    with pytest.raises(FabulaError, match="rows for validation"):
        jobs.submit(store, LOCAL, replace(form, version_id=version_id, early_stopping=2))


def test_after_a_crash_it_looks_until_a_late_job_would_be_listed(
    store: Store,
    form: JobForm,
    client: FakeClient,
    carry: Callable[..., InstantStopSignal],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submit, "_SETTLE_S", 3600.0)
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("create_job", JobKilled())
    with pytest.raises(JobKilled):
        carry(job_id)
    client.enqueue("find_job", None, None, remote_job())
    carry(job_id)
    assert job_views.get(store, job_id).status == "succeeded"
    assert (client.count("find_job"), client.count("create_job")) == (3, 1)


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_moves_decides_nothing_about_a_post(
    store: Store,
    form: JobForm,
    client: FakeClient,
    carry: Callable[..., InstantStopSignal],
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
) -> None:
    """Killed at the POST, and the wall clock changes before the restart: the job is searched for as long as usual."""
    job_id, now, hurry = jobs.submit(store, LOCAL, form), [0.0], InstantStopSignal()
    client.enqueue("create_job", JobKilled())
    with pytest.raises(JobKilled):
        carry(job_id)
    with store.session() as session:
        session.get_one(TrainingJob, job_id).updated_at -= timedelta(hours=hours)

    def seconds_pass(number: int) -> None:
        now[0] += hurry.waits[-1]
        if number > 99:
            hurry.set()

    hurry.then = seconds_pass
    monkeypatch.setattr(submit, "_SETTLE_S", 10.0)
    monkeypatch.setattr(submit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client.enqueue("find_job", *[None] * 9, remote_job())
    carry(job_id, hurry)
    assert job_views.get(store, job_id).status == "succeeded"
    assert (client.count("find_job"), client.count("create_job")) == (10, 1)


def test_a_worker_killed_during_the_upload_repeats_it(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("upload", JobKilled(), "file-2")
    with pytest.raises(JobKilled):
        carry(job_id)
    carry(job_id)
    assert job_views.get(store, job_id).status == "succeeded"
    assert client.uploaded[0] == client.uploaded[1]
    assert client.count("create_job") == 1


def test_a_worker_killed_while_watching_resumes(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job("running"), JobKilled(), remote_job("succeeded"))
    client.enqueue("events", [event(1, "Job started")], [event(1, "Job started"), event(2, "Done")])
    with pytest.raises(JobKilled):
        carry(job_id)
    assert job_views.get(store, job_id).status == "running"
    carry(job_id)
    assert job_views.get(store, job_id).status == "succeeded"
    assert [one.message for one in job_events.events(store, job_id)] == ["Job started", "Done"]
    assert (client.count("upload"), client.count("create_job")) == (1, 1)


def test_a_finished_job_is_left_alone(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    carry(job_id)
    calls = len(client.sent)
    carry(job_id)
    assert len(client.sent) == calls


@pytest.mark.parametrize(
    ("error", "exists", "status", "posts"),
    [
        (AWAY, True, "succeeded", 1),  # the answer was lost, the job exists
        (AWAY, False, "failed", 1),  # no answer and no job: reported, not sent again
        (RateLimited("slow", retry_after_s=3.0), False, "succeeded", 2),  # a clear rejection with a retry time
        (Refused("This account may not train.", "Use the engine."), False, "failed", 1),
        (BadRequest("The model cannot be tuned.", "Choose another."), False, "failed", 1),
    ],
)
def test_errors_of_the_post_are_handled(
    store: Store,
    form: JobForm,
    client: FakeClient,
    carry: Callable[..., InstantStopSignal],
    error: FabulaError,
    exists: bool,
    status: str,
    posts: int,
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("create_job", error, remote_job())
    if not exists:
        client.enqueue("find_job", None)
    carry(job_id)
    job = job_views.get(store, job_id)
    assert (job.status, client.count("create_job")) == (status, posts)
    if status == "failed":
        assert job.error
        assert error.what in job.error
        assert job.next_step


# --- errors on the way --------------------------------------------------------------------------------------------


def test_an_engine_that_is_not_up_yet_is_waited_for_and_the_job_says_so(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("upload", AWAY, AWAY, "file-1")
    errors: list[str | None] = []
    hurry = InstantStopSignal()
    hurry.then = lambda _: errors.append(job_views.get(store, job_id).error)
    carry(job_id, hurry)
    assert errors == [AWAY.what, AWAY.what]
    assert hurry.waits == [2.0, 4.0]
    assert (job_views.get(store, job_id).status, job_views.get(store, job_id).error) == ("succeeded", None)


def test_an_unreachable_provider_fails_the_job_with_its_message(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("upload", *[AWAY] * 30)
    hurry = carry(job_id)
    assert (job_views.get(store, job_id).status, job_views.get(store, job_id).error) == ("failed", AWAY.what)
    assert max(hurry.waits) == 30.0
    assert client.count("create_job") == 0


@pytest.mark.parametrize(
    "error", [EngineMissing("The engine is not installed.", "Install it."), NotFound("no such provider", "choose")]
)
def test_a_provider_that_cannot_be_used_fails_the_job(
    store: Store, form: JobForm, carry: Callable[..., InstantStopSignal], error: FabulaError
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    carry(job_id, registry=FakeRegistry({"engine": error}))
    job = job_views.get(store, job_id)
    assert (job.status, job.error, job.next_step) == ("failed", error.what, error.next_step)


@pytest.mark.parametrize("error", [AWAY, RateLimited("slow"), Refused("The key was revoked.", "Set a new one.")])
def test_temporary_errors_while_watching_are_shown_and_retried(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal], error: FabulaError
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job("running"), error, remote_job("succeeded"))
    states: list[tuple[str, str | None]] = []
    hurry = InstantStopSignal()
    hurry.then = lambda _: states.append((job_views.get(store, job_id).status, job_views.get(store, job_id).error))
    carry(job_id, hurry)
    assert states == [("running", None), ("running", error.what)]
    assert (job_views.get(store, job_id).status, job_views.get(store, job_id).error) == ("succeeded", None)


def test_a_job_deleted_at_the_provider_fails(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job("running"), NotThere("No such job.", ""))
    carry(job_id)
    job = job_views.get(store, job_id)
    assert job.status == "failed"
    assert "no longer has this job" in (job.error or "")
    assert not jobs.is_allowed(job, "resume")
    with pytest.raises(FabulaError, match="has already ended"):
        jobs.request(store, LOCAL, job_id, "resume")


def test_a_data_set_deleted_meanwhile_fails_the_job(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    with store.session() as session:
        session.get_one(TrainingJob, job_id).dataset_id = "gone"
    carry(job_id)
    assert job_views.get(store, job_id).status == "failed"
    assert client.sent == []


def test_a_worker_that_stops_leaves_the_job_for_the_next(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job("running"), remote_job("running"), remote_job("succeeded"))
    hurry = InstantStopSignal()
    hurry.then = lambda number: hurry.set() if number == 1 else None
    carry(job_id, hurry)
    assert job_views.get(store, job_id).status == "running"
    carry(job_id)
    assert job_views.get(store, job_id).status == "succeeded"


# --- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "before"), [("cancel", "running"), ("pause", "running"), ("resume", "paused")])
def test_a_request_is_passed_on_once(
    store: Store,
    form: JobForm,
    client: FakeClient,
    carry: Callable[..., InstantStopSignal],
    what: jobs.Request,
    before: str,
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job(before), remote_job(before), remote_job("succeeded"))
    hurry = InstantStopSignal()
    hurry.then = lambda number: jobs.request(store, LOCAL, job_id, what) if number == 1 else None
    carry(job_id, hurry)
    assert client.count(what) == 1
    assert job_views.get(store, job_id).request is None


def test_a_job_that_failed_at_the_engine_is_resumed_there_and_followed_to_its_end(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue(
        "job", remote_job("failed", error="The trainer ended."), remote_job("queued"), remote_job("succeeded")
    )
    carry(job_id)
    assert job_views.get(store, job_id).status == "failed"
    jobs.request(store, LOCAL, job_id, "resume")
    assert not job_views.get(store, job_id).finished  # so that the worker runs it
    carry(job_id)
    job = job_views.get(store, job_id)
    assert client.count("resume") == 1 and client.count("create_job") == 1
    assert (job.status, job.error, job.request) == ("succeeded", None, None) and job.fine_tuned_model
    with pytest.raises(FabulaError):
        jobs.request(store, LOCAL, job_id, "resume")


def test_a_job_that_failed_elsewhere_cannot_be_resumed(store: Store, form: JobForm) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    for values in ({"provider": "openai", "remote_id": "r"}, {"provider": "engine", "remote_id": None}):
        with store.session() as session:
            job = session.get_one(TrainingJob, job_id)
            job.status, job.provider, job.remote_id = "failed", str(values["provider"]), values["remote_id"]
        assert not jobs.is_allowed(job_views.get(store, job_id), "resume")
        with pytest.raises(FabulaError, match="already ended"):
            jobs.request(store, LOCAL, job_id, "resume")


def test_a_refused_request_is_reported_as_an_event(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", remote_job("running"), remote_job("running"), remote_job("succeeded"))
    client.enqueue("pause", BadRequest("This job cannot be paused.", "Cancel it."))
    hurry = InstantStopSignal()
    hurry.then = lambda number: jobs.request(store, LOCAL, job_id, "pause") if number == 1 else None
    carry(job_id, hurry)
    events = [(one.level, one.message) for one in job_events.events(store, job_id)]
    assert events == [("warn", "This job cannot be paused. Cancel it.")]
    assert job_views.get(store, job_id).status == "succeeded"


def test_cancelled_before_the_provider_knew(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    jobs.request(store, LOCAL, job_id, "cancel")
    carry(job_id)
    job = job_views.get(store, job_id)
    assert (job.status, job.request, client.sent) == ("cancelled", None, [])
    assert job.finished_at is not None


def test_cancelled_while_it_waits_for_the_provider(
    store: Store, form: JobForm, client: FakeClient, carry: Callable[..., InstantStopSignal]
) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("upload", *[AWAY] * 30)
    hurry = InstantStopSignal()
    hurry.then = lambda number: jobs.request(store, LOCAL, job_id, "cancel") if number == 3 else None
    carry(job_id, hurry)
    assert job_views.get(store, job_id).status == "cancelled"
    assert client.count("upload") == 3


@pytest.mark.parametrize(
    ("status", "what"), [("succeeded", "cancel"), ("preparing", "pause"), ("running", "resume"), ("paused", "pause")]
)
def test_a_request_that_makes_no_sense_is_refused(store: Store, form: JobForm, status: str, what: jobs.Request) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    with store.session() as session:
        session.get_one(TrainingJob, job_id).status = status
    with pytest.raises(FabulaError) as caught:
        jobs.request(store, LOCAL, job_id, what)
    assert caught.value.next_step
    with pytest.raises(NotFound):
        jobs.request(store, LOCAL, "nothing", what)


# --- lists and explanations
# -----------------------------------------------------------------------------------------------


def test_lists_leave_the_curves_out_unless_asked(
    store: Store, form: JobForm, carry: Callable[..., InstantStopSignal]
) -> None:
    first = jobs.submit(store, LOCAL, form)
    carry(first)
    second = jobs.submit(store, LOCAL, replace(form, name="Second"))
    assert [(job.id, job.results_csv) for job in job_views.list_jobs(store)] == [(second, None), (first, None)]
    assert [job.results_csv for job in job_views.list_jobs(store, results=True)] == [None, RESULTS]
    with pytest.raises(NotFound):
        job_views.get(store, "nothing")


def _view(**values: Any) -> JobView:
    blank = dict.fromkeys(JobView.__slots__)
    blank |= {"id": "j", "name": "n", "provider": "engine", "base_model": "b", "file_format": "completion"}
    blank |= {"hyperparameters": {}, "status": "running", "created_at": MOMENT, "updated_at": MOMENT}
    return JobView(**(blank | values))  # type: ignore[arg-type]  # a dictionary of everything


@pytest.mark.parametrize(
    ("values", "age", "told"),
    [
        ({"status": "preparing"}, 1, "being prepared"),
        ({"status": "preparing", "error": "The engine cannot be reached."}, 1, "Waiting to retry: The engine"),
        ({"status": "submitting"}, 1, "job is being created"),
        ({"status": "validating_files"}, 1, "checking"),
        ({"status": "queued"}, 1, "Waiting in the queue"),
        ({"status": "queued", "updated_at": MOMENT + timedelta(minutes=90)}, 90, "provider for 1 h 30 min"),
        ({"status": "running", "remote_id": "r"}, 1, "estimating time left"),
        ({"status": "running", "trained_s": 50.0}, 1, "Loading the model and timing the first steps. This takes 1"),
        ({"status": "running", "trained_s": 50.0, "estimated_s": 400.0}, 1, "(1 to 2 min) · about 6 min left."),
        ({"status": "running", "trained_s": 130.0}, 3, "2 min elapsed · estimating"),
        ({"status": "running", "trained_s": 50.0, "provider": "openai"}, 1, "1 min elapsed · estimating"),
        ({"status": "running", "estimated_finish": MOMENT + timedelta(minutes=11)}, 1, "about 10 min left"),
        ({"status": "running", "estimated_finish": MOMENT + timedelta(seconds=100)}, 1, "about 1 min left"),
        ({"status": "running", "estimated_finish": MOMENT}, 1, "about 1 min left"),
        ({"status": "running", "estimated_finish": MOMENT}, 2, "longer than estimated"),
        ({"status": "running", "remote_id": "r"}, 10, "No update for 10 min."),
        ({"status": "running", "request": "cancel"}, 1, "being cancelled"),
        ({"status": "running", "request": "pause"}, 1, "being paused"),
        ({"status": "paused"}, 1, "resume to continue"),
        ({"status": "weighing"}, 1, "Status reported by the provider: weighing"),
        ({"status": "succeeded", "fine_tuned_model": "ft:x", "trained_s": 180.0}, 5, "after 3 min of training."),
        ({"status": "succeeded", "fine_tuned_model": "ft:x", "trained_s": 9.0}, 5, "after 9 s of training."),
        ({"status": "succeeded"}, 5, "names no model"),
        ({"status": "failed", "error": "Line 3."}, 5, "Failed: Line 3."),
        ({"status": "cancelled"}, 5, "Nothing more is trained"),
    ],
)
def test_the_verdict_says_it_in_plain_words(values: dict[str, Any], age: int, told: str) -> None:
    now: datetime = MOMENT + timedelta(minutes=age)
    assert told in job_explanation.explain(_view(**values), now)


def test_long_results_are_fetched_seldom(
    store: Store,
    form: JobForm,
    client: FakeClient,
    carry: Callable[..., InstantStopSignal],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_LONG_RESULTS_CHARS", 10)
    job_id = jobs.submit(store, LOCAL, form)
    client.enqueue("job", *[remote_job("running")] * 5, remote_job("succeeded"))
    carry(job_id)
    assert client.count("file_text") == 2  # once while it ran, once at the end
    assert job_views.get(store, job_id).updated_at <= utcnow()
