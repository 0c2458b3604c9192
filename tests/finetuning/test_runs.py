"""Estimates, preflight, lineage, comparison, export and trackers of jobs, and their database rows."""

from __future__ import annotations

import io
import itertools
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets, versions
from core.db.store import Store
from core.db.tables import Checkpoint, TrainingJob, utcnow
from core.errors import FabulaError, NotFound, NotThere, OverBudget, Refused, Unavailable
from core.evaluation import run_export
from core.finetuning import (
    checkpoints,
    job_comparison,
    job_cost,
    job_events,
    job_explanation,
    job_views,
    jobs,
    lineage,
    preflight,
    submit,
)
from core.finetuning.job_form import JobForm, learning_rate_advice
from core.finetuning.results import Figure, parse
from core.pricing import budget
from core.pricing.price_book import PriceBook
from core.providers import ModelInfo, Provider, RemoteCheckpoint
from tests.support.fakes import MOMENT, RESULTS, FakeClient, FakeRegistry, event, job_view, remote_job
from tests.support.spending import spent
from tests.support.waiting import InstantStopSignal, run_to_end

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINI = "gpt-4.1-mini-2025-04-14"


@pytest.fixture
def form(store: Store) -> JobForm:
    frame = pd.DataFrame({"power": [f"飞行{n}" for n in range(20)], "story": [f"故事{n}" for n in range(20)]})
    dataset_id = datasets.from_frame(store, LOCAL, "<b>twenty</b>", frame, ["power"], "story")
    return JobForm(dataset_id, "First", "engine", "gemma-3-270m", suffix="tour", n_epochs=2)


@pytest.fixture
def book() -> PriceBook:
    return PriceBook.load(None, NOW)


def carry(
    store: Store, job_id: str, client: FakeClient | None = None, seen: Callable[[], None] = lambda: None
) -> FakeClient:
    """Like the worker; `seen` is called between two polls."""
    client, hurry = client or FakeClient(), InstantStopSignal()
    hurry.then = lambda number: seen()
    registry: Any = FakeRegistry({client.provider.id: client})
    try:
        run_to_end(lambda: jobs.carry_out(store, registry, job_id, hurry), hurry.wait)
    except FabulaError as exc:
        jobs.give_up(store, job_id, exc)
    return client


def done(store: Store, form: JobForm, model: str = "ft:gemma-3-270m:fabula:x:1", **more: Any) -> str:
    """A succeeded job."""
    job_id = jobs.submit(store, LOCAL, form)
    with store.session() as session:
        job = session.get_one(TrainingJob, job_id)
        values = {
            "status": "succeeded",
            "fine_tuned_model": model,
            "trained_tokens": 600,
            "results_csv": RESULTS,
            **more,
        }
        for name, value in values.items():
            setattr(job, name, value)
        job.finished_at, job.training_s = job.created_at + timedelta(seconds=90), 60.0
    return job_id


# --- the form and its version --------------------------------------------------------------------------------------


def test_a_validation_share_creates_one_version(store: Store, form: JobForm) -> None:
    wanted = replace(form, validation_share=0.2, estimated_usd=Decimal("1.5"), estimated_s=90.0, trackers=("trackio",))
    job = job_views.get(store, jobs.submit(store, LOCAL, wanted))
    assert jobs.submit(store, LOCAL, wanted) == job.id
    assert job.version_id is not None and job.validation_share == 0.2
    assert versions.get(store, job.version_id).n_validation == 4
    assert (job.estimated_usd, job.estimated_s) == (Decimal("1.5"), 90.0)
    assert job.trackers == {"trackio": {"project": "fabula"}}
    cloned = jobs.clone(store, job.id)
    assert cloned.version_id == job.version_id and cloned.n_epochs == 2 and cloned.name == "First (again)"
    assert cloned.trackers == ("trackio",) and cloned.estimated_usd is None
    with pytest.raises(NotFound):
        jobs.clone(store, "nothing")


