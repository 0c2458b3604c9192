"""Importing files: the page shows what was read, each column gets a role, and nothing is saved without a preview."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from core.datasets import datasets, presets
from core.datasets.importers import table, table_reader
from core.db.store import Store
from core.db.tables import Row
from tests.support.app_pages import click, trouble, visit, words
from tests.support.workbook_maker import binary_workbook, sheet, workbook

INTENTS = "message,intent,language,split\nWhere is it?,track,en,\n我要退款,refund,zh,held_out\nHi,greet,en,test\n"


def brought(name: str, data: bytes, locale: str = "en-US") -> AppTest:
    """The import tab after a visitor has chosen a file."""
    at = visit("dataset", locale, dataset_part="bring")
    at.file_uploader(key="dataset_file").upload(name, data).run()
    assert not at.exception
    return at


def box(at: AppTest, name: str) -> Any:
    """A select box of the form by the prefix of its key, which ends with the file's id."""
    return next(b for b in (*at.selectbox, *at.multiselect, *at.text_input) if str(b.key).startswith(f"dataset_{name}"))


def kept(store: Store) -> list[tuple[str, str, str | None]]:
    with store.reading() as session:
        found = session.execute(select(Row.prompt, Row.text, Row.split).order_by(Row.position))
        return [(prompt, text or "", split) for prompt, text, split in found]


def test_columns_are_guessed_and_the_held_out_rows_kept_apart(store: Store) -> None:
    at = brought("intents.csv", INTENTS.encode())
    assert "3 examples · 1 row undecided · 2 rows held out" in words(at)
    assert '{"prompt": "Where is it?", "completion": "track"}' in words(at)
    click(at, "dataset_keep")
    assert kept(store) == [
        ("Where is it?", "track", None),
        ("我要退款", "refund", "held_out"),
        ("Hi", "greet", "held_out"),
    ]


def test_another_mapping_can_be_chosen(store: Store) -> None:
    at = brought("intents.csv", INTENTS.encode())
    box(at, "completion").set_value("message").run()
    box(at, "prompts").set_value(["intent", "language"]).run()
    click(at, "dataset_keep")
    assert kept(store)[0] == ("track,en", "Where is it?", None)


def test_without_a_prompt_column_there_is_nothing_to_keep_and_the_page_says_why(store: Store) -> None:
    at = brought("a.csv", b"only\nx\n")
    assert at.button(key="dataset_keep").disabled
    assert "There is only one column; prompts and answers need two." in trouble(at)
    at = brought("b.csv", b"a,b\nx,y\n")
    box(at, "prompts").set_value([]).run()
    assert at.button(key="dataset_keep").disabled and "Choose at least one prompt column" in words(at)


def test_a_split_column_of_other_words_is_told_in_place_and_not_kept(store: Store) -> None:
    at = brought("a.csv", INTENTS.replace("held_out", "later").encode())
    box(at, "prompts").set_value(["message"]).run()
    box(at, "split").set_value("split").run()
    assert "The split column contains 'later'" in trouble(at)
    assert at.button(key="dataset_keep").disabled


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.parquet", "Parquet"), ("a.xlsx", "Excel workbook"), ("a.xlsb", "Excel workbook"), ("a.jsonl", "JSON")],
)
def test_every_kind_of_table_becomes_a_data_set(store: Store, name: str, kind: str) -> None:
    out = io.BytesIO()
    pd.DataFrame({"topic": ["sea"], "text": ["\n\nA wave."]}).to_parquet(out)
    data = {
        "a.parquet": out.getvalue(),
        "a.xlsx": workbook({"A": sheet([["topic", "text"], ["sea", "\n\nA wave."]])}),
        "a.xlsb": binary_workbook("A", [["topic", "text"], ["sea", "\n\nA wave."]]),
        "a.jsonl": b'{"topic": "sea", "text": "\\n\\nA wave."}\n',
    }[name]
    at = brought(name, data)
    assert "1 row read" in words(at) and kind in words(at)
    click(at, "dataset_keep")
    assert kept(store) == [("sea", "\n\nA wave.", None)]


