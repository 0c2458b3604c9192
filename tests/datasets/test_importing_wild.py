"""Real-world files: conversations in any format, JSON in any layout, common column names."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, export, mixing
from core.datasets.importers import column_mapping, file_type, json_document, table_reader
from core.datasets.importers.table import MAX_LINE_CHARACTERS, ImportProblems
from core.db.store import Store
from core.errors import BadFile
from pages.ui.components.prompt_formats import PromptFormat


def read(data: bytes | str, name: str = "a.jsonl", **named: Any) -> table_reader.Imported:
    return table_reader.read_table(data.encode() if isinstance(data, str) else data, name, **named)


def records(found: table_reader.Imported) -> list[dict[str, str]]:
    return [{str(k): str(v) for k, v in row.items()} for row in found.frame.to_dict("records")]


def said(found: table_reader.Imported) -> tuple[str, int, int]:
    return found.recognised.form, found.recognised.rows, found.recognised.of


# --- conversations --------------------------------------------------------------------------------------------------

SHAREGPT = [{"from": "system", "value": "S"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
MESSAGES = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]
CONVERSATIONS: list[tuple[str, dict[str, Any], str]] = [
    ("sharegpt", {"id": "x1", "conversations": SHAREGPT}, "sharegpt"),
    ("sharegpt by another name", {"items": SHAREGPT}, "sharegpt"),
    ("sharegpt, system beside", {"conversations": SHAREGPT[1:], "system": "S"}, "sharegpt"),
    (
        "belle multiround",
        {"conversations": [*SHAREGPT[:2], {"from": "assistant", "value": "a"}]},
        "sharegpt",
    ),
    ("openai", {"messages": MESSAGES}, "messages"),
    ("conversations with role and content", {"conversations": MESSAGES}, "messages"),
    ("capitals", {"dialogue": [{"role": m["role"].upper(), "content": m["content"]} for m in MESSAGES]}, "messages"),
    (
        "list of parts",
        {"messages": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in MESSAGES]},
        "messages",
    ),
    (
        "vertex",
        {"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}]},
        "turns",
    ),
    ("moss and firefly", {"conversation": [{"human": "q", "assistant": "a"}]}, "turns"),
    ("xtuner", {"conversation": [{"system": "S", "input": "q", "output": "a"}]}, "turns"),
    ("alternating texts", {"dialog": ["q", "a"]}, "turns"),
    ("list of pairs", {"conversation": [["q", "a"]]}, "turns"),
    ("speaker and text", {"turns": [{"speaker": "user", "text": "q"}, {"speaker": "bot", "text": "a"}]}, "turns"),
    ("chinese", {"对话": [{"role": "用户", "content": "q"}, {"role": "助手", "content": "a"}]}, "messages"),
    ("anthropic", {"system": "S", "messages": MESSAGES[1:]}, "messages"),
    ("nested", {"chat": {"messages": MESSAGES}}, "messages"),
    ("trl", {"prompt": MESSAGES[:2], "completion": MESSAGES[2:]}, "messages"),
    ("json as text", {"messages": json.dumps(MESSAGES)}, "messages"),
    ("python as text", {"messages": repr(MESSAGES)}, "messages"),
    ("numpy as text", {"messages": "[" + "\n ".join(map(repr, MESSAGES)) + "]"}, "messages"),
]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in row.items()})
    return out.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


@pytest.mark.parametrize(("row", "form"), [c[1:] for c in CONVERSATIONS], ids=[c[0] for c in CONVERSATIONS])
@pytest.mark.parametrize("container", ["jsonl", "array", "csv", "parquet"])
def test_a_conversation_of_any_format_is_an_example(row: dict[str, Any], form: str, container: str) -> None:
    rows = [row, row]
    data = {
        "jsonl": lambda: "\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode(),
        "array": lambda: json.dumps(rows, indent=2).encode(),
        "csv": lambda: as_csv(rows),
        "parquet": lambda: as_parquet(rows),
    }[container]()
    found = read(data, f"a.{container}")
    assert said(found) == (form, 2, 2) and found.problems == [] and found.source == "chat"
    for record in records(found):
        assert (record["prompt"], record["completion"]) == ("q", "a")
        assert record.get("system", "") in ("", "S") and ("id" not in row or record["id"] == "x1")
        assert not any(cell.startswith(("[", "{")) for cell in record.values())
    assert ("system" in found.frame.columns) == ("S" in json.dumps(row))
    assert column_mapping.guess(found.frame).completion == "completion"


def test_a_plain_table_can_be_had_all_the_same() -> None:
    found = read(json.dumps({"conversations": SHAREGPT}) + "\n", as_table=True)
    assert said(found) == ("table", 1, 1) and column_mapping.holds_json(found.frame, "conversations")


PREFERENCES: list[dict[str, Any]] = [
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"prompt": "q", "chosen": MESSAGES[2:], "rejected": [{"role": "assistant", "content": "b"}]},
    {"chosen": MESSAGES[1:], "rejected": [MESSAGES[1], {"role": "assistant", "content": "b"}]},
    {"prompt": MESSAGES[1:2], "chosen": MESSAGES[2:], "rejected": [{"role": "assistant", "content": "b"}]},
    {
        "input": {"messages": MESSAGES[1:2]},
        "preferred_output": MESSAGES[2:],
        "non_preferred_output": [{"role": "assistant", "content": "b"}],
    },
    {"conversations": SHAREGPT[1:2], "chosen": SHAREGPT[2], "rejected": {"from": "gpt", "value": "b"}},
]


@pytest.mark.parametrize("row", PREFERENCES)
def test_the_chosen_answer_of_a_preference_pair_is_learned_and_the_rejected_one_kept(row: dict[str, Any]) -> None:
    found = read(json.dumps(row) + "\n" + json.dumps(row))
    guessed = column_mapping.guess(found.frame)
    record = records(found)[0]
    assert said(found) == ("preference", 2, 2) and found.problems == []
    assert ([record[name] for name in guessed.prompts], record[guessed.completion]) == (["q"], "a")
    assert record.get("rejected", record.get("non_preferred_output")) == "b"


def test_a_conversation_that_cannot_be_used_is_named_and_the_others_are_kept() -> None:
    turns: list[Any] = [
        SHAREGPT,
        SHAREGPT[:2],
        [*SHAREGPT[:2], {"from": "narrator", "value": "x"}],
        [*SHAREGPT[:2], {"from": "gpt", "value": None}],
        [*SHAREGPT[:2], {"from": "gpt", "value": " "}],
        [],
        [SHAREGPT[2]],
    ]
    found = read("\n".join(json.dumps({"conversations": one}) for one in turns))
    assert said(found) == ("sharegpt", 1, 7)
    assert found.problems == [
        "Line 2: Its last message is from the user, not the assistant.",
        "Line 3: Message 3 has a role that is not valid: 'narrator'.",
        "Line 4: Message 3 has no text content.",
        "Line 5: Its completion is empty.",
        'Line 6: Its "conversations" is not a non-empty list of messages.',
        "Line 7: It has no user message.",
    ]
    with pytest.raises(BadFile, match=r"has no conversation that can be used\. Conversation 1 \(line 1\): Its last"):
        read(json.dumps({"conversations": SHAREGPT[:2]}))


def test_turns_before_the_last_answer_and_tools_are_the_prompt() -> None:
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "w"}'},
        {"from": "observation", "value": "12 C"},
        {"from": "gpt", "value": "Cold."},
    ]
    record = records(read(json.dumps({"conversations": turns})))[0]
    assert record["prompt"] == 'User: Weather?\n\nAssistant: {"name": "w"}\n\nTool: 12 C'
    calls = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "a"},
    ]
    assert 'Assistant: [{"id": "1"}]' in records(read(json.dumps({"messages": calls})))[0]["prompt"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": "c", "tests": [{"input": "1", "output": "2"}]},
        {"prompt": "p", "completion": "c", "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"prompt": "p", "completion": "c", "sources": [["a", "b"]]},
        {"prompt": "p", "completion": "[1, 2]"},
        {"prompt": "p", "completion": '{"role": "user"}'},
        {"messages": "hello there", "intent": "greet"},
    ],
)
def test_lists_that_are_no_conversations_stay_columns(row: dict[str, Any]) -> None:
    found = read(json.dumps(row) + "\n" + json.dumps(row))
    assert list(found.frame.columns) == list(row) and found.source == "upload"


# --- Alpaca, Dolly, BELLE -------------------------------------------------------------------------------------------

INSTRUCTIONS: list[tuple[dict[str, Any], str, tuple[str, ...], str]] = [
    ({"instruction": "Name", "input": "x", "output": "o"}, "alpaca", ("instruction", "input"), "output"),
    ({"instruction": "Name", "input": "x", "output": "o", "text": "all"}, "alpaca", ("instruction", "input"), "output"),
    ({"id": 1, "instruction": "Name", "input": "x", "output": "o"}, "alpaca", ("instruction", "input"), "output"),
    (
        {"instruction": "Name", "context": "x", "response": "o", "category": "qa"},
        "dolly",
        ("instruction", "context"),
        "response",
    ),
    (
        {"instruction": "Name", "input": "x", "output": "o", "system": "S", "history": [["q", "a"]]},
        "alpaca",
        ("instruction", "input", "history"),
        "output",
    ),
    ({"指令": "Name", "输入": "x", "输出": "o"}, "table", ("指令", "输入"), "输出"),
]


@pytest.mark.parametrize(("row", "form", "prompts", "completion"), INSTRUCTIONS)
def test_instructions_are_joined_by_a_line_end(
    row: dict[str, Any], form: str, prompts: tuple[str, ...], completion: str
) -> None:
    found = read(json.dumps([row, row], ensure_ascii=False))
    guessed = column_mapping.guess(found.frame)
    assert said(found)[0] == form
    assert (set(guessed.prompts), guessed.completion, guessed.separator) == (set(prompts), completion, "\n")


def test_an_empty_cell_adds_no_separator_and_the_separator_is_kept(store: Store) -> None:
    rows = [
        {"instruction": "Name a colour", "input": "", "output": "Red"},
        {"instruction": "Translate", "input": "rot", "output": "red"},
        {"instruction": "", "input": " ", "output": "?"},
    ]
    found = read(json.dumps(rows))
    guessed = column_mapping.guess(found.frame)
    assert json.loads(column_mapping.example(found.frame, guessed, 0, 99))["prompt"] == "Name a colour"
    for separator, joined in (("\n", "Translate\nrot"), (",", "Translate,rot"), ("", "Translaterot")):
        id_ = datasets.from_frame(
            store, LOCAL, "x", found.frame, guessed.prompts, guessed.completion, separator=separator
        )
        assert [prompt for prompt, _ in export.examples(store, id_)] == ["Name a colour", joined, ""]
        assert [row.prompt for row in dataset_rows.page(store, id_)] == ["Name a colour", joined, ""]
        assert datasets.summary(store, id_).prompt_separator == separator


def test_a_mix_keeps_the_prompts_of_data_sets_that_are_joined_otherwise(store: Store) -> None:
    frame = read('{"instruction": "i", "input": "x", "output": "o"}').frame
    made = [
        datasets.from_frame(store, LOCAL, "d", frame, ["instruction", "input"], "output", separator=separator)
        for separator in ("\n", ",", "\n")
    ]
    for pair, columns in ((made[:2], ("prompt",)), ([made[0], made[2]], ("instruction", "input"))):
        mixed = mixing.mix(store, LOCAL, "m", [(id_, 1) for id_ in pair])
        assert datasets.summary(store, mixed).columns == columns
        prompts = [prompt for prompt, _ in export.examples(store, mixed)]
        assert sorted(prompts) == sorted(prompt for id_ in pair for prompt, _ in export.examples(store, id_))


@pytest.mark.parametrize(
    ("values", "prompt"),
    [
        ({"instruction": "i", "input": "x"}, "i\nx ->"),
        ({"instruction": "i", "input": ""}, "i ->"),
        ({"instruction": "", "input": "x"}, ""),
        ({}, ""),
    ],
)
def test_the_story_page_asks_as_the_rows_were_joined(values: dict[str, str], prompt: str) -> None:
    columns = (("instruction", ("i", "j")), ("input", ("x", "")))
    assert PromptFormat(columns, None, separator=" ->", between="\n").prompt(values) == prompt


# --- JSON that is not lines -----------------------------------------------------------------------------------------

ROWS = [
    {"prompt": "唐 }", "completion": 'a"]{'},
    {"prompt": "p,\n", "completion": "\\"},
    {"prompt": "r", "completion": "s"},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
LAYOUTS = {
    "lines": "\n".join(LINES),
    "lines with blank ones": "\n\n" + "\n\n".join(LINES) + "\n\n",
    "lines ending in a comma": ",\n".join(LINES) + ",\n",
    "array": json.dumps(ROWS, ensure_ascii=False),
    "array, a line each": "[\n" + ",\n".join(LINES) + "\n]\n",
    "array with a comma at its end": "[" + ",".join(LINES) + ",]",
    "pretty array": json.dumps(ROWS, indent=4, ensure_ascii=False),
    "pretty array without indent": json.dumps(ROWS, indent=0, ensure_ascii=False),
    "array cut off": json.dumps(ROWS, ensure_ascii=False)[:-1],
    "pretty objects": "\n".join(json.dumps(row, indent=2, ensure_ascii=False) for row in ROWS),
    "pretty objects with commas": ",\n".join(json.dumps(row, indent=2, ensure_ascii=False) for row in ROWS),
    "run together": "".join(LINES),
    "two on a line": f"{LINES[0]}{LINES[1]}\n{LINES[2]}\n",
    "data": json.dumps({"data": ROWS}, ensure_ascii=False),
    "data, pretty": json.dumps({"version": "1.1", "meta": {"a": [1]}, "data": ROWS}, indent=1, ensure_ascii=False),
    "another name": json.dumps({"RECORDS": ROWS}, ensure_ascii=False),
    "something behind": json.dumps({"rows": ROWS, "total": 3, "next": {"prompt": "no"}}, ensure_ascii=False),
    "in lines inside": '{"data": [\n' + ",\n".join(LINES) + "\n]}",
    "byte-order mark": "\ufeff" + json.dumps(ROWS, ensure_ascii=False),
    "carriage returns": "\r\n".join(LINES),
    "commas before brackets": "[" + ",".join(line[:-1] + ",}" for line in LINES) + "]",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "utf-16"])
def test_json_of_any_layout_is_read(layout: str, codec: str) -> None:
    found = read(LAYOUTS[layout].encode(codec), "a.json")
    assert records(found) == ROWS and found.problems == [] and said(found) == ("pairs", 3, 3)


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_border_between_blocks_changes_nothing(layout: str, block: int) -> None:
    text, problems = io.StringIO(LAYOUTS[layout].removeprefix("\ufeff")), ImportProblems()
    assert [item.value for item in json_document.read_document(text, problems, block)] == ROWS
    assert problems.problems() == []


def test_parts_of_a_file_become_the_split() -> None:
    found = read(json.dumps({"train": ROWS[:1], "validation": ROWS[1:2], "test": ROWS[2:]}, indent=2))
    assert found.frame["split"].tolist() == ["train", "validation", "test"]
    assert column_mapping.guess(found.frame).split == "split"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            '[\n{"a": 1, "b": "x"},\n{"a" 2},\n{"a": 3, "b": "y"}\n]',
            ["Entry 2 (line 3): It is not JSON: Expecting ':' delimiter, at column 6."],
        ),
        ('[{"a": 1, "b": "x"}, {"a": 2,, }, {"a": 3, "b": "y"}]', 1),
        ('[\n{"a": 1, "b": "x"},\n{"a": "open, "b": "z"},\n{"a": 3, "b": "y"}\n]', 1),
        ('[\n{"a": 1, "b": "x"},\n{"a": "never closed\n,\n{"a": 3, "b": "y"}\n]', 1),
        ('[\n{"a": 1, "b": "x"},\n7,\n"text",\n[1, 2],\n{"a": 3, "b": "y"}\n]', 3),
        ('[\n  {\n    "a": 1, "b": "x"\n  },\n  {\n    "a": oops\n  },\n  {\n    "a": 3, "b": "y"\n  }\n]', 1),
        ('{"data": [{"a": 1, "b": "x"}, {"a": {"b" 1}}, {"a": 3, "b": "y"}], "n": 2}', 1),
    ],
)  # fmt: skip
def test_a_broken_object_is_named_by_its_line_and_the_others_are_kept(text: str, problems: list[str] | int) -> None:
    found = read(text, "a.json")
    assert records(found) == [{"a": "1", "b": "x"}, {"a": "3", "b": "y"}]
    assert found.problems == problems if isinstance(problems, list) else len(found.problems) == problems


def test_an_object_that_is_cut_off_at_the_end_of_the_file_is_named() -> None:
    found = read(json.dumps(ROWS, indent=2)[:-40], "a.json")
    assert records(found) == ROWS[:2] and len(found.problems) == 1 and "Entry 3 (line 11): " in found.problems[0]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.GZ", "a", "a.csv.gz"])
def test_a_compressed_file_is_read(pack: Any, name: str) -> None:
    found = read(pack(LAYOUTS["pretty array"].encode()), name)
    assert records(found) == ROWS and found.kind == "jsonl"
    assert len(read(pack(as_parquet(ROWS)), "a.parquet.gz").frame) == 3
    assert records(read(pack(b"a,b\n1,2\n"), "a.csv.gz")) == [{"a": "1", "b": "2"}]


def test_a_broken_or_oversized_compressed_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(LAYOUTS["lines"].encode() * 1_000)
    for data in (packed[:-20], packed[:40], b"\x1f\x8b\x08rest", b"BZh9nothing", b"\xfd7zXZ\0"):
        with pytest.raises(BadFile, match="a compressed file that is broken"):
            read(data, "a.gz")
    with pytest.raises(BadFile, match="is a PDF"):
        read(gzip.compress(b"%PDF-1.7"), "a.gz")
    monkeypatch.setattr(file_type, "MAX_BYTES", 10_000)
    with pytest.raises(BadFile, match="unpacks to more than"):
        read(packed, "a.gz")


def test_a_large_array_takes_no_more_memory_than_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number in range(2_000):
            file.write(json.dumps({"prompt": f"p{number}", "completion": "c", "junk": "x" * 20_000})[:-1] + "},")
        file.write('{"prompt": "last", "completion": "c"}]')
    tracemalloc.start()
    found = table_reader.read_table(path, path.name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.frame) == 2_001 and path.stat().st_size > 40_000_000
    assert peak < 3 * path.stat().st_size


@pytest.mark.parametrize(
    "huge", ['{"a": "' + "x" * (MAX_LINE_CHARACTERS + 2_000_000) + '"}', '"' + "y" * 6_000_000 + '"']
)
def test_a_value_that_is_too_long_costs_itself_only(huge: str) -> None:
    found = read(f'[{{"a": "1"}}, {huge}, {{"a": "2"}}]', "a.json")
    assert found.frame["a"].tolist() == ["1", "2"] and len(found.problems) == 1


# --- columns --------------------------------------------------------------------------------------------------------


def test_columns_are_the_keys_of_the_first_thousand_objects() -> None:
    lines = [{"prompt": "p", "completion": "c"}] * 999 + [
        {"prompt": "p", "completion": "c", "note": "n", "split": "test"}
    ]
    found = read("\n".join(map(json.dumps, [*lines, {"prompt": "p", "completion": "c", "late": 1}])))
    assert list(found.frame.columns) == ["prompt", "completion", "note", "split"]
    assert found.frame["note"].tolist()[-2:] == ["n", ""]
    assert found.notes == ["Line 1,001 has the key 'late', which the first 1,000 objects do not have; it is left out."]


@pytest.mark.parametrize(
    ("lines", "prompts", "completion", "first"),
    [
        ([{"prompt": "p", "response": "r"}], ("prompt",), "response", ("p", "r")),
        ([{"prompt": "p", "completion": 1}, {"prompt": "q", "completion": 2}], ("prompt",), "completion", ("p", "1")),
        ([{"prompt": "p", "completion": 1.0}], ("prompt",), "completion", ("p", "1")),
        ([{"prompt": "p", "completion": True}], ("prompt",), "completion", ("p", "true")),
        ([{"prompt": 5, "completion": "c", "id": 9}], ("prompt",), "completion", ("5", "c")),
        ([{"text": "t", "label": 0}], ("text",), "label", ("t", "0")),
        ([{"question": "q", "answer": "a", "url": "u"}], ("question",), "answer", ("q", "a")),
        ([{"topic": "sea", "text": "t"}], ("topic",), "text", ("sea", "t")),
    ],
)
def test_objects_of_other_keys_are_a_table_whose_columns_get_their_part(
    lines: list[dict[str, Any]], prompts: tuple[str, ...], completion: str, first: tuple[str, str]
) -> None:
    found = read("\n".join(map(json.dumps, lines)))
    guessed = column_mapping.guess(found.frame)
    assert (guessed.prompts, guessed.completion) == (prompts, completion)
    assert (records(found)[0][prompts[0]], records(found)[0][completion]) == first
    assert list(found.frame.columns) == list(lines[0])


def test_a_file_of_texts_alone_is_a_table_of_one_column() -> None:
    assert records(read('{"text": "a"}\n{"text": "b"}\n')) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt":["a","c"],"completion":["b","d"]}',
        '{"columns":["prompt","completion"],"data":[["a","b"],["c","d"]]}',
        '{"columns":["prompt","completion"],"index":[0,1],"data":[["a","b"],["c","d"]]}',
        '{"prompt":{"0":"a","1":"c"},"completion":{"0":"b","1":"d"}}',
        '{\n  "prompt": ["a", "c"],\n  "completion": ["b", "d"]\n}\n',
    ],
)
def test_a_table_that_is_held_by_columns_is_rows(body: str) -> None:
    found = table_reader.read_table(body.encode(), "a.json")
    assert found.frame.to_dict("records") == [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert found.problems == []


@pytest.mark.parametrize(
    "body",
    [
        '{"tags":["a","b"],"text":"c"}',
        '{"tags":["a","b"],"words":["c"]}',
        '{"tags":["a","b"]}',
        '{"tags":["a","b"],"words":["c","d"]}\n{"tags":["e","f"],"words":["g","h"]}',
    ],
)
def test_rows_with_lists_in_them_stay_rows(body: str) -> None:
    found = table_reader.read_table(body.encode(), "a.jsonl")
    assert len(found.frame) == len(body.splitlines()) and found.frame["tags"][0] == '["a", "b"]'


@pytest.mark.parametrize(
    "body",
    [
        '{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"tags":["x","y"]}',
        '{"prompt":{"text":"q"},"completion":{"text":"a"}}',
    ],
)
def test_one_object_is_one_row_unless_it_holds_columns(body: str) -> None:
    assert len(table_reader.read_table(body.encode(), "a.json").frame) == 1