@pytest.mark.parametrize(
    "change", [{"validation_share": 0.95}, {"trackers": ("mlflow",)}, {"trackers": ("wandb",), "project": " "}]
)
def test_a_form_that_cannot_be_is_refused(store: Store, form: JobForm, change: dict[str, Any]) -> None:
    with pytest.raises(FabulaError):
        jobs.submit(store, LOCAL, replace(form, **change))


def test_advice_about_the_rate_looks_at_the_size() -> None:
    assert "0.2" in learning_rate_advice(135, True) and "a little data" in learning_rate_advice(135, True)
    assert "0.05 to 0.2" in learning_rate_advice(135, False) == learning_rate_advice(None, True)
    assert (
        "1.0 is a good default"
        in learning_rate_advice(135, True, "engine")
        != learning_rate_advice(500, True, "engine")
    )


@pytest.mark.parametrize("provider", ["engine", "openai"])
def test_a_job_that_learns_from_votes_is_not_advised_to_raise_the_rate(provider: str) -> None:
    advice = learning_rate_advice(5, True, provider, "dpo")
    assert "higher" not in advice and "lower rate stays closer" in advice


# --- upload and poll -----------------------------------------------------------------------------------------------


def test_upload_progress_is_saved(store: Store, form: JobForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_PROGRESS_WRITE_S", 0.0)
    job_id = jobs.submit(store, LOCAL, form)
    seen: list[tuple[float | None, str]] = []

    class Slow(FakeClient):
        def upload(self, path: Any, purpose: str = "fine-tune", on_progress: Any = None) -> str:
            size = path.stat().st_size
            on_progress(size // 2, size)
            job = job_views.get(store, job_id)
            seen.append((job.upload_share, job_explanation.explain(job, job.created_at)))
            return super().upload(path, purpose)

    carry(store, job_id, Slow())
    assert seen[0][0] == pytest.approx(0.5, abs=0.01) and "being uploaded: 50 % of 1 KiB" in seen[0][1]
    assert job_views.get(store, job_id).upload_share == 1


def test_a_cancelled_upload_is_aborted(store: Store, form: JobForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_PROGRESS_WRITE_S", 0.0)
    job_id = jobs.submit(store, LOCAL, form)

    class CancellingClient(FakeClient):
        def upload(self, path: Any, purpose: str = "fine-tune", on_progress: Any = None) -> str:
            jobs.request(store, LOCAL, job_id, "cancel")
            try:
                on_progress(1, 2)
            except Exception as exc:  # like the SDK
                raise Unavailable("The connection broke.") from exc
            raise AssertionError("it went on")

    client = carry(store, job_id, CancellingClient())
    assert job_views.get(store, job_id).status == "cancelled" and client.count("create_job") == 0


def test_checkpoints_come_into_the_ledger_with_the_poll(store: Store, form: JobForm) -> None:
    client = FakeClient()
    remote = [RemoteCheckpoint(f"c{n}", n, f"m:{n}", MOMENT, {"valid_loss": 1 / n}) for n in (1, 2)]
    client.enqueue("checkpoints", Unavailable("away"), remote)
    job_id = jobs.submit(store, LOCAL, form)
    carry(store, job_id, client)
    assert [(one.step, one.model, one.loss()) for one in checkpoints.list_checkpoints(store, job_id)] == [
        (1, "m:1", Figure(1.0, "held_out")),
        (2, "m:2", Figure(0.5, "held_out")),
    ]
    assert checkpoints.list_checkpoints(store, "nothing") == ()


def test_a_model_that_is_not_listed_yet_is_waited_for(store: Store, form: JobForm) -> None:
    client = FakeClient()
    late = remote_job("succeeded", fine_tuned_model=None)
    client.enqueue("job", late, late, late, remote_job("succeeded"))
    # a queue repeats its last answer; earlier ones are used once
    job_id = jobs.submit(store, LOCAL, form)
    messages: list[str] = []
    carry(
        store, job_id, client, lambda: messages.append(job_explanation.explain(job_views.get(store, job_id), utcnow()))
    )
    assert "queue" not in messages[-2] and "names no model yet. Fabula asks again for five minutes" in messages[-2]
    assert job_views.get(store, job_id).error is None
    assert job_views.get(store, job_id).fine_tuned_model is not None
    assert any("names no model yet" in one.message for one in job_events.events(store, job_id))


def test_waiting_for_a_missing_model_ends(store: Store, form: JobForm) -> None:
    client = FakeClient()
    client.enqueue("job", remote_job("succeeded", fine_tuned_model=None))
    job_id = jobs.submit(store, LOCAL, form)
    carry(store, job_id, client)
    job = job_views.get(store, job_id)
    assert job.status == "succeeded" and "names no model" in job_explanation.explain(job, NOW)


def test_unknown_statuses_of_a_provider_are_stored(store: Store, form: JobForm) -> None:
    client = FakeClient()
    strange = replace(event(1, "hm\0", "reward"), level="a level that is long")
    client.enqueue("events", [strange])
    seen: list[str] = []

    class StatusClient(FakeClient):
        def job(self, job_id: str) -> Any:
            seen.append(job_views.get(store, ours).status)
            return super().job(job_id)

    looked = StatusClient()
    looked.enqueue("events", [strange])
    looked.enqueue("job", remote_job("pondering deeply about what was asked"), remote_job("succeeded"))
    ours = jobs.submit(store, LOCAL, form)
    carry(store, ours, looked)
    assert "pondering deeply about what wa" in seen
    assert [one.level for one in job_events.events(store, ours)] == ["a level th"]


# --- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "minutes", "silent", "told"),
    [
        ({"status": "queued"}, 12, None, "Queued for 12 min. This is normal."),
        ({"status": "queued"}, 400, None, "Queued at the provider for 6 h 40 min"),
        ({"status": "running"}, 50, 40, "No event for 40 min; the provider still reports running."),
        (
            {"status": "running", "running_since": MOMENT},
            1,
            1,
            "Loading the model and timing the first steps. This takes 1 to 2 min.",
        ),
        ({"status": "running", "running_since": MOMENT}, 50, 5, "Training · 50 min elapsed"),
        ({"status": "running", "estimated_finish": MOMENT + timedelta(minutes=10)}, 60, None, "50 min longer"),
        ({"status": "running", "estimated_finish": MOMENT + timedelta(hours=2)}, 50, 40, "about 70 min left"),
        (
            {"status": "running", "estimated_finish": MOMENT + timedelta(hours=2), "provider": "openai"},
            50,
            40,
            "No event for 40 min",
        ),
        (
            {"status": "running", "estimated_s": 600.0, "running_since": MOMENT},
            4,
            None,
            "Training · about 6 min left.",
        ),
        ({"status": "pondering"}, 5, None, "Status reported by the provider: pondering."),
    ],
)
def test_a_job_state_is_explained(change: dict[str, Any], minutes: int, silent: int | None, told: str) -> None:
    now = MOMENT + timedelta(minutes=minutes)
    last = None if silent is None else now - timedelta(minutes=silent)
    assert told in job_explanation.explain(job_view(updated_at=now, remote_id="r", **change), now, last)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("The training file violates our usage policies", "moderation"),
        ("You exceeded your current quota", "credit"),
        ("Line 3: missing role", "Fix the lines listed"),
        ("An example can have 4096 tokens; maximum context", "Shorten"),
        ("the loss is nan at step 7", "lower learning rate"),
        ("Internal server error", "Submit it again"),
        ("hm", "Read the events"),
    ],
)
def test_a_failed_job_has_advice_for_its_cause(error: str, told: str) -> None:
    assert told in job_explanation.failure_advice(error)


