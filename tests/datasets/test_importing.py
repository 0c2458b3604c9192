"""Import of user files: every usable row is kept, every other one is reported, and no file crashes the app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.datasets import presets
from core.datasets.importers import table_reader
from core.errors import BadFile

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
STORIES = "dynasty,story\n唐,一位英雄\n宋,两位英雄\n"


def read(data: bytes | str, name: str = "stories.csv") -> table_reader.Imported:
    return table_reader.read_table(data.encode() if isinstance(data, str) else data, name)


def rows(found: table_reader.Imported) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in found.frame.to_numpy()]


@pytest.mark.parametrize(
    ("codec", "encoding"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8 with BOM"),
        ("gbk", "GBK"),
        ("gb18030", "GBK"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_usual_encoding_is_read_and_named(codec: str, encoding: str, ending: str) -> None:
    found = read(STORIES.replace("\n", ending).encode(codec))
    assert found.encoding == encoding
    assert list(found.frame.columns) == ["dynasty", "story"]
    assert rows(found) == [["唐", "一位英雄"], ["宋", "两位英雄"]]
    assert found.problems == []


@pytest.mark.parametrize("codec", ["utf-8", "gbk", "utf-16", "utf-16-le"])
def test_jsonl_is_read_in_every_encoding_too(codec: str) -> None:
    text = json.dumps({"prompt": "唐 ->", "completion": " 英雄."}, ensure_ascii=False) + "\n"
    assert rows(read((text * 3).encode(codec), "a.jsonl")) == [["唐 ->", " 英雄."]] * 3


def test_the_articles_index_column_is_dropped() -> None:
    found = read(",dynasty,story\n0,唐,a\n1,宋,b\n")
    assert list(found.frame.columns) == ["dynasty", "story"]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("index,a,b", ["a", "b"]),
        ("Unnamed: 0,a,b", ["a", "b"]),
        ("id,a,b", ["id", "a", "b"]),
    ],
)
def test_only_a_column_that_counts_is_dropped(header: str, columns: list[str]) -> None:
    assert list(read(f"{header}\n0,x,y\n1,z,w\n").frame.columns) == columns


def test_a_first_column_without_name_that_does_not_count_is_kept() -> None:
    assert list(read(",b\nx,y\n").frame.columns) == ["column 1", "b"]


def test_stories_with_line_ends_quotes_and_commas_come_whole() -> None:
    story = '\n\n一位"英雄"，\n他说：a,b'
    quoted = story.replace('"', '""')
    assert rows(read(f'k,story\n1,"{quoted}"\n')) == [["1", story]]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_semicolons_and_tabs_part_cells_too(delimiter: str) -> None:
    assert rows(read(f"a{delimiter}b\n1,5{delimiter}2\n")) == [["1,5", "2"]]


def test_cells_stay_text() -> None:
    assert rows(read("a,b\n007,\nNA,1e5\n")) == [["007", ""], ["NA", "1e5"]]


def test_ragged_rows_are_named_and_the_good_ones_kept() -> None:
    found = read("a,b,c\n1,2,3\n1,2\n\n1,2,3,4\n4,5,6\n")
    assert rows(found) == [["1", "2", "3"], ["4", "5", "6"]]
    assert found.problems == [
        "Line 3 has 2 cells, but the header has 3.",
        "Line 5 has 4 cells, but the header has 3.",
    ]


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    found = read('a,b\n1,"two\nlines"\n3\n')
    assert found.problems == ["Line 4 has 1 cell, but the header has 2."]


def test_nul_characters_are_named_by_line_and_column() -> None:
    found = read(b"a,b\n1,2\n3,x\0y\n5,6\n")
    assert rows(found) == [["1", "2"], ["5", "6"]]
    assert found.problems == ["Line 3, column 2: The cell contains a NUL character."]


def test_a_second_column_of_the_same_name_gets_another_one() -> None:
    found = read("a,b,a,a\n1,2,3,4\n")
    assert list(found.frame.columns) == ["a", "b", "a (2)", "a (3)"]
    assert found.notes[0] == "Two columns are called a; the second is renamed to a (2)."


def test_a_column_without_a_name_gets_a_number() -> None:
    assert list(read("a,,c\n1,2,3\n").frame.columns) == ["a", "column 2", "c"]


def test_a_quote_that_is_never_closed_costs_its_line_only() -> None:
    found = read('a,b\n1,2\n3,"open\n5,6\n7,8\n')
    assert rows(found) == [["1", "2"], ["5", "6"], ["7", "8"]]
    assert found.problems == ["Line 3: a quote is opened but never closed; the line is left out."]


def test_quotes_that_do_not_fit_are_named() -> None:
    found = read('a,b\n1,"x"y\n3,4\n')
    assert rows(found) == [["3", "4"]]
    assert found.problems == ["Line 2: the quotes do not match."]


@pytest.mark.parametrize("length", [100_000, 200_000])
def test_a_giant_cell_is_named_not_kept(length: int) -> None:
    found = read(f"a,b\n1,{'x' * length}\n3,4\n")
    if length > 100_000:
        assert rows(found) == [["3", "4"]] and "Line 2" in found.problems[0] and "100,000" in found.problems[0]
    else:
        assert len(found.frame) == 2


def test_problems_are_told_in_a_bounded_number_of_sentences() -> None:
    found = read("a,b\n1,2\n" + "x\n" * 5_000)
    assert len(found.problems) == 101
    assert found.problems[-1] == "And 4,900 more problems like these."


BAD = [
    (b"", "stories.csv is empty"),
    (b" \n\r\n", "stories.csv is empty"),
    (b"\xef\xbb\xbf", "stories.csv is empty"),
    (b"a,b\n", "has no rows: nothing follows its first line"),
    (b"a,b\n1\n2\n", "has no row that can be used. Line 2 has 1 cell, but the header has 2"),
    (b"PK\x03\x04rest", "is an Excel workbook"),
    (b"%PDF-1.7", "is a PDF"),
    (b"\x1f\x8b\x08rest", "is a compressed file"),
    (bytes(range(256)) * 20, "is not a text file"),
    (b"a,b\n1,\xff\xff\n", "not UTF-8, GBK or UTF-16: line 2"),
    (b"\xef\xbb\xbfa,b\n1,\xff\n", "is marked as UTF-8 with BOM, but is invalid at byte"),
    ("a,b\n1,2".encode("utf-16")[:-1], "is marked as UTF-16, but is invalid"),
    ((",".join("x" * 2000) + "\n").encode(), "has 2,000 columns"),
]


@pytest.mark.parametrize(("data", "words"), BAD)
def test_a_file_of_which_nothing_can_be_used_says_why_and_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(BadFile) as caught:
        read(data)
    assert words in caught.value.what
    assert caught.value.next_step


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_reader, "MAX_BYTES", 10)
    with pytest.raises(BadFile, match="the limit is"):
        read(STORIES)


# --- JSONL ---------------------------------------------------------------------------------------------------------

GOOD = '{"prompt": "p", "completion": "c"}'

BROKEN_LINES = [
    ('{"prompt": "p", "completion": "c"', "Line 3: It is not JSON: Expecting ',' delimiter, at column 34."),
    ('{"prompt": "p" "completion": "c"}', "Line 3: It is not JSON: Expecting ',' delimiter, at column 16."),
    ("nonsense", "Line 3: It is not JSON: Expecting value, at column 1."),
    ("[" * 100_000, "Line 3: It is JSON that can't be parsed."),
    ('{"prompt": "p", "completion": ' + "9" * 10_000 + "}", "Line 3: It is JSON that can't be parsed."),
    ('["p", "c"]', "Line 3: It is not a JSON object."),
    ('{"prompt": "p", "completion": "c\\u0000"}', "Line 3, 'completion': The cell contains a NUL character."),
    (
        '{"prompt": "\\ud800", "completion": "c"}',
        "Line 3, 'prompt': It contains an invalid character (a lone surrogate).",
    ),
    (
        json.dumps({"prompt": "p", "completion": "c" * 100_001}),
        "Line 3, 'completion': The cell has more than 100,000 characters.",
    ),
    ('{"messages": []}', 'Line 3: Its "messages" is not a non-empty list of messages.'),
    ('{"messages": ["hi"]}', "Line 3: Message 1 is not a JSON object."),
    ('{"messages": [{"content": "p"}]}', "Line 3: Message 1 has no role."),
    (
        '{"messages": [{"role": ["user"], "content": "p"}]}',
        "Line 3: Message 1 has a role that is not valid: \"['user']\".",
    ),
    ('{"messages": [{"role": "user", "content": 1}]}', "Line 3: Message 1 has no text content."),
    (
        '{"messages": [{"role": "user", "content": "p"}]}',
        "Line 3: Its last message is from the user, not the assistant.",
    ),
    (
        '{"messages": [{"role": "assistant", "content": "c"}]}',
        "Line 3: It has no user message.",
    ),
]


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ('{"prompt": "p"}', ["p", ""]),
        ('{"prompt": "p", "completion": " "}', ["p", " "]),
        ('{"prompt": 1, "completion": true}', ["1", "true"]),
        ('{"completion": "c"}', ["", "c"]),
    ],
)
def test_a_line_without_text_under_a_key_is_a_row_as_in_csv(line: str, cells: list[str]) -> None:
    found = read(f"{GOOD}\n{line}\n", "a.jsonl")
    assert rows(found) == [["p", "c"], cells] and found.problems == []


@pytest.mark.parametrize(("line", "problem"), BROKEN_LINES)
def test_a_broken_line_3_is_named_and_the_others_are_kept(line: str, problem: str) -> None:
    found = read(f"{GOOD}\n\n{line}\n{GOOD}\n", "a.jsonl")
    assert rows(found) == [["p", "c"], ["p", "c"]]
    assert found.problems == [problem]


def test_messages_become_prompt_and_completion_with_the_system_text_beside() -> None:
    line = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me."},
        ]
    }
    found = read(json.dumps(line) + "\n" + GOOD, "a.jsonl")
    assert list(found.frame.columns) == ["system", "prompt", "completion"]
    assert rows(found) == [["Be brief.", "Who?", "Me."], ["", "p", "c"]]


def test_several_turns_become_one_example_with_the_last_answer() -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    line = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert rows(read(json.dumps(line), "a.jsonl")) == [["User: a\n\nAssistant: b\n\nUser: c", "d"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[\n1, 2]", "no line that can be used. Entry 1 (line 2): It is not a JSON object."),
        ("x\ny\n", "no line that can be used. Line 1: It is not JSON"),
    ],
)
def test_a_file_without_a_good_line_is_bad(text: str, words: str) -> None:
    with pytest.raises(BadFile) as caught:
        read(text, "a.jsonl")
    assert words in caught.value.what and caught.value.next_step


def test_jsonl_under_another_name_is_seen_by_its_first_brace() -> None:
    assert rows(read(GOOD + "\n", "a.txt")) == [["p", "c"]]


def test_line_separators_inside_a_story_do_not_part_lines() -> None:
    line = json.dumps({"prompt": "p", "completion": "a\u2028b\x85c"}, ensure_ascii=False)
    assert rows(read(line, "a.jsonl")) == [["p", "a\u2028b\x85c"]]


@given(st.binary(max_size=300), st.sampled_from(["a.csv", "a.jsonl"]))
def test_no_file_makes_it_stumble(data: bytes, name: str) -> None:
    try:
        found = table_reader.read_table(data, name)
    except BadFile as error:
        assert error.what and error.next_step
    else:
        assert len(found.frame) > 0 and len(set(found.frame.columns)) == len(found.frame.columns)


@given(st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=1, max_size=5))
def test_what_a_csv_writer_wrote_is_read_back(pairs: list[tuple[str, str]]) -> None:
    import csv
    import io

    clean = [
        ("k" + a.replace("\0", "").replace("\r", ""), "v" + b.replace("\0", "").replace("\r", "")) for a, b in pairs
    ]
    out = io.StringIO()
    csv.writer(out).writerows([("left", "right"), *clean])
    data = out.getvalue().encode("utf-8", "replace")
    expected = [[a.encode("utf-8", "replace").decode(), b.encode("utf-8", "replace").decode()] for a, b in clean]
    assert rows(read(data)) == expected


@pytest.mark.parametrize(("name", "count"), [("ultraman_stories", 486), ("ultraman_stories_more", 135)])
def test_the_samples_are_read_without_a_problem(name: str, count: int) -> None:
    found = table_reader.read_table((presets.DATA / "samples" / f"{name}.csv").read_bytes(), f"{name}.csv")
    assert len(found.frame) == count and found.problems == []
    assert list(found.frame.columns) == ["dynasty", "super_power", "story_type", "plot", "story"]


def test_the_articles_own_stories_are_read_whole() -> None:
    path = FIXTURES / "ultraman_stories.csv"
    if not path.is_file():
        pytest.skip("the article's stories are not on this machine (../shared/fixtures)")
    found = table_reader.read_table(path.read_bytes(), path.name)
    assert len(found.frame) == 464 and found.problems == []
    lengths = found.frame["story"].str.len()
    assert found.frame["story"].str.startswith("\n\n").all() and (lengths.min(), lengths.max()) == (186, 562)
    assert len(found.frame.drop_duplicates(["dynasty", "super_power", "story_type"])) == 155
