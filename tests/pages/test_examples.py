""" "Bring 12 examples" on Home: empty, a sample, typed, pasted, uploaded, refused, running, done, failed."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from streamlit.runtime.scriptrunner import StopException
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import TextInput

from core.actor import LOCAL
from core.datasets.example_pairs import MAX_EXAMPLES, ExamplePair
from core.datasets.presets import example_samples
from core.db.store import Store
from core.db.tables import TrainingJob, utcnow
from core.evaluation import before_after, run_export
from core.finetuning import examples, job_views
from core.jobs.system_status import EngineStatus
from core.stories import library
from pages.ui import cache
from pages.ui.components import story_session, story_text
from tests.support import fault_server
from tests.support.app_pages import again, click, labels, trouble, visit, words
from tests.support.fault_server import FaultServer

_FRAME = Path(__file__).parents[2] / "pages" / "frame.py"
_INTENTS = example_samples("en")[0]
_TUNED = "ft:writer:fabula:support-intents:1"
_FIVE = [ExamplePair(f"prompt {i}", f"answer {i % 2}") for i in range(5)]


def table(at: AppTest) -> list[ExamplePair]:
    return [
        ExamplePair(*map(str, row)) for row in at.data_editor[0].value.fillna("").itertuples(index=False, name=None)
    ]


def type_into(at: AppTest, *pairs: ExamplePair) -> AppTest:
    """The browser's message when rows were typed into the empty table of five rows."""
    rows = {place: pair._asdict() for place, pair in enumerate(pairs[:5])}
    more = [pair._asdict() for pair in pairs[5:]]
    at.session_state[str(at.data_editor[0].key)] = {"edited_rows": rows, "added_rows": more, "deleted_rows": []}
    return at.run()


def can_train(at: AppTest) -> bool:
    return not at.button(key="home_examples_train").disabled


def upload(at: AppTest, name: str, data: bytes) -> AppTest:
    at.file_uploader(key="home_examples_file").upload(name, data).run()
    assert not at.exception
    return at


def prompt_field(at: AppTest) -> TextInput:
    (field,) = (field for field in at.text_input if str(field.key).startswith("home_examples_prompt"))
    return field


def ask(at: AppTest) -> AppTest:
    next(button for button in at.button if button.label == "Ask both").click().run()
    assert not at.exception
    return at


def trained(store: Store, **values: Any) -> str:
    """A job from the sample, in this state."""
    job_id = examples.train(
        store, LOCAL, _INTENTS.pairs, name="Support intents", suffix="support-intents", base="writer"
    )
    with store.session() as session:
        job = session.get_one(TrainingJob, job_id)
        for name, value in values.items():
            setattr(job, name, value)
    return job_id


def test_an_empty_table_says_what_to_do_and_trains_nothing(server: FaultServer) -> None:
    at = visit("home")
    assert table(at) == [ExamplePair("", "")] * 5 and not can_train(at)
    assert "There are no examples yet." in words(at) and "not facts" in words(at)
    assert not at.error


@pytest.mark.parametrize(("locale", "language"), [("en-US", "en"), ("zh-CN", "zh_CN")])
@pytest.mark.parametrize("place", range(3))
def test_one_click_fills_the_table_in_the_language_of_the_page(
    server: FaultServer, locale: str, language: str, place: int
) -> None:
    sample = example_samples(language)[place]
    at = click(visit("home", locale), f"home_examples_{sample.id}")
    assert table(at) == list(sample.pairs) and can_train(at)
    assert sample.names[language] in labels(at)


def test_a_sample_becomes_a_job_and_the_card_follows_it(server: FaultServer, store: Store) -> None:
    at = click(click(visit("home"), "home_examples_support-intents"), "home_examples_train")
    found = examples.newest_job(store, LOCAL)
    assert found is not None and (found.name, found.suffix) == ("Support intents", "support-intents")
    assert examples.pairs_of(store, found.dataset_id) == _INTENTS.pairs
    assert "Training on your examples" in words(at) and "Sending the examples to the engine" in words(at)
    again = visit("home")  # a reload
    assert "Training on your examples" in words(again)
    click(again, "home_examples_stop")
    assert job_views.get(store, found.id).request == "cancel"


