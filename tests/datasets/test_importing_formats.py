"""Parquet, Excel, and files with a misleading name: detected by content, within limits, with row numbers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.datasets.importers import sandboxed_reader, table_reader
from core.datasets.importers.table import ImportProblems
from core.errors import BadFile
from tests.support.workbook_maker import binary_workbook, row, sheet, workbook

TALE = [["dynasty", "story"], ["唐", "\n\n从前"], ["宋", "很久以前"]]
CSV = "dynasty,story\n唐,从前\n".encode()
JSONL = '{"prompt": "唐", "completion": "从前"}\n'.encode()


def as_parquet(columns: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), out, **options)
    return out.getvalue()


def rows(found: table_reader.Imported) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in found.frame.to_numpy()]


XLSX = workbook({"Stories": sheet(TALE)})
PARQUET = as_parquet({"dynasty": ["唐"], "story": ["从前"]})


# --- content, not name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "kind"), [(CSV, "csv"), (JSONL, "jsonl"), (PARQUET, "parquet"), (XLSX, "workbook")])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.xlsx", "a.txt", "a", "a.exe"])
def test_a_file_is_what_its_content_says(data: bytes, kind: str, name: str) -> None:
    found = table_reader.read_table(data, name)
    assert found.kind == kind and rows(found)[0][0] == "唐"
    said = {"csv": "csv", "txt": "csv", "jsonl": "jsonl", "parquet": "parquet", "xlsx": "workbook"}.get(name[2:], kind)
    assert any("The file name suggests another format" in note for note in found.notes) == (said != kind)


def test_a_binary_workbook_is_read() -> None:
    found = table_reader.read_table(binary_workbook("Stories", TALE), "a.xlsb")
    assert (found.kind, found.sheet, found.notes) == ("workbook", "Stories", [])
    assert [list(found.frame.columns), *rows(found)] == TALE


def test_a_csv_table_whose_first_cell_begins_with_a_brace_is_csv() -> None:
    assert table_reader.read_table(b"{name},text\n1,2\n", "a.csv").kind == "csv"


def test_a_jsonl_file_that_begins_with_a_broken_line_stays_jsonl() -> None:
    found = table_reader.read_table(b"oh, no\n" + JSONL, "a.jsonl")
    assert found.kind == "jsonl" and found.problems[0].startswith("Line 1: It is not JSON")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"\xef\xbb\xbf\n<html>", "is a web page"),
        (b"BZh91AY&SY", "is a compressed file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "Excel workbook that is broken"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600 + "EncryptedPackage".encode("utf-16-le"), "with a password"),
        (XLSX[:-40], "Excel workbook that is broken"),
        (XLSX[:200], "Excel workbook that is broken"),
        (PARQUET[:-10], "a Parquet file that is broken"),
        (b"PAR1 and nothing else", "a Parquet file that is broken"),
        (workbook({"Empty": ""}), "without any row"),
        (workbook({"One": sheet([["only", "a header"]])}), "has no row that can be used"),
        (as_parquet({"a": pa.array([], pa.string())}), "has no row that can be used"),
        (as_parquet({"picture": [b"\x89PNG"]}), "has no column of text or numbers"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_says_what_it_is(data: bytes, words: str) -> None:
    with pytest.raises(BadFile) as caught:
        table_reader.read_table(data, "a.csv")
    assert words in caught.value.what and caught.value.next_step


def test_a_zip_file_that_is_no_workbook_says_so() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.bin", b"\x00\x01" * 100)
    with pytest.raises(BadFile):
        table_reader.read_table(out.getvalue(), "a.xlsx")


# --- Excel ----------------------------------------------------------------------------------------------------------


def test_the_first_sheet_with_rows_is_read_and_the_others_are_named() -> None:
    sheets = {"Notes": "", "Secret": sheet([["x", "y"], ["1", "2"]]), "Stories": sheet(TALE), "More": sheet(TALE[:2])}
    data = workbook(sheets, hidden=["Secret"])
    found = table_reader.read_table(data, "a.xlsx")
    assert (found.sheet, found.sheets, found.encoding) == ("Stories", ("Notes", "Stories", "More"), None)
    assert rows(found) == [["唐", "\n\n从前"], ["宋", "很久以前"]]
    other = table_reader.read_table(data, "a.xlsx", sheet="More")
    assert (other.sheet, len(other.frame)) == ("More", 1)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (0.5, "0.5"),
        (True, "true"),
        ("date:45292", "2024-01-01"),
        ("date:45292.5", "2024-01-01 12:00:00"),
        ("=1+1", "=1+1"),
        (None, ""),
    ],
)
def test_cells_of_excel_become_the_text_that_people_see(cell: Any, text: str) -> None:
    assert rows(table_reader.read_table(workbook({"A": sheet([["k", "v"], ["x", cell]])}), "a.xlsx")) == [["x", text]]


def test_rows_of_a_sheet_are_named_as_excel_counts_them() -> None:
    cells = (
        row(3, [None, "k", "v"]) + row(4, [None, "a", "b"]) + row(7, [None, "c", "d", "e"]) + row(9, [None, "f", "nan"])
    )
    found = table_reader.read_table(workbook({"A": cells}), "a.xlsx")
    assert list(found.frame.columns) == ["k", "v"] and rows(found) == [["a", "b"], ["f", "nan"]]
    assert found.problems == ["Row 7 has a cell beyond the last named column."]
    assert found.notes == ["Row 9, column v contains nan; it is kept as text."]


def test_index_and_double_columns_of_a_sheet_are_treated_as_in_csv() -> None:
    found = table_reader.read_table(workbook({"A": sheet([["", "a", "a"], [0, "x", "y"], [1, "z", "w"]])}), "a.xlsx")
    assert list(found.frame.columns) == ["a", "a (2)"] and rows(found) == [["x", "y"], ["z", "w"]]


BOMBS = {
    "two cells as far apart as can be": '<row><c r="A1"><v>1</v></c></row><row><c r="XFD1048576"><v>1</v></c></row>',
    "a cell of 100 million characters": '<row><c t="str"><v>' + "x" * 100_000_000 + "</v></c></row>",
    "five million cells": "<row><c><v>1</v></c></row>" * 5_000_000,
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a process from taking more memory than it may")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_workbook_that_wants_all_memory_gets_none(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxed_reader, "WORKBOOK_MEMORY", 150_000_000)
    data = workbook({"Bomb": BOMBS[bomb]})
    assert len(data) < 1_000_000
    with pytest.raises(BadFile, match="takes more than 150 MB or too long to open"):
        table_reader.read_table(data, "a.xlsx")


def test_a_workbook_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(BadFile, match="too long to open"):
        sandboxed_reader.read_workbook(io.BytesIO(XLSX), "a.xlsx", ImportProblems(), timeout_s=0.0)


def test_a_workbook_that_is_too_large_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxed_reader, "MAX_WORKBOOK_BYTES", 100)
    with pytest.raises(BadFile, match="is a workbook of 0 MB"):
        table_reader.read_table(XLSX, "a.xlsx")


def test_the_process_that_opens_a_workbook_is_given_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = subprocess.Popen

    def popen(*args: Any, **options: Any) -> Any:
        seen.update(options["env"])
        return real(*args, **options)

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setattr(subprocess, "Popen", popen)
    table_reader.read_table(XLSX, "a.xlsx")
    assert "sk-secret" not in json.dumps(seen)


# --- Parquet --------------------------------------------------------------------------------------------------------


def test_values_of_parquet_become_text_and_missing_ones_empty() -> None:
    data = as_parquet(
        {
            "n": pa.array([1, None], pa.int64()),
            "f": [0.5, float("nan")],
            "g": [float("inf"), 1e300],
            "d": [date(2024, 1, 1), None],
            "m": [Decimal("1.10"), None],
            "b": [True, False],
            "l": [["a", "b"], []],
            "t": ["唐", None],
        }
    )
    found = table_reader.read_table(data, "a.parquet")
    assert rows(found) == [
        ["1", "0.5", "inf", "2024-01-01", "1.10", "true", '["a", "b"]', "唐"],
        ["", "", "1e+300", "", "", "false", "[]", ""],
    ]
    assert found.notes == ["Row 1, column g contains inf; it is kept as text."] and found.encoding is None


def test_rows_of_parquet_that_cannot_be_used_are_named() -> None:
    data = as_parquet({"a": ["x", "y\0", "z" * 100_001, "w"], "b": ["1", "2", "3", "4"]})
    found = table_reader.read_table(data, "a.parquet")
    assert rows(found) == [["x", "1"], ["w", "4"]]
    assert found.problems == [
        "Row 2, column a: The cell contains a NUL character.",
        "Row 3, column a: The cell has more than 100,000 characters.",
    ]


def test_pandas_own_index_and_columns_of_bytes_are_left_out_and_double_names_renamed() -> None:
    table = pa.table(
        [pa.array(["x"]), pa.array(["y"]), pa.array([b"\x00"]), pa.array([0])], ["a", "a", "audio", "__index_level_0__"]
    )
    found = table_reader.read_table(as_parquet(table), "a.parquet")
    assert list(found.frame.columns) == ["a", "a (2)"]
    assert "The column audio contains binary data, not text; it is left out." in found.notes


def test_messages_in_parquet_are_examples_as_in_jsonl() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    found = table_reader.read_table(as_parquet({"messages": [turns, turns[:1]], "split": ["test", ""]}), "a.parquet")
    assert rows(found) == [["q", "a", "test"]] and found.source == "chat"
    assert found.problems == ["Row 2: Its last message is from the user, not the assistant."]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a process from taking more memory than it may")
def test_parquet_that_unpacks_to_too_much_takes_no_memory_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxed_reader, "PARQUET_MEMORY", 700_000_000)
    data = as_parquet({"a": pa.array(["x" * 300_000_000])}, compression="zstd", write_statistics=False)
    assert len(data) < 1_000_000
    with pytest.raises(BadFile, match="takes more than 700 MB to open"):
        table_reader.read_table(data, "a.parquet")


@pytest.mark.parametrize("place", range(8, 200, 24))
def test_a_changed_byte_in_parquet_ends_nothing_but_its_own_process(place: int) -> None:
    data = bytearray(as_parquet({"a": ["x", "y"] * 50, "n": [1.0, None] * 50}))
    data[-place] ^= 0xFF
    try:
        table_reader.read_table(bytes(data), "a.parquet")
    except BadFile as error:
        assert error.what and error.next_step


def test_parquet_that_is_too_large_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxed_reader, "MAX_PARQUET_BYTES", 10)
    with pytest.raises(BadFile, match="the limit is"):
        table_reader.read_table(PARQUET, "a.parquet")


# --- JSONL that is a table ------------------------------------------------------------------------------------------


def test_objects_without_the_keys_of_examples_are_a_table() -> None:
    lines = [
        {"text": "hi", "label": "greeting", "n": 1},
        {"text": "bye", "label": None, "n": float("nan"), "extra": 1},
        {"label": "anger", "text": "!!", "n": [1, "二"]},
        {"text": "a\0", "label": "b", "n": 2},
    ]
    found = table_reader.read_table("\n".join(map(json.dumps, lines)).encode(), "a.jsonl")
    assert list(found.frame.columns) == ["text", "label", "n", "extra"] and found.source == "upload"
    assert rows(found) == [["hi", "greeting", "1", ""], ["bye", "", "", "1"], ["!!", "anger", '[1, "二"]', ""]]
    assert found.problems == ["Line 4, 'text': The cell contains a NUL character."] and found.notes == []


def test_halves_of_characters_in_a_table_are_named() -> None:
    found = table_reader.read_table(b'{"a": "x", "\\ud800": "y"}\n{"a": "\\ud800", "\\ud800": "z"}', "a.jsonl")
    assert list(found.frame.columns) == ["a", "column 2"] and len(found.frame) == 1
    assert found.problems == ["Line 2, 'a': It contains an invalid character (a lone surrogate)."]


def test_the_split_of_an_example_is_kept() -> None:
    lines = [{"prompt": "p", "completion": "c", "split": "test"}, {"prompt": "q", "completion": "d"}]
    found = table_reader.read_table("\n".join(map(json.dumps, lines)).encode(), "a.jsonl")
    assert list(found.frame.columns) == ["prompt", "completion", "split"]
    assert rows(found) == [["p", "c", "test"], ["q", "d", ""]]


def test_the_separator_line_that_excel_writes_is_understood() -> None:
    assert rows(table_reader.read_table(b"sep=|\na|b\n1|2,3\n", "a.csv")) == [["1", "2,3"]]


def test_words_for_no_number_are_kept_and_named() -> None:
    found = table_reader.read_table(b"a,b\nNaN,x\n1,-inf\n", "a.csv")
    assert rows(found) == [["NaN", "x"], ["1", "-inf"]] and found.problems == []
    assert found.notes == [
        "Line 2, column 1 contains NaN; it is kept as text.",
        "Line 3, column 2 contains -inf; it is kept as text.",
    ]