def test_training_time_grows_while_a_job_runs_and_an_overdue_estimate_is_dropped() -> None:
    job = job_view(status="running", estimated_s=100.0)
    job = replace(job, running_since=MOMENT)
    assert job.training_s(MOMENT + timedelta(seconds=40)) == 40 and job.eta_s(MOMENT + timedelta(seconds=40)) == 60
    assert replace(job, estimated_finish=MOMENT).eta_s(NOW) is None  # long overdue: not used
    assert job_view(trained_s=9.0).training_s(NOW) == 9 and job_view().eta_s(NOW) is None


# --- estimate and permission ---------------------------------------------------------------------------------------


def test_an_estimate_is_tokens_money_and_time(store: Store, form: JobForm, book: PriceBook) -> None:
    first = job_cost.estimate(store, book, "engine", "gemma-3-270m", tokens=1_000, epochs=None, examples=30)
    assert (first.epochs, first.trained_tokens, first.cost_usd, first.local, first.seconds) == (5, 5_000, 0, True, None)
    assert "after the first job" in first.basis
    rough = job_cost.estimate(store, book, "engine", "gemma-3-270m", tokens=100, epochs=2, rough_speed=50)
    assert rough.seconds == job_cost.STARTUP_S + 4 and rough.rough and rough.basis.startswith("Rough estimate")
    running = job_cost.estimate(store, book, "engine", "gemma-3-270m", tokens=100, epochs=2, speed=50, rough_speed=1)
    assert running.seconds == job_cost.STARTUP_S + 4 and "50 tokens per second" in running.basis
    done(store, form)  # 600 tokens in 60 s, a third of it start-up: 15 tokens per second
    measured = job_cost.estimate(
        store, book, "engine", "ft:gemma-3-270m:fabula:x:1", tokens=100, epochs=2, rough_speed=1
    )
    assert not measured.rough and not running.rough
    assert measured.seconds == pytest.approx(job_cost.STARTUP_S + 200 / 15) and "last job" in measured.basis
    paid = job_cost.estimate(store, book, "openai", MINI, tokens=1_000_000, epochs=1)
    assert paid.cost_usd == Decimal(5) and paid.train_until == date(2027, 1, 6)
    assert paid.callable_until == date(2027, 1, 14)
    assert job_cost.estimate(store, book, "openai", "nobody-knows", tokens=5, epochs=1).cost_usd is None


