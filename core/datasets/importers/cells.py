"""Converts cells to text: values of any type, and workbook cells whose text calamine does not preserve.

calamine returns numbers as floating point without their format, and returns errors and unsaved formulas as empty cells.
Therefore the XML of an xlsx sheet is parsed a second time for number formats, ids of 16 or more digits, errors and
formulas, but only if a quick search finds any of these. An OpenDocument sheet (LibreOffice, WPS) stores the displayed
text of each cell, which is used for percentages, leading zeros, long ids and errors. This module is lightweight,
because the reader process imports it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import IO, NamedTuple
from xml.parsers import expat

_MAX_EXACT = 2**53  # up to here floating point represents every integer
_BLOCK = 1 << 20
_OVERLAP = 64  # bytes, longer than any match
_MAX_PART = 10_000_000  # bytes of the sheet list or the formats
_MAX_NUMBER = 40  # digits and signs
_EXACT_DIGITS = 15  # precision of floating point and of Excel
_SPECIAL_CONTENT = re.compile(rb"""t=["']e["']|<(\w+:)?f[ />]|<(\w+:)?v>-?\d{16}|<(\w+:)?v>-?\d\.\d+E\+?[12]\d""")
_PERCENT = re.compile(r"[#,]*0*(\.(0+))?\s*%")
_BUILT_IN = {"9": "0%", "10": "0.00%"}  # ECMA-376, part 1, 18.8.30
_DIGITS_AND_LITERALS = re.compile(r'(?:0|[-/() .]|\\.|"[^"]*")+')
_LITERAL = re.compile(r'\\(.)|"([^"]*)"|(.)')
OPENDOCUMENT_PART = "content.xml"
_MAX_DISPLAYED = 100  # characters
_MAX_REPEATED = 100_000  # maximum number of repeated rows that are expanded
_KEEP_DISPLAYED = re.compile(r"0\d+|-?\d{16,}")  # leading zeros, or more digits than floating point preserves


def cell_text(value: object) -> str:
    """A value of any type as cell text. Missing values (also NaN) are empty; lists and objects become JSON.

    Whole numbers have no decimal point: programs without nullable integers write 1.0 for 1.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


class SpecialCell(NamedTuple):
    """A cell with its text, or its fault. Row and column count from 0."""

    row: int
    column: int
    text: str
    fault: str  # "", "error", "formula"


def xlsx_cells(data: bytes, sheet: str) -> Iterator[SpecialCell]:
    """The special cells of a sheet of an xlsx file, row by row; none for other kinds of files.

    Raises:
        zipfile.BadZipFile, KeyError, ValueError, expat.ExpatError: the file is invalid.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        if "xl/workbook.xml" not in book.namelist():
            return
        path = _sheet_path(book, sheet)
        formats = _style_formats(book)
        with book.open(path) as file:
            if not any(map(_changes_text, formats)) and not _has_special_content(file):
                return
        with book.open(path) as file:
            yield from _scan(file, formats)


def format_number(number: str, code: str) -> str | None:
    """A number as its format displays it, for percentages and leading zeros; None if the format does not matter."""
    section = code.split(";")[0]
    try:
        value = Decimal(number)
    except InvalidOperation:
        return None
    if match := _PERCENT.fullmatch(section):
        percent = (value * 100).normalize()
        decimals = max(len(match[2] or ""), -int(percent.as_tuple().exponent))
        return f"{percent:.{min(decimals, 12)}f}%"
    if _has_leading_zeros(section) and value == value.to_integral_value() and value >= 0:
        return _fill_digits(section, str(int(value)))
    return None


def _changes_text(code: str) -> bool:
    return _PERCENT.fullmatch(code.split(";")[0]) is not None or _has_leading_zeros(code.split(";")[0])


def _has_leading_zeros(section: str) -> bool:
    return _DIGITS_AND_LITERALS.fullmatch(section) is not None and "0.0" not in section and section.count("0") > 1


def _fill_digits(section: str, digits: str) -> str:
    """Fill digits into a format such as `000-0000`, from the right; extra digits come first."""
    parts = [(m[1] or m[2], False) if m[3] is None else (m[3], m[3] == "0") for m in _LITERAL.finditer(section)]
    digit_count = sum(is_digit for _, is_digit in parts)
    remaining = list(digits.zfill(digit_count))
    result, extra = [], len(remaining) - digit_count
    for text, is_digit in parts:
        if is_digit:
            result.append("".join(remaining[: extra + 1]))
            remaining, extra = remaining[extra + 1 :], 0
        else:
            result.append(text or "")
    return "".join(result)


def _sheet_path(book: zipfile.ZipFile, sheet: str) -> str:
    """The path of a sheet's XML, by sheet name."""
    sheet_attrs = next((attrs for name, attrs in _elements(book, "xl/workbook.xml") if attrs.get("name") == sheet), {})
    key = next((value for name, value in sheet_attrs.items() if name.endswith(":id")), None)
    for _name, attrs in _elements(book, "xl/_rels/workbook.xml.rels"):
        if key is not None and attrs.get("Id") == key:
            target = attrs["Target"]
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    raise KeyError(sheet)


def _style_formats(book: zipfile.ZipFile) -> list[str]:
    """The number format of each cell style, by style number."""
    if "xl/styles.xml" not in book.namelist():
        return []
    codes, styles, in_cell_styles = dict(_BUILT_IN), list[str](), False
    for name, attrs in _elements(book, "xl/styles.xml"):
        if name == "numFmt":
            codes[attrs.get("numFmtId", "")] = attrs.get("formatCode", "")
        elif name in ("cellXfs", "cellStyleXfs", "cellStyles", "dxfs"):
            in_cell_styles = name == "cellXfs"
        elif name == "xf" and in_cell_styles:
            styles.append(attrs.get("numFmtId", "0"))
    return [codes.get(style, "") for style in styles]


def _elements(book: zipfile.ZipFile, path: str) -> list[tuple[str, dict[str, str]]]:
    """All elements of a small XML part, without namespace prefix, with their attributes."""
    elements = list[tuple[str, dict[str, str]]]()
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, attrs: elements.append((name.rpartition(":")[2], attrs))
    with book.open(path) as file:
        parser.Parse(file.read(_MAX_PART), True)
    return elements


def _has_special_content(file: IO[bytes]) -> bool:
    tail = b""
    while block := file.read(_BLOCK):
        if _SPECIAL_CONTENT.search(tail + block):
            return True
        tail = block[-_OVERLAP:]
    return False


class _WorkbookScanner:
    """Expat handlers for the cells of a sheet."""

    def __init__(self, formats: list[str]) -> None:
        self.found = list[SpecialCell]()
        self._formats = formats
        self._attrs: dict[str, str] = {}
        self._row = self._column_index = -1
        self._formula = self._value_open = False
        self._value = ""

    def start(self, name: str, attrs: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        if name == "v":
            self._value_open = True
        elif name == "f":
            self._formula = True
        elif name == "c":
            self._attrs, self._formula, self._value = attrs, False, ""
            self._column_index = _column_index(attrs["r"]) if "r" in attrs else self._column_index + 1
        elif name == "row":
            self._row = int(attrs["r"]) - 1 if "r" in attrs else self._row + 1
            self._column_index = -1

    def data(self, text: str) -> None:
        if self._value_open and len(self._value) < _MAX_NUMBER:
            self._value += text

    def end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        if name == "v":
            self._value_open = False
        elif name == "c" and (special := self._special()) is not None:
            self.found.append(SpecialCell(self._row, self._column_index, *special))

    def _special(self) -> tuple[str, str] | None:
        kind = self._attrs.get("t", "n")
        if kind == "e":
            return self._value, "error"
        if self._formula and not self._value and kind in ("n", "b"):
            return "", "formula"
        if kind != "n" or not self._value:
            return None
        style = int(self._attrs.get("s", 0))
        text = format_number(self._value, self._formats[style] if style < len(self._formats) else "")
        return (text, "") if text is not None else _long_id(self._value)


def _long_id(number: str) -> tuple[str, str] | None:
    """An integer of 16 or more digits, exactly; None for other numbers."""
    if number.lstrip("-").isdigit():
        return (number, "") if len(number.lstrip("-")) > _EXACT_DIGITS else None
    if "E+" not in number.upper():
        return None
    value = Decimal(number)
    is_long_integer = value == value.to_integral_value() and _EXACT_DIGITS < value.adjusted() + 1 <= _MAX_NUMBER
    return (f"{value:f}".partition(".")[0], "") if is_long_integer else None


def _scan(file: IO[bytes], formats: list[str]) -> Iterator[SpecialCell]:
    scanner = _WorkbookScanner(formats)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = scanner.start, scanner.end
    parser.CharacterDataHandler = scanner.data
    while block := file.read(_BLOCK):
        parser.Parse(block, False)
        yield from scanner.found
        scanner.found.clear()


def _column_index(reference: str) -> int:
    """The column of a cell reference such as `AB12`, from 0."""
    number = 0
    for char in reference:
        if not "A" <= char <= "Z":
            break
        number = 26 * number + ord(char) - 64
    return number - 1


def opendocument_cells(data: bytes, sheet: str) -> Iterator[SpecialCell]:
    """The special cells of a sheet, row by row.

    Raises:
        zipfile.BadZipFile, KeyError, ValueError, expat.ExpatError: the file is invalid.
    """
    scanner = _OpenDocumentScanner(sheet)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = scanner.start, scanner.end
    parser.CharacterDataHandler = scanner.data
    with zipfile.ZipFile(io.BytesIO(data)) as book, book.open(OPENDOCUMENT_PART) as file:
        yield from _parse(parser, scanner, file)


def _parse(parser: expat.XMLParserType, scanner: _OpenDocumentScanner, file: IO[bytes]) -> Iterator[SpecialCell]:
    while block := file.read(_BLOCK):
        parser.Parse(block, False)
        yield from scanner.found
        scanner.found.clear()


class _OpenDocumentScanner:
    """Expat handlers for the cells of the requested sheet."""

    def __init__(self, sheet: str) -> None:
        self.found = list[SpecialCell]()
        self._sheet = sheet
        self._inside = False
        self._row = self._column = 0
        self._rows = 1  # repeat count of the current row
        self._attrs: dict[str, str] | None = None
        self._displayed = ""
        self._in_row = list[tuple[int, str, str]]()

    def start(self, name: str, attrs: dict[str, str]) -> None:
        if name == "table:table":
            self._inside, self._row = attrs.get("table:name") == self._sheet, 0
        elif not self._inside:
            return
        elif name == "table:table-row":
            self._rows, self._column = int(attrs.get("table:number-rows-repeated", 1)), 0
        elif name in ("table:table-cell", "table:covered-table-cell"):
            self._attrs, self._displayed = attrs, ""

    def data(self, text: str) -> None:
        if self._attrs is not None and len(self._displayed) < _MAX_DISPLAYED:
            self._displayed += text

    def end(self, name: str) -> None:
        if not self._inside:
            return
        if name in ("table:table-cell", "table:covered-table-cell") and self._attrs is not None:
            columns = int(self._attrs.get("table:number-columns-repeated", 1))
            if (fault := self._fault()) is not None:
                self._in_row += [
                    (self._column + offset, self._displayed, fault) for offset in range(min(columns, 1_000))
                ]
            self._column += columns
            self._attrs = None
        elif name == "table:table-row":
            if self._in_row:
                for offset in range(min(self._rows, _MAX_REPEATED)):
                    self.found += [SpecialCell(self._row + offset, *cell) for cell in self._in_row]
            self._row, self._in_row = self._row + self._rows, []
        elif name == "table:table":
            self._inside = False

    def _fault(self) -> str | None:
        """The fault of the current cell, "" if its displayed text is used; None if its value is used."""
        attrs = self._attrs or {}
        if attrs.get("calcext:value-type") == "error":
            return "error"
        kind = attrs.get("office:value-type")
        if kind == "percentage" or (kind == "float" and _KEEP_DISPLAYED.fullmatch(self._displayed.strip())):
            return "" if self._displayed.strip() else None
        return None
