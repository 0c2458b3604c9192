"""Files as trainers, labelling tools and providers write them: conversations in parts, in templates, in columns."""

from __future__ import annotations

import datetime as dt
import decimal
import gzip
import io
import json
import zipfile
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.datasets import example_pairs
from core.datasets.importers import column_mapping, conversations, table_reader
from core.errors import BadFile

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "S"}
Q_AND_A = {"prompt": "q", "completion": "a"}


def read(*rows: Any, name: str = "a.jsonl") -> table_reader.Imported:
    return table_reader.read_table("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(), name)


def records(found: table_reader.Imported) -> list[dict[str, str]]:
    return [{str(k): str(v) for k, v in row.items()} for row in found.frame.to_dict("records")]


# --- turns with the answer in a separate column; system messages in parts -------------------------------------------

PARTED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"prompt": [SYSTEM, USER], "answer": "a"}, {"system": "S"} | Q_AND_A),  # GRPO
    ({"prompt": [SYSTEM, USER], "completion": "a"}, {"system": "S"} | Q_AND_A),
    ({"input": [SYSTEM, USER], "ideal": "a"}, {"system": "S"} | Q_AND_A),  # OpenAI Evals
    ({"messages": [USER], "response": "a"}, Q_AND_A),
    ({"messages": [USER, ANSWER], "answer": "42"}, Q_AND_A | {"answer": "42"}),  # it ends with its own answer
    ({"prompt": [USER], "chosen": "a", "rejected": "b"}, Q_AND_A | {"rejected": "b"}),
    (
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "S"}]},
            "contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}],
        },
        {"system": "S"} | Q_AND_A,
    ),  # Gemini
    (
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "S"}],
            "messages": [
                {"role": "user", "content": [{"text": "q"}]},
                {"role": "assistant", "content": [{"text": "a"}]},
            ],
        },
        {"system": "S"} | Q_AND_A | {"schemaVersion": "bedrock-conversation-2024"},
    ),
    ({"system_prompt": "S", "conversations": [USER, ANSWER]}, {"system": "S"} | Q_AND_A),
]


@pytest.mark.parametrize(("row", "expected"), PARTED)
def test_an_example_in_parts_is_put_together(row: dict[str, Any], expected: dict[str, str]) -> None:
    found = read(row, row)
    assert records(found) == [expected, expected] and found.problems == []
    guessed = column_mapping.guess(found.frame)
    assert (guessed.prompts, guessed.completion) == (("prompt",), "completion")


def test_an_empty_answer_beside_turns_is_named() -> None:
    assert read({"prompt": [USER], "answer": "a"}, {"prompt": [USER], "answer": ""}).problems == [
        "Line 2: Its completion is empty."
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [USER, ANSWER], "source": "web", "title": None, "hash": "1"},  # OpenHermes
        {"messages": [USER, ANSWER], "source": "smol"},
        {"instruction": "i", "input": "x", "output": "o", "messages": [USER, ANSWER]},
        {"prompt": "q", "prompt_id": "9", "messages": [USER, ANSWER]},  # UltraChat
    ],
)
def test_what_stands_beside_a_conversation_is_no_part_of_its_prompt(row: dict[str, Any]) -> None:
    found = read(row, row)
    guessed = column_mapping.guess(found.frame)
    assert (guessed.prompts, guessed.completion) == (("prompt",), "completion")
    assert [records(found)[0][name] for name in ("prompt", "completion")] == ["q", "a"]


def test_turns_under_another_name_leave_a_pair_as_it_is() -> None:
    found = read(*[{"prompt": "p", "completion": "c", "retrieved": [USER, ANSWER]}] * 2)
    assert found.recognised.form == "pairs" and records(found)[0]["completion"] == "c"


def test_an_answer_with_weight_0_at_the_end_is_not_learned() -> None:
    unlearned = {"role": "assistant", "content": "b", "weight": 0}
    found = read(
        {"messages": [USER, ANSWER | {"weight": 1}, USER, unlearned]},
        {"messages": [USER, unlearned, USER, ANSWER]},
        {"messages": [USER, unlearned]},
    )
    assert [row["completion"] for row in records(found)] == ["a", "a"] and records(found)[0]["prompt"] == "q"
    assert found.problems == ["Line 3: All its answers have weight 0: there is nothing to learn."]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "data": ""}},
        {"inlineData": {"mimeType": "image/png", "data": "x"}},
        {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/a.png"}}}},
    ],
)
def test_an_image_is_named_and_not_left_out_in_silence(part: dict[str, Any]) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}
    found = read({"messages": [asked, ANSWER]}, {"messages": [USER, ANSWER]})
    assert records(found) == [Q_AND_A]
    assert found.problems == ["Line 1: Message 1 has an image or other content that is not text."]


