"""Workbooks: displayed values that readers lose, such as formulas, errors, merged cells, number formats and ids."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.datasets.importers import table_reader
from core.datasets.importers.cells import format_number
from core.errors import BadFile
from tests.support.workbook_maker import row, sheet, workbook


def read(data: bytes) -> table_reader.Imported:
    return table_reader.read_table(data, "a.xlsx")


def rows(found: table_reader.Imported) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in found.frame.to_numpy()]


def styled(body: str, *formats: str, merged: tuple[str, ...] = ()) -> bytes:
    """A workbook of one sheet: `s="1"` is the first of `formats`; `merged` are ranges such as `A2:A4`."""
    made = workbook({"A": body})
    out = io.BytesIO()
    codes = "".join(
        f'<numFmt numFmtId="{200 + n}" formatCode="{code.replace(chr(34), "&quot;")}"/>'
        for n, code in enumerate(formats)
    )
    xfs = "".join(f'<xf numFmtId="{200 + n}" applyNumberFormat="1"/>' for n in range(len(formats)))
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(io.BytesIO(made)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name).decode()
            if name == "xl/styles.xml":
                styles = f'<numFmts>{codes}</numFmts><cellXfs><xf numFmtId="0"/>{xfs}</cellXfs>'
                data = f"<styleSheet {main}>{styles}</styleSheet>"
            elif name.startswith("xl/worksheets/"):
                ranges = "".join(f'<mergeCell ref="{one}"/>' for one in merged)
                data = data.replace(
                    "</sheetData>", f"</sheetData><mergeCells>{ranges}</mergeCells>" if merged else "</sheetData>"
                )
            new.writestr(name, data)
    return out.getvalue()


HEADER = row(1, ["k", "v"])


def one(cell: str, *formats: str) -> table_reader.Imported:
    """A sheet with a single value in B2."""
    return read(styled(f'{HEADER}<row r="2"><c r="A2" t="inlineStr"><is><t>x</t></is></c>{cell}</row>', *formats))


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        ("7", "000", "007"),
        ("12345", "000", "12345"),
        ("5550123", "000-0000", "555-0123"),
        ("42", '"A-"0000', "A-0042"),
        ("42", "00000;[Red]-00000", "00042"),
        ("0.5", "0%", "50%"),
        ("0.125", "0%", "12.5%"),
        ("0.5", "0.00%", "50.00%"),
        ("-0.25", "0%", "-25%"),
        ("3", "0.00", None),
        ("3.5", "000", None),
        ("3", "General", None),
        ("45292", "yyyy-mm-dd", None),
        ("1234", "#,##0", None),
        ("x", "000", None),
        ("1e400", "0%", None),
    ],
)
def test_a_number_is_read_as_its_format_shows_it(number: str, code: str, text: str | None) -> None:
    if number != "1e400":
        assert format_number(number, code) == text
    if text is not None:
        assert rows(one(f'<c r="B2" s="1"><v>{number}</v></c>', code)) == [["x", text]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1234567890123456789", "1234567890123456789"),
        ("-1234567890123456", "-1234567890123456"),
        ("1.2345678901234567E+18", "1234567890123456700"),
        ("6.2202201987654321E+17", "622022019876543210"),
        ("123456789012345", "123456789012345"),
        ("1.5E+300", "1.5e+300"),
        ("0.1", "0.1"),
    ],
)
def test_long_ids_keep_their_digits(value: str, text: str) -> None:
    assert rows(one(f'<c r="B2"><v>{value}</v></c>')) == [["x", text]]


@pytest.mark.parametrize("error", ["#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?"])
def test_an_error_is_named_and_not_emptied(error: str) -> None:
    found = one(f'<c r="B2" t="e"><f>A1</f><v>{error}</v></c>')
    assert rows(found) == [["x", error]]
    assert found.notes == [f"Row 2, column v contains the error {error}; it is kept as text."]


@pytest.mark.parametrize("cell", ["<f>A1</f>", "<f>A1</f><v></v>", "<f>A1</f><v/>", '<f t="shared" si="0"/>'])
def test_a_formula_without_a_saved_value_is_named_and_not_emptied(cell: str) -> None:
    body = HEADER + row(2, ["a", "b"]) + f'<row r="3"><c r="A3"><v>1</v></c><c r="B3">{cell}</c></row>'
    found = read(styled(body))
    assert rows(found) == [["a", "b"]]
    assert found.problems == [
        "Row 3, column v: the formula has no saved value. Open the workbook in Excel and save it there."
    ]


def test_a_formula_with_a_saved_value_or_an_empty_text_is_read() -> None:
    body = HEADER + '<row r="2"><c r="A2"><f>1+1</f><v>2</v></c><c r="B2" t="str"><f>A1</f><v></v></c></row>'
    assert rows(read(styled(body))) == [["2", ""]]


def test_a_sheet_of_formulas_alone_says_what_to_do() -> None:
    with pytest.raises(BadFile, match="the formula has no saved value"):
        read(styled(HEADER + '<row r="2"><c r="A2"><f>1</f></c><c r="B2"><f>2</f></c></row>'))


def test_merged_cells_fill_downwards() -> None:
    cells: list[list[str | None]] = [["dynasty", "story"], ["唐", "a"], [None, "b"], [None, None], [None, "c"]]
    cells += [["宋", "d"], [None, "e"]]
    found = read(styled(sheet(cells), merged=("A2:A5", "A6:A7")))
    assert rows(found) == [["唐", "a"], ["唐", "b"], ["唐", "c"], ["宋", "d"], ["宋", "e"]]


def test_cells_that_are_not_merged_stay_empty() -> None:
    assert rows(read(styled(sheet([["k", "v"], ["a", "b"], [None, "c"]]), merged=("A1:B1",)))) == [
        ["a", "b"],
        ["", "c"],
    ]


@pytest.mark.parametrize("merged", [(), ("A1:C1",), ("A1:C2",)])
def test_a_title_above_the_columns_is_skipped(merged: tuple[str, ...]) -> None:
    found = read(styled(sheet([["Messages of 2024"], [], ["k", "v", "w"], ["a", "b", "c"]]), merged=merged))
    assert list(found.frame.columns) == ["k", "v", "w"] and rows(found) == [["a", "b", "c"]]
    assert found.notes == ["Row 1 is a title above the columns; it is left out."]


def test_a_sheet_that_begins_further_in_keeps_its_places() -> None:
    body = (
        row(3, [None, None, "k", "v"])
        + '<row r="4"><c r="C4" s="1"><v>7</v></c><c r="D4" t="e"><v>#N/A</v></c></row>'
        + '<row r="5"><c r="D5"><v>9</v></c></row>'
    )
    found = read(styled(body, "000", merged=("C4:C5",)))
    assert rows(found) == [["007", "#N/A"], ["007", "9"]]
    assert found.notes == ["Row 4, column v contains the error #N/A; it is kept as text."]


def test_a_second_header_in_the_middle_of_a_sheet_is_no_row() -> None:
    found = read(workbook({"A": sheet([["k", "v"], ["a", "b"], ["k", "v"], ["c", "d"]])}))
    assert rows(found) == [["a", "b"], ["c", "d"]] and found.notes == ["Row 3 repeats the header; it is left out."]


def test_conversations_in_a_workbook_are_examples() -> None:
    turns = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
    found = read(workbook({"A": sheet([["id", "messages"], [1, turns]])}))
    assert list(found.frame.columns) == ["prompt", "completion", "id"] and rows(found) == [["q", "a", "1"]]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1.0, None, 3.0]), ["1", "", "3"]),
        (pa.array([0.1, 1.5, 2.0], pa.float32()), ["0.1", "1.5", "2"]),
        (pa.array([3.3, 1e-7, 16777216.0], pa.float32()), ["3.3", "1e-07", "16777216"]),
        (pa.array(np.array([0.1, 2, 0.5], np.float16)), ["0.1", "2", "0.5"]),
        (pa.array([2.0**60, 1e300, -0.5]), ["1.152921504606847e+18", "1e+300", "-0.5"]),
        (pa.array([1234567890123456789, 2, 3]), ["1234567890123456789", "2", "3"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
    ],
)
def test_numbers_of_parquet_are_written_as_people_write_them(values: Any, texts: list[str]) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": values}), out)
    assert table_reader.read_table(out.getvalue(), "a.parquet").frame["label"].tolist() == texts
