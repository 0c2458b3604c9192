"""Evaluations: one request per row, immediate saving, resuming, and comparison row by row."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import func, select, update

from core.actor import LOCAL
from core.datasets import datasets, versions
from core.db import leases
from core.db.store import Store
from core.db.tables import Evaluation, EvaluationAnswer, Spend, TrainingJob
from core.errors import (
    BadRequest,
    BadTrainingFile,
    FabulaError,
    ModelNotFound,
    NotFound,
    RateLimited,
    Refused,
    ServerError,
    StorageFull,
    Unavailable,
    Unreadable,
)
from core.evaluation import evaluation_run, evaluations, holdout
from core.evaluation.comparing import compare_evaluations
from core.evaluation.evaluation_request import EvaluationContext, EvaluationStopped
from core.evaluation.evaluations import EvaluationForm
from core.finetuning import job_views, jobs
from core.finetuning.job_form import JobForm
from core.jobs.task_runner import KINDS
from core.parity import from_evaluations
from core.pricing import budget, custom_prices
from core.pricing.price_book import PriceBook
from core.pricing.prices import Price
from core.providers import Choice, Completion, CompletionRequest, Provider
from tests.support.fakes import BASE, LABELS, MOMENT, TUNED
from tests.support.scripted_evaluation import InstantEvent, ScriptedModel, go, right
from tests.support.spending import spent
from tests.support.waiting import WAIT_LIMIT_S, until


def test_held_out_rows_of_a_data_set(store: Store, form: EvaluationForm) -> None:
    held_out = holdout.held_out(store, form.dataset_id, form.version_id)
    assert (held_out.validation, held_out.held_out, held_out.usable, held_out.kind) == (24, 0, 24, "label")
    assert set(held_out.labels) == set(LABELS)
    assert holdout.held_out(store, form.dataset_id).usable == 0
    with pytest.raises(NotFound):
        holdout.held_out(store, "nothing")


def test_labels_are_judged_with_an_interval(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    assert evaluations.start(store, LOCAL, form) == evaluation_id
    assert KINDS["evaluation"].unfinished(store) == [evaluation_id]
    writer = ScriptedModel(lambda r: right(r) if "refund" not in r.prompt else "balance")
    go(store, evaluation_id, writer)
    view = evaluations.get(store, evaluation_id)
    assert (view.state, view.total, view.answered, view.failed, view.correct) == ("done", 24, 24, 0, 16)
    assert view.metrics is not None and view.metrics.accuracy is not None
    assert view.metrics.accuracy.value == pytest.approx(16 / 24)
    assert view.metrics.accuracy.low < 0.66 < view.metrics.accuracy.high
    assert view.metrics.confusion["refund"] == {"balance": 8}
    assert view.metrics.loss is None and "can't compute" in view.metrics.loss_note
    assert (view.metrics.prompt_tokens, view.metrics.completion_tokens, view.metrics.cost_usd) == (120, 48, Decimal(0))
    request = writer.asked[0]
    assert request.prompt.endswith(" ->") and request.stop == (".",) and request.endpoint == "completion"
    assert request.temperature == 0 and request.max_tokens == 16
    assert spent(store, MOMENT, evaluation_id).calls == 24
    assert len(evaluations.answers(store, evaluation_id, wrong_only=True)) == 8
    assert KINDS["evaluation"].unfinished(store) == []


@pytest.mark.parametrize(("file_format", "system"), [("chat", "Name the intent."), ("completion", "")])
def test_a_model_is_asked_with_the_system_text_that_it_learned(
    store: Store, form: EvaluationForm, file_format: str, system: str
) -> None:
    datasets.set_system_message(store, LOCAL, form.dataset_id, "Name the intent.")
    writer = ScriptedModel(right)
    go(store, evaluations.start(store, LOCAL, replace(form, file_format=file_format)), writer)
    assert {request.system for request in writer.asked} == {system}


@pytest.mark.parametrize(("reported", "at_a_time"), [(3, 3), (8, 8), (None, evaluation_run.DEFAULT_CONCURRENCY)])
def test_as_many_rows_are_asked_at_a_time_as_the_provider_works_on(
    store: Store, form: EvaluationForm, reported: int | None, at_a_time: int
) -> None:
    together = threading.Barrier(at_a_time)  # 24 rows: every round is complete
    now: list[CompletionRequest] = []
    peaks: list[int] = []

    def say(request: CompletionRequest) -> str:
        now.append(request)
        peaks.append(len(now))
        together.wait(WAIT_LIMIT_S)
        now.remove(request)
        return right(request)

    evaluation_id = evaluations.start(store, LOCAL, form)
    go(store, evaluation_id, ScriptedModel(say, at_a_time=reported))
    view = evaluations.get(store, evaluation_id)
    assert (view.state, view.answered, max(peaks)) == ("done", 24, at_a_time)


def test_tuned_and_base_are_compared_in_a_sentence(store: Store, form: EvaluationForm) -> None:
    tuned, base = evaluations.start(store, LOCAL, form), evaluations.start(store, LOCAL, replace(form, model=BASE))
    go(store, tuned, ScriptedModel(right))
    go(store, base, ScriptedModel(lambda r: "refund"))
    comparison = compare_evaluations(store, tuned, base)
    assert (comparison.n, comparison.tuned.value, round(comparison.base.value, 2)) == (24, 1.0, 0.33)
    assert comparison.difference.low > 0 and comparison.p_value is not None and comparison.p_value < 0.001
    assert comparison.sentence == "Fine-tuning helped: 100 % correct instead of 33 %, on 24 held-out rows."
    assert "No clear difference" in compare_evaluations(store, tuned, tuned).sentence
    assert "made it worse" in compare_evaluations(store, base, tuned).sentence


def test_a_card_tells_whether_a_new_model_is_as_good_as_the_old_one(store: Store, form: EvaluationForm) -> None:
    old, new = evaluations.start(store, LOCAL, form), evaluations.start(store, LOCAL, replace(form, model=BASE))
    go(store, old, ScriptedModel(right))
    go(store, new, ScriptedModel(lambda r: "refund"))
    card = from_evaluations.compare_evaluations(store, old, new)
    assert (card.task, card.verdict.outcome, card.worse_rows) == ("label", "worse", 16)
    assert (card.old.model, card.new.model) == (form.model, BASE)
    distilled = from_evaluations.compare_evaluations(store, new, new, distilled=True)
    assert distilled.against_old and distilled.verdict.outcome == "undecided"  # 24 rows are too few for 5 points


def test_a_card_ignores_the_stop_sequence_that_a_training_file_had_in_its_completions(
    store: Store, form: EvaluationForm
) -> None:
    marked = replace(form, stop="END")
    old, new = evaluations.start(store, LOCAL, marked), evaluations.start(store, LOCAL, replace(marked, model=BASE))
    go(store, old, ScriptedModel(right))
    go(store, new, ScriptedModel(right))
    with store.session() as session:
        session.execute(update(EvaluationAnswer).values(expected=EvaluationAnswer.expected + "END"))
    card = from_evaluations.compare_evaluations(store, old, new)
    assert card.old.score is not None and card.new.score is not None
    assert card.old.score.value == card.new.score.value == 1.0


def test_an_evaluation_resumes_and_sends_no_row_twice(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    stopping = InstantEvent()
    first = ScriptedModel(right)

    def say(request: CompletionRequest) -> str:
        if len(first.asked) >= 5:
            stopping.set()  # the worker stops or dies
        return right(request)

    first.say = say
    go(store, evaluation_id, first, stopping)
    view = evaluations.get(store, evaluation_id)
    assert view.state == "running" and 5 <= view.answered < 24
    second = ScriptedModel(right)
    go(store, evaluation_id, second)
    assert evaluations.get(store, evaluation_id).state == "done"
    prompts = [one.prompt for one in (*first.asked, *second.asked)]
    assert len(prompts) == len(set(prompts)) == 24


def test_two_workers_at_one_evaluation_pay_no_row_twice(store: Store, form: EvaluationForm) -> None:
    """One was taken for dead while it had requests in flight. It sends nothing more, and the other waits for them."""
    evaluation_id = evaluations.start(store, LOCAL, form)
    first, second, released = ScriptedModel(right), ScriptedModel(right), threading.Event()

    def say(request: CompletionRequest) -> str:
        assert released.wait(WAIT_LIMIT_S)
        return right(request)

    first.say = say
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(go, store, evaluation_id, first)
        until(lambda: len(first.asked) == evaluation_run.DEFAULT_CONCURRENCY, "requests in flight")
        owner = _claim(store, evaluation_id)
        quick = pool.submit(go, store, evaluation_id, second)
        until(lambda: _claim(store, evaluation_id) != owner, "another worker took over")
        released.set()
        slow.result(), quick.result()
    view = evaluations.get(store, evaluation_id)
    assert (view.state, view.answered, spent(store, MOMENT, evaluation_id).calls) == ("done", 24, 24)
    prompts = [one.prompt for one in (*first.asked, *second.asked)]
    assert len(prompts) == len(set(prompts)) == 24


def test_a_third_worker_waits_for_the_first_though_the_second_died_waiting(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    first, third, released = ScriptedModel(right), ScriptedModel(right), threading.Event()

    def say(request: CompletionRequest) -> str:
        assert released.wait(WAIT_LIMIT_S)
        return right(request)

    first.say = say
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(go, store, evaluation_id, first)
        until(lambda: len(first.asked) == evaluation_run.DEFAULT_CONCURRENCY, "requests in flight")
        owner = _claim(store, evaluation_id)
        killed = EvaluationContext(store, evaluation_id, InstantEvent(), f"{leases.this_worker()}:gone")
        killed.stopping.set()
        with pytest.raises(EvaluationStopped):
            killed.begin()
        assert _claim(store, evaluation_id) == f"{killed.claimant} {owner}"
        quick = pool.submit(go, store, evaluation_id, third)
        until(lambda: killed.claimant not in str(_claim(store, evaluation_id)), "another worker took over")
        assert not third.asked
        released.set()
        slow.result(), quick.result()
    view = evaluations.get(store, evaluation_id)
    assert (view.state, view.answered, spent(store, MOMENT, evaluation_id).calls) == ("done", 24, 24)
    prompts = [one.prompt for one in (*first.asked, *third.asked)]
    assert len(prompts) == len(set(prompts)) == 24


def test_one_who_waits_for_another_can_be_stopped_by_a_person(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    first, released = ScriptedModel(right), threading.Event()

    def say(request: CompletionRequest) -> str:
        assert released.wait(WAIT_LIMIT_S)
        return right(request)

    first.say = say
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(go, store, evaluation_id, first)
        until(lambda: len(first.asked) == evaluation_run.DEFAULT_CONCURRENCY, "requests in flight")
        owner = _claim(store, evaluation_id)
        waiting = pool.submit(go, store, evaluation_id, ScriptedModel(right))
        until(lambda: _claim(store, evaluation_id) != owner, "another worker took over")
        evaluations.stop(store, LOCAL, evaluation_id)
        waiting.result(), released.set(), slow.result()
    view = evaluations.get(store, evaluation_id)
    assert view.state == "stopped" and spent(store, MOMENT, evaluation_id).calls == view.answered


def _claim(store: Store, evaluation_id: str) -> str | None:
    with store.reading() as session:
        return session.get_one(Evaluation, evaluation_id).claimed_by


def test_an_answer_that_arrived_is_kept_if_the_reason_of_the_wait_cannot_be_cleared(
    store: Store, form: EvaluationForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_reason = EvaluationContext.set_reason

    def full(context: EvaluationContext, reason: str | None) -> None:
        if reason is None:
            raise StorageFull("The disk is full.")
        set_reason(context, reason)

    monkeypatch.setattr(EvaluationContext, "set_reason", full)
    evaluation_id = evaluations.start(store, LOCAL, replace(form, limit=1))
    answers = iter([Unavailable("away")])
    writer = ScriptedModel(lambda request: next(answers, None) or right(request))
    go(store, evaluation_id, writer)
    assert (evaluations.get(store, evaluation_id).answered, len(writer.asked)) == (1, 2)


def test_a_stopping_worker_gives_requests_in_flight_time_to_be_answered(store: Store, form: EvaluationForm) -> None:
    context = EvaluationContext(store, evaluations.start(store, LOCAL, form), threading.Event(), "me")
    assert context.begin()
    context.stopping.set()
    with pytest.raises(EvaluationStopped):
        context.raise_and_cancel_requests()
    assert not context.halt.is_set() and context.cancelling is not None
    context.drained()
    assert context.cancelling.finished.is_set()  # nothing is cancelled later either


def test_a_person_who_stops_it_cancels_the_requests_in_flight(store: Store, form: EvaluationForm) -> None:
    context = EvaluationContext(store, evaluations.start(store, LOCAL, form), threading.Event(), "me")
    assert context.begin()
    evaluations.stop(store, LOCAL, context.id)
    with pytest.raises(EvaluationStopped):
        context.raise_and_cancel_requests()
    assert context.halt.is_set()


def test_a_person_can_stop_it_and_ask_for_the_rest(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    writer = ScriptedModel(right)

    def say(request: CompletionRequest) -> str:
        evaluations.stop(store, LOCAL, evaluation_id)
        return right(request)

    writer.say = say
    go(store, evaluation_id, writer)
    stopped = evaluations.get(store, evaluation_id)
    assert stopped.state == "stopped" and 0 < stopped.answered < 24 and stopped.metrics is not None
    evaluations.retry(store, LOCAL, evaluation_id)
    go(store, evaluation_id, ScriptedModel(right))
    assert evaluations.get(store, evaluation_id).answered == 24
    queued = evaluations.start(store, LOCAL, form)
    evaluations.stop(store, LOCAL, queued)
    assert evaluations.get(store, queued).state == "stopped"


def test_rows_that_fail_say_why_and_the_others_count(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    go(
        store,
        evaluation_id,
        ScriptedModel(lambda r: right(r) if "lost" not in r.prompt else BadRequest("Too long.", "Shorten it.")),
    )
    view = evaluations.get(store, evaluation_id)
    assert (view.state, view.answered, view.failed) == ("done", 16, 8)
    assert view.metrics is not None and view.metrics.n == 16
    assert {one.reason for one in evaluations.answers(store, evaluation_id, wrong_only=True)} == {"Too long."}
    evaluations.retry(store, LOCAL, evaluation_id)
    go(store, evaluation_id, ScriptedModel(right))
    assert evaluations.get(store, evaluation_id).answered == 24


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (ModelNotFound("No such model.", "Choose another."), "No such model. Choose another."),
        (Refused("The key is wrong.", "Check it."), "The key is wrong. Check it."),
        (BadRequest("Nothing fits.", "x"), "all failed: Nothing fits."),
        (Unavailable("It is away.", "Wait."), "It is away. Wait."),
    ],
)
def test_an_error_of_all_rows_stops_the_evaluation(
    store: Store, form: EvaluationForm, fault: FabulaError, told: str
) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    writer = ScriptedModel(lambda r: fault)
    go(store, evaluation_id, writer)
    view = evaluations.get(store, evaluation_id)
    assert view.state == "failed" and told in (view.reason or "")
    assert spent(store, MOMENT, evaluation_id).cost_usd == 0


def test_an_evaluation_of_a_model_that_has_stopped_says_since_when(store: Store, form: EvaluationForm) -> None:
    gone = ScriptedModel(
        lambda r: ModelNotFound("It does not exist.", "Choose another."),
        Provider("openai", "openai", "OpenAI", "http://x/v1", ""),
    )
    evaluation_id = evaluations.start(store, LOCAL, replace(form, provider="openai", model="gpt-3.5-turbo"))
    go(store, evaluation_id, gone)
    view = evaluations.get(store, evaluation_id)
    assert view.state == "failed" and (view.reason or "").startswith("gpt-3.5-turbo stopped on 2026-10-23.")


@pytest.mark.parametrize("error", [RateLimited, Unavailable])
def test_a_provider_that_asks_to_wait_for_an_hour_is_not_waited_for(
    store: Store, form: EvaluationForm, error: type[RateLimited | Unavailable]
) -> None:
    """Other evaluations wait for this one."""
    evaluation_id = evaluations.start(store, LOCAL, replace(form, limit=1))
    writer = ScriptedModel(lambda r: error("Come back later.", "Wait.", 3_600.0))
    go(store, evaluation_id, writer)
    view = evaluations.get(store, evaluation_id)
    assert (view.state, len(writer.asked)) == ("failed", 1) and "Come back later." in (view.reason or "")


def test_a_provider_that_is_away_for_a_moment_is_waited_for(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    away = [Unavailable("It is away.", "Wait.")] * 6

    def say(request: CompletionRequest) -> Any:
        return away.pop() if away else right(request)

    go(store, evaluation_id, ScriptedModel(say))
    view = evaluations.get(store, evaluation_id)
    assert (view.state, view.answered, view.reason) == ("done", 24, None)


def test_a_budget_is_enforced(store: Store, form: EvaluationForm) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("0.0000001"))
    paid = replace(form, provider="openai", model="gpt-4.1-mini-2025-04-14")
    evaluation_id = evaluations.start(store, LOCAL, paid)
    writer = ScriptedModel(right, Provider("openai", "openai", "OpenAI", "http://x/v1", "k"))
    go(store, evaluation_id, writer)
    assert evaluations.get(store, evaluation_id).state == "failed" and writer.asked == []


def test_texts_are_judged_by_nearness_and_quality(store: Store) -> None:
    stories = [
        f"一位{d}朝的英雄穿越到现代，拥有了{p}的能力，打败了第{n}只怪兽，大家都很高兴。"
        for d in "唐宋元"
        for p in ("飞行", "隐形")
        for n in range(4)
    ]
    rows = [{"dynasty": s[2], "power": s[16:18], "story": s} for s in stories]
    dataset_id = datasets.from_frame(store, LOCAL, "stories", pd.DataFrame(rows), ["dynasty", "power"], "story")
    version = versions.freeze(store, LOCAL, dataset_id, validation_share=0.5)
    tuned = evaluations.start(store, LOCAL, EvaluationForm(dataset_id, "engine", TUNED, version_id=version))
    base = evaluations.start(store, LOCAL, EvaluationForm(dataset_id, "engine", BASE, version_id=version))
    go(store, tuned, ScriptedModel(lambda r: stories[0]))
    go(store, base, ScriptedModel(lambda r: "I do not know."))
    metrics = evaluations.get(store, tuned).metrics
    assert metrics is not None and metrics.accuracy is None and metrics.overlap is not None
    assert metrics.overlap.value > 0.5 and metrics.quality["characters"] == len(stories[0])
    assert 0 < metrics.quality["distinct_2"] <= 1 and 0 <= metrics.quality["adherence"] <= 1
    comparison = compare_evaluations(store, tuned, base)
    assert comparison.p_value is None and "Fine-tuning helped" in comparison.sentence


def test_the_loss_is_the_providers_where_it_measured_it(store: Store, form: EvaluationForm) -> None:
    job_id = jobs.submit(store, LOCAL, JobForm(form.dataset_id, "j", "engine", BASE, version_id=form.version_id))
    with store.session() as session:
        job = session.get_one(TrainingJob, job_id)
        job.fine_tuned_model, job.separator, job.stop = TUNED, " ->", "."
        job.results_csv = "step,valid_loss\n1,2.5\n2,1.25\n"
    tuned, base = evaluations.start_pair(store, LOCAL, job_views.get(store, job_id))
    go(store, tuned, ScriptedModel(right))
    go(store, base, ScriptedModel(right))
    metrics = evaluations.get(store, tuned).metrics
    assert metrics is not None and metrics.loss == 1.25 and "Measured by the provider" in metrics.loss_note
    other = evaluations.get(store, base).metrics
    assert other is not None and other.loss is None
    assert [one.id for one in evaluations.list_for_job(store, job_views.get(store, job_id))] == [base, tuned]
    assert [one.id for one in evaluations.list_evaluations(store, job_id=job_id)] == [tuned]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"limit": 0}, FabulaError),
        ({"version_id": None}, BadTrainingFile),
        ({"dataset_id": "x", "version_id": None}, NotFound),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(
    store: Store, form: EvaluationForm, change: dict[str, Any], error: type[FabulaError]
) -> None:
    with pytest.raises(error):
        evaluations.start(store, LOCAL, replace(form, **change))


def test_missing_rows_are_not_found(store: Store, form: EvaluationForm) -> None:
    for call in (lambda: evaluations.get(store, "x"), lambda: evaluations.stop(store, LOCAL, "x")):
        with pytest.raises(NotFound):
            call()
    evaluation_run.give_up(store, "x", FabulaError("no"))
    go(store, "x", ScriptedModel(right))


def test_hostile_answers_are_stored_as_text(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    go(store, evaluation_id, ScriptedModel(lambda r: "\0\ud800=cmd"))
    with store.reading() as session:
        texts = {row.text for row in session.query(EvaluationAnswer)}
    assert len(texts) == 1 and "\0" not in str(texts)
    empty = evaluations.start(store, LOCAL, replace(form, model=BASE))
    go(store, empty, ScriptedModel(lambda r: Completion((), BASE, None, None)))
    assert evaluations.get(store, empty).state == "failed"


def test_fewer_rows_than_there_are_come_from_all_over_and_are_the_same_for_both(
    store: Store, form: EvaluationForm
) -> None:
    few = [evaluations.start(store, LOCAL, replace(form, model=model, limit=9)) for model in (TUNED, BASE)]
    drawn = [list(evaluations.examples(store, evaluations.get(store, one))) for one in few]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 9 == evaluations.get(store, few[0]).total
    examples = list(evaluations.examples(store, evaluations.get(store, evaluations.start(store, LOCAL, form))))
    assert drawn[0] != examples[:9] and set(one.key for one in drawn[0]) <= set(one.key for one in examples)


def test_rows_that_a_file_has_held_out_need_no_version(store: Store) -> None:
    rows = [{"q": f"q{n}", "a": LABELS[n % 2], "split": "test" if n % 4 == 0 else "train"} for n in range(40)]
    dataset_id = datasets.from_frame(store, LOCAL, "split", pd.DataFrame(rows), ["q"], "a", split_column="split")
    held_out = holdout.held_out(store, dataset_id)
    assert (held_out.held_out, held_out.validation, held_out.kind) == (10, 0, "label")
    started = evaluations.start(store, LOCAL, EvaluationForm(dataset_id, "engine", TUNED, part="held_out"))
    go(store, started, ScriptedModel(lambda r: LABELS[0]))
    view = evaluations.get(store, started)
    assert (view.state, view.answered, view.correct) == ("done", 10, 10)


PAID = PriceBook(
    overlay=(
        Price(
            TUNED, "openai", Decimal(1000), Decimal(1000), None, None, "USD", "test", date(2026, 1, 1),
            cached_input_per_mtok=Decimal(100),
        ),
    ),
    source=None,
    today=date(2026, 11, 1),
)  # fmt: skip


def test_each_try_that_may_be_billed_stays_in_the_ledger(
    store: Store, form: EvaluationForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_prices, "book", lambda *_: PAID)
    lost = iter(
        [Unavailable("silent", may_be_billed=True), Unavailable("busy", may_be_billed=False), RateLimited("slow down")]
    )

    def say(request: CompletionRequest) -> Any:
        answer = Completion((Choice(right(request), "stop"),), TUNED, 10, 2, 8)
        return next(lost, answer)

    openai = Provider("openai", "openai", "OpenAI", "http://x/v1", "")
    evaluation_id = evaluations.start(store, LOCAL, replace(form, provider="openai", limit=1))
    go(store, evaluation_id, ScriptedModel(say, openai))
    assert evaluations.get(store, evaluation_id).answered == 1
    with store.reading() as session:
        lines = list(session.scalars(select(Spend).where(Spend.reference == evaluation_id).order_by(Spend.id)))
        assert budget.spent_on(session, evaluation_id) == Decimal("0.0048") + (lines[0].estimated_usd or 0)
    # at most one line for a lost request, none for a rejected one; 2 uncached, 8 cached and 2 completion tokens
    assert [line.cost_usd for line in lines] == [None, Decimal("0.0048")] and lines[0].estimated_usd


def test_a_row_that_cannot_be_read_fails_and_is_not_bought_for_ever(
    store: Store, form: EvaluationForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_prices, "book", lambda *_: PAID)
    unreadable = Unreadable("not in OpenAI's format", may_be_billed=True)
    openai = Provider("openai", "openai", "OpenAI", "http://x/v1", "")
    writer = ScriptedModel(lambda r: unreadable if "refund" in r.prompt else right(r), openai)
    evaluation_id = evaluations.start(store, LOCAL, replace(form, provider="openai"))
    go(store, evaluation_id, writer)
    view = evaluations.get(store, evaluation_id)
    attempts = Counter(request.prompt for request in writer.asked)
    assert (view.state, view.answered, view.failed) == ("done", 16, 8)
    assert {"refund" in prompt: count for prompt, count in attempts.items()} == {False: 1, True: 5}
    with store.reading() as session:
        lines = session.scalar(select(func.count()).where(Spend.reference == evaluation_id))
    assert lines == len(writer.asked)  # one line per request


def test_an_outage_ends_an_evaluation_instead_of_failing_every_row(
    store: Store, form: EvaluationForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit, the 20 remaining rows would be sent five times each: 100 attempts."""
    monkeypatch.setattr(custom_prices, "book", lambda *_: PAID)
    answers = iter(range(4))
    oops = ServerError("It has a server error (500).", "Wait.", may_be_billed=True)
    openai = Provider("openai", "openai", "OpenAI", "http://x/v1", "")
    writer = ScriptedModel(lambda r: oops if next(answers, None) is None else right(r), openai)
    made = evaluations.start(store, LOCAL, replace(form, provider="openai"))
    go(store, made, writer)
    view = evaluations.get(store, made)
    assert (view.state, view.answered) == ("failed", 4)
    assert "got no answer after 5 attempts each: It has a server error (500)." in (view.reason or "")
    assert len(writer.asked) <= 4 + (8 + 3) * 5  # the three others in flight at that point use all their attempts
    evaluations.retry(store, LOCAL, made)
    go(store, made, ScriptedModel(right, openai))
    assert evaluations.get(store, made).answered == 24


def test_an_error_in_place_of_a_text_is_the_reason_of_its_row(store: Store, form: EvaluationForm) -> None:
    evaluation_id = evaluations.start(store, LOCAL, form)
    go(
        store,
        evaluation_id,
        ScriptedModel(lambda r: Completion((Choice("", "error", "upstream broke"),), TUNED, 10, 2)),
    )
    view = evaluations.get(store, evaluation_id)
    assert view.answered == 0 and "upstream broke" in (view.reason or "")
