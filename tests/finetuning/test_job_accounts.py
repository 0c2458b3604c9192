"""A provider edited or removed while it has a training job: none is created twice, or asked for at another account."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.db.tables import Spend
from core.errors import FabulaError, NotFound, ProviderRemoved, Refused
from core.failures import of_job
from core.finetuning import job_views, jobs
from core.finetuning.job_form import JobForm
from core.finetuning.job_views import JobView
from core.providers import Client, JobRequest, Provider, RemoteJob, RetryPolicy
from tests.support.fakes import FakeRegistry
from tests.support.job_server import JobServer
from tests.support.waiting import InstantStopSignal, run_to_end

CREATE, UPLOAD = "POST /v1/fine_tuning/jobs", "POST /v1/files"
_QUICK = RetryPolicy(tries=2, base_s=0.001, cap_s=0.01)
_COST = Decimal(5)
_STATES = pytest.mark.parametrize("state", ["submitting", "running"])


class Killed(BaseException):
    """Like kill -9: no later code runs."""


class _DiesWhileSubmitting(Client):
    def create_job(self, request: JobRequest, intent_id: str) -> RemoteJob:
        super().create_job(request, intent_id)
        raise Killed


class _WithRefusedKey(Client):
    def find_job(self, intent_id: str) -> RemoteJob | None:
        raise Refused("This key is not valid.", "Enter another key.")


class _DiesWhileWatching(Client):
    def job(self, job_id: str) -> RemoteJob:
        raise Killed


@pytest.fixture
def server() -> Iterator[JobServer]:
    """The account that gets the job."""
    with JobServer() as running:
        yield running


@pytest.fixture
def other() -> Iterator[JobServer]:
    """Another account, at another address."""
    with JobServer() as running:
        yield running


@pytest.fixture
def job_id(store: Store) -> str:
    frame = pd.DataFrame({"power": [f"飞行{n}" for n in range(12)], "story": [f"故事{n}" for n in range(12)]})
    dataset_id = datasets.from_frame(store, LOCAL, "twelve", frame, ["power"], "story")
    return jobs.submit(store, LOCAL, JobForm(dataset_id, "First", "hosted", "base", estimated_usd=_COST))


def _at(server: JobServer, key: str = "sk-first", kind: type[Client] = Client) -> Any:
    provider = Provider("hosted", "openai", "My account", f"{server.url}/v1", key)
    return FakeRegistry({"hosted": kind(provider, retry_policy=_QUICK)})


def _carry(store: Store, registry: Any, job_id: str) -> JobView:
    try:
        run_to_end(lambda: jobs.carry_out(store, registry, job_id, InstantStopSignal()), lambda _: None)
    except FabulaError as exc:
        jobs.give_up(store, job_id, exc)
    return job_views.get(store, job_id)


def _leave(store: Store, server: JobServer, job_id: str, state: str) -> None:
    """Leave the job in `state`, as a worker that is killed."""
    kind = _DiesWhileSubmitting if state == "submitting" else _DiesWhileWatching
    with pytest.raises(Killed):
        jobs.carry_out(store, _at(server, kind=kind), job_id, InstantStopSignal())
    assert job_views.get(store, job_id).status == state


def _costs(store: Store) -> list[tuple[Decimal | None, Decimal | None]]:
    with store.reading() as session:
        return [(line.cost_usd, line.estimated_usd) for line in session.scalars(select(Spend))]


@_STATES
def test_a_job_is_not_created_again_at_another_account(
    store: Store, server: JobServer, other: JobServer, job_id: str, state: str
) -> None:
    _leave(store, server, job_id, state)
    for _look in range(2):
        assert jobs.carry_out(store, _at(other), job_id, InstantStopSignal())  # it waits, and looks again
    waiting = job_views.get(store, job_id)
    assert waiting.status == state and of_job(waiting.error).cause == "provider_changed"
    for words in ("The job is at another account", server.url, other.url):
        assert words in (waiting.error or "")
    assert "Set the provider back" in (waiting.next_step or "")
    assert other.count(CREATE) == other.count(UPLOAD) == 0 and _costs(store) == [(_COST, _COST)]
    assert _carry(store, _at(server), job_id).status == "succeeded"
    assert (server.count(CREATE), other.count(CREATE)) == (1, 0)


@_STATES
def test_a_job_at_another_account_is_given_up_with_an_unknown_cost(
    store: Store, server: JobServer, other: JobServer, job_id: str, state: str
) -> None:
    _leave(store, server, job_id, state)
    jobs.request(store, LOCAL, job_id, "cancel")
    ended = _carry(store, _at(other), job_id)
    assert ended.status == "failed" and "another account" in (ended.error or "")
    assert "may still be running there" in (ended.next_step or "") and _costs(store) == [(None, _COST)]


@_STATES
def test_a_new_key_of_the_same_account_continues_its_job(
    store: Store, server: JobServer, job_id: str, state: str
) -> None:
    _leave(store, server, job_id, state)
    assert _carry(store, _at(server, "sk-second"), job_id).status == "succeeded"
    assert server.count(CREATE) == 1


@_STATES
def test_a_job_at_a_removed_provider_ends_and_says_where_to_look(
    store: Store, server: JobServer, job_id: str, state: str
) -> None:
    _leave(store, server, job_id, state)
    ended = _carry(store, FakeRegistry({"hosted": ProviderRemoved("The provider My account was removed.")}), job_id)
    assert ended.status == "failed" and of_job(ended.error).cause == "provider_removed"
    assert "may still be running there" in (ended.next_step or "") and _costs(store) == [(None, _COST)]


@pytest.mark.parametrize("key", ["refused", "missing"])
def test_a_job_that_may_have_been_created_waits_until_its_account_answers(
    store: Store, server: JobServer, job_id: str, key: str
) -> None:
    _leave(store, server, job_id, "submitting")
    missing = FakeRegistry({"hosted": NotFound("There is no provider.", "Add it.")})
    unreached: Any = _at(server, kind=_WithRefusedKey) if key == "refused" else missing
    assert jobs.carry_out(store, unreached, job_id, InstantStopSignal())
    waiting = job_views.get(store, job_id)
    assert waiting.status == "submitting" and waiting.error and _costs(store) == [(_COST, _COST)]
    jobs.request(store, LOCAL, job_id, "cancel")
    given_up = _carry(store, unreached, job_id)
    assert given_up.status == "failed" and "may still be running there" in (given_up.next_step or "")
    assert _costs(store) == [(None, _COST)]  # it was created, and may be billed
    assert (server.count(CREATE), len(server.jobs)) == (1, 1)


@pytest.mark.parametrize("fault", ["400", "403"])
def test_a_job_that_the_provider_rejected_costs_nothing(
    store: Store, server: JobServer, job_id: str, fault: str
) -> None:
    server.faults["create"] = [fault]
    ended = _carry(store, _at(server), job_id)
    assert ended.status == "failed" and server.jobs == [] and _costs(store) == []


def test_a_job_that_was_not_submitted_costs_nothing_when_its_provider_is_removed(store: Store, job_id: str) -> None:
    ended = _carry(store, FakeRegistry({"hosted": ProviderRemoved("The provider My account was removed.")}), job_id)
    assert ended.status == "failed" and _costs(store) == []