# --- conversations with chat template markup ------------------------------------------------------------------------

LLAMA3 = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
RENDERED = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n",
    "llama 3": "<|begin_of_text|>" + "".join(map(LLAMA3.format, ("system", "user", "assistant"), "Sqa")),
    "llama 2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nq [/INST] a </s>",
    "gemma": "<bos><start_of_turn>system\nS<end_of_turn>\n<start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\na",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nq</s>\n<|assistant|>\na</s>",
    "alpaca": "S\n\n### Instruction:\nq\n\n### Response:\na</s>",
    "guanaco": "### System: S### Human: q### Assistant: a",
    "vicuna": "S USER: q ASSISTANT: a</s>",
    "hh-rlhf": "S\n\nHuman: q\n\nAssistant: a",
}


@pytest.mark.parametrize("template", RENDERED)
def test_a_conversation_in_a_chat_template_is_an_example(template: str) -> None:
    found = read(*[{"text": RENDERED[template]}] * 2)
    assert found.recognised.form == "turns" and records(found) == [{"system": "S"} | Q_AND_A] * 2


SECOND = {
    "chatml": "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
    "llama 3": LLAMA3.format("user", "r") + LLAMA3.format("assistant", "b"),
    "llama 2": "<s>[INST] r [/INST] b </s>",
    "gemma": "<end_of_turn>\n<start_of_turn>user\nr<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n",
    "zephyr": "\n<|user|>\nr</s>\n<|assistant|>\nb</s>\n",
    "alpaca": "\n\n### Instruction:\nr\n\n### Response:\nb</s>",
    "guanaco": "### Human: r### Assistant: b",
    "vicuna": "USER: r ASSISTANT: b</s>",
    "hh-rlhf": "\n\nHuman: r\n\nAssistant: b",
}


@pytest.mark.parametrize("template", RENDERED)
def test_several_turns_in_a_chat_template_keep_their_order(template: str) -> None:
    turns = conversations.turns_from_markup(RENDERED[template] + SECOND[template])
    assert turns is not None and [turn["text"] for turn in turns] == ["S", "q", "a", "r", "b"]


@pytest.mark.parametrize("template", RENDERED)
def test_a_pasted_conversation_in_a_chat_template_is_pairs(template: str) -> None:
    found = example_pairs.from_text(RENDERED[template] + SECOND[template])
    assert [(pair.prompt, pair.answer) for pair in found.pairs] == [("q", "a"), ("r", "b")]


@pytest.mark.parametrize(("text", "name"), [("[]", "a.json"), ("{}", "a.json"), ("prompt,completion\n", "a.csv")])
def test_a_file_without_rows_says_so(text: str, name: str) -> None:
    with pytest.raises(BadFile, match="has no rows: "):
        table_reader.read_table(text.encode(), name)


def test_the_better_dialogue_of_hh_rlhf_is_learned() -> None:
    row = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    found = read(row, row)
    assert found.recognised.form == "preference" and records(found)[0] == Q_AND_A | {"rejected": "b"}


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "output": "a", "text": RENDERED["alpaca"]},
        {"text": "The Human: a story of our time."},
        {"text": "### Instruction:\nq\n\n### Response:\n"},  # no answer
        {"prompt": RENDERED["chatml"], "completion": "a"},
    ],
)
def test_other_texts_stay_as_they_are(row: dict[str, Any]) -> None:
    assert records(read(row, row)) == [row, row]


# --- other representations of tables and rows in JSON ---------------------------------------------------------------

FRAME = pd.DataFrame({"prompt": ["q", "r"], "completion": ["a", "b"]})
Q_AND_A_2 = [Q_AND_A, {"prompt": "r", "completion": "b"}]


