"""The training file is checked before sending, with problems by line, at any size."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.errors import BadTrainingFile, NotFound
from core.finetuning import file_checker, job_form
from core.finetuning.job_form import JobForm
from tests.support.training_lines import check_file

MODEL = "gpt-4o-mini-2024-07-18"


def pair(prompt: str = "唐,隐形 ->", completion: str = " 故事。") -> str:
    return json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False)


def chat(*turns: tuple[str, object], **more: object) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


GOOD = pair()
CHAT = chat(("system", "s"), ("user", "你好"), ("assistant", "好"))


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        (b"\xff\xfe{\x00}\x00", "not_utf8", "UTF-16"),
        (b'{"prompt": "\xff"}', "not_utf8", "byte 13"),
        ('{"prompt": ', "not_json", "column"),
        ('{"prompt": "a", "completion": "\\ud800"}', "not_json", "lone surrogate"),
        ("[" * 100_000, "not_json", "can't be parsed"),
        ("[1]", "not_object", "not a JSON object"),
        ('{"text": "x"}', "shape", "neither"),
        ('{"prompt": "x"}', "shape", '"completion"'),
        ('{"prompt": 1, "completion": "y"}', "shape", '"prompt"'),
        ('{"prompt": "x", "completion": "y", "id": 3}', "shape", "'id'"),
        (pair(completion=" \n"), "empty", "empty"),
        (CHAT, "mixed", "chat"),
        (b'{"prompt": "' + b"x" * (1 << 20) + b'", "completion": "y"}', "too_long_line", "1 MiB"),
    ],
)
def test_a_broken_line_is_named_with_its_reason(tmp_path: Path, line: str | bytes, kind: str, told: str) -> None:
    checked = check_file(write(tmp_path / "x.jsonl", GOOD, "", line, pair("b")), MODEL)
    problem = next(one for one in checked.problems if one.level == "error")
    assert (problem.line, problem.kind) == (3, kind)
    assert told in problem.sentence
    assert len(problem.preview) <= 120
    assert not checked.ok and checked.errors == 1 and checked.counts[kind] == 1
    assert (checked.lines, checked.examples, checked.file_format) == (3, 2, "completion")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"messages": []}', "shape"),
        ('{"messages": "hello"}', "shape"),
        ('{"messages": ["hello"]}', "shape"),
        ('{"messages": [{"content": "x"}]}', "role"),
        (chat(("human", "x"), ("assistant", "y")), "role"),
        (chat(("assistant", "y")), "role"),
        (chat(("user", "x"), ("assistant", None)), "empty"),
        (chat(("user", "x")), "no_answer"),
        (chat(("user", "x"), ("assistant", " ")), "empty"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]}',
            "no_answer",
        ),
        (
            '{"messages": [{"role": "user", "content": "x", "weight": 1}, {"role": "assistant", "content": "y"}]}',
            "shape",
        ),
        (chat(("user", "x"), ("assistant", "y"), temperature=1), "shape"),
    ],
)
def test_invalid_conversations_are_reported(tmp_path: Path, line: str, kind: str) -> None:
    checked = check_file(write(tmp_path / "x.jsonl", CHAT, line), MODEL)
    assert [(one.line, one.kind) for one in checked.problems if one.level == "error"] == [(2, kind)]


@pytest.mark.parametrize(
    "line",
    [
        chat(("user", "x"), ("assistant", [{"type": "text", "text": "y"}])),
        chat(("developer", "d"), ("user", "x"), ("assistant", "y"), ("user", "z"), ("assistant", "w")),
        chat(("user", "x"), ("assistant", "y"), tools=[], parallel_tool_calls=False),
        "\ufeff" + CHAT,
    ],
)
def test_valid_lines_are_accepted(tmp_path: Path, line: str) -> None:
    checked = check_file(write(tmp_path / "x.jsonl", line), MODEL)
    assert checked.ok and checked.file_format == "chat"


@pytest.mark.parametrize("content", ["", "\n\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    checked = check_file(write(tmp_path / "x.jsonl", content), MODEL)
    assert not checked.ok and checked.file_format is None
    assert checked.sentences() == ("The file contains no examples.",)


def test_one_row_is_a_warning_here_and_an_error_at_a_provider_that_wants_ten(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", GOOD)
    assert check_file(path, MODEL).ok
    assert "very few examples (1)" in check_file(path, MODEL).sentences()[0]
    refused = check_file(path, MODEL, min_examples=10)
    assert not refused.ok and "at least 10" in refused.sentences()[0]


def test_an_example_over_the_context_is_named_with_its_length(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", GOOD, pair(completion=" word" * 300), pair(completion="é" * 120))
    checked = check_file(path, MODEL, context=200)
    assert [(one.line, one.kind) for one in checked.problems if one.level == "error"] == [(2, "over_context")]
    assert "at most 200" in checked.problems[0].sentence
    assert (checked.longest_line, checked.longest_tokens > 300) == (2, True)
    assert checked.exact_tokens and checked.tokens > 400
    assert check_file(path, MODEL).ok


@pytest.mark.parametrize(
    ("model", "context"),
    [
        ("gpt-4o-mini-2024-07-18", 65_536),
        ("ft:gpt-4.1-2025-04-14:o:x:1", 65_536),
        ("gemma-3-270m", 4_096),
        ("ft:gemma-3-270m:fabula:ultraman:AbC123", 4_096),
        ("somebody-elses", None),
    ],
)
def test_the_context_of_a_model(model: str, context: int | None) -> None:
    assert job_form.context_size(model) == context


def test_repeats_and_stops_are_warnings_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.jsonl", pair("a"), pair("b", " 一。二。"), pair("a"), pair("a"), *(pair(f"{n}") for n in range(9))
    )
    checked = check_file(path, MODEL, stop="。")
    assert [(one.line, one.kind) for one in checked.problems] == [
        (2, "stop_inside"),
        (3, "duplicate"),
        (4, "duplicate"),
    ]
    assert checked.ok and (checked.errors, checked.warnings) == (0, 3)
    assert checked.sentences() == (
        "Lines that repeat an earlier one: 2.",
        "Examples that contain the stop before their end: 1.",
    )


def test_what_prevents_training_is_said_first_and_a_warning_stays_a_warning(tmp_path: Path) -> None:
    checked = check_file(write(tmp_path / "x.jsonl", GOOD, "{"), MODEL)
    assert checked.summary() == (
        ("error", "Lines that are not JSON: 1."),
        ("warning", "There are very few examples (1). The model will mostly repeat them."),
    )


def test_all_problems_are_counted_and_a_hundred_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *["{"] * 1_000, GOOD)
    checked = check_file(path, MODEL)
    assert (checked.errors, len(checked.problems), checked.examples) == (1_000, 100, 1)


def test_a_large_file_is_read_in_bounded_memory_and_tells_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    line = pair(completion="字" * 3_000).encode() + b"\n"
    with path.open("wb") as file:
        for number in range(4_000):
            file.write(line.replace(b"->", str(number).encode(), 1))
    seen: list[int] = []
    tracemalloc.start()
    checked = check_file(path, MODEL, on_progress=seen.append)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert checked.ok and checked.examples == 4_000 and checked.bytes == path.stat().st_size > 30 << 20
    assert peak < 12 << 20
    assert seen == [1_000, 2_000, 3_000, 4_000]


# --- the rows of a data set ----------------------------------------------------------------------------------------


@pytest.fixture
def form(store: Store) -> JobForm:
    frame = pd.DataFrame({"power": [f"飞行{n}" for n in range(12)], "story": [f"故事{n}" for n in range(12)]})
    return JobForm(datasets.from_frame(store, LOCAL, "twelve", frame, ["power"], "story"), "a", "openai", MODEL)


@pytest.mark.parametrize("file_format", ["completion", "chat"])
def test_the_rows_that_a_job_would_send_are_checked_as_they_are_written(
    store: Store, form: JobForm, file_format: str
) -> None:
    checked = file_checker.check_form(store, replace(form, file_format=file_format, provider="compatible"))  # type: ignore[arg-type]
    assert (checked.ok, checked.examples, checked.file_format) == (True, 12, file_format)
    assert checked.preview[0].prompt.startswith("飞行0")
    assert checked.exact_tokens and checked.tokens > 12
    assert checked.sentences() == ("The format of all 12 examples is valid.",)


def test_a_form_without_its_data_set_is_not_found(store: Store, form: JobForm) -> None:
    with pytest.raises((NotFound, BadTrainingFile)):
        file_checker.check_form(store, replace(form, dataset_id="nothing"))


def test_a_given_stop_inside_the_texts_is_refused_before_anything_is_sent(store: Store, form: JobForm) -> None:
    with pytest.raises(BadTrainingFile, match="occurs inside"):
        file_checker.check_form(store, replace(form, stop="事"))


@pytest.mark.parametrize(
    ("provider", "model", "file_format", "ok"),
    [
        ("openai", MODEL, "completion", False),
        ("openai", MODEL, "chat", True),
        ("openai", "ft:babbage-002:o:x:1", "completion", True),
        ("openai", "davinci-002", "chat", False),
        ("azure", "gpt-4o", "completion", False),
        ("openai-2", MODEL, "completion", False),  # a second account
        ("azure-2", "gpt-4o", "completion", False),
        ("engine", "gemma-3-270m", "completion", True),
        ("engine", "gemma-3-270m", "chat", True),
    ],
)
def test_an_unsupported_format_is_reported_before_sending(
    store: Store, form: JobForm, provider: str, model: str, file_format: str, ok: bool
) -> None:
    wanted = replace(form, provider=provider, base_model=model, file_format=file_format)  # type: ignore[arg-type]
    checked = file_checker.check_form(store, wanted)
    assert checked.ok == ok
    assert ok or "only accepts" in checked.sentences()[0]
