"""Positions of unusable rows: line, row, or number of the entry in a document."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
import pytest

from core.datasets import example_pairs
from core.datasets.importers import json_table, table_reader
from core.datasets.importers.table import ImportProblems
from tests.support.workbook_maker import sheet, workbook


def _asked(answer: str | None) -> list[dict[str, str]]:
    """A conversation; without an answer it cannot be used."""
    turns = [{"role": "user", "content": "Where is it?"}]
    return turns if answer is None else [*turns, {"role": "assistant", "content": answer}]


_THIRD = [_asked("Here."), _asked("There."), _asked(None), _asked("Gone.")]
_UNANSWERED = "Its last message is from the user, not the assistant."
_AS_OBJECTS = [{"messages": turns} for turns in _THIRD]
_NUL = [{"a": "x", "b": "1"}, {"a": "y", "b": "2"}, {"a": "z\0", "b": "3"}]


def _parquet(cells: list[Any]) -> bytes:
    out = io.BytesIO()
    pd.DataFrame({"messages": cells}).to_parquet(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("one line.json", json.dumps(_AS_OBJECTS), f"Conversation 3 (line 1): {_UNANSWERED}"),
        ("bare turns.json", json.dumps(_THIRD), f"Conversation 3 (line 1): {_UNANSWERED}"),
        ("wrapped.json", json.dumps({"data": _AS_OBJECTS}), f"Conversation 3 (line 1): {_UNANSWERED}"),
        ("indented.json", json.dumps(_AS_OBJECTS, indent=1), f"Conversation 3 (line 26): {_UNANSWERED}"),
        ("run together.json", "".join(map(json.dumps, _AS_OBJECTS)), f"Conversation 3 (line 1): {_UNANSWERED}"),
        (
            "after a broken one.json",
            f'[{{"messages" []}}, {json.dumps(_AS_OBJECTS)[1:]}',
            f"Conversation 4 (line 1): {_UNANSWERED}",
        ),
        (
            "parts.json",
            json.dumps({"train": _AS_OBJECTS[:2], "test": _AS_OBJECTS[2:]}),
            f"Conversation 3 (line 1): {_UNANSWERED}",
        ),
        ("lines.jsonl", "\n".join(map(json.dumps, _AS_OBJECTS)), f"Line 3: {_UNANSWERED}"),
        ("blank lines.jsonl", "\n\n" + "\n\n".join(map(json.dumps, _AS_OBJECTS)), f"Line 7: {_UNANSWERED}"),
        (
            "two on a line.jsonl",
            f"{json.dumps(_AS_OBJECTS[0])}\n{json.dumps(_AS_OBJECTS[1])} {json.dumps(_AS_OBJECTS[2])}",
            f"Entry 2 of line 2: {_UNANSWERED}",
        ),
        (
            "cell.csv",
            pd.DataFrame({"messages": map(json.dumps, _THIRD)}).to_csv(index=False),
            f"Line 4: {_UNANSWERED}",
        ),
        (
            "cell over lines.csv",
            pd.DataFrame({"messages": [json.dumps(turns, indent=1) for turns in _THIRD]}).to_csv(index=False),
            f"Line 22: {_UNANSWERED}",
        ),
        (
            "cell.xlsx",
            workbook({"A": sheet([["messages"], *([json.dumps(turns)] for turns in _THIRD)])}),
            f"Row 4: {_UNANSWERED}",
        ),
        ("turns.parquet", _parquet(_THIRD), f"Row 3: {_UNANSWERED}"),
        ("cells.json", json.dumps(_NUL), "Entry 3 (line 1), 'a': The cell contains a NUL character."),
        (
            "split.json",
            pd.DataFrame(_NUL).to_json(orient="split"),
            "Row 3, 'a': The cell contains a NUL character.",
        ),
        ("broken.json", '[{"a": "x"}, {"a": "y"}, {"a" "z"}]', "Entry 3 (line 1): It is not JSON: "),
        ("number.json", '[{"a": "x"}, {"a": "y"}, 7]', "Entry 3 (line 1): It is not a JSON object."),
        ("cut off.json", json.dumps(_AS_OBJECTS[:3])[:-9], "Entry 3 (line 1): It is not JSON: "),
    ],
)
def test_the_third_row_of_a_file_is_named_by_its_own_position(name: str, data: str | bytes, problem: str) -> None:
    found = table_reader.read_table(data.encode() if isinstance(data, str) else data, name)
    assert found.problems[-1].startswith(problem)
    assert len(found.frame) >= 2


def test_a_key_that_comes_late_is_named_by_its_entry() -> None:
    problems = ImportProblems()
    text = io.StringIO(json.dumps([{"a": "1"}, {"a": "2"}, {"a": "3", "late": "4"}]))
    json_table.read(text, "a.json", problems, sample=2)
    assert problems.notes() == [
        "Entry 3 (line 1) has the key 'late', which the first 2 objects do not have; it is left out."
    ]


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (json.dumps(_AS_OBJECTS), (f"Left out: Conversation 3 (line 1): {_UNANSWERED}",)),
        ("\n\nquestion,answer\na,b\nc\n", ("Left out: Line 5 has 1 cell, but the header has 2.",)),
        (
            "question,answer\na,b\n" + "c\n" * 6,
            (
                *(f"Left out: Line {line} has 1 cell, but the header has 2." for line in range(3, 8)),
                "Rows left out in total: 6.",
            ),
        ),
    ],
)
def test_a_pasted_row_that_cannot_be_used_is_said_to_be_left_out(text: str, notes: tuple[str, ...]) -> None:
    assert example_pairs.from_text(text).notes == notes


def test_the_end_of_a_file_that_is_too_large_is_no_row_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.datasets.importers.table.MAX_ROWS", 2)
    named = table_reader.read_table(b"a,b\n1,2\n3\n5,6\n7,8\n", "a.csv").left_out_summary(3)
    assert [sentence.split(":")[0].split(";")[0] for sentence in named] == [
        "Only the first 2 rows were read",
        "Left out",
    ]
