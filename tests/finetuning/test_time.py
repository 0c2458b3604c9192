"""Queue positions, start estimates, and training time without queued time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import TrainingJob
from core.engine import store
from core.engine.api import serializers
from core.engine.store import Job
from core.engine.training import job_queue
from core.finetuning import (
    curve_analysis,
    job_comparison,
    job_cost,
    job_events,
    job_explanation,
    job_views,
    jobs,
    lineage,
)
from core.finetuning.job_form import JobForm
from core.finetuning.results import parse
from core.pricing.price_book import PriceBook
from pages.ui.training import job_labels
from tests.support.fakes import MOMENT, FakeClient, event, job_view, remote_job
from tests.support.waiting import InstantStopSignal

_NOW = 1_800_000_000.0
_STARTED = event(40, "Fine-tuning job started")


def _minutes(n: float) -> timedelta:
    return timedelta(minutes=n)


# --- explanations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "starts_in_min", "says"),
    [
        (1, 0, "Next in line: training starts in a moment."),
        (1, None, "Next in line: training starts in a moment."),
        (2, 9, "2nd in line, starts in about 9 min."),
        (2, 0.2, "2nd in line, starts in about 1 min."),
        (2, -3, "2nd in line, starts in about 1 min."),
        (3, 70, "3rd in line, starts in about 70 min."),
        (4, 200, "4th in line, starts in about 3 h 20 min."),
        (11, 9, "11th in line, starts in about 9 min."),
        (20, 9, "20th in line, starts in about 9 min."),
        (21, 9, "Number 21 in line, starts in about 9 min."),
        (2, None, "2nd in line. The start time is known once the jobs ahead have an estimate."),
        (3, None, "3rd in line. The start time is known once the jobs ahead have an estimate."),
        (7, None, "7th in line. The start time is known once the jobs ahead have an estimate."),
        (30, None, "Number 30 in line. The start time is known once the jobs ahead have an estimate."),
    ],
)
def test_a_job_in_line_says_its_place_and_its_start(position: int, starts_in_min: float | None, says: str) -> None:
    now = MOMENT + _minutes(20)
    starts = None if starts_in_min is None else now + _minutes(starts_in_min)
    job = job_view(
        status="queued", remote_id="r", updated_at=now, queue_position=position, estimated_start=starts,
        estimated_s=600.0,
    )  # fmt: skip
    assert job_explanation.explain(job, now) == says


@pytest.mark.parametrize(
    ("change", "minutes", "trained", "eta", "says"),
    [
        # queued for 30 min, still queued
        ({"status": "queued", "queue_position": 2}, 30, 0, None, "2nd in line"),
        ({"status": "queued"}, 30, 0, None, "Queued for 30 min"),
        ({"status": "preparing", "remote_id": None}, 1, 0, 600, "being prepared"),
        ({"status": "queued", "queue_position": 2, "wait": 9}, 30, 0, 540 + 600, "starts in about 9 min"),
        # queued for 30 min, then trained for 2 min
        ({"status": "running", "trained_s": 120.0}, 32, 120, 480, "about 8 min left"),
        ({"status": "running", "running_since": MOMENT + _minutes(30)}, 32, 120, 480, "about 8 min left"),
        ({"status": "running", "trained_s": 120.0, "estimated_s": None}, 32, 120, None, "2 min elapsed"),
        ({"status": "running", "estimated_s": None}, 32, None, None, "Training · estimating time left"),
        # trained for 2 min, paused for 30 min
        ({"status": "paused", "trained_s": 120.0}, 32, 120, None, "Paused."),
        ({"status": "queued", "trained_s": 120.0, "queue_position": 1}, 32, 120, 480, "Next in line"),
        # ended
        ({"status": "succeeded", "trained_s": 45.0}, 32, 45, None, "Done after 45 s of training."),
        ({"status": "succeeded", "trained_s": 600.0}, 60, 600, None, "Done after 10 min of training."),
        (
            {"status": "succeeded", "running_since": MOMENT + _minutes(30), "finished_at": MOMENT + _minutes(35)},
            60, 300, None, "Done after 5 min of training.",
        ),
        ({"status": "succeeded"}, 60, None, None, "Training is done. The model is ready"),
        ({"status": "failed", "remote_id": None}, 60, 0, None, "Failed"),
    ],
)  # fmt: skip
def test_waiting_is_no_training(
    change: dict[str, Any], minutes: float, trained: float | None, eta: float | None, says: str
) -> None:
    now = MOMENT + _minutes(minutes)
    wait = change.pop("wait", None)
    values: dict[str, Any] = {"remote_id": "r", "estimated_s": 600.0, "updated_at": now, "fine_tuned_model": "ft:x"}
    job = job_view(**values | change, estimated_start=None if wait is None else now + _minutes(wait))
    assert job.training_s(now) == trained
    assert job.eta_s(now) == eta
    assert says in job_explanation.explain(job, now)
    assert job_comparison.compare([job], [parse("")], now).columns[0].training_s == trained
    assert lineage.chain_cost([job], now).seconds == trained


def test_the_time_axis_of_a_curve_is_training_time() -> None:
    curve = parse("step,elapsed_tokens,training_loss\n1,10,2\n2,20,1\n")
    waited = job_view(trained_s=60.0, finished_at=MOMENT + _minutes(90), updated_at=MOMENT + _minutes(90))
    assert list(curve_analysis.with_axes(curve, waited)["seconds"]) == [30, 60]
    assert curve_analysis.with_axes(curve, replace(waited, trained_s=None))["seconds"].isna().all()


# --- polling the provider ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "remote", "events", "expected"),
    [
        # measured by the engine
        ({}, remote_job("queued", training_s=0.0), [], (0.0, None)),
        ({"trained_s": 5.0}, remote_job("running", training_s=7.5), [], (7.5, None)),
        ({"trained_s": 5.0}, remote_job("paused", training_s=8.0), [], (8.0, None)),
        # elsewhere: the time with status `running`
        ({}, remote_job("queued"), [], (None, None)),
        ({}, remote_job("running"), [], (None, MOMENT + _minutes(10))),
        ({}, remote_job("running"), [_STARTED], (None, _STARTED.at)),
        ({"running_since": MOMENT}, remote_job("running"), [], (None, MOMENT)),
        ({"running_since": MOMENT}, remote_job("paused"), [], (600.0, None)),
        ({"trained_s": 600.0}, remote_job("running"), [], (600.0, MOMENT + _minutes(10))),
        (
            {"trained_s": 600.0, "running_since": MOMENT},
            remote_job("succeeded", finished_at=MOMENT + _minutes(2)), [], (720.0, None),
        ),
        ({}, remote_job("succeeded", finished_at=MOMENT + _minutes(2)), [_STARTED], (80.0, None)),
        ({}, remote_job("succeeded", finished_at=MOMENT + _minutes(2)), [], (None, None)),
        ({}, remote_job("failed", finished_at=MOMENT), [_STARTED], (0.0, None)),  # clocks differ
        ({"trained_s": 80.0}, remote_job("succeeded", finished_at=MOMENT + _minutes(2)), [], (80.0, None)),
    ],
)  # fmt: skip
def test_training_time_grows_only_while_a_job_trains(
    before: dict[str, Any], remote: Any, events: list[Any], expected: tuple[float | None, Any]
) -> None:
    job = job_view(status="running", remote_id="r", **before)
    found = job_events.training_time(job, remote, events, MOMENT + _minutes(10))
    assert (found["training_s"], found["running_since"]) == expected


def test_a_job_of_the_ledger_knows_its_place_and_forgets_it_when_it_trains(
    store: Store, form: JobForm, client: FakeClient, carry: Any
) -> None:
    seen = []

    class PollingEvent(InstantStopSignal):
        def wait(self, timeout: float | None = None) -> bool:
            seen.append(job_views.get(store, job_id))
            return super().wait(timeout)

    job_id = jobs.submit(store, LOCAL, form)
    starts = MOMENT + _minutes(9)
    client.enqueue(
        "job",
        remote_job("queued", queue_position=2, estimated_start=starts, training_s=0.0),
        remote_job("running", training_s=3.0),
        remote_job("succeeded", training_s=4.5),
    )
    carry(job_id, PollingEvent())
    places = [(job.status, job.queue_position, job.estimated_start, job.trained_s) for job in seen if job.remote_id]
    assert ("queued", 2, starts, 0.0) in places and ("running", None, None, 3.0) in places
    assert job_views.get(store, job_id).trained_s == 4.5


def test_an_estimate_does_not_learn_from_time_in_line(store: Store, form: JobForm) -> None:
    job_id = jobs.submit(store, LOCAL, form)
    with store.session() as session:
        session.execute(
            text("UPDATE training_jobs SET status = 'succeeded', trained_tokens = 600, training_s = 60 WHERE id = :id"),
            {"id": job_id},
        )
    assert job_cost.measured_speeds(store, form.provider, form.base_model) == [15.0]  # a third is start-up time


@pytest.mark.parametrize(
    ("jobs_before", "steps", "rough", "tokens", "at_most_s", "basis"),
    [
        ([(200, 40.0)], None, None, 12_888, None, "takes a few minutes"),  # mostly start-up time
        ([(200, 40.0)], None, 300.0, 12_888, 65, "Rough"),
        ([(200, 40.0)], 100.0, None, 12_888, 150, "newest training steps"),
        ([(200, 40.0), (20_000, 220.0)], None, None, 12_888, 150, "last job"),  # 100 tokens per second
        ([(20_000, 220.0), (200, 40.0)], None, None, 12_888, 150, "last job"),
        ([(1, 20.0)], None, None, 1_000_000, None, "takes a few minutes"),
        ([(50, 59.0)], None, 10.0, 100, 31, "Rough"),
        ([(20_000, 220.0)], None, 1.0, 200, 23, "last job"),  # a small job after a large one: mostly start-up
        ([(20_000, 220.0), (40_000, 420.0), (10_000, 220.0)], None, None, 20_000, 221, "last 3 jobs"),
        ([], None, None, 12_888, None, "takes a few minutes"),
    ],
)
def test_the_start_up_of_a_small_job_is_not_spread_over_the_tokens_of_the_next(
    store: Store,
    form: JobForm,
    jobs_before: list[tuple[int, float]],
    steps: float | None,
    rough: float | None,
    tokens: int,
    at_most_s: float | None,
    basis: str,
) -> None:
    for number, (trained, seconds) in enumerate(jobs_before):
        job_id = jobs.submit(store, LOCAL, replace(form, provider="engine", name=f"{number}"))
        with store.session() as session:
            job = session.get_one(TrainingJob, job_id)
            job.status, job.trained_tokens, job.training_s = "succeeded", trained, seconds
    found = job_cost.estimate(
        store, PriceBook.load(), "engine", form.base_model, tokens=tokens, epochs=1, speed=steps, rough_speed=rough
    )
    assert basis in found.basis
    if at_most_s is None:
        assert found.seconds is None
    else:
        assert found.seconds is not None and job_cost.STARTUP_S < found.seconds <= at_most_s


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-59, "about 1 min left"),
        (0, "about 1 min left"),
        (0.4, "about 1 min left"),
        (29, "about 1 min left"),
        (60, "about 1 min left"),
        (61, "about 2 min left"),
        (100, "about 2 min left"),
        (300, "about 5 min left"),
        (3_600, "about 60 min left"),
        (24_000, "about 6 h 40 min left"),
        (-61, "a little longer than estimated"),
    ],
)
def test_the_time_left_is_one_figure_and_never_nothing(seconds: float, told: str) -> None:
    now = MOMENT + _minutes(20)
    ends = now + timedelta(seconds=seconds)
    job = job_view(status="running", remote_id="r", updated_at=now, trained_s=600.0, estimated_finish=ends)
    assert told in job_explanation.explain(job, now)
    shown = job_labels.time_left(job, now)
    assert shown == (told if "min" in told else "")  # progress bar of the job, Home and the tour
    assert job_labels.time_left(job, now, short=True) == shown.removeprefix("about ").removesuffix(" left")  # the table


# --- the engine's line ----------------------------------------------------------------------------------------------


@pytest.fixture
def line(tmp_path: Path) -> Iterator[store.EngineStore]:
    yield store.EngineStore(tmp_path / "engine.db")


def _add(line: store.EngineStore, name: str, status: str, **values: Any) -> None:
    job = Job(
        id=name, created_at=1, status=status, model="m", base="m", format="completion", tuned_id=f"ft:{name}",  # type: ignore[arg-type]
        suffix=None, seed=1, training_file="f", validation_file=None, examples=9, n_epochs=2, batch_size=4,
        learning_rate_multiplier=1.0, metadata=None,
    )  # fmt: skip
    line.add(replace(job, **values))


def _places(line: store.EngineStore, at_once: int = 1) -> dict[str, tuple[int, float | None]]:
    """Queue positions and seconds to the start."""
    found = job_queue.queue_positions(line, _NOW, at_once)
    return {
        name: (one.position, None if one.estimated_start is None else one.estimated_start - _NOW)
        for name, one in found.items()
    }


def test_a_job_behind_a_running_one_is_second_and_starts_when_that_ends(line: store.EngineStore) -> None:
    _add(line, "first", "running", estimated_finish=int(_NOW) + 540, tokens_per_s=50.0, step=10, total_steps=100)
    _add(line, "second", "queued", epoch_tokens=1_000)
    _add(line, "third", "validating_files")
    _add(line, "fourth", "queued", epoch_tokens=1_000)
    assert _places(line) == {"second": (2, 540), "third": (3, 540 + 10 + 40), "fourth": (4, None)}


@pytest.mark.parametrize(
    ("at_once", "expected"),
    [
        (1, {"third": (3, None), "fourth": (4, None)}),  # more run than fit: the cluster has become smaller
        (2, {"third": (3, 100), "fourth": (4, 100 + 10 + 20)}),  # the second one's end is unknown
        (3, {"third": (3, 0), "fourth": (4, 10 + 20)}),
        (4, {"third": (3, 0), "fourth": (4, 0)}),
    ],
)
def test_on_a_cluster_a_job_starts_when_the_first_place_becomes_free(
    line: store.EngineStore, at_once: int, expected: dict[str, tuple[int, float | None]]
) -> None:
    _add(line, "first", "running", estimated_finish=int(_NOW) + 100, tokens_per_s=100.0)
    _add(line, "second", "running")
    _add(line, "third", "queued", epoch_tokens=1_000)
    _add(line, "fourth", "queued", epoch_tokens=1_000)
    assert _places(line, at_once) == expected


def test_without_an_estimate_the_tokens_left_and_the_newest_speed_tell(line: store.EngineStore) -> None:
    _add(line, "slow", "succeeded", tokens_per_s=10.0)
    _add(line, "newer", "succeeded", tokens_per_s=20.0)
    _add(line, "other base", "succeeded", base="n", tokens_per_s=999.0)
    _add(line, "now", "running", epoch_tokens=1_000, step=5, total_steps=10)
    _add(line, "next", "queued", epoch_tokens=1_000)
    assert _places(line) == {"next": (2, 10 + 50)}
    assert job_queue.speeds(line) == {"m": 20.0, "n": 999.0}  # by base model, from the newest job with timed steps


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        ([], (1, 0)),
        ([("a", "succeeded", {}), ("b", "failed", {}), ("c", "cancelled", {}), ("d", "paused", {})], (1, 0)),
        ([("a", "running", {})], (2, None)),  # not measured yet
        ([("a", "running", {"estimated_finish": int(_NOW) - 60})], (2, 0)),  # overdue
        ([("a", "queued", {}), ("b", "queued", {})], (3, None)),
    ],
)
def test_only_jobs_that_will_train_first_are_ahead(
    line: store.EngineStore, ahead: list[tuple[str, str, dict[str, Any]]], expected: tuple[int, float | None]
) -> None:
    for name, status, values in ahead:
        _add(line, name, status, **values)
    _add(line, "mine", "queued")
    assert _places(line)["mine"] == expected


def test_a_job_object_tells_its_place_and_its_training_time(line: store.EngineStore) -> None:
    _add(line, "mine", "queued", training_s=12.3456)
    (job,) = line.select(Job, "1")
    reported = serializers.job(job, job_queue.queue_positions(line, _NOW)["mine"])["fabula"]
    expected = {"training_seconds": 12.346, "queue_position": 1, "estimated_start": int(_NOW), "hyperparameters": {}}
    assert reported == expected
    assert serializers.job(job)["fabula"]["queue_position"] is None


def test_an_engine_database_of_before_gets_the_columns_and_keeps_its_jobs(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    old = store.EngineStore(path)
    _add(old, "done", "succeeded", started_at=1_000, finished_at=1_060)
    _add(old, "waiting", "queued")
    with closing(sqlite3.connect(path)) as connection:
        for column in ("training_s", "epoch_tokens", "method", "options", "integrations", "beta"):
            connection.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        connection.execute("DROP TABLE shadow_calls")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    for _start in range(2):
        jobs_found = store.EngineStore(path).select(Job, "1")
        found = {job.id: (job.training_s, job.epoch_tokens, job.method) for job in jobs_found}
        assert found == {"done": (60.0, None, "supervised"), "waiting": (0.0, None, "supervised")}