def test_typed_rows_are_trained_on(server: FaultServer, store: Store) -> None:
    at = type_into(visit("home"), *_FIVE)
    assert can_train(at)
    click(at, "home_examples_train")
    found = examples.newest_job(store, LOCAL)
    assert found is not None and (found.name, found.suffix) == ("My examples", "my-examples")
    assert examples.pairs_of(store, found.dataset_id) == tuple(_FIVE)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (_FIVE[:1], "Too few examples: 1 of at least 5."),
        (_FIVE[:4], "Add 1 more; 12 is a good start."),
        ([ExamplePair(prompt, "") for prompt, _answer in _FIVE], "No row has both a prompt and an answer. Fill in"),
        ([ExamplePair("", answer) for _prompt, answer in _FIVE], "No row has both a prompt and an answer. Fill in"),
        ([*_FIVE[:4], ExamplePair("prompt 0", "other")], "Rows 1, 5 have the same prompt"),
        (
            [*_FIVE[:4], ExamplePair("x" * 2001, "y")],
            "The text in row 5 has 2,001 characters; the limit is 2,000",
        ),
        ([*_FIVE[:4], ExamplePair("x", "y" * 300_000)], "The text in row 5 has 300,000 characters"),
    ],
)
def test_what_stands_in_the_way_is_told_before_training(
    server: FaultServer, pairs: list[ExamplePair], sentence: str
) -> None:
    at = type_into(visit("home"), *pairs)
    assert sentence in trouble(at) and not can_train(at)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([ExamplePair(prompt, "yes") for prompt, _answer in _FIVE], "Add examples with other answers."),
        ([*_FIVE, ExamplePair("prompt 5", "")], "No answer in row 6: left out of training."),
        ([*_FIVE, _FIVE[0], _FIVE[1]], "Rows 6, 7 repeat earlier rows: each counts once."),
    ],
)
def test_a_warning_does_not_stop_training(server: FaultServer, pairs: list[ExamplePair], sentence: str) -> None:
    at = type_into(visit("home"), *pairs)
    assert sentence in words(at) and not at.error and can_train(at)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pairs.csv", "prompt,answer\n" + "".join(f"{p},{a}\n" for p, a in _FIVE)),
        ("pairs.jsonl", "".join(json.dumps({"question": p, "answer": a}) + "\n" for p, a in _FIVE)),
        ("chat.txt", "".join(f"Customer: {p}\nAgent: {a}\n" for p, a in _FIVE)),
    ],
)
def test_a_file_fills_the_table(server: FaultServer, store: Store, name: str, data: str) -> None:
    at = upload(visit("home"), name, data.encode())
    assert table(at) == _FIVE and can_train(at) and not at.error
    click(at, "home_examples_train")
    found = examples.newest_job(store, LOCAL)
    assert found is not None and examples.pairs_of(store, found.dataset_id) == tuple(_FIVE)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00", "This file can't be used yet"),
        ("a.pdf.txt", b"%PDF-1.7", "This file can't be used yet"),
        ("a.csv", b"", "This file can't be used yet"),
        ("a.csv", b"question\nWhere is it?\n", "Add a column with the answers."),
        (
            "a.csv", b"prompt,answer\n" + b"".join(b"q %d,a %d\n" % (n, n) for n in range(5_000)),
            "Too many examples for this form: 5,000; the limit is 200. Load the file on the Data set page",
        ),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_leaves_the_rows_and_says_what_to_do(
    server: FaultServer, name: str, data: bytes, said: str
) -> None:
    at = upload(click(visit("home"), "home_examples_support-intents"), name, data)
    assert said in trouble(at)
    assert table(at) == list(_INTENTS.pairs) and can_train(at)


def test_a_chat_log_is_pasted_and_an_unchanged_sample_gives_way_to_it(server: FaultServer) -> None:
    at = click(visit("home"), "home_examples_house-style")
    log = "\n".join(f"User: {prompt}\nBot: {answer}" for prompt, answer in _FIVE)
    at.text_area(key="home_examples_pasted").set_value(log)
    click(at, "home_examples_add")
    assert table(at) == _FIVE and can_train(at)
    at.text_area(key="home_examples_pasted").set_value("prompt\tanswer\nsix\t6")
    click(at, "home_examples_add")
    assert table(at) == [*_FIVE, ExamplePair("six", "6")]


