"""Before and after on a job's page: every state, and the available buttons."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from core.db.store import Store
from core.db.tables import BeforeAfter, Row, TrainingJob, utcnow
from core.evaluation import before_after, before_after_prompts
from core.finetuning import job_views
from core.jobs.system_status import EngineStatus
from pages.ui import cache
from tests.support.app_pages import again, click, labels, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_comparison, put_comparison_answer, put_job, put_labelled_rows

_TUNED = "ft:writer:fabula:x:1"
_LONG = " ".join(["word"] * 1_200)


def _succeeded(store: Store, **values: object) -> str:
    dataset_id = put_labelled_rows(store, held_out=4)
    return put_job(store, status="succeeded", **{"fine_tuned_model": _TUNED, "dataset_id": dataset_id, **values})


def test_both_texts_stand_side_by_side(server: FaultServer, store: Store) -> None:
    put_comparison(store, _succeeded(store), "done")
    put_comparison_answer(store, 0, "base", "done", "before <b>bold</b>", expected="red")
    put_comparison_answer(store, 0, "tuned", "done", "after", expected="red")
    at = visit("training")
    shown = words(at)
    assert "Before and after" in shown and "These rows were not used for training." in shown
    assert [text.value for text in at.text] == ["before <b>bold</b>", "after", "red"]
    assert "**Before** · writer" in shown and "**After** · x 1 · writer" in shown
    assert "7 tokens · stopped at the token limit" in shown
    assert not {"Write again", "Write before and after"} & set(labels(at))


@pytest.mark.parametrize(
    ("state", "source", "reason", "said", "button"),
    [
        ("queued", None, "", "Choosing prompts…", "Stop"),
        ("running", "grid", "The engine is starting.", "The engine is starting.", "Stop"),
        ("stopping", "grid", "", "combinations of values that are not in the training data", "Stop"),
        ("stopped", "preset", "", "Stopped. The text so far is kept.", "Write again"),
        ("failed", "held_out", "The engine is not installed.", "The engine is not installed.", "Write again"),
        ("done", "none", "", "The training data contains every prompt of this data set.", "Ask both"),
    ],
)
def test_every_state_says_what_happens_and_what_can_be_done(
    server: FaultServer, store: Store, state: str, source: str | None, reason: str, said: str, button: str
) -> None:
    put_comparison(store, _succeeded(store), state, source=source, reason=reason)
    at = visit("training")
    assert said in words(at) and button in labels(at)


@pytest.mark.parametrize(
    ("state", "text", "reason", "said"),
    [
        ("waiting", "", None, "Waiting for its turn…"),
        ("writing", "", None, "Writing…"),
        ("writing", "once", None, "once"),
        ("done", "", None, "The model's answer was empty."),
        ("stopped", "", None, "Stopped before the first word."),
        ("failed", "", "The engine does not have this model.", "The engine does not have this model."),
    ],
)
def test_an_answer_on_its_way(
    server: FaultServer, store: Store, state: str, text: str, reason: str | None, said: str
) -> None:
    put_comparison(store, _succeeded(store), "running")
    put_comparison_answer(store, 0, "base", "done", "base text")
    put_comparison_answer(store, 0, "tuned", state, text, reason=reason)
    shown = words(visit("training"))
    assert said in shown and "base text" in shown


def test_stop_and_write_again(server: FaultServer, store: Store) -> None:
    job_id = _succeeded(store)
    put_comparison(store, job_id, "running")
    at = click(visit("training"), "training_before_after_stop")
    assert before_after.get(store, job_id).state == "stopping"  # type: ignore[union-attr]
    with store.session() as session:
        before_after.finish(session, session.get_one(BeforeAfter, "c"), "stopped")
    click(again(at), "training_before_after_again")
    assert before_after.get(store, job_id).state == "queued"  # type: ignore[union-attr]


def test_a_prompt_of_ones_own_is_asked_of_both(server: FaultServer, store: Store) -> None:
    job_id = _succeeded(store)
    put_comparison(store, job_id, "done")
    at = visit("training")
    at.text_input(key="training_before_after_prompt").input("my words")
    click(at, "training_before_after_ask")
    view = before_after.get(store, job_id)
    assert view is not None and view.state == "queued"
    assert [(pair.prompt, pair.base.state, pair.tuned.state) for pair in view.pairs] == [
        ("my words", "waiting", "waiting")
    ]


def test_a_long_prompt_is_shortened_and_all_of_it_is_one_click_away(server: FaultServer, store: Store) -> None:
    put_comparison(store, _succeeded(store), "done")
    put_comparison_answer(store, 0, "base", "done", "before", prompt=_LONG)
    put_comparison_answer(store, 0, "tuned", "done", "after", prompt=_LONG)
    at = visit("training")
    (shown,) = [block.value for block in at.markdown if block.value.startswith(":material/chat_bubble:")]
    assert len(shown) < 350 and shown.endswith(" …`")
    (whole,) = [box for box in at.expander if box.label == "The whole prompt"]
    assert whole.text[0].value == _LONG and not whole.proto.expanded
    (field,) = [one for one in at.text_input if one.label == "Your own prompt"]
    assert len(field.placeholder) < 350


def test_a_prompt_can_be_removed_and_brought_back(server: FaultServer, store: Store) -> None:
    job_id = _succeeded(store)
    put_comparison(store, job_id, "done")
    for position in (0, 1):
        for side in ("base", "tuned"):
            put_comparison_answer(store, position, side, "done", f"{side} {position}")
    at = click(visit("training"), "training_remove_0")
    assert [text.value for text in at.text] == ["base 1", "tuned 1"]
    assert "Undo: Prompt removed" in labels(at)
    at = click(at, "training_undo")
    assert [text.value for text in at.text] == ["base 0", "tuned 0", "base 1", "tuned 1"]
    assert "Undo: Prompt removed" not in labels(at)


def test_a_prompt_that_is_being_answered_has_no_way_to_remove_it(server: FaultServer, store: Store) -> None:
    put_comparison(store, _succeeded(store), "running")
    put_comparison_answer(store, 0, "base", "done", "base text")
    put_comparison_answer(store, 0, "tuned", "writing", "half")
    assert "Remove" not in labels(visit("training"))


@pytest.mark.parametrize(
    ("base", "said"),
    [("gpt-4o-mini-2024-07-18", "Costs under $0.0001."), ("unlisted", "Its cost is unknown")],
)
def test_at_a_paid_provider_the_cost_stands_before_the_button(
    server: FaultServer, store: Store, base: str, said: str
) -> None:
    job_id = _succeeded(store, provider="openai", base_model=base, fine_tuned_model=f"ft:{base}:me::1")
    at = visit("training")
    assert said in words(at)
    click(at, "training_before_after_start")
    assert before_after.get(store, job_id).state == "queued"  # type: ignore[union-attr]


def test_the_prompts_are_chosen_once_for_all_drawings(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, real = list[str](), before_after_prompts.choose_prompts

    def counted(*given: Any) -> before_after_prompts.PromptChoice:
        chosen.append("once")
        return real(*given)

    monkeypatch.setattr(before_after_prompts, "choose_prompts", counted)
    job_id = _succeeded(store, provider="openai", base_model="unlisted", fine_tuned_model="ft:unlisted:me::1")
    at = again(again(visit("training")))
    assert "Its cost is unknown" in words(at) and chosen == ["once"]
    dataset_id = job_views.get(store, job_id).dataset_id
    with store.session() as session:  # a row is edited
        row = session.scalars(select(Row).where(Row.dataset_id == dataset_id)).first()
        assert row is not None
        row.text, row.updated_at = "another text", utcnow()
    again(at)
    assert chosen == ["once", "once"]


def test_a_data_set_that_is_gone_leaves_the_rest_of_the_page(server: FaultServer, store: Store) -> None:
    _succeeded(store, provider="openai", dataset_id="gone", base_model="unlisted", fine_tuned_model="ft:unlisted:me::1")
    at = visit("training")
    assert "This data set no longer exists." in trouble(at)
    assert "About this job" in [control.label for control in at.segmented_control]


@pytest.mark.parametrize(
    ("engine", "said", "callable_"),
    [
        (EngineStatus("up", models=("writer", _TUNED)), "", True),
        (EngineStatus("up"), "", True),  # too busy to list its models: not known
        (EngineStatus("up", models=("writer",)), "**Duplicate job** trains it again.", False),
        (EngineStatus("up", models=("renamed",)), "The engine no longer has `writer`, the base of this model.", False),
        (
            EngineStatus("down", "The engine is not running.", "Start Fabula: it starts the engine too."),
            "Start Fabula: it starts the engine too.", True,
        ),
        (EngineStatus("starting", "The engine is starting."), "The engine is starting.", True),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_called_is_told_with_a_way_on(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch, engine: EngineStatus, said: str, callable_: bool
) -> None:
    job_id = _succeeded(store)
    with store.session() as session:
        session.get_one(TrainingJob, job_id).finished_at = utcnow() - timedelta(hours=1)
    seen = replace(cache.status(), engine=engine)
    monkeypatch.setattr(cache, "status", lambda: seen)
    at = visit("training")
    assert said in words(at)
    assert ("Write a story with it" in labels(at)) is callable_
    assert "Duplicate job" in labels(at) and not at.error


@pytest.mark.parametrize("values", [{"status": "running"}, {"status": "failed"}, {"status": "succeeded"}])
def test_nothing_to_compare_shows_nothing(server: FaultServer, store: Store, values: dict[str, object]) -> None:
    put_job(store, **values)
    assert "Before and after" not in words(visit("training"))


def test_a_chinese_page_shows_before_and_after_in_chinese(server: FaultServer, store: Store) -> None:
    put_comparison(store, _succeeded(store), "failed", reason="This training job no longer exists. Choose another one.")
    at = visit("training", "zh-CN")
    assert "训练前后对比" in words(at) and "重新写" in labels(at)
