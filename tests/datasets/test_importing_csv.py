"""Detection of the CSV dialect from several lines, for files that follow no standard."""

from __future__ import annotations

import pytest

from core.datasets.importers import table_reader


def read(text: str) -> table_reader.Imported:
    return table_reader.read_table(text.encode(), "a.csv")


def rows(found: table_reader.Imported) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in found.frame.to_numpy()]


def lines(*cells: tuple[str, str], by: str) -> str:
    return "".join(f"{by.join(row)}\n" for row in cells)


@pytest.mark.parametrize("by", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "texts",
    [
        ["one", "two", "three"],
        ["a. b", "c: d", "e"],
        ["Hello: you", "no", "yes! no? yes"],
    ],
)
def test_every_usual_separator_is_seen(by: str, texts: list[str]) -> None:
    found = read(lines(("k", "text"), *(("x", text) for text in texts), by=by))
    assert list(found.frame.columns) == ["k", "text"] and rows(found) == [["x", text] for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id|text\n1|Hello, you; there\n2|Yes, sir, now\n", [["1", "Hello, you; there"], ["2", "Yes, sir, now"]]),
        ("id;text\n1;a, b, c\n2;d\n3;e, f\n", [["1", "a, b, c"], ["2", "d"], ["3", "e, f"]]),
        ("a,b;c\n1,2;3\n4,5;6\n", [["1", "2;3"], ["4", "5;6"]]),
        ("text;note\n1,5;2,5\n3,5;4,5\n", [["1,5", "2,5"], ["3,5", "4,5"]]),
        ("id\ttext\n1\ta,b\n2\tc|d\n", [["1", "a,b"], ["2", "c|d"]]),
        ('id,text\n1,"a|b|c"\n2,"d|e|f"\n', [["1", "a|b|c"], ["2", "d|e|f"]]),
        ('id;text\n1;"two\nlines; and, more"\n2;x\n', [["1", "two\nlines; and, more"], ["2", "x"]]),
        ("text\nHello\nworld\n", [["Hello"], ["world"]]),
        ("id,text\n1,a\n2,b, c\n3,d\n", [["1", "a"], ["3", "d"]]),
    ],
)
def test_the_separator_is_judged_over_several_lines(text: str, expected: list[list[str]]) -> None:
    assert rows(read(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('k, text\na, "b, c"\nd, "e, f"\n', [["a", "b, c"], ["d", "e, f"]]),
        ('k; text\na; "b; c"\nd; "e; f"\n', [["a", "b; c"], ["d", "e; f"]]),
        ('"k", "text"\n"a", "b, ""c"""\n', [["a", 'b, "c"']]),
        ("k,text\na, b\nc, d\n", [["a", " b"], ["c", " d"]]),  # a completion may begin with a space
        ('k,text\na," b, c"\n', [["a", " b, c"]]),
    ],
)
def test_a_space_before_a_quote_belongs_to_no_cell(text: str, expected: list[list[str]]) -> None:
    found = read(text)
    assert list(found.frame.columns) == ["k", "text"] and rows(found) == expected and found.problems == []


def test_a_header_with_a_quoted_separator_is_not_cut() -> None:
    found = read('k, "text, long"\na, "b, c"\nd, "e, f"\n')
    assert list(found.frame.columns) == ["k", "text, long"] and rows(found) == [["a", "b, c"], ["d", "e, f"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('k,text\n1,"He said \\"hi\\", and left"\n2,"x, y"\n', [["1", 'He said "hi", and left'], ["2", "x, y"]]),
        ('k,text\n1,"{\\"role\\": \\"user\\", \\"a\\": 1}"\n', [["1", '{"role": "user", "a": 1}']]),
        ('k;text\n1;"a \\"b\\"; c"\n2;d\n', [["1", 'a "b"; c'], ["2", "d"]]),
        ('k,text\n1,"two \\"lines\\"\nhere, now"\n2,x\n', [["1", 'two "lines"\nhere, now'], ["2", "x"]]),
        ('k,text\n1,"a path C:\\new\\table, yes \\"x\\""\n', [["1", 'a path C:\\new\\table, yes "x"']]),
        ('k,text\n1,"ends with \\\\"\n2,"b"\n', [["1", "ends with \\\\"], ["2", "b"]]),
        ('k,text\n1,"[{""a"": ""say \\""hi\\""""}]"\n2,x\n', [["1", '[{"a": "say \\"hi\\""}]'], ["2", "x"]]),
    ],
)
def test_quotes_with_a_backslash_are_quotes(text: str, expected: list[list[str]]) -> None:
    found = read(text)
    assert rows(found) == expected and found.problems == []


def test_a_line_that_is_broken_in_a_file_with_backslashes_costs_itself_only() -> None:
    text = 'k,text\n1,"a \\"b\\", c"\n2,"open\n3,"d \\"e\\""\n4,f\n'
    found = read(text)
    assert [row[0] for row in rows(found)] == ["1", "3", "4"] and len(found.problems) == 1


@pytest.mark.parametrize("header", ["a,b", "问题,回答", '"a, x",b'])
def test_a_second_header_in_the_middle_is_no_row(header: str) -> None:
    found = read(f"{header}\n1,2\n{header}\n3,4\n\n{header}\n")
    assert rows(found) == [["1", "2"], ["3", "4"]] and found.problems == []
    assert found.notes == [
        "Line 3 repeats the header; it is left out.",
        "Line 6 repeats the header; it is left out.",
    ]


@pytest.mark.parametrize(
    ("above", "noted"), [("Report of 2024\n", [1]), ("Report\n\nof 2024\n", [1, 3]), ('"Title, long"\n', [1])]
)
def test_a_title_above_the_columns_is_left_out(above: str, noted: list[int]) -> None:
    found = read(f"{above}k,text\n1,a\n2,b\n")
    assert list(found.frame.columns) == ["k", "text"] and rows(found) == [["1", "a"], ["2", "b"]]
    assert found.notes == [f"Line {line} is a title above the columns; it is left out." for line in noted]


def test_a_column_of_texts_with_commas_has_no_title() -> None:
    found = read("text\nHello, you\nYes, sir\nNo\n")
    assert list(found.frame.columns) == ["text"] and rows(found) == [["No"]]


def test_a_byte_order_mark_that_was_pasted_into_a_header_is_not_seen() -> None:
    assert list(read("\ufeff\ufeffa,b\u200b\n1,2\n").frame.columns) == ["a", "b"]