def test_a_paste_that_cannot_be_read_is_an_error_in_the_card_and_changes_nothing(server: FaultServer) -> None:
    at = click(visit("home"), "home_examples_house-style")
    at.text_area(key="home_examples_pasted").set_value("just a sentence")
    click(at, "home_examples_add")
    assert "No examples were found in the text." in trouble(at)
    assert len(table(at)) == 12 and can_train(at)


def test_too_many_rows_are_sent_to_the_data_set_page(server: FaultServer) -> None:
    at = visit("home")
    log = "\n".join(f"q {i}\ta {i}" for i in range(MAX_EXAMPLES + 1))
    at.text_area(key="home_examples_pasted").set_value(f"prompt\tanswer\n{log}")
    click(at, "home_examples_add")
    assert "Too many examples for this form: 201" in trouble(at)
    assert table(at) == [ExamplePair("", "")] * 5
    assert "Open the Data set page" in labels(at)


def test_rows_survive_a_visit_to_another_page(server: FaultServer) -> None:
    at = type_into(visit("home"), *_FIVE)
    at.switch_page(str(_FRAME.with_name("settings.py"))).run()
    at.switch_page(str(_FRAME.with_name("home.py"))).run()
    assert table(at) == _FIVE


def test_base_and_tuned_answer_side_by_side(server: FaultServer, store: Store) -> None:
    server.when(_INTENTS.prompt, fault_server.text("track_order"))
    job_id = trained(store, status="succeeded", fine_tuned_model=_TUNED, n_examples=12)
    at = visit("home")
    assert "Your model is ready" in words(at)
    assert prompt_field(at).value == _INTENTS.prompt
    assert _TUNED in [block.value for block in at.code]
    ask(at)
    assert words(at).count("track_order") >= 2
    assert "**Base model, untrained**" in words(at) and "**Your model**" in words(at)
    view = before_after.get(store, job_id)
    assert view is not None
    assert [(pair.prompt, pair.base.text, pair.tuned.text) for pair in view.pairs] == [
        (_INTENTS.prompt, "track_order", "track_order")
    ]
    again(at)
    assert len(before_after.get(store, job_id).pairs) == 1  # type: ignore[union-attr]  # drawn twice, stored once


def test_the_answers_are_no_stories(server: FaultServer, store: Store) -> None:
    trained(store, status="succeeded", fine_tuned_model=_TUNED)
    at = ask(visit("home"))
    assert library.recent(store) == []
    last = next(metric for metric in again(at).metric if metric.label == "Last story")
    assert last.value == "–"


def test_a_reload_and_the_job_page_show_the_answers(server: FaultServer, store: Store) -> None:
    server.when("my own words", fault_server.text("refund"))
    job_id = trained(store, status="succeeded", fine_tuned_model=_TUNED)
    at = visit("home")
    prompt_field(at).set_value("my own words")
    ask(at)
    reloaded = visit("home")
    assert words(reloaded).count("refund") >= 2 and "my own words" in words(reloaded)
    page = visit("training")
    assert [text.value for text in page.text] == ["refund", "refund"]
    with zipfile.ZipFile(io.BytesIO(run_export.run_zip(store, job_id))) as file:
        (pair,) = json.loads(file.read("before_after.json"))
    assert (pair["prompt"], pair["base"]["text"], pair["tuned"]["text"]) == ("my own words", "refund", "refund")


def test_the_asked_prompt_can_be_removed_and_brought_back(server: FaultServer, store: Store) -> None:
    job_id = trained(store, status="succeeded", fine_tuned_model=_TUNED)
    at = visit("home")
    prompt_field(at).set_value("word " * 1_200)
    at = ask(at)
    shown = next(block.value for block in at.markdown if block.value.startswith(":material/chat_bubble:"))
    assert len(shown) < 350
    assert "The whole prompt" in [box.label for box in at.expander]
    at = click(at, "home_remove_0")
    assert before_after.get(store, job_id).pairs == ()  # type: ignore[union-attr]
    assert "word word" not in words(at)
    at = click(at, "home_undo")
    assert len(before_after.get(store, job_id).pairs) == 1  # type: ignore[union-attr]
    assert "word word" in words(at)
    at = click(visit("home"), "home_remove_0")  # after a reload too
    assert "word word" not in words(at)