SHAREGPT = json.dumps(
    [
        {"id": "x", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
        {"id": "y", "conversations": [{"from": "human", "value": "Bye"}]},
    ]
).encode()


def test_what_was_recognised_is_said_and_the_last_answer_is_learned(store: Store) -> None:
    at = brought("a.json", SHAREGPT)
    assert "Recognised: ShareGPT conversations, 1 of 2 rows." in words(at)
    assert "The last answer of each conversation is the text to learn" in words(at)
    assert "Prompt: **prompt**. Completion (the text to learn): **completion**" in words(at)
    click(at, "dataset_keep")
    assert kept(store) == [("Hi", "Hello.", None)]


def test_conversations_can_be_read_as_a_plain_table_which_warns_of_json(store: Store) -> None:
    at = brought("a.json", SHAREGPT)
    (choice,) = [one for one in at.segmented_control if str(one.key).startswith("dataset_form")]
    choice.set_value("table").run()
    assert not at.exception and "Recognised: a table, 2 of 2 rows." in words(at)
    assert any("contain JSON, so the model" in one.value for one in at.warning)
    (choice,) = [one for one in at.segmented_control if str(one.key).startswith("dataset_form")]
    choice.set_value("found").run()
    assert "Recognised: ShareGPT conversations" in words(at)


def test_the_separator_between_columns_can_be_chosen(store: Store) -> None:
    rows = [{"instruction": "Translate", "input": "rot", "output": "red"}, {"instruction": "Go", "output": "Gone"}]
    at = brought("a.json", json.dumps(rows).encode())
    assert "Recognised: Alpaca instructions, 2 of 2 rows." in words(at)
    assert "joined by New line. Completion (the text to learn): **output**" in words(at)
    box(at, "separator").set_value("\n\n").run()
    click(at, "dataset_keep")
    assert kept(store) == [("Translate\n\nrot", "red", None), ("Go", "Gone", None)]


def test_another_sheet_of_a_workbook_can_be_chosen(store: Store) -> None:
    sheets = {"One": sheet([["a", "b"], ["1", "2"]]), "Two": sheet([["c", "story"], ["x", "从前"], ["y", "后来"]])}
    at = brought("a.xlsx", workbook(sheets))
    assert "1 row read" in words(at)
    box(at, "sheet").set_value("Two").run()
    assert not at.exception and "2 rows read" in words(at)
    click(at, "dataset_keep")
    assert kept(store) == [("x", "从前", None), ("y", "后来", None)]


def test_a_file_under_a_wrong_name_is_read_and_that_is_said(store: Store) -> None:
    at = brought("a.csv", workbook({"A": sheet([["a", "b"], ["1", "2"]])}))
    assert "The file name suggests another format" in words(at)


def test_an_encoding_that_was_guessed_wrongly_can_be_put_right(store: Store) -> None:
    at = brought("a.csv", "title,text\n故事,從前有一個英雄\n".encode("big5"))
    box(at, "encoding").set_value("Big5").run()
    assert "CSV, separated by `,`, Big5" in words(at)
    click(at, "dataset_keep")
    assert kept(store) == [("故事", "從前有一個英雄", None)]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"a,b\n1,2\n", "CSV, separated by `,`, UTF-8"),
        ("a.csv", b"a;b\n1;2\n", "CSV, separated by `;`, UTF-8"),
        ("a.tsv", b"a\tb\n1\t2\n", "CSV, separated by tabs, UTF-8"),
        ("a.csv", b"a|b\n1|2\n", "CSV, separated by `|`, UTF-8"),
        ("a.csv", b"a\n1\n2\n", "CSV, UTF-8"),
        ("a.csv.gz", gzip.compress(b"a;b\n1;2\n", mtime=0), "CSV, separated by `;`, UTF-8, gzip"),
        ("a.jsonl.xz", lzma.compress(b'{"a": "1", "b": "2"}\n'), "JSON, UTF-8, xz"),
        ("a.json.bz2", bz2.compress(b'[{"a": "1", "b": "2"}]'), "JSON, UTF-8, bzip2"),
        ("a.xlsx", workbook({"A": sheet([["a", "b"], ["1", "2"]])}), "Excel workbook"),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else None,  # compressed files contain their creation time
)  # fmt: skip
def test_how_a_file_was_read_is_said_in_one_line(store: Store, name: str, data: bytes, said: str) -> None:
    at = brought(name, data)
    line = next(one for one in words(at).splitlines() if "read**" in one)
    assert line.endswith(f" · {said}")


