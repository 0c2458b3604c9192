"""Small Excel workbooks for tests, written as XML, including ones that no program would write."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_DATES = '<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs>'  # 14: a day
Cell = str | int | float | bool | None


def row(number: int, cells: Sequence[Cell]) -> str:
    """A sheet row as XML; None omits a cell."""
    return f'<row r="{number}">{"".join(_cell(f"{chr(65 + i)}{number}", c) for i, c in enumerate(cells))}</row>'


def sheet(rows: Sequence[Sequence[Cell]]) -> str:
    """All rows of a sheet as XML, starting at row 1."""
    return "".join(row(number, cells) for number, cells in enumerate(rows, 1))


def workbook(sheets: Mapping[str, str], hidden: Sequence[str] = ()) -> bytes:
    """Create a workbook whose sheets are given as the XML of their rows."""
    listed, related = "", ""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for number, (name, rows) in enumerate(sheets.items(), 1):
            state = ' state="hidden"' if name in hidden else ""
            listed += f'<sheet name={quoteattr(name)} sheetId="{number}"{state} r:id="r{number}"/>'
            related += _related(f"r{number}", "worksheet", f"worksheets/sheet{number}.xml")
            body = f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>{rows}</sheetData></worksheet>'
            file.writestr(f"xl/worksheets/sheet{number}.xml", body)
        related += _related("styles", "styles", "styles.xml")
        types = f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types"/>'
        file.writestr("[Content_Types].xml", types)
        file.writestr("_rels/.rels", _relations(_related("r1", "officeDocument", "xl/workbook.xml")))
        file.writestr("xl/_rels/workbook.xml.rels", _relations(related))
        file.writestr("xl/styles.xml", f'{_HEAD}<styleSheet xmlns="{_MAIN}">{_DATES}</styleSheet>')
        book = f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{listed}</sheets></workbook>'
        file.writestr("xl/workbook.xml", _HEAD + book)
    return out.getvalue()


def binary_workbook(name: str, rows: Sequence[Sequence[str]]) -> bytes:
    """Create a binary workbook (`.xlsb`) with one sheet of texts. The record numbers are those defined in MS-XLSB."""
    cells = [_record(0x94, struct.pack("<4I", 0, len(rows) - 1, 0, max(map(len, rows)) - 1)), _record(0x91)]
    for number, texts in enumerate(rows):
        cells.append(_record(0x00, struct.pack("<I", number)))
        cells += [_record(0x06, struct.pack("<2I", column, 0) + _wide(text)) for column, text in enumerate(texts)]
    book = [_record(0x9C, struct.pack("<2I", 0, 1) + _wide("r1") + _wide(name)), _record(0x90), _record(0x9D)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("[Content_Types].xml", f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types"/>')
        file.writestr("xl/_rels/workbook.bin.rels", _relations(_related("r1", "worksheet", "worksheets/sheet1.bin")))
        file.writestr("xl/workbook.bin", b"".join(book))
        file.writestr("xl/worksheets/sheet1.bin", b"".join([*cells, _record(0x92)]))
    return out.getvalue()


def _record(kind: int, content: bytes = b"") -> bytes:
    """Create a record: its kind and length, both in groups of 7 bits, and its content."""
    return _seven_bits(kind) + _seven_bits(len(content)) + content


def _seven_bits(number: int) -> bytes:
    """Encode a number below 2 ** 14; a set high bit means that another byte follows."""
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])


def _wide(text: str) -> bytes:
    encoded = text.encode("utf-16-le")
    return struct.pack("<I", len(encoded) // 2) + encoded


def _cell(place: str, value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float):
        return f'<c r="{place}"><v>{value!r}</v></c>'
    if value.startswith("date:"):
        return f'<c r="{place}" s="1"><v>{value.removeprefix("date:")}</v></c>'
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'


def _related(key: str, kind: str, target: str) -> str:
    return f'<Relationship Id="{key}" Type="{_OFFICE}/{kind}" Target="{target}"/>'


def _relations(inside: str) -> str:
    return f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{inside}</Relationships>'