class Account:
    """An endpoint that lists its jobs or raises an error."""

    def __init__(
        self, kind: str = "openai", fault: FabulaError | None = None, not_trainable: str | None = None
    ) -> None:
        self.provider = Provider(kind, kind, kind.title(), "http://x/v1", "k")  # type: ignore[arg-type]
        self._fault, self._not_trainable = fault, not_trainable

    def model(self, model_id: str) -> ModelInfo:
        if self._fault is not None:
            raise self._fault
        return ModelInfo(model_id, self.provider.id, None, "both", None, not_trainable=self._not_trainable)

    def jobs(self) -> Iterator[Any]:
        if self._fault is not None:
            raise self._fault
        return iter(())


@pytest.mark.parametrize(
    ("account", "now", "may", "told"),
    [
        (Account("engine"), NOW, True, "No account"),
        (Account("engine", not_trainable="general.architecture is 'llama'"), NOW, False, "is 'llama'."),
        (Account("engine", Unavailable("It starts.")), NOW, None, "could not be reached: It starts."),
        (Account("openai", Refused("The key is wrong.", "Set another one.")), NOW, False, "The key is wrong."),
        (Account("openai", Unavailable("It is away.")), NOW, None, "could not be reached"),
        (Account("openai"), NOW, None, "You will find out when you submit"),
        (Account("openai"), datetime(2027, 1, 6, tzinfo=UTC), False, "2027-01-06"),
        (Account("azure"), NOW, None, "first one"),
    ],
)
def test_preflight_reports_whether_an_account_may_train(
    store: Store, book: PriceBook, account: Any, now: datetime, may: bool | None, told: str
) -> None:
    found = preflight.preflight(store, account, book, MINI, now)
    assert found.may_train is may and told in found.reason
    assert found.next_step == ("Set another one." if told == "The key is wrong." else "")


def test_preflight_uses_earlier_jobs(store: Store, form: JobForm, book: PriceBook) -> None:
    paid = replace(form, provider="openai", base_model=MINI)
    done(store, paid, "ft:x", created_at=NOW - timedelta(days=3))
    found = preflight.preflight(store, Account(), book, MINI, NOW)  # type: ignore[arg-type]
    assert found.may_train is True
    assert found.callable_until == date(2027, 1, 14) and "53 days" in found.lifetime
    refused = jobs.submit(store, LOCAL, replace(paid, name="later"))
    jobs.give_up(store, refused, Refused("This account may not create fine-tuning jobs at OpenAI: no"))
    assert preflight.preflight(store, Account(), book, MINI, NOW).may_train is False  # type: ignore[arg-type]
    closed = preflight.preflight(store, Account(), book, MINI, datetime(2027, 2, 1, tzinfo=UTC))  # type: ignore[arg-type]
    assert closed.may_train is False and "no longer work" in closed.lifetime


