"""Tune or prompt: the page before and after a tuned model exists."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from core.actor import LOCAL
from core.db.store import Store
from core.evaluation import evaluation_run, evaluations, prompt_trials
from core.evaluation.prompt_trials import PromptTrial
from core.pricing.price_book import PriceBook
from core.providers import Choice, Completion, CompletionRequest, Provider
from tests.support.app_pages import again, click, field, visit, words
from tests.support.fakes import MOMENT, FakeRegistry
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_job, put_labelled_rows

_TUNED = "ft:writer:fabula:x:1"


def _answer_all(store: Store, *, tuned_right: int = 3) -> None:
    """Run all evaluations like the worker: the base knows two of three labels with examples, otherwise one."""
    labels = ("red", "green", "blue")

    def complete(request: CompletionRequest, *, once: bool, stop: threading.Event) -> Completion:
        number = int(request.prompt.removesuffix(" ->").split("text ")[-1].split()[0].split("\n")[0])
        known = tuned_right if request.model == _TUNED else 2 if "text" in request.prompt[:-20] else 1
        right = labels[number % 3]
        return Completion((Choice(right if right in labels[:known] else "red", "stop"),), request.model, 5, 2)

    client = SimpleNamespace(
        provider=Provider("engine", "engine", "The engine", "http://x/v1", ""), complete=complete,
        endpoint=lambda model: "completion", parallel=lambda model: None,
    )  # fmt: skip
    registry: Any = FakeRegistry({"engine": client})
    with store.reading() as session:
        ids = list(session.scalars(evaluation_run.UNFINISHED))
    for evaluation_id in ids:
        evaluation_run.carry_out(store, registry, evaluation_id, threading.Event())


def test_a_base_is_tried_before_any_tuned_model_exists(server: FaultServer, store: Store) -> None:
    dataset_id = put_labelled_rows(store, held_out=120, rows=200)
    at = visit("training", training_part="prompts")
    assert at.query_params["prompts"] == dataset_id
    assert at.button(key="training_prompts_start").label == "Try on 120 rows"
    plan = next(table.value for table in at.table if "Cost" in table.value)
    assert list(plan["Prompt"]) == ["No examples", "3 examples", "8 examples"]
    assert field(at, f"training_prompts_instruction_{dataset_id}").value.endswith("blue, green, red")
    click(at, "training_prompts_start")
    assert words(at).count("0 of 120 answers") == 3
    _answer_all(store)
    at = again(at)
    assert "examples, the base gets 66.7 % right on 120 rows" in words(at)
    assert "Whether tuning is better is open" in words(at)
    click(at, "training_prompts_start")  # the answers are there: nothing is sent again
    assert len(evaluations.list_evaluations(store, prompted=True)) == 3


def test_a_tuned_model_is_asked_the_same_rows_and_gets_a_verdict(server: FaultServer, store: Store) -> None:
    server.models += [{**server.models[0], "id": _TUNED}]
    dataset_id = put_labelled_rows(store, held_out=120, rows=200)
    put_job(store, status="succeeded", fine_tuned_model=_TUNED, dataset_id=dataset_id)
    trial = PromptTrial(dataset_id, "engine", "writer", limit=120)
    prompt_trials.start(store, LOCAL, PriceBook.load(now=MOMENT), trial, None)
    _answer_all(store)
    at = visit("training", training_part="prompts", training_prompts_tuned=f"engine/{_TUNED}")
    click(at, "training_prompts_tuned_start")
    _answer_all(store)
    at = again(at)
    assert "Tune: the tuned model is" in words(at) and "on 120 rows" in words(at)
    table = next(table.value for table in at.table if "Tuned model" in table.value).set_index("")
    assert list(table.columns) == ["Tuned model", "No examples", "3 examples", "8 examples"]
    assert list(table.loc["Cost of 1,000 calls"]) == ["not priced"] * 4 and "Training: not priced" in words(at)
    assert "training_prompts_tuned_start" not in [one.key for one in at.button]


def test_without_kept_rows_a_version_that_keeps_some_is_offered(server: FaultServer, store: Store) -> None:
    put_labelled_rows(store, held_out=0)
    at = visit("training", training_part="prompts")
    assert "training_prompts_start" not in [one.key for one in at.button]
    click(at, "training_prompts_keep")
    assert at.button(key="training_prompts_start").label == "Try on 6 rows"


def test_a_new_job_leads_to_the_prompts_with_the_rows_that_it_would_keep(server: FaultServer, store: Store) -> None:
    put_labelled_rows(store, held_out=0, rows=40)
    at = visit("training", training_part="new")
    click(at, "training_try_prompts")
    assert at.button(key="training_prompts_start").label == "Try on 4 rows"