def test_a_prompt_without_an_answer_can_be_removed(server: FaultServer, store: Store) -> None:
    server.when(_INTENTS.prompt, fault_server.error(404, "The model does not exist", "model_not_found"))
    trained(store, status="succeeded", fine_tuned_model=_TUNED)
    at = click(ask(visit("home")), "home_remove_asked")
    assert not trouble(at) and "home_remove_asked" not in [button.key for button in at.button]


def test_answers_that_are_still_coming_are_there_after_a_reload(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_connection(*_given: object) -> None:
        raise StopException

    server.when(_INTENTS.prompt, fault_server.held())
    job_id = trained(store, status="succeeded", fine_tuned_model=_TUNED)
    monkeypatch.setattr(story_session, "RELOAD_S", 240.0)
    with monkeypatch.context() as patch:
        patch.setattr(story_text, "read_along", lose_connection)
        ask(visit("home"))
    server.release()
    visit("home")
    (pair,) = before_after.get(store, job_id).pairs  # type: ignore[union-attr]
    assert (pair.base.state, pair.tuned.state, len(server.prompts())) == ("done", "done", 2)


def test_a_model_that_is_gone_is_told_with_a_way_on(server: FaultServer, store: Store) -> None:
    gone = fault_server.error(404, "The model does not exist", "model_not_found")
    server.when(_INTENTS.prompt, gone)
    job_id = trained(store, status="succeeded", fine_tuned_model=_TUNED)
    at = ask(visit("home"))
    assert "Model not found" in trouble(at) and "or train on its data set again" in trouble(at)
    assert {"Train again with more examples", "New examples"} <= set(labels(at))
    assert before_after.get(store, job_id) is None  # there was no answer, so there is nothing to keep


def test_an_empty_prompt_is_told(server: FaultServer, store: Store) -> None:
    trained(store, status="succeeded", fine_tuned_model=_TUNED)
    at = visit("home")
    prompt_field(at).set_value("  ")
    assert "The prompt is empty." in trouble(ask(at))


def test_new_examples_begin_with_an_empty_table(server: FaultServer, store: Store) -> None:
    trained(store, status="succeeded", fine_tuned_model=_TUNED)
    at = click(visit("home"), "home_examples_new")
    assert table(at) == [ExamplePair("", "")] * 5 and not can_train(at)


def test_more_examples_begin_with_those_of_the_job(server: FaultServer, store: Store) -> None:
    trained(store, status="succeeded", fine_tuned_model=_TUNED)
    at = click(visit("home"), "home_examples_again")
    assert table(at) == list(_INTENTS.pairs) and can_train(at)
    click(at, "home_examples_close")
    assert "Your model is ready" in words(at)


@pytest.mark.parametrize(
    ("values", "said", "button"),
    [
        ({"status": "preparing"}, "Sending the examples to the engine · estimating time left", "Stop training"),
        ({"status": "preparing", "error": "The engine is not running."}, "The engine is not running.", "Stop training"),
        ({"status": "queued"}, "Queued: another job is training", "Stop training"),
        ({"status": "queued", "remote_id": "ftjob-1"}, "Starting the training", "Stop training"),
        ({"status": "running"}, "Loading the base model", "Stop training"),
        ({"status": "running", "remote_id": "ftjob-1"}, "step 12 of 48 · about 10 min left", "Stop training"),
        ({"status": "paused"}, "Paused", "Resume"),
        ({"status": "running", "requested_action": "cancel"}, "Stopping", "Stop training"),
    ],
)
def test_a_job_on_its_way_shows_its_phase_and_the_time_left(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], said: str, button: str
) -> None:
    if values.get("remote_id"):
        values = {**values, "estimated_finish": utcnow() + timedelta(minutes=10)}
    trained(store, **values)
    engine = EngineStatus("up", training={"job": "ftjob-1", "step": 12, "total_steps": 48})
    seen = replace(cache.status(), engine=engine)
    monkeypatch.setattr(cache, "status", lambda: seen)
    at = visit("home")
    assert said in words(at) and button in labels(at) and not at.error


def test_a_failed_job_says_why_and_can_be_repeated(server: FaultServer, store: Store) -> None:
    trained(store, status="failed", error="Memory ran out.", next_step="Close other programs.")
    at = visit("home")
    assert "Training failed" in words(at) and "Memory ran out." in trouble(at)
    assert "saved as the data set **Support intents**" in words(at)
    click(at, "home_examples_again")
    click(at, "home_examples_train")
    assert len(job_views.list_jobs(store)) == 2
