"""Over real HTTP with counted POSTs: exactly one job exists for every answer of the provider; errors are reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.errors import FabulaError
from core.finetuning import job_explanation, job_views, jobs
from core.finetuning.job_form import JobForm
from core.finetuning.job_views import JobView
from core.finetuning.results import parse
from core.providers import Client, JobRequest, Provider, RemoteJob, RetryPolicy
from tests.support.fakes import RESULTS, FakeRegistry
from tests.support.job_server import JobServer
from tests.support.waiting import WAIT_LIMIT_S, InstantStopSignal, run_to_end

CREATE = "POST /v1/fine_tuning/jobs"
KEY = "sk-that-must-not-leak"
_PATIENCE_S = {True: 0.5, False: WAIT_LIMIT_S}  # whether the server hangs in this test → timeout


@pytest.fixture
def server() -> Iterator[JobServer]:
    with JobServer() as running:
        yield running


@pytest.fixture
def job_id(store: Store) -> str:
    frame = pd.DataFrame({"power": [f"飞行{n}" for n in range(12)], "story": [f"故事{n}" for n in range(12)]})
    dataset_id = datasets.from_frame(store, LOCAL, "twelve", frame, ["power"], "story")
    return jobs.submit(store, LOCAL, JobForm(dataset_id, "First", "engine", "gemma-3-270m"))


def carry(store: Store, server: JobServer, job_id: str, timeout_s: float = WAIT_LIMIT_S) -> JobView:
    provider = Provider("engine", "engine", "The engine", f"{server.url}/v1", KEY)
    quick = RetryPolicy(total_s=WAIT_LIMIT_S, tries=2, base_s=0.001, cap_s=0.01)
    client = Client(provider, retry_policy=quick, timeout=httpx2.Timeout(timeout_s))
    registry: Any = FakeRegistry({"engine": client})
    try:
        run_to_end(lambda: jobs.carry_out(store, registry, job_id, InstantStopSignal()), lambda _: None)
    except FabulaError as exc:
        jobs.give_up(store, job_id, exc)
    return job_views.get(store, job_id)


@pytest.mark.parametrize("fault", ["after:502", "after:504", "after:408", "after:drop", "after:hang"])
def test_a_job_created_despite_a_lost_answer_is_found_and_not_created_again(
    store: Store, server: JobServer, job_id: str, fault: str
) -> None:
    server.faults["create"] = [fault]
    job = carry(store, server, job_id, _PATIENCE_S[fault == "after:hang"])
    assert job.status == "succeeded" and job.remote_id == "ftjob-1"
    assert (server.count(CREATE), len(server.jobs)) == (1, 1)
    carry(store, server, job_id)
    assert server.count(CREATE) == 1


@pytest.mark.parametrize("fault", ["502", "500", "drop", "hang"])
def test_a_job_that_was_not_created_is_reported_and_not_sent_again(
    store: Store, server: JobServer, job_id: str, fault: str
) -> None:
    server.faults["create"] = [fault]
    job = carry(store, server, job_id, _PATIENCE_S[fault == "hang"])
    assert job.status == "failed" and "does not list it" in (job.error or "")
    assert (server.count(CREATE), len(server.jobs)) == (1, 0)


def test_only_a_clear_rate_limit_is_retried(store: Store, server: JobServer, job_id: str) -> None:
    server.faults["create"] = ["429", "429"]
    assert carry(store, server, job_id).status == "succeeded"
    assert (server.count(CREATE), len(server.jobs)) == (3, 1)


def test_a_worker_that_dies_between_the_post_and_its_answer_leaves_one_job(
    store: Store, server: JobServer, job_id: str
) -> None:
    class Killed(BaseException):
        """Like kill -9: no later code runs."""

    class Dying(Client):
        def create_job(self, request: JobRequest, intent_id: str) -> RemoteJob:
            super().create_job(request, intent_id)
            raise Killed

    registry: Any = FakeRegistry({"engine": Dying(Provider("engine", "engine", "E", f"{server.url}/v1", KEY))})
    with pytest.raises(Killed):
        jobs.carry_out(store, registry, job_id, InstantStopSignal())
    assert job_views.get(store, job_id).status == "submitting" and job_views.get(store, job_id).remote_id is None
    assert carry(store, server, job_id).status == "succeeded"
    assert (server.count(CREATE), len(server.jobs)) == (1, 1)


@pytest.mark.parametrize(
    ("faults", "told", "next_step"),
    [
        ({"upload": 401}, "refused the key", "Check the key"),
        ({"upload": 400}, "says 400", "Change it"),
        ({"create": ["403"]}, "may not create fine-tuning jobs", "engine"),
        ({"create": ["400"]}, "says 400", "Change it"),
        ({"job": 404}, "no longer has this job", "Submit it again"),
    ],
)
def test_errors_have_a_next_step(
    store: Store, server: JobServer, job_id: str, faults: dict[str, Any], told: str, next_step: str
) -> None:
    server.faults |= faults
    job = carry(store, server, job_id)
    assert job.status == "failed" and told in (job.error or "") and next_step in (job.next_step or "")
    assert KEY not in f"{job.error} {job.next_step}" and server.count(CREATE) <= 1
    assert told in job_explanation.explain(job, job.updated_at)


@pytest.mark.parametrize(
    ("results", "steps", "note"),
    [
        (404, 0, "empty"),
        (b"", 0, "empty"),
        (RESULTS.encode()[:-20], 1, "could not be read: 1"),
        (b"<html>no</html>", 0, "not a results file"),
        (b"\xff\xfe\x00", 0, "not a results file"),
        (RESULTS.encode(), 2, None),
    ],
)
def test_a_results_file_that_is_missing_empty_or_cut_harms_nothing(
    store: Store, server: JobServer, job_id: str, results: Any, steps: int, note: str | None
) -> None:
    server.faults["results"] = results
    job = carry(store, server, job_id)
    assert job.status == "succeeded" and job.fine_tuned_model is not None
    curve = parse(job.results_csv or "")
    assert curve.steps == steps
    assert curve.note is None if note is None else note in (curve.note or "")