# --- money ---------------------------------------------------------------------------------------------------------


def test_a_job_is_reserved_with_the_button_and_settled_at_the_end(store: Store, form: JobForm) -> None:
    paid = replace(form, provider="openai", base_model=MINI, estimated_usd=Decimal(2))
    job_id = jobs.submit(store, LOCAL, paid)
    assert spent(store, MOMENT, job_id).cost_usd == 2
    client = FakeClient(Provider("openai", "openai", "OpenAI", "http://x/v1", "k"))
    carry(store, job_id, client)
    found = spent(store, MOMENT, job_id)
    assert (found.calls, found.cost_usd) == (1, Decimal("0.00625"))  # 1,250 tokens at 5 USD per million
    assert job_views.get(store, job_id).cost_usd == Decimal("0.00625")


def test_a_reservation_is_released_if_nothing_ran(store: Store, form: JobForm) -> None:
    paid = replace(form, provider="openai", base_model=MINI, estimated_usd=Decimal(2))
    failed, cancelled = jobs.submit(store, LOCAL, paid), jobs.submit(store, LOCAL, replace(paid, name="b"))
    jobs.give_up(store, failed, Refused("no"))
    jobs.request(store, LOCAL, cancelled, "cancel")
    carry(store, cancelled, FakeClient(Provider("openai", "openai", "OpenAI", "http://x/v1", "k")))
    assert job_views.get(store, cancelled).status == "cancelled"
    assert spent(store, MOMENT).calls == 0


@pytest.mark.parametrize(
    ("answers", "calls", "cost_usd"),
    [
        ((remote_job("running"), remote_job("succeeded")), 1, Decimal("0.00625")),
        ((remote_job("running"), remote_job("succeeded", trained_tokens=None)), 1, None),
        ((remote_job("running"), remote_job("cancelled", trained_tokens=1_000)), 1, Decimal("0.005")),
        ((remote_job("running"), remote_job("cancelled")), 1, None),
        ((remote_job("running"), NotThere("No such job.", "")), 1, None),
        ((remote_job("queued"), remote_job("cancelled")), 0, Decimal(0)),
        ((remote_job("running"), remote_job("failed", error="No.")), 1, None),
        ((remote_job("running"), remote_job("failed", error="No.", trained_tokens=1_000)), 1, Decimal("0.005")),
        ((remote_job("running"), remote_job("failed", error="No.", trained_tokens=0)), 1, Decimal(0)),
        ((remote_job("queued"), remote_job("failed", error="No.")), 0, Decimal(0)),
    ],
)
def test_a_job_that_ended_may_be_billed_for_what_it_has_trained(
    store: Store, form: JobForm, answers: tuple[object, ...], calls: int, cost_usd: Decimal | None
) -> None:
    """None: unknown, and the estimate counts against budgets."""
    paid = replace(form, provider="openai", base_model=MINI, estimated_usd=Decimal(2))
    client = FakeClient(Provider("openai", "openai", "OpenAI", "http://x/v1", "k"))
    client.enqueue("job", *answers)
    job_id = jobs.submit(store, LOCAL, paid)
    carry(store, job_id, client)
    assert job_views.get(store, job_id).finished
    found = spent(store, MOMENT, job_id)
    unknown = cost_usd is None
    assert (found.calls, found.unknown, found.cost_usd) == (calls, int(unknown), cost_usd or 0)
    with store.reading() as session:
        assert budget.spent_on(session, job_id) == (2 if unknown else cost_usd)


@pytest.mark.parametrize("expected", [Decimal(2), None])
def test_a_budget_is_enforced_before_sending(store: Store, form: JobForm, expected: Decimal | None) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    with pytest.raises(OverBudget):
        jobs.submit(store, LOCAL, replace(form, provider="openai", base_model=MINI, estimated_usd=expected))
    assert job_views.list_jobs(store) == []
    assert jobs.submit(store, LOCAL, form)  # engine jobs are free