@pytest.mark.parametrize("index", [[0, 1], [5, 9], ["x", "y"], ["2024-01-01", "2024-01-02"]])
@pytest.mark.parametrize("orient", ["records", "split", "index", "columns", "table"])
def test_every_orient_of_pandas_is_a_table(orient: Any, index: list[Any]) -> None:
    frame = FRAME.set_axis(pd.Index(index, name=None), axis="index")
    found = table_reader.read_table(frame.to_json(orient=orient).encode(), "a.json")
    rows = records(found)
    assert [{name: row[name] for name in Q_AND_A} for row in rows] == Q_AND_A_2 and found.problems == []
    guessed = column_mapping.guess(found.frame)
    assert (guessed.prompts, guessed.completion) == (("prompt",), "completion")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([["Who?", "Ann"], ["r", "b"]], [{"column 1": "Who?", "column 2": "Ann"}, {"column 1": "r", "column 2": "b"}]),
        ([["prompt", "completion"], ["q", "a"], ["r", "b"]], Q_AND_A_2),
        ([[USER, ANSWER], [SYSTEM, USER, ANSWER]], [Q_AND_A | {"system": ""}, Q_AND_A | {"system": "S"}]),
        ({"conversations": [{"id": 1, "messages": [USER, ANSWER]}]}, [Q_AND_A | {"id": "1"}]),
        ({"system": [{"text": "S"}], "messages": [USER, ANSWER]}, [Q_AND_A | {"system": "S"}]),  # one row on its own
        ({"conversation": [{"input": "q", "output": "a"}, {"input": "r", "output": "b"}]},
         [{"prompt": "User: q\n\nAssistant: a\n\nUser: r", "completion": "b"}]),
        ({"text": "Ann lives.", "entities": [{"start": 0, "end": 3}, {"start": 4, "end": 5}]},
         [{"text": "Ann lives.", "entities": '[{"start": 0, "end": 3}, {"start": 4, "end": 5}]'}]),
        (
            {"features": [{"name": "question"}], "rows": [{"row_idx": 0, "row": {"question": "q", "answer": "a"}}]},
            [{"question": "q", "answer": "a", "row_idx": "0"}],
        ),  # Hugging Face's rows API
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_rows_are_found_in_any_value(value: Any, expected: list[dict[str, str]], indent: int | None) -> None:
    found = table_reader.read_table(json.dumps(value, indent=indent).encode(), "a.json")
    assert records(found) == expected and found.problems == []


@pytest.mark.parametrize("row", [[USER, ANSWER], [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]])
def test_a_list_of_turns_a_line_is_a_conversation(row: list[Any]) -> None:
    found = read(row, row, row)
    assert records(found) == [Q_AND_A] * 3 and found.source == "chat"


def test_messages_with_an_id_each_are_rows() -> None:
    rows = [USER | {"conversation_id": "1"}, ANSWER | {"conversation_id": "1"}]
    assert len(table_reader.read_table(json.dumps(rows).encode(), "a.json").frame) == 2


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"item": {"input": "q", "ideal": "a"}}, {"input": "q", "ideal": "a"}),
        (
            {"id": "1", "fields": {"instruction": "q", "response": "a"}},
            {"id": "1", "instruction": "q", "response": "a"},
        ),
        ({"id": 1, "data": {"id": 7, "text": "q"}}, {"id": "1", "data.id": "7", "text": "q"}),
        ({"prompt": {"text": "q"}, "completion": "a"}, {"prompt": '{"text": "q"}', "completion": "a"}),
    ],
)
def test_a_row_inside_an_object_is_the_row(row: dict[str, Any], expected: dict[str, str]) -> None:
    assert records(read(row, row)) == [expected, expected]


def test_a_table_in_one_object_that_is_too_long_says_how_to_write_it() -> None:
    with pytest.raises(BadFile, match="more than 4,000,000 characters") as problem:
        table_reader.read_table(
            json.dumps({"prompt": {"0": "x" * 12_000_000}, "completion": {"0": "y"}}).encode(), "a.json"
        )
    assert 'in pandas: orient="records"' in problem.value.next_step


# --- compressed files, and files of other kinds ---------------------------------------------------------------------

CSV = "prompt,completion\nq,a\n"


def zipped(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return out.getvalue()


ZSTD = pa.Codec("zstd").compress(CSV.encode(), asbytes=True)
TAR = b"a.csv".ljust(257, b"\0") + b"ustar\x0000" + CSV.encode()


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (zipped(rows_csv=CSV), "zip"),
        (zipped(data__rows_csv=CSV), "zip"),
        (ZSTD, "zstd"),
        (ZSTD + pa.Codec("zstd").compress(b"q,a\n", asbytes=True), "zstd"),  # a second frame
    ],
)
def test_a_zip_of_one_file_and_zstd_are_read(data: bytes, how: str) -> None:
    file = io.BytesIO(data)
    found = table_reader.read_table(file, "rows.csv.zip")
    assert found.compression == how and set(found.frame["completion"]) == {"a"} and found.notes == []
    assert not file.closed


def test_what_macos_adds_to_a_zip_file_is_not_counted() -> None:
    out = io.BytesIO(zipped(rows_csv=CSV))
    with zipfile.ZipFile(out, "a") as archive:
        for name in ("__MACOSX/._rows.csv", ".DS_Store", "folder/"):
            archive.writestr(name, "")
    assert records(table_reader.read_table(out.getvalue(), "rows.zip")) == [Q_AND_A]


