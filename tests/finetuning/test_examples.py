"""A handful of examples: samples, check, pasted chat logs and tables, the data set and its job."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core.actor import LOCAL, Actor
from core.datasets import datasets, example_pairs
from core.datasets.example_pairs import MAX_CELL_CHARACTERS, MAX_EXAMPLES, MIN_EXAMPLES, ExamplePair, check
from core.datasets.importers import table_reader
from core.datasets.presets import example_samples
from core.db.store import Store
from core.db.tables import utcnow
from core.errors import BadFile, FabulaError
from core.finetuning import examples, job_form, job_views, jobs
from core.finetuning.job_views import JobView
from core.providers import ModelInfo
from tests.support.fakes import FakeClient, FakeRegistry
from tests.support.waiting import InstantStopSignal

_HAN = re.compile(r"[\u4e00-\u9fff]")
_INTENTS = [
    ExamplePair("Where is my parcel?", "track"),
    ExamplePair("Give me my money back", "refund"),
    ExamplePair("Cancel my order", "cancel"),
    ExamplePair("Has it been sent?", "track"),
    ExamplePair("I want a refund", "refund"),
]


def sentences(pairs: list[ExamplePair]) -> str:
    return "\n".join(finding.sentence for finding in check(pairs).findings)


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_three_samples_of_twelve_rows_are_ready_to_train_in_each_language(language: str) -> None:
    found = example_samples(language)
    assert [sample.id for sample in found] == ["support-intents", "house-style", "extract-json"]
    for sample in found:
        assert len(sample.pairs) == 12 and check(sample.pairs) == example_pairs.CheckedExamples(sample.pairs, ())
        assert sample.prompt not in {pair.prompt for pair in sample.pairs}
        assert all(bool(_HAN.search(text)) == (language == "zh_CN") for text in (sample.prompt, sample.names[language]))
        assert all(bool(_HAN.search(pair.prompt)) == (language == "zh_CN") for pair in sample.pairs)


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_the_samples_teach_what_they_say(language: str) -> None:
    intents, style, fields = example_samples(language)
    labels = [pair.answer for pair in intents.pairs]
    assert sorted(labels.count(label) for label in set(labels)) == [3, 3, 3, 3]
    endings = {pair.answer.rstrip("。.").rpartition("。" if language == "zh_CN" else ". ")[2] for pair in style.pairs}
    assert len(endings) == 1
    for pair in fields.pairs:
        answer = json.loads(pair.answer)
        assert list(answer) == list(json.loads(fields.pairs[0].answer))
        name, _item, count = answer.values()
        assert name in pair.prompt and str(count) in pair.prompt


# --- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "sentence", "ready"),
    [
        ([], "There are no examples yet. Type, paste or upload at least 5, or start with a sample.", False),
        ([ExamplePair("", ""), ExamplePair(" ", "\n")], "There are no examples yet.", False),
        (_INTENTS[:1], "Too few examples: 1 of at least 5.", False),
        (_INTENTS[:4], "Add 1 more; 12 is a good start.", False),
        ([*_INTENTS[:4], _INTENTS[0]], "Too few examples: 4 of at least 5.", False),  # a repeat is not a new example
        (_INTENTS, "", True),
        ([ExamplePair(f"  {p}\n", f"\t{a} ") for p, a in _INTENTS], "", True),
        ([ExamplePair(f"question {i}", f"answer {i}") for i in range(MAX_EXAMPLES)], "", True),
        (
            [ExamplePair(f"q {i}", f"a {i}") for i in range(MAX_EXAMPLES + 1)],
            "Too many examples for this form: 201",
            False,
        ),
        ([ExamplePair(p, "") for p, _a in _INTENTS], "No row has both a prompt and an answer.", False),
        ([ExamplePair(p, "") for p, _a in _INTENTS], "No answer in rows 1, 2, 3, 4, 5: left out.", False),
        ([ExamplePair(p, " ") for p, _a in _INTENTS[:1]], "Fill in the missing side of at least 5 rows.", False),
        ([*_INTENTS, ExamplePair("Hello?", "")], "No answer in row 6: left out of training.", True),
        ([ExamplePair("", "track"), *_INTENTS], "No prompt in row 1: left out of training.", True),
        ([*_INTENTS, _INTENTS[1], ExamplePair(*_INTENTS[2])], "Rows 6, 7 repeat earlier rows: each counts once.", True),
        (
            [*_INTENTS, ExamplePair("Cancel my order", "refund")],
            "Rows 3, 6 have the same prompt, “Cancel my order”, with different answers. Keep one of them",
            False,
        ),
        (
            [*_INTENTS, ExamplePair("x" * 2001, "long")],
            "The text in row 6 has 2,001 characters; the limit is 2,000.",
            False,
        ),
        ([*_INTENTS, ExamplePair("x" * MAX_CELL_CHARACTERS, "long")], "", True),
        (
            [*_INTENTS, ExamplePair("one", "y" * 3000), ExamplePair("z" * 2500, "two")],
            "Rows 6, 7 have texts of more than 2,000 characters.",
            False,
        ),
        ([ExamplePair(p, "yes") for p, _a in _INTENTS], "All answers are the same", True),
    ],
)
def test_each_flaw_is_a_sentence_before_training(pairs: list[ExamplePair], sentence: str, ready: bool) -> None:
    checked = check(pairs)
    assert checked.ready is ready
    assert sentence in sentences(pairs) if sentence else not checked.findings
    assert checked.too_many is (len(checked.pairs) > MAX_EXAMPLES)


def test_rows_are_named_as_the_form_shows_them() -> None:
    findings = check([*_INTENTS, ExamplePair("Hello?", "")], rows=[1, 2, 3, 5, 8, 13]).findings
    assert [finding.sentence for finding in findings] == ["No answer in row 13: left out of training."]


def test_what_is_left_out_is_not_trained_on() -> None:
    assert check([*_INTENTS, ExamplePair("Hello?", ""), _INTENTS[0]]).pairs == tuple(_INTENTS)


def test_many_contradictions_do_not_flood_the_page() -> None:
    pairs = [ExamplePair(f"prompt {i % 40}", f"answer {i}") for i in range(120)]
    blocking = [finding for finding in check(pairs).findings if finding.blocking]
    assert len(blocking) == 5 and all(len(finding.sentence) < 200 for finding in blocking)


# --- pasted ---------------------------------------------------------------------------------------------------------

_TWO = (ExamplePair("Where is it?", "On its way."), ExamplePair("Thanks, and the bill?", "In your mail."))


@pytest.mark.parametrize(
    ("text", "pairs", "form"),
    [
        (
            "Customer: Where is it?\nAgent: On its way.\nCustomer: Thanks, and the bill?\nAgent: In your mail.",
            _TWO, "chat",
        ),
        ("User: Where is it?\n\nAssistant: On its way.\n\nUser: Thanks,\nand the bill?\nAssistant: In your mail.",
         (_TWO[0], ExamplePair("Thanks,\nand the bill?", "In your mail.")), "chat"),
        (
            "[12.03.24, 10:22] Ann: Where is it?\n[12.03.24, 10:23] Bob: On its way.\n"
            "[12.03.24, 10:25] Ann: Thanks, and the bill?\n[12.03.24, 10:26] Bob: In your mail.",
            _TWO, "chat",
        ),
        ("10:22 AM - Ann: Where is it?\n10:23 AM - Bob: On its way.", _TWO[:1], "chat"),
        ("Q: Where is it?\nA: On its way.\nQ: Thanks, and the bill?\nA: In your mail.", _TWO, "chat"),
        ("**User:** Where is it?\n**Assistant:** On its way.", _TWO[:1], "chat"),
        ("用户：到哪儿了？\n客服：在路上。\n用户：谢谢\n用户：发票呢？\n客服：已发邮箱。",
         (ExamplePair("到哪儿了？", "在路上。"), ExamplePair("谢谢\n发票呢？", "已发邮箱。")), "chat"),
        ("2024-03-12 10:22:05 张三：到哪儿了？\n2024-03-12 10:23:00 小李：在路上。",
         (ExamplePair("到哪儿了？", "在路上。"),), "chat"),
        ("Chat of Monday\nUser: See https://a.b: why?\nBot: Note: it moved.\nhttp://c.d: here",
         (ExamplePair("See https://a.b: why?", "Note: it moved.\nhttp://c.d: here"),), "chat"),
        ("Support: Hello!\nAnn: Where is it?\nSupport: On its way.", _TWO[:1], "chat"),
        ("message,intent\nWhere is it?,On its way.\n\"Thanks, and the bill?\",In your mail.", _TWO, "table"),
        ("Where is it?\tOn its way.\nThanks, and the bill?\tIn your mail.", _TWO, "table"),  # no header
        ("answer\tquestion\nOn its way.\tWhere is it?", _TWO[:1], "table"),
        ('{"prompt": "Where is it?", "completion": "On its way."}', _TWO[:1], "table"),
        ('[{"question": "Where is it?", "answer": "On its way."}]', _TWO[:1], "table"),
        ('{"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]}',
         _TWO[:1], "table"),
    ],
)  # fmt: skip
def test_pairs_are_read_from_pasted_text(text: str, pairs: tuple[ExamplePair, ...], form: str) -> None:
    found = example_pairs.from_text(text)
    assert (found.pairs, found.form) == (pairs, form)


@pytest.mark.parametrize(
    "text", ["", " \n ", "Just a sentence.", "User: hello\nUser: anyone?", "{broken", "a\nb\nc", "\x00\x01", "[]"]
)
def test_text_without_pairs_is_refused_with_what_to_paste(text: str) -> None:
    with pytest.raises(BadFile) as caught:
        example_pairs.from_text(text)
    assert caught.value.next_step.startswith("Paste lines such as")


def test_a_text_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadFile, match="1,000,001 characters"):
        example_pairs.from_text("x" * 1_000_001)


def test_what_has_no_counterpart_in_a_chat_is_counted() -> None:
    found = example_pairs.from_text("Agent: Hello!\nCustomer: Where is it?\nAgent: On its way.\nCustomer: Thanks!")
    assert found.notes == ("Messages without an answer, left out: 1.", "Answers without a question, left out: 1.")


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("chat.txt", b"Customer: Where is it?\nAgent: On its way.", "chat"),
        ("chat.TXT", "Ann: Where is it?\nBob: On its way.".encode("utf-16"), "chat"),
        ("chat.txt", b"question\tanswer\nWhere is it?\tOn its way.", "table"),
        ("chat.txt", b'{"prompt": "Where is it?", "completion": "On its way."}', "table"),
        ("pairs.csv", b"question,answer\nWhere is it?,On its way.", "table"),
        ("pairs.csv", "问题;回答\nWhere is it?;On its way.".encode("gb18030"), "table"),
        ("pairs.jsonl", b'{"question": "Where is it?", "answer": "On its way."}', "table"),
    ],
)
def test_pairs_are_read_from_a_file(name: str, data: bytes, form: str) -> None:
    found = example_pairs.from_file(data, name)
    assert (found.pairs, found.form) == (_TWO[:1], form)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00"),
        ("a.xlsx", b"PK\x03\x04 broken"),
        ("a.txt", b"%PDF-1.7"),
        ("a.txt", b"just a sentence"),
        ("a.jsonl", b"{broken"),
        ("a.csv", b""),
    ],
)
def test_a_file_that_cannot_be_read_says_what_to_do(name: str, data: bytes) -> None:
    with pytest.raises(BadFile) as caught:
        example_pairs.from_file(data, name)
    assert caught.value.what and caught.value.next_step


def test_a_file_with_one_column_has_no_answers() -> None:
    with pytest.raises(BadFile, match="prompts and answers need two"):
        example_pairs.from_table(table_reader.read_table(b"question\nWhere is it?\n", "one.csv"))


# --- the data set and its job ---------------------------------------------------------------------------------------


def start(store: Store, pairs: list[ExamplePair] | None = None, actor: Actor = LOCAL, **given: Any) -> str:
    form = {"name": "Support intents", "suffix": "support-intents", "base": "gemma-3-270m"} | given
    return examples.train(store, actor, pairs or _INTENTS, **form)


def test_the_pairs_become_a_data_set_and_a_job_like_any_other(store: Store) -> None:
    job = job_views.get(store, start(store, [*_INTENTS, ExamplePair("Hello?", ""), _INTENTS[0]]))
    dataset = datasets.summary(store, job.dataset_id or "")
    assert (dataset.name, dataset.source, dataset.columns, dataset.done) == (
        "Support intents",
        "examples",
        ("prompt",),
        5,
    )
    assert (job.name, job.provider, job.base_model, job.suffix) == (
        "Support intents", "engine", "gemma-3-270m", "support-intents",
    )  # fmt: skip
    assert job.file_format == "chat" and job.status == "preparing"
    assert job.hyperparameters["n_epochs"] == examples.suggest_hyperparameters(5).n_epochs
    assert examples.pairs_of(store, job.dataset_id) == tuple(_INTENTS)


def test_a_second_click_is_the_same_job_and_other_pairs_are_another(store: Store) -> None:
    first = start(store)
    assert start(store) == first and len(datasets.list_datasets(store)) == 1
    second = start(store, [*_INTENTS, ExamplePair("Stop it", "cancel")])
    assert second != first
    assert [one.name for one in datasets.list_datasets(store)] == ["Support intents (2)", "Support intents"]
    jobs.give_up(store, second, FabulaError("No room."))
    assert start(store, [*_INTENTS, ExamplePair("Stop it", "cancel")]) not in (
        first,
        second,
    )  # a failed one can be repeated


@pytest.mark.parametrize(
    "pairs", [_INTENTS[:4], [*_INTENTS, ExamplePair("Cancel my order", "refund")], [ExamplePair("a", "b" * 9999)]]
)
def test_pairs_that_cannot_be_trained_on_leave_nothing_behind(store: Store, pairs: list[ExamplePair]) -> None:
    with pytest.raises(FabulaError) as caught:
        start(store, pairs)
    assert caught.value.next_step.startswith("Nothing was started.")
    assert not datasets.list_datasets(store) and not job_views.list_jobs(store)


def test_the_newest_job_is_the_actors_own(store: Store) -> None:
    assert examples.newest_job(store, LOCAL) is None
    mine = start(store)
    start(store, [*_INTENTS, ExamplePair("Stop it", "cancel")], Actor("other", "Other", "editor"))
    other = datasets.load_sample(store, LOCAL, "support_intents")
    jobs.submit(store, LOCAL, job_form.JobForm(other, "x", "engine", "gemma-3-270m"))
    found = examples.newest_job(store, LOCAL)
    assert found is not None and found.id == mine


def test_the_file_that_is_uploaded_has_one_conversation_a_pair(store: Store, client: FakeClient) -> None:
    job_id = start(store)
    jobs.carry_out(store, FakeRegistry({"engine": client}), job_id, InstantStopSignal())  # type: ignore[arg-type]  # fakes
    lines = [json.loads(line) for line in client.uploaded[0].splitlines()]
    assert [(m[0]["content"], m[1]["content"]) for m in (line["messages"] for line in lines)] == _INTENTS


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.mark.parametrize("n", [MIN_EXAMPLES, 12, 16, 50, MAX_EXAMPLES])
def test_settings_read_each_example_often_enough_and_say_why(n: int) -> None:
    chosen = examples.suggest_hyperparameters(n)
    assert 3 <= chosen.n_epochs <= 50
    assert str(chosen.n_epochs) in chosen.reason
    assert n * chosen.n_epochs >= 40


def info(name: str, provider: str = "engine", base: str | None = None) -> ModelInfo:
    return ModelInfo(name, provider, base, "both", None)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([], None),
        ([info("gpt-4o", "openai")], None),
        ([info("storyteller", base="gemma-3-270m")], None),
        ([info("other"), info("gemma-3-270m", base="gemma-3-270m"), info("storyteller", base="gemma-3-270m")],
         "gemma-3-270m"),
        ([info("ft:gemma-3-270m:fabula:x:1", base="gemma-3-270m"), info("my-base")], "my-base"),
    ],
)  # fmt: skip
def test_training_starts_from_an_untuned_model_of_the_engine(models: list[ModelInfo], expected: str | None) -> None:
    found = examples.base_model(models)
    assert (found and found.id) == expected


def view(store: Store, **changed: Any) -> JobView:
    return replace(job_views.get(store, start(store)), **changed)


_TRAINING = {"job": "ftjob-1", "step": 12, "total_steps": 48}


@pytest.mark.parametrize(
    ("changed", "training", "expected"),
    [
        ({}, None, ("preparing", 0, 0, 0.0)),
        ({"status": "submitting"}, _TRAINING, ("preparing", 0, 0, 0.0)),
        ({"status": "queued"}, _TRAINING, ("queued", 0, 0, 0.0)),
        ({"status": "queued", "queue_position": 2}, None, ("queued", 0, 0, 0.0)),
        ({"status": "queued", "queue_position": 1}, None, ("starting", 0, 0, 0.0)),
        ({"status": "queued", "remote_id": "ftjob-1"}, _TRAINING, ("starting", 0, 0, 0.0)),
        ({"status": "queued"}, None, ("starting", 0, 0, 0.0)),
        ({"status": "paused"}, None, ("paused", 0, 0, 0.0)),
        ({"status": "running", "remote_id": "ftjob-1"}, None, ("loading", 0, 0, 0.0)),
        ({"status": "running", "remote_id": "ftjob-2"}, _TRAINING, ("loading", 0, 0, 0.0)),
        ({"status": "running", "remote_id": "ftjob-1"}, {**_TRAINING, "step": 0}, ("loading", 0, 48, 0.0)),
        ({"status": "running", "remote_id": "ftjob-1"}, {"job": "ftjob-1", "step": None}, ("loading", 0, 0, 0.0)),
        ({"status": "running", "remote_id": "ftjob-1"}, _TRAINING, ("training", 12, 48, 0.25)),
        ({"status": "running", "remote_id": "ftjob-1"}, {**_TRAINING, "step": 48}, ("saving", 48, 48, 1.0)),
        ({"status": "succeeded"}, None, ("succeeded", 0, 0, 1.0)),
        ({"status": "failed"}, None, ("failed", 0, 0, 1.0)),
    ],
)
def test_a_phase_says_how_far_the_job_is(
    store: Store, changed: dict[str, Any], training: dict[str, Any] | None, expected: tuple[str, int, int, float]
) -> None:
    found = examples.phase(view(store, **changed), training, utcnow())
    assert (found.key, found.step, found.steps, found.share) == expected


def test_the_time_left_is_the_engines_own(store: Store) -> None:
    now = utcnow()
    job = view(store, status="running", estimated_finish=now + timedelta(seconds=90))
    assert examples.phase(job, None, now).left_s == 90.0
    assert examples.phase(view(store), None, now).left_s is None  # nothing is known: not 0


def test_a_job_that_has_ended_at_the_engine_is_not_shown_as_starting(store: Store) -> None:
    now = utcnow()
    job = view(store, status="running", remote_id="ftjob-1", estimated_finish=now)
    found = examples.phase(job, None, now)
    assert (found.key, found.share) == ("saving", 1.0)


def test_base_and_tuned_are_asked_the_same(store: Store) -> None:
    with pytest.raises(FabulaError, match="not ready"):
        examples.comparison_requests(view(store), "Where?")
    chat = view(store, fine_tuned_model="ft:x")
    base, tuned = examples.comparison_requests(chat, " Where? ")
    assert (base.model, tuned.model) == ("gemma-3-270m", "ft:x")
    assert replace(base, model="ft:x") == tuned
    assert (tuned.prompt, tuned.endpoint, tuned.temperature, tuned.stop) == ("Where?", "chat", 0.0, ())
    lines = replace(chat, file_format="completion", separator=" ->", stop="\n")
    base, tuned = examples.comparison_requests(lines, "Where?")
    assert (base.prompt, base.stop, base.endpoint) == ("Where? ->", ("\n",), "completion")