def test_the_upload_says_what_it_takes_and_how_large_a_file_can_be(store: Store) -> None:
    at = visit("dataset", dataset_part="bring")
    assert at.file_uploader(key="dataset_file").label == "Table or conversations: CSV, Excel, Parquet, JSON or JSONL"
    assert "ShareGPT, Alpaca" in words(at)
    assert "Up to 500 MB, Excel up to 100 MB." in words(at)
    assert {".xlsb", ".xlsx", ".ods"} <= set(at.file_uploader(key="dataset_file").proto.type)
    assert at.file_uploader(key="dataset_file").proto.max_upload_size_mb == 500  # the widget itself reports it too


def test_a_file_in_no_known_encoding_can_still_be_told_what_it_is(store: Store) -> None:
    at = brought("a.csv", b"a,b\n1,\xff\xff\n2,\xe9\n")
    assert "not UTF-8, GBK or UTF-16" in trouble(at)
    box(at, "encoding").set_value("Windows-1252").run()
    assert not trouble(at) and "2 rows read" in words(at)


def test_rows_that_are_left_out_are_counted_and_named(store: Store) -> None:
    at = brought("a.csv", b"a,b\n1,2\n" + b"x\n" * 500 + b"\n3, \n")
    assert "500 rows can't be used and are left out" in at.warning[0].value
    assert "Line 3 has 1 cell, but the header has 2." in words(at)
    assert "1 row without a completion" in words(at)


def test_a_file_is_read_once_however_often_the_page_is_drawn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = table_reader.read_table

    def counted(source: table_reader.Source, filename: str, **named: Any) -> table_reader.Imported:
        read.append(filename)
        return real(source, filename, **named)

    monkeypatch.setattr(table_reader, "read_table", counted)
    at = brought("a.xlsx", workbook({"One": sheet([["a", "b"], ["1", "2"]]), "Two": sheet([["c", "d"], ["3", "4"]])}))
    at.run()
    at.file_uploader(key="dataset_file").upload("b.csv", b"%PDF").run()
    at.run()
    assert "is a PDF" in trouble(at) and (read.count("a.xlsx"), read.count("b.csv")) == (1, 1)


def test_a_file_that_was_cut_short_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_ROWS", 2)
    at = brought("a.csv", b"a,b\n1,2\n3,4\n5,6\n")
    assert "Only the first 2 rows were read" in at.warning[0].value


def test_two_files_one_after_the_other_do_not_share_their_columns(store: Store) -> None:
    at = brought("a.csv", b"topic,text\nsea,A wave.\n")
    at.file_uploader(key="dataset_file").upload("b.csv", b"k,l,m\n1,2,3\n").run()
    assert not at.exception and '{"prompt": "1,2", "completion": "3"}' in words(at)


def test_a_cell_is_text_whatever_it_says(store: Store) -> None:
    at = brought("a.csv", b'"a <b>x</b>",text\n![x](http://example.com/x.png),[link](javascript:alert)\n')
    assert not [m for m in at.markdown if "example.com" in m.value or "<b>" in m.value]


def test_the_page_speaks_chinese(store: Store) -> None:
    at = brought("a.csv", INTENTS.encode("gbk"), locale="zh-CN")
    assert "GBK" in words(at)


@pytest.mark.parametrize("preset", [p for p in presets.load() if p.sample is not None], ids=lambda p: str(p.sample))
def test_every_sample_is_one_click_away(store: Store, preset: presets.Preset) -> None:
    click(visit("dataset", dataset_part="bring"), f"dataset_sample_{preset.sample}")
    (found,) = datasets.list_datasets(store)
    assert found.done == found.total > 0