@pytest.mark.parametrize(
    ("data", "what", "next_step"),
    [
        (zipped(a_csv=CSV, b_csv=CSV), "contains 2 files: a.csv, b.csv.", "Unpack it, then choose one"),
        (
            zipped(**{f"f{n}_csv": CSV for n in range(7)}),
            "contains 7 files: f0.csv, f1.csv, f2.csv, f3.csv, f4.csv, ….",
            "Unpack it, then choose one",
        ),
        (zipped(word__document_xml=""), "is a Word document, not a table.", "Save the table in it as CSV"),
        (zipped(Index__Document_iwa=""), "is an Apple Numbers", "Save the table in it as CSV"),
        (zipped(rows_csv=CSV)[:-10], "a zip file of another kind", "Save the sheet as CSV"),
        (ZSTD[:-8], "a compressed file that is broken", "Download or compress it again"),
        (b"Rar!\x1a\x07\0", "is a compressed file", "Unpack it"),
        (b"\x04\x22\x4d\x18\x64", "is a compressed file", "Unpack it"),
        (TAR, "is a tar archive", "Unpack it"),
        (gzip.compress(TAR, mtime=0), "is a tar archive", "Unpack it"),
        (b"ARROW1\0\0", "is an Arrow (Feather) file", "Save it as Parquet, CSV or JSONL"),
        (b"Obj\x01\x04", "is an Avro file", "Save it as Parquet, CSV or JSONL"),
        (b"\x80\x04\x95\x10\0", "is a Python pickle", "Save it as Parquet, CSV or JSONL"),
        (b"{\\rtf1\\ansi a}", "is a Word document", "Save the table in it as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS", "Download the file itself"),
    ],
)
def test_a_file_that_is_no_table_says_what_it_is(data: bytes, what: str, next_step: str) -> None:
    with pytest.raises(BadFile) as problem:
        table_reader.read_table(data, "a.csv")
    assert what in problem.value.what and next_step in problem.value.next_step


def test_a_zip_file_with_a_password_says_so() -> None:
    data = bytearray(zipped(rows_csv=CSV))
    data[6] |= 1  # the flag of encryption, in the file's header and in the directory's entry
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(BadFile, match="with a password"):
        table_reader.read_table(bytes(data), "a.zip")


# --- CSV from various sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '"sep=;"\nprompt;completion\nq;a\nr;b\n',
        "prompt,completion,\nq,a,\nr,b,\n",
        "prompt,completion\nq,a,\nr,b,,\n",
        "prompt||completion\nq||a\nr||b\n",
        "| prompt | completion |\n| --- | :---: |\n| q | a |\n| r | b |\n",
        "prompt | completion\n--|--\nq | a\nr | b\n",
    ],
)
def test_separators_at_the_end_and_frames_of_tables_are_no_columns(text: str) -> None:
    found = table_reader.read_table(text.encode(), "a.csv")
    assert records(found) == Q_AND_A_2 and found.problems == []


def test_bars_and_quotes_in_cells_of_a_markdown_table_are_kept() -> None:
    text = '| prompt | completion |\n|---|---|\n| a \\| b | say "c" |\n'
    assert records(table_reader.read_table(text.encode(), "a.md")) == [{"prompt": "a | b", "completion": 'say "c"'}]


# --- Parquet and workbooks ------------------------------------------------------------------------------------------


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def test_classes_of_hugging_face_have_their_names() -> None:
    features = {
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table({"label": pa.array([1, 0, None, -1]), "text": list("abcd")})
    named = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    assert table_reader.read_table(parquet(named), "a.parquet").frame["label"].tolist() == ["pos", "neg", "", "-1"]
    broken = table.replace_schema_metadata({"huggingface": "[1]"})
    assert table_reader.read_table(parquet(broken), "a.parquet").frame["label"].tolist() == ["1", "0", "", "-1"]


SINGLE = pa.float32()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([[0.1, None]], pa.list_(SINGLE)), "[0.1, null]"),
        (pa.array([[0.1, 2]], pa.list_(SINGLE, 2)), "[0.1, 2.0]"),
        (pa.array([{"a": 0.1, "b": "x"}], pa.struct([("a", SINGLE), ("b", pa.string())])), '{"a": 0.1, "b": "x"}'),
        (pa.array([[("k", 0.1)]], pa.map_(pa.string(), SINGLE)), '{"k": 0.1}'),
        (pa.array([[[0.1]]], pa.list_(pa.list_(SINGLE))), "[[0.1]]"),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array([decimal.Decimal("1.50")]), "1.50"),
        (pa.array([dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC)]), "2024-01-02 03:00:00+00:00"),
    ],
)
def test_nested_values_of_parquet_are_written_as_people_write_them(values: pa.Array, text: str) -> None:
    table = pa.table({"prompt": ["q"], "value": values})
    assert table_reader.read_table(parquet(table), "a.parquet").frame["value"].tolist() == [text]


