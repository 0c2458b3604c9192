"""Several candidates at once: each job exactly once, after clicks, kills and refusals."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from core.actor import LOCAL
from core.db.store import Store, new_id
from core.db.tables import Spend
from core.errors import FabulaError, OverBudget
from core.finetuning import candidate_jobs, job_views, jobs
from core.finetuning.job_form import JobForm
from core.pricing import budget
from tests.support.waiting import at_once


@pytest.fixture
def forms(form: JobForm) -> list[JobForm]:
    hosted = replace(form, provider="together", file_format="chat", estimated_usd=Decimal(2))
    return [
        replace(form, name="a", base_model="gemma-3-270m"),
        replace(hosted, name="b", base_model="Qwen/Qwen3-8B"),
        replace(hosted, name="c", base_model="meta-llama/Llama-3.3-70B-Instruct-Reference", estimated_usd=Decimal(9)),
    ]


def _names(store: Store) -> list[str]:
    return sorted(job.name for job in job_views.list_jobs(store))


def test_the_same_request_starts_each_job_once(store: Store, forms: list[JobForm]) -> None:
    dataset_id, request = forms[0].dataset_id, new_id()
    first = candidate_jobs.start(store, LOCAL, dataset_id, forms, request)
    assert _names(store) == ["a", "b", "c"]
    assert [one.error for one in first] == [None] * 3
    jobs.give_up(store, first[0].job_id or "", FabulaError("no"))  # even a job that has ended is not repeated
    clicks = at_once(5, lambda: candidate_jobs.start(store, LOCAL, dataset_id, forms, request))
    assert {tuple(one.job_id for one in click) for click in clicks} == {tuple(one.job_id for one in first)}
    assert _names(store) == ["a", "b", "c"]
    with store.reading() as session:
        assert session.query(Spend).count() == 2  # each reserved once
    candidate_jobs.start(store, LOCAL, dataset_id, forms[:1], new_id())
    assert _names(store) == ["a", "a", "b", "c"]  # a new confirmation is a new job once the first has ended


def test_one_that_is_refused_leaves_nothing_and_does_not_stop_the_others(store: Store, forms: list[JobForm]) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(5))
    order = [forms[2], forms[0], forms[1]]
    found = candidate_jobs.start(store, LOCAL, forms[0].dataset_id, order, request := new_id())
    assert [one.job_id is None for one in found] == [True, False, False]
    assert isinstance(found[0].error, OverBudget) and found[0].error.next_step
    assert _names(store) == ["a", "b"]
    with store.reading() as session:
        assert [one.estimated_usd for one in session.query(Spend)] == [Decimal(2)]
    budget.set_budget(store, LOCAL, "month", Decimal(50))
    again = candidate_jobs.start(store, LOCAL, forms[0].dataset_id, order, request)
    assert [one.job_id for one in again[1:]] == [one.job_id for one in found[1:]]
    assert _names(store) == ["a", "b", "c"]


def test_a_kill_between_two_jobs_leaves_none(
    store: Store, forms: list[JobForm], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, started = jobs.submit, list[str]()

    def die_at_the_second(*arguments: object) -> str:
        if started:
            raise KeyboardInterrupt
        started.append("one")
        return submit(*arguments)  # type: ignore[arg-type]  # what `start` passes on

    monkeypatch.setattr(jobs, "submit", die_at_the_second)
    request = new_id()
    with pytest.raises(KeyboardInterrupt):
        candidate_jobs.start(store, LOCAL, forms[0].dataset_id, forms, request)
    assert _names(store) == []
    monkeypatch.setattr(jobs, "submit", submit)
    candidate_jobs.start(store, LOCAL, forms[0].dataset_id, forms, request)
    assert _names(store) == ["a", "b", "c"]
