"""Conversations as rows: a training line loses nothing on the way into a data set and back, and what is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.datasets import conversation_rows
from core.datasets.importers import conversation_lines
from core.engine import finetune_format
from core.errors import BadFile

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SYSTEM = {"role": "system", "content": "Help."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(arguments: str, name: str = "weather", number: int = 1) -> dict[str, Any]:
    return {"id": f"id-{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


RESULT = {"role": "tool", "tool_call_id": "id-1", "content": "sunny"}
PLAIN = {"messages": [SYSTEM, user("Hi"), answer("Hello")]}
TURNS: dict[str, Any] = {"messages": [user("a"), answer("b", weight=0), user("c"), answer("d", weight=1)]}
CALLS: dict[str, Any] = {
    "messages": [SYSTEM, user("Paris?"), answer(None, tool_calls=[call('{"city": "Paris"}')])],
    "parallel_tool_calls": False,
    "tools": [TOOL],
}
RESULTS: dict[str, Any] = {
    "messages": [user("Paris?"), answer(None, tool_calls=[call("{}")]), RESULT, answer("Sunny.")],
    "tools": [TOOL],
}


def written(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))
    return path


@pytest.mark.parametrize(
    "record",
    [
        PLAIN,
        TURNS,
        CALLS,
        RESULTS,
        {"messages": [user("a"), answer("b"), user("c"), answer("not trained", weight=0)]},
        {"messages": [user("a"), answer('{"role": "assistant", "content": "x"}')]},
        {"messages": [user("a"), answer('{"tool_calls": [{"name": "weather"}]}')], "tools": [TOOL]},
        {"messages": [user("a"), answer(None, tool_calls=[call("{}"), call("{}", number=2)])], "tools": [TOOL]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}, answer("b", name="bot")]},
    ],
)
def test_a_training_line_comes_back_as_it_was(record: dict[str, Any]) -> None:
    prompt, completion = conversation_rows.split(record)
    assert conversation_rows.line(prompt, completion) == record
    assert list(conversation_rows.line(prompt, completion)) == list(record)
    finetune_format.parse_line(json.dumps(conversation_rows.line(prompt, completion)).encode())


@pytest.mark.parametrize(
    ("record", "asked", "expected"),
    [
        (TURNS, TURNS["messages"][:3], "d"),
        (CALLS, CALLS["messages"][:2], '{"tool_calls": [{"name": "weather", "arguments": {"city": "Paris"}}]}'),
        (RESULTS, RESULTS["messages"][:3], "Sunny."),
        ({"messages": [user("a"), answer("b"), user("c"), answer("d", weight=0)]}, [user("a")], "b"),
    ],
)
def test_a_row_asks_for_its_last_trained_answer(
    record: dict[str, Any], asked: list[dict[str, Any]], expected: str
) -> None:
    prompt, text = conversation_rows.to_ask(*conversation_rows.split(record))
    found = conversation_rows.asked(prompt)
    assert list(found.messages) == [{key: one[key] for key in one if key != "weight"} for one in asked]
    assert text == expected
    assert json.loads(found.tools or "[]") == record.get("tools", [])
    assert found.parallel_tool_calls is record.get("parallel_tool_calls")


def test_an_edited_text_replaces_the_answer() -> None:
    prompt, _completion = conversation_rows.split(CALLS)
    assert conversation_rows.line(prompt, "I can't.")["messages"][-1] == answer("I can't.")
    edited = conversation_rows.line(prompt, '{"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}')
    assert edited["messages"][-1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    finetune_format.parse_line(json.dumps(edited).encode())


@pytest.mark.parametrize(
    ("records", "needed"),
    [
        ([PLAIN, PLAIN], False),
        ([{"prompt": "a", "completion": "b"}], False),
        ([{"messages": [user("a"), answer("b", weight=1)]}], False),
        ([PLAIN, TURNS], True),
        ([{"input": {"messages": [user("a")]}, "preferred_output": [answer("b")]}, TURNS], False),
        ([PLAIN, CALLS], True),
        ([PLAIN, {"messages": [{**SYSTEM, "content": "Other."}, user("Hi"), answer("Hello")]}], True),
        ([{"messages": [{**SYSTEM, "role": "developer"}, user("Hi"), answer("Hello")]}], True),
        ([{"messages": [{"role": "user", "content": "a", "name": "Ann"}, answer("b")]}], True),
        ([PLAIN, "{broken"], False),
        (["{broken", {"messages": []}, TURNS], True),
        ([PLAIN, {"messages": [user("a"), {"role": "assistant"}]}], False),
    ],
)
def test_only_rows_that_would_lose_something_are_kept_as_conversations(
    records: list[object], needed: bool, tmp_path: Path
) -> None:
    assert conversation_lines.needed([written(tmp_path / "a.jsonl", *records)]) is needed


def test_two_files_with_different_system_texts_are_conversations(tmp_path: Path) -> None:
    other = {"messages": [{**SYSTEM, "content": "Other."}, user("Hi"), answer("Hello")]}
    assert conversation_lines.needed([written(tmp_path / "a.jsonl", PLAIN), written(tmp_path / "b.jsonl", other)])


def test_unusable_rows_are_named_and_the_older_form_of_tools_is_rewritten(tmp_path: Path) -> None:
    old = {
        "messages": [
            user("Paris?"),
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "sunny"},
            answer("Sunny."),
        ],
        "functions": [TOOL["function"]],
    }
    image = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, answer("b")]}
    open_end = {"messages": [user("a")]}
    found = conversation_lines.read(written(tmp_path / "a.jsonl", old, image, "{", open_end, TURNS), "a.jsonl")
    assert (len(found.frame), found.left_out, found.rewritten) == (2, 3, 1)
    assert "Line 2" in found.first and "image" in found.first
    first, second = (
        conversation_rows.line(row[conversation_rows.COLUMN], row[conversation_lines.COMPLETION])
        for row in found.frame.to_dict("records")
    )
    assert first["tools"] == [TOOL]
    assert first["messages"][2] == {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    for line in (first, second):
        finetune_format.parse_line(json.dumps(line).encode())
    assert second == TURNS
    with pytest.raises(BadFile, match="no conversation"):
        conversation_lines.read(written(tmp_path / "b.jsonl", open_end), "b.jsonl")
