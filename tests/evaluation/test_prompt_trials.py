"""Trials of a base model with examples in its prompt: what is sent, what is paid, and what the result says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import datasets, versions
from core.db.store import Store
from core.db.tables import Evaluation
from core.errors import BadTrainingFile, FabulaError, Unavailable
from core.evaluation import evaluation_run, evaluations, holdout, prompt_trials
from core.evaluation.evaluations import EvaluationForm
from core.evaluation.prompt_trials import PromptTrial, StartedTrial
from core.parity import prompt_report
from core.parity.prompt_markdown import to_markdown
from core.pricing import quality
from core.pricing.price_book import PriceBook
from core.providers import Choice, Completion, CompletionRequest, Provider
from tests.support.fakes import BASE, LABELS, MOMENT, TUNED, FakeRegistry
from tests.support.spending import spent

Say = Callable[[CompletionRequest], str | BaseException]


@dataclass
class Model:
    """A model that answers with `say`; it counts each word of a prompt as a token."""

    say: Say
    provider: Provider = field(default_factory=lambda: Provider("engine", "engine", "The engine", "http://x/v1", ""))
    asked: list[CompletionRequest] = field(default_factory=list)

    def complete(self, request: CompletionRequest, *, once: bool = False, stop: object = None) -> Completion:
        self.asked.append(request)
        said = self.say(request)
        if isinstance(said, BaseException):
            raise said
        tokens = len(f"{request.system} {request.prompt}".split())
        return Completion((Choice(said, "stop" if said else "length"),), request.model, tokens, 1)

    def endpoint(self, model: str) -> str:
        return "chat"

    def parallel(self, model: str) -> int | None:
        return None


class NeverWaits(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def right(request: CompletionRequest) -> str:
    return request.prompt.rsplit("about ", 1)[1].removesuffix(" ->")


def with_examples(request: CompletionRequest) -> str:
    """Right with examples, and always the same answer without."""
    return right(request) if len(request.messages) > 1 else LABELS[0]


def run(store: Store, model: Model) -> None:
    """Run all unfinished evaluations like the worker."""
    registry: Any = FakeRegistry({model.provider.id: model})
    with store.reading() as session:
        ids = list(session.scalars(evaluation_run.UNFINISHED))
    for evaluation_id in ids:
        try:
            evaluation_run.carry_out(store, registry, evaluation_id, NeverWaits())
        except FabulaError as exc:
            evaluation_run.give_up(store, evaluation_id, exc)


@pytest.fixture
def book(store: Store) -> PriceBook:
    return PriceBook.load(now=MOMENT)


@pytest.fixture
def trial(form: EvaluationForm) -> PromptTrial:
    return PromptTrial(form.dataset_id, "engine", BASE, version_id=form.version_id)


def started(store: Store, trial: PromptTrial) -> StartedTrial:
    return prompt_trials.list_trials(store, trial.dataset_id, trial.version_id)[0]


def test_examples_never_come_from_held_out_rows(store: Store, book: PriceBook, trial: PromptTrial) -> None:
    prompt_trials.start(store, LOCAL, book, trial, None)
    model = Model(with_examples)
    run(store, model)
    rows = (store, trial.dataset_id, trial.version_id)
    kept = {row.prompt for row in holdout.holdout_rows(*rows, parts=("held_out", "validation"), limit=1_000)}
    taught = {row.prompt for row in holdout.training_rows(*rows)}
    shown = {message["content"] for one in model.asked for message in one.messages[:-1] if message["role"] == "user"}
    assert len(shown) == 8 and shown <= taught and not shown & kept
    assert {one.messages[-1]["content"] for one in model.asked} == kept
    first = [one.messages[:-1] for one in model.asked if len(one.messages) == 17]
    assert all(messages == first[0] for messages in first)  # the same examples for all rows


def test_a_trial_without_a_tuned_model_says_what_the_base_can_do(
    store: Store, book: PriceBook, trial: PromptTrial
) -> None:
    planned = prompt_trials.plan(store, book, trial, 4_096)
    assert (planned.rows, [one.form.shots for one in planned.variants], planned.notes) == (24, [0, 3, 8], ())
    assert (
        planned.instruction.startswith("Answer with exactly one of these labels") and LABELS[0] in planned.instruction
    )
    assert planned.variants[0].estimate.prompt_tokens < planned.variants[2].estimate.prompt_tokens
    prompt_trials.start(store, LOCAL, book, trial, 4_096)
    run(store, Model(with_examples))
    found = prompt_report.report(store, book, started(store, trial))
    assert (found.outcome, found.best, found.task) == ("baseline", 3, "label")
    assert found.sentence.startswith("With 3 examples, the base gets 100 % right on 24 rows")
    assert [one.answered for one in found.variants] == [24, 24, 24]
    assert any("gives the same answer to 24 of 24 rows" in note for note in found.notes)
    assert found.variants[0].usd_per_call is None  # no price per machine hour: unknown, not 0
    wide = prompt_report.report(store, book, started(store, trial), margin=0.2)
    assert wide.outcome == "prompt" and "Tuning can gain at most" in wide.sentence


def test_prompted_evaluations_are_not_those_of_the_base_itself(
    store: Store, book: PriceBook, trial: PromptTrial
) -> None:
    prompt_trials.start(store, LOCAL, book, trial, None)
    run(store, Model(right))
    assert evaluations.list_evaluations(store) == ()
    assert not quality.qualities(store, book)
    assert len(evaluations.list_evaluations(store, prompted=True)) == 3


def test_a_tuned_model_is_compared_on_the_same_rows(store: Store, book: PriceBook, trial: PromptTrial) -> None:
    prompt_trials.start(store, LOCAL, book, trial, None)
    tuned = prompt_report.start_tuned(store, LOCAL, started(store, trial), "engine", TUNED)
    run(store, Model(lambda request: right(request) if request.model == TUNED else LABELS[0]))
    found = prompt_report.report(store, book, started(store, trial), evaluations.get(store, tuned))
    assert found.outcome == "tune" and found.sentence.startswith("Tune: the tuned model is")
    assert [one.shots for one in found.variants] == [0, 3, 8, None]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["outcome"] == "tune" and len(data["examples"]) == 8
    text = to_markdown(found)
    assert text.startswith("# Tune or prompt: ") and "| 8 examples | 33.3 %" in text and "unknown USD" in text


def test_nothing_is_paid_twice(store: Store, book: PriceBook, trial: PromptTrial) -> None:
    with ThreadPoolExecutor(2) as both:  # two visitors start it at once
        ids = [*both.map(lambda _: prompt_trials.start(store, LOCAL, book, trial, None), range(2))]
    assert ids[0] == ids[1]
    broken = Model(lambda request: Unavailable("No connection.") if len(broken.asked) > 30 else right(request))
    run(store, broken)  # the provider loses its connection midway
    assert {one.state for one in started(store, trial).evaluations} == {"done", "failed"}
    found = prompt_report.report(store, book, started(store, trial))
    assert [one.answered for one in found.variants][:2] == [24, 6] and found.outcome != "unanswered"
    assert any("has answered 6 of 24 rows" in note for note in found.notes)
    assert prompt_trials.start(store, LOCAL, book, trial, None) == ids[0]
    run(store, Model(right))
    assert [one.answered for one in started(store, trial).evaluations] == [24, 24, 24]
    assert prompt_trials.start(store, LOCAL, book, trial, None) == ids[0]
    again = Model(right)
    run(store, again)
    assert not again.asked
    answered = sum(spent(store, MOMENT, one).calls for one in ids[0])
    assert answered >= 72 and len({one.id for one in evaluations.list_evaluations(store, prompted=True)}) == 3


def test_trials_with_other_examples_are_not_one(store: Store, book: PriceBook, trial: PromptTrial) -> None:
    first = prompt_trials.start(store, LOCAL, book, trial, None)
    with store.session() as session:  # as if the training rows had changed since
        for one in session.scalars(select(Evaluation).where(Evaluation.id.in_(first[1:]))):
            examples = [example | {"prompt": f"old {example['prompt']}"} for example in one.settings["examples"]]
            one.settings = one.settings | {"examples": examples}
    second = prompt_trials.start(store, LOCAL, book, trial, None)
    assert second[0] == first[0]  # without examples, the answers are the same
    found = prompt_trials.list_trials(store, trial.dataset_id, trial.version_id)
    assert [tuple(one.id for one in trial.evaluations) for trial in found] == [second, first]


def test_a_base_that_writes_nothing_gets_no_verdict(store: Store, book: PriceBook, trial: PromptTrial) -> None:
    prompt_trials.start(store, LOCAL, book, trial, None)
    run(store, Model(lambda request: ""))
    found = prompt_report.report(store, book, started(store, trial))
    assert found.outcome == "unanswered" and "used up the token limit" in found.sentence


@pytest.mark.parametrize(
    ("rows", "context", "shots", "note"),
    [
        (4, None, [0, 2], "The training part has only 2 rows"),
        (40, 4_096, [0, 3, 8], "neither a prompt nor a tuned model can know them: rare"),
        (40, 90, [0, 1, 3], "examples fit into the model's context"),
        (40, 30, [0], "of 13 rows do not fit into the model's context of 30 tokens"),
    ],
)
def test_a_plan_says_what_does_not_fit(
    store: Store, book: PriceBook, rows: int, context: int | None, shots: list[int], note: str
) -> None:
    lines = [{"q": f"question number {n}", "a": "rare" if n == 1 else "ab"[n % 2], "part": ""} for n in range(rows)]
    for n in range(1, rows, 3 if rows > 4 else 2):
        lines[n]["part"] = "held_out"
    frame = pd.DataFrame(lines)
    dataset_id = datasets.from_frame(store, LOCAL, "q", frame, ["q"], "a", split_column="part")
    planned = prompt_trials.plan(store, book, PromptTrial(dataset_id, "engine", BASE), context)
    found = [one.form.shots for one in planned.variants]
    assert found == shots or (shots == [0, 1, 3] and len(planned.examples) < 8), (found, planned.notes)
    assert any(note in one for one in planned.notes), planned.notes


@pytest.mark.parametrize(
    ("provider", "model", "known"), [("openai", "gpt-5-mini", True), ("openai", "gpt-unheard-of", False)]
)
def test_the_cost_is_estimated_before_the_start_and_an_unknown_price_is_not_zero(
    store: Store, book: PriceBook, trial: PromptTrial, provider: str, model: str, *, known: bool
) -> None:
    planned = prompt_trials.plan(store, book, replace(trial, provider=provider, model=model), None)
    costs = [one.estimate.worst_usd for one in planned.variants]
    if known:
        assert costs[0] is not None and costs[2] is not None and Decimal(0) < costs[0] < costs[2]
        assert planned.variants[0].form.max_tokens == 2_016  # room for reasoning
        expected = [one.estimate for one in planned.variants]
        assert expected[0].completion_tokens > 500 * planned.rows  # reasoning is billed as output
        assert expected[2].prompt_tokens - expected[0].prompt_tokens >= 8 * 2 * 6 * planned.rows  # chat template
    else:
        assert costs == [None, None, None]


def test_without_rows_kept_from_training_there_is_nothing_to_compare(store: Store, book: PriceBook) -> None:
    frame = pd.DataFrame({"q": ["a", "b"], "a": ["x", "y"]})
    dataset_id = datasets.from_frame(store, LOCAL, "q", frame, ["q"], "a")
    with pytest.raises(BadTrainingFile):
        prompt_trials.plan(store, book, PromptTrial(dataset_id, "engine", BASE), None)
    version = versions.freeze(store, LOCAL, dataset_id, validation_share=0.5)
    assert prompt_trials.plan(store, book, PromptTrial(dataset_id, "engine", BASE, version), None).rows == 1