# --- family and comparison -----------------------------------------------------------------------------------------


@pytest.fixture
def family_of_two(store: Store, form: JobForm) -> tuple[str, str]:
    paid = replace(form, provider="openai")  # the engine has no charge
    first = done(store, paid, cost_usd=Decimal("3.69"))
    with store.session() as session:
        session.add(Checkpoint(job_id=first, remote_id="c1", step=5, model="ft:m:ckpt-step-5", metrics={}))
    further = replace(paid, name='Second "one"', base_model="ft:gemma-3-270m:fabula:x:1")
    second = done(store, further, "ft:gemma-3-270m:fabula:y:2", cost_usd=Decimal("1.05"))
    done(store, replace(form, name="Stranger", base_model="other"), "ft:other:z")
    return first, second


def test_a_chain_goes_back_to_its_first_job_and_sums_up(store: Store, family_of_two: tuple[str, str]) -> None:
    found = lineage.chain(store, family_of_two[1])
    assert tuple(one.id for one in found) == family_of_two and found[1].parent_id == family_of_two[0]
    total = lineage.chain_cost(found, NOW)
    assert (total.known_usd, total.unknown, total.tokens, total.seconds) == (Decimal("4.74"), 0, 1_200, 120)
    assert lineage.chain_cost([job_view()], NOW).unknown == 1


def test_a_job_on_a_checkpoint_has_its_job_as_parent(
    store: Store, form: JobForm, family_of_two: tuple[str, str]
) -> None:
    third = jobs.submit(store, LOCAL, replace(form, name="third", provider="openai", base_model="ft:m:ckpt-step-5"))
    assert job_views.get(store, third).parent_id == family_of_two[0]


def test_who_made_a_model_is_known_of_checkpoints_too(store: Store, family_of_two: tuple[str, str]) -> None:
    first, second = family_of_two
    tuned = str(job_views.get(store, first).fine_tuned_model)
    found = {model: lineage.job_that_made(store, model) for model in (tuned, f"{tuned}:ckpt-step-9", "m:1", "nobody")}
    assert [one.id if one else None for one in found.values()] == [first, first, None, None]
    with store.session() as session:  # of a job without a model
        session.add(Checkpoint(job_id=second, remote_id="c", step=1, model="m:1", metrics={}, created_at=MOMENT))
    assert [one.id for one in (lineage.job_that_made(store, "m:1"),) if one] == [second]
    assert [one.id for one in lineage.chains_of(job_views.list_jobs(store))[second]] == [first, second]


