"""Column mapping: guessed by name, previewed before it is saved."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from core.datasets.importers import column_mapping
from core.datasets.importers.column_mapping import ColumnMapping
from core.errors import BadFile


def frame(*columns: str, **cells: list[str]) -> pd.DataFrame:
    rows = max((len(c) for c in cells.values()), default=1)
    return pd.DataFrame({c: cells.get(c, ["x"] * rows) for c in columns}, dtype="str")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("dynasty", "super_power", "story_type", "story"), (("dynasty", "super_power", "story_type"), "story")),
        (("topic", "text"), (("topic",), "text")),
        (("a", "b", "c"), (("a", "b"), "c")),
        (("message", "intent", "language"), (("message",), "intent")),
        (("text", "label"), (("text",), "label")),
        (("Label", "Text"), (("Text",), "Label")),
        (("instruction", "input", "output"), (("instruction", "input"), "output", None, "\n")),
        (("system", "prompt", "completion"), (("prompt",), "completion")),
        (("问题", "来源", "回答"), (("问题",), "回答")),
        (("assistant", "user"), (("user",), "assistant")),
        (("答", "问"), (("问",), "答")),
        (("问", "答"), (("问",), "答")),
        (("A", "Q"), (("Q",), "A")),
        (("gpt", "human", "id"), (("human",), "gpt")),
        (("answer", "question", "model"), (("question",), "answer")),
        (("assistant_message", "user_message"), (("user_message",), "assistant_message")),
        (("question", "model_answer", "answer_date"), (("question",), "model_answer")),
        (("Prompt", "Model Output", "Output Tokens"), (("Prompt",), "Model Output")),
        (("userMessage", "assistantMessage"), (("userMessage",), "assistantMessage")),
        (("标准答案", "用户问题", "编号"), (("用户问题",), "标准答案")),
        (("title", "body", "model"), (("title",), "body")),
        (("title", "body", "id"), (("title",), "body")),
        (("title", "body", "date", "created_at", "url"), (("title",), "body")),
        (("genre", "body", "language", "score"), (("genre", "language"), "body")),
        (("source", "target"), (("source",), "target")),
        (("prompt", "chosen", "rejected"), (("prompt",), "chosen", None, ",", "rejected")),
        (("question", "context", "answer"), (("question", "context"), "answer", None, "\n")),
        (("only",), ((), "only")),
        (("text",), ((), "text")),
    ],
)
def test_columns_are_guessed_by_their_names(columns: tuple[str, ...], expected: tuple[Any, ...]) -> None:
    assert column_mapping.guess(frame(*columns)) == ColumnMapping(*expected)


@pytest.mark.parametrize(
    ("texts", "prompts", "shared"),
    [
        (["Be brief.", " Be brief. "], ("system", "prompt"), ""),
        (["Be brief.", "Be brief."], ("prompt",), "Be brief."),
        (["Be brief.", ""], ("system", "prompt"), ""),
        (["", ""], ("system", "prompt"), ""),
    ],
)
def test_a_system_text_of_all_rows_is_no_part_of_their_prompts(
    texts: list[str], prompts: tuple[str, ...], shared: str
) -> None:
    table = frame("system", "prompt", "completion", system=texts, prompt=["a", "b"], completion=["c", "d"])
    found = column_mapping.guess(table)
    assert found.prompts == prompts and column_mapping.shared_system(table, found) == shared
    assert column_mapping.shared_system(table, ColumnMapping(("system",), "completion")) == ""


@pytest.mark.parametrize(
    ("words", "guessed"),
    [(["held_out", ""], True), (["test", "Train "], True), (["", ""], False), (["A", "B"], False)],
)
def test_a_split_column_is_guessed_when_all_its_words_mean_a_part(words: list[str], guessed: bool) -> None:
    found = column_mapping.guess(frame("message", "split", "intent", split=words))
    assert found.split == ("split" if guessed else None) and found.completion == "intent"


def test_what_becomes_of_a_table_is_counted() -> None:
    table = frame(
        "k", "story", "split", k=["a", "b", "c", "d"], story=["1", " ", "3", "4"], split=["test", "", "", "held_out"]
    )
    found = column_mapping.mapping_preview(table, ColumnMapping(("k",), "story", "split"))
    assert (found.examples, found.empty, found.splits) == (3, 1, {"held_out": 2, None: 1})


def test_words_that_mean_no_part_are_told_before_anything_is_kept() -> None:
    with pytest.raises(BadFile, match="The split column contains 'x'"):
        column_mapping.mapping_preview(frame("k", "story"), ColumnMapping((), "story", "k"))


def test_an_example_shows_line_ends_and_is_cut() -> None:
    table = frame("a", "b", "story", story=["\n\n从前" + "x" * 99])
    assert column_mapping.example(table, ColumnMapping(("b", "a"), "story"), 0, 6) == (
        '{"prompt": "x,x", "completion": "\\n\\n从前xx…"}'
    )


def test_an_example_shows_the_system_text_that_all_rows_have() -> None:
    table = frame("prompt", "completion", "system", system=["Be kind.", "Be kind."], prompt=["a", "b"])
    assert (
        json.loads(column_mapping.example(table, ColumnMapping(("prompt",), "completion"), 0, 99))["system"]
        == "Be kind."
    )
    in_prompt = column_mapping.example(table, ColumnMapping(("system", "prompt"), "completion"), 0, 99)
    assert json.loads(in_prompt) == {"prompt": "Be kind.,a", "completion": "x"}


def test_columns_without_a_part_stay_with_their_rows() -> None:
    assert ColumnMapping(("a",), "c", "s").others(["a", "b", "c", "s", "d"]) == ("b", "d")


def test_a_column_of_numbers_is_not_guessed_as_the_text_to_learn() -> None:
    found = column_mapping.guess(frame("a", "b", "c", b=["x", "y"], c=["1", " 2.5"]))
    assert found.completion == "b"


def test_an_empty_cell_adds_no_separator_to_the_example() -> None:
    table = frame("a", "b", "c", "story", b=[" "])
    assert column_mapping.example(table, ColumnMapping(("a", "b", "c"), "story", None, "\n"), 0, 9) == (
        '{"prompt": "x\\nx", "completion": "x"}'
    )


@pytest.mark.parametrize(
    ("cells", "json"),
    [(['[{"a": 1}]', "{}"], True), (["['x']"], True), (["[sic] He said", "{x}"], False), (["", ""], False)],
)
def test_a_column_of_json_is_seen(cells: list[str], json: bool) -> None:
    assert column_mapping.holds_json(frame("c", c=cells), "c") == json