def test_turns_that_parquet_holds_as_maps_are_a_conversation() -> None:
    turn = pa.map_(pa.string(), pa.string())
    turns = [[("role", "user"), ("content", "q")], [("role", "assistant"), ("content", "a")]]
    table = pa.table({"messages": pa.array([turns], pa.list_(turn))})
    assert records(table_reader.read_table(parquet(table), "a.parquet")) == [Q_AND_A]


def opendocument(*rows: str) -> bytes:
    """A sheet as LibreOffice writes it."""
    urn = "urn:oasis:names:tc:opendocument:xmlns"
    spaces = " ".join(f'xmlns:{name}="{urn}:{name}:1.0"' for name in ("office", "table", "text"))
    sheets = "".join(f'<table:table table:name="{name}">{"".join(rows)}</table:table>' for name in ("One", "Two"))
    body = f"<office:body><office:spreadsheet>{sheets}</office:spreadsheet></office:body>"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as book:
        book.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        manifest = f'<m:manifest xmlns:m="{urn}:manifest:1.0"/>'
        book.writestr("META-INF/manifest.xml", manifest)
        content = f'<office:document-content {spaces} xmlns:calcext="urn:calcext">{body}</office:document-content>'
        book.writestr("content.xml", '<?xml version="1.0"?>' + content)
    return out.getvalue()


def cell(shown: str, kind: str = "string", value: str = "", more: str = "") -> str:
    valued = f' office:value="{value}"' if value else ""
    return f'<table:table-cell office:value-type="{kind}"{valued} {more}><text:p>{shown}</text:p></table:table-cell>'


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (cell("50%", "percentage", "0.5"), "50%"),
        (cell("12.5 %", "percentage", "0.125"), "12.5 %"),
        (cell("00042", "float", "42"), "00042"),
        (cell("1234567890123456789", "float", "1234567890123456789"), "1234567890123456789"),
        (cell("1,234.50", "float", "1234.5"), "1234.5"),
        (cell("0.3", "float", "0.30000000000000004"), "0.3"),
        (cell("x"), "x"),
    ],
)
def test_numbers_of_an_opendocument_sheet_are_read_as_they_are_shown(made: str, text: str) -> None:
    empty = '<table:table-row table:number-rows-repeated="2"><table:table-cell/></table:table-row>'
    header = f"<table:table-row>{cell('prompt')}{cell('value')}</table:table-row>"
    row = f'<table:table-row table:number-rows-repeated="2">{cell("q")}{made}</table:table-row>'
    found = table_reader.read_table(opendocument(header, empty, row), "a.ods", sheet="Two")
    assert records(found) == [{"prompt": "q", "value": text}] * 2


def test_an_error_in_an_opendocument_sheet_is_named() -> None:
    header = f"<table:table-row>{cell('prompt')}{cell('value')}</table:table-row>"
    error = cell("#DIV/0!", "string", "", 'office:string-value="" calcext:value-type="error"')
    found = table_reader.read_table(
        opendocument(header, f"<table:table-row>{cell('q')}{error}</table:table-row>"), "a.ods"
    )
    assert records(found) == [{"prompt": "q", "value": "#DIV/0!"}]
    assert found.notes == ["Row 2, column value contains the error #DIV/0!; it is kept as text."]


# --- column roles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "prompts", "completion"),
    [
        ("INSTRUCTION,RESPONSE,SOURCE", ("INSTRUCTION",), "RESPONSE"),
        ("system_prompt,question,response", ("system_prompt", "question"), "response"),
        ("query,positive,negative", ("query",), "positive"),
        ("anchor,positive,negative", ("anchor",), "positive"),
        ("chosen,rejected", (), "chosen"),
        ("source,target,lang", ("source",), "target"),
    ],
)
def test_columns_of_known_sets_get_their_part(columns: str, prompts: tuple[str, ...], completion: str) -> None:
    names = columns.split(",")
    found = table_reader.read_table(f"{columns}\n{','.join('some text' for _ in names)}\n".encode(), "a.csv")
    guessed = column_mapping.guess(found.frame)
    assert (guessed.prompts, guessed.completion) == (prompts, completion)


def test_a_file_without_a_usable_conversation_says_so() -> None:
    with pytest.raises(BadFile, match="All its answers have weight 0"):
        read({"messages": [USER, ANSWER | {"weight": 0}]})