def test_the_speed_estimate_is_independent_of_other_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock runs a hundred times faster than the thread clock, as on a busy machine."""
    worked = itertools.count(step=0.001)
    passed = itertools.count(step=0.1)
    monkeypatch.setattr(time, "thread_time", lambda: next(worked))
    monkeypatch.setattr(time, "perf_counter", lambda: next(passed))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert job_cost.measure_rough_speed() == pytest.approx(
        2 * 2 * 64**3 * job_cost._PRODUCTS_PER_TIMING / 0.001 / 1.4e9
    )
    monkeypatch.undo()
    assert job_cost.measure_rough_speed() > 0


@pytest.mark.parametrize("text", ["", "step\n", RESULTS, RESULTS * 9])
def test_the_end_of_a_results_file_tells_whether_it_has_changed(store: Store, form: JobForm, text: str) -> None:
    job_id = done(store, form, results_csv=text)
    assert job_views.results_tail(store, job_id) == (len(text), text[-81:])
    assert job_views.results_tail(store, "nothing") == (0, "")


def test_the_family_has_data_sets_jobs_checkpoints_and_models(store: Store, family_of_two: tuple[str, str]) -> None:
    drawn = lineage.family(store, family_of_two[0])
    kinds = [one.kind for one in drawn.nodes]
    assert sorted(set(kinds)) == ["base", "checkpoint", "dataset", "job", "model"]
    assert kinds.count("job") == 2 and kinds.count("base") == 1 and kinds.count("dataset") == 1
    model_node = "model:openai/ft:gemma-3-270m:fabula:x:1"
    assert (f"job:{family_of_two[0]}", model_node) in drawn.edges and (
        model_node,
        f"job:{family_of_two[1]}",
    ) in drawn.edges
    assert len(lineage.family(store).nodes) > len(drawn.nodes)


def test_runs_side_by_side() -> None:
    good, bad = parse("step,training_loss,training_token_accuracy\n1,2,0.5\n2,1,0.9\n"), parse(RESULTS)
    one = job_view("a", dataset_id="d", hyperparameters={"n_epochs": 2}, cost_usd=Decimal(4))
    other = replace(
        one, id="b", name="job b", hyperparameters={"n_epochs": 3}, cost_usd=Decimal(9),
        finished_at=MOMENT + timedelta(hours=1),
    )  # fmt: skip
    found = job_comparison.compare([one, other], [good, bad], NOW)
    assert [row.name for row in found.rows if row.differs] == ["n_epochs"]
    assert found.columns[0].points == pytest.approx(40) and found.columns[0].usd_per_point == Decimal("0.1")
    assert found.best["accuracy"] == "a" and "training_s" not in found.best and "valid_loss" not in found.best
    assert found.comparable and "job a" in found.sentence and "90.0 % (last step)" in found.sentence
    same = job_comparison.compare([one, replace(one, id="c")], [good, good], NOW)
    assert not same.best and "same settings" in same.sentence
    validated = parse("step,valid_loss\n1,0.5\n")
    assert (
        "validation loss 0.500"
        in job_comparison.compare([one, other], [validated, parse("step,valid_loss\n1,1\n")], NOW).sentence
    )
    with pytest.raises(ValueError, match="argument"):
        job_comparison.compare([one], [], NOW)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (None, None, "No run used validation data."),
        (0.5, None, "Runs with validation data: 1 of 2."),
        (0.5, 0.5, "All runs perform equally on held-out rows."),
    ],
)
def test_the_validated_runs_are_counted(first: float | None, second: float | None, says: str) -> None:
    header = "step,training_token_accuracy,valid_loss"
    both = [
        parse(f"{header}\n1,{accuracy},{'' if loss is None else loss}\n")
        for accuracy, loss in ((0.9, first), (0.6, second))
    ]
    jobs_ = [job_view(name, dataset_id="d", hyperparameters={"n_epochs": n}) for n, name in enumerate("ab", start=2)]
    sentence = job_comparison.compare(jobs_, both, NOW).sentence
    assert sentence.startswith("'job a' has the highest training accuracy: 90.0 % (last step).") and says in sentence


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({}, {}, True),
        ({"version_id": "v"}, {"version_id": "v"}, True),
        ({"n_examples": 90, "validation_share": 0.1}, {"n_examples": 90, "validation_share": 0.1}, True),
        ({}, {"dataset_id": "other"}, False),
        ({"dataset_id": None}, {"dataset_id": None}, False),  # unknown data sets are not equal
        ({"version_id": "v"}, {"version_id": "w"}, False),
        ({"version_id": "v"}, {}, False),
        ({}, {"n_examples": 99}, False),  # rows were added in between
        ({"validation_share": 0.1}, {"validation_share": 0.2}, False),
    ],
)
def test_only_runs_on_the_same_rows_and_split_are_ranked(
    first: dict[str, Any], second: dict[str, Any], same: bool
) -> None:
    plain = {"dataset_id": "d", "n_examples": 100, "cost_usd": Decimal(4)}
    one = job_view("a", **{**plain, **first}, hyperparameters={"n_epochs": 2})
    other = job_view(
        "b", **{**plain, **second}, hyperparameters={"n_epochs": 3}, finished_at=MOMENT + timedelta(hours=1)
    )
    results = [parse(f"step,training_loss,valid_loss\n1,{loss},{loss}\n") for loss in (1, 2)]
    found = job_comparison.compare([one, other], results, NOW)
    assert found.comparable is same and bool(found.best) is same
    assert ("can't be ranked" in found.sentence) is not same


@pytest.mark.parametrize(
    ("first", "second", "ranked"),
    [
        ("gemma-3-270m", "gemma-3-270m", True),
        ("gemma-3-270m", "ft:gemma-3-270m:fabula:x:AbC123", True),  # trained further: the same tokenizer
        ("gemma-3-270m", "qwen3-0.6b", False),
        ("gpt-4o-mini-2024-07-18", "gemma-3-270m", False),
        ("ft:gemma-3-270m:fabula:x:AbC123", "ft:qwen3-0.6b:fabula:x:AbC123", False),
    ],
)
def test_figures_per_token_are_ranked_within_one_base_model_only(first: str, second: str, ranked: bool) -> None:
    values = {"dataset_id": "d", "n_examples": 100}
    one = job_view("a", **values, base_model=first, cost_usd=Decimal(4))
    other = job_view("b", **values, base_model=second, cost_usd=Decimal(9), hyperparameters={"n_epochs": 3})
    header = "step,training_loss,training_token_accuracy,valid_loss"
    results = [parse(f"{header}\n1,9,0.1,9\n2,{loss},{1 - loss},{loss}\n") for loss in (0.1, 0.2)]
    found = job_comparison.compare([one, other], results, NOW)
    per_token = {"last_loss", "valid_loss", "accuracy", "usd_per_point"}
    assert found.comparable and found.best["cost_usd"] == "a"
    assert found.best.keys() & per_token == (per_token if ranked else set())
    assert ("per token" in found.sentence) is not ranked


def test_a_last_step_is_not_ranked_with_a_smoothed_figure() -> None:
    short, long = (parse("step,training_loss\n" + "".join(f"{n},{9 / n}\n" for n in range(1, k))) for k in (9, 60))
    runs = [job_view(name, dataset_id="d", hyperparameters={"n_epochs": n}) for n, name in enumerate("ab")]
    found = job_comparison.compare(runs, [short, long], NOW)
    assert [one.last_loss and one.last_loss.definition for one in found.columns] == ["last_step", "smoothed"]
    assert found.comparable and "last_loss" not in found.best


# --- export and trackers -------------------------------------------------------------------------------------------

CHART = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"values": [{"a": 1, "b": 2}]},
    "mark": "line",
    "encoding": {"x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "quantitative"}},
}


def test_a_run_can_be_exported(store: Store, family_of_two: tuple[str, str]) -> None:
    with zipfile.ZipFile(io.BytesIO(run_export.run_zip(store, family_of_two[1], {"../loss": CHART}))) as file:
        names = set(file.namelist())
        assert {"README.md", "settings.json", "results.csv", "events.csv", "checkpoints.csv", "lineage.json"} <= names
        assert "charts/---loss.vl.json" in names
        assert json.loads(file.read("settings.json"))["cost_usd"] == "1.05"
        assert file.read("results.csv").decode() == RESULTS
        assert [one["name"] for one in json.loads(file.read("lineage.json"))] == ["First", 'Second "one"']
        if run_export.chart_images():
            assert file.read("charts/---loss.svg").startswith(b"<svg")
            assert file.read("charts/---loss.png").startswith(b"\x89PNG")
    with pytest.raises(NotFound):
        run_export.run_zip(store, "nothing")


def test_a_chart_is_left_as_it_is_where_nothing_can_draw_it(
    store: Store, family_of_two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_export, "chart_images", lambda: False)
    with zipfile.ZipFile(io.BytesIO(run_export.run_zip(store, family_of_two[0], {"loss": CHART}))) as file:
        assert [one for one in file.namelist() if one.startswith("charts/")] == ["charts/loss.vl.json"]


def test_the_model_card_has_known_facts_and_escaped_names(store: Store, family_of_two: tuple[str, str]) -> None:
    card = run_export.model_card(store, family_of_two[1])
    assert card.startswith("# ft:gemma-3-270m:fabula:y:2")
    assert "First → Second" in card and "\\<b\\>twenty" in card and "<b>" not in card
    assert "| Cost | $1.05 |" in card and "| Base model | gemma-3-270m |" in card
    assert "Not evaluated on held-out rows" in card
