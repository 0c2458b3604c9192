"""What a reader of values loses of an xlsx sheet: number formats, ids of 16 and more digits, errors, formulas.

calamine gives numbers as floating point, without their format, and errors and formulas without a saved value as empty
cells. Here the sheet's XML is looked at a second time, but only where a quick search finds any of these.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import IO, NamedTuple
from xml.parsers import expat

_BLOCK = 1 << 20
_OVERLAP = 64  # bytes: longer than anything that is searched for
_LONGEST_PART = 10_000_000  # bytes of the list of sheets or of the formats
_LONGEST_NUMBER = 40  # digits and signs
_EXACT_DIGITS = 15  # what floating point, and Excel itself, keep
_WORTH_A_LOOK = re.compile(rb"""t=["']e["']|<(\w+:)?f[ />]|<(\w+:)?v>-?\d{16}|<(\w+:)?v>-?\d\.\d+E\+?[12]\d""")
_RELATIONS = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_PERCENT = re.compile(r"[#,]*0*(\.(0+))?\s*%")
_BUILT_IN = {"9": "0%", "10": "0.00%"}  # ECMA-376, part 1, 18.8.30
_DIGITS_AND_LITERALS = re.compile(r'(?:0|[-/() .]|\\.|"[^"]*")+')
_LITERAL = re.compile(r'\\(.)|"([^"]*)"|(.)')


class SpecialCell(NamedTuple):
    """A cell that is read here: its text, or what is wrong with it. Places count from 0."""

    row: int
    column: int
    text: str
    fault: str  # "", "error", "formula"


def special_cells(data: bytes, sheet: str) -> Iterator[SpecialCell]:
    """The special cells of a sheet of an xlsx file, row by row; none of a file of another kind.

    Raises:
        zipfile.BadZipFile, KeyError, ValueError, expat.ExpatError: the file is not as it should be.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        if "xl/workbook.xml" not in book.namelist():
            return
        path = _path_of(book, sheet)
        formats = _formats(book)
        with book.open(path) as file:
            if not any(map(_changes, formats)) and not _worth_a_look(file):
                return
        with book.open(path) as file:
            yield from _scanned(file, formats)


def shown(number: str, code: str) -> str | None:
    """A number as a format shows it where that is a percentage or digits with leading zeros; None: as it is."""
    section = code.split(";")[0]
    try:
        value = Decimal(number)
    except InvalidOperation:
        return None
    if found := _PERCENT.fullmatch(section):
        percent = (value * 100).normalize()
        decimals = max(len(found[2] or ""), -int(percent.as_tuple().exponent))
        return f"{percent:.{min(decimals, 12)}f}%"
    if _has_leading_zeros(section) and value == value.to_integral_value() and value >= 0:
        return _filled(section, str(int(value)))
    return None


def _changes(code: str) -> bool:
    return _PERCENT.fullmatch(code.split(";")[0]) is not None or _has_leading_zeros(code.split(";")[0])


def _has_leading_zeros(section: str) -> bool:
    return _DIGITS_AND_LITERALS.fullmatch(section) is not None and "0.0" not in section and section.count("0") > 1


def _filled(section: str, digits: str) -> str:
    """Digits in the places of a format such as `000-0000`, from the right; those left over stand in front."""
    parts = [(m[1] or m[2], False) if m[3] is None else (m[3], m[3] == "0") for m in _LITERAL.finditer(section)]
    places = sum(is_digit for _, is_digit in parts)
    left = list(digits.zfill(places))
    out, extra = [], len(left) - places
    for text, is_digit in parts:
        if is_digit:
            out.append("".join(left[: extra + 1]))
            left, extra = left[extra + 1 :], 0
        else:
            out.append(text or "")
    return "".join(out)


def _path_of(book: zipfile.ZipFile, sheet: str) -> str:
    """Where a sheet's cells are, by its name."""
    wanted = next((attrs for name, attrs in _elements(book, "xl/workbook.xml") if attrs.get("name") == sheet), {})
    key = next((value for name, value in wanted.items() if name.endswith(":id")), None)
    for _name, attrs in _elements(book, "xl/_rels/workbook.xml.rels"):
        if key is not None and attrs.get("Id") == key:
            target = attrs["Target"]
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    raise KeyError(sheet)


def _formats(book: zipfile.ZipFile) -> list[str]:
    """The number format of each cell style, by its number."""
    if "xl/styles.xml" not in book.namelist():
        return []
    codes, styles, inside = dict(_BUILT_IN), list[str](), False
    for name, attrs in _elements(book, "xl/styles.xml"):
        if name == "numFmt":
            codes[attrs.get("numFmtId", "")] = attrs.get("formatCode", "")
        elif name in ("cellXfs", "cellStyleXfs", "cellStyles", "dxfs"):
            inside = name == "cellXfs"
        elif name == "xf" and inside:
            styles.append(attrs.get("numFmtId", "0"))
    return [codes.get(style, "") for style in styles]


def _elements(book: zipfile.ZipFile, path: str) -> list[tuple[str, dict[str, str]]]:
    """All elements of a small part, without their namespaces' prefix, with their attributes."""
    found = list[tuple[str, dict[str, str]]]()
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, attrs: found.append((name.rpartition(":")[2], attrs))
    with book.open(path) as file:
        parser.Parse(file.read(_LONGEST_PART), True)
    return found


def _worth_a_look(file: IO[bytes]) -> bool:
    tail = b""
    while block := file.read(_BLOCK):
        if _WORTH_A_LOOK.search(tail + block):
            return True
        tail = block[-_OVERLAP:]
    return False


class _WorkbookScanner:
    """Handlers for the cells of a sheet."""

    def __init__(self, formats: list[str]) -> None:
        self.found = list[SpecialCell]()
        self._formats = formats
        self._attrs: dict[str, str] = {}
        self._row = self._column = -1
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
            self._column = _column(attrs["r"]) if "r" in attrs else self._column + 1
        elif name == "row":
            self._row = int(attrs["r"]) - 1 if "r" in attrs else self._row + 1
            self._column = -1

    def data(self, text: str) -> None:
        if self._value_open and len(self._value) < _LONGEST_NUMBER:
            self._value += text

    def end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        if name == "v":
            self._value_open = False
        elif name == "c" and (special := self._special()) is not None:
            self.found.append(SpecialCell(self._row, self._column, *special))

    def _special(self) -> tuple[str, str] | None:
        kind = self._attrs.get("t", "n")
        if kind == "e":
            return self._value, "error"
        if self._formula and not self._value and kind in ("n", "b"):
            return "", "formula"
        if kind != "n" or not self._value:
            return None
        style = int(self._attrs.get("s", 0))
        text = shown(self._value, self._formats[style] if style < len(self._formats) else "")
        return (text, "") if text is not None else _long_id(self._value)


def _long_id(number: str) -> tuple[str, str] | None:
    """A whole number of 16 and more digits, digit by digit; None: it is another one."""
    if number.lstrip("-").isdigit():
        return (number, "") if len(number.lstrip("-")) > _EXACT_DIGITS else None
    if "E+" not in number.upper():
        return None
    value = Decimal(number)
    whole = value == value.to_integral_value() and _EXACT_DIGITS < value.adjusted() + 1 <= _LONGEST_NUMBER
    return (f"{value:f}".partition(".")[0], "") if whole else None


def _scanned(file: IO[bytes], formats: list[str]) -> Iterator[SpecialCell]:
    scanner = _WorkbookScanner(formats)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = scanner.start, scanner.end
    parser.CharacterDataHandler = scanner.data
    while block := file.read(_BLOCK):
        parser.Parse(block, False)
        yield from scanner.found
        scanner.found.clear()


def _column(place: str) -> int:
    """The column of a place such as `AB12`, from 0."""
    number = 0
    for char in place:
        if not "A" <= char <= "Z":
            break
        number = 26 * number + ord(char) - 64
    return number - 1
