"""Cells of an OpenDocument sheet (LibreOffice, WPS) whose text calamine does not preserve: percentages, leading zeros,
ids of 16 or more digits, errors. OpenDocument stores the displayed text of each cell, which is used for these.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import IO
from xml.parsers import expat

from core.datasets.importers.workbook_cells import SpecialCell

PART = "content.xml"
_BLOCK = 1 << 20
_MAX_DISPLAYED = 100  # characters
_MAX_REPEATED = 100_000  # maximum number of repeated rows that are expanded
_KEEP_DISPLAYED = re.compile(r"0\d+|-?\d{16,}")  # leading zeros, or more digits than floating point preserves


def special_cells(data: bytes, sheet: str) -> Iterator[SpecialCell]:
    """The special cells of a sheet, row by row.

    Raises:
        zipfile.BadZipFile, KeyError, ValueError, expat.ExpatError: the file is invalid.
    """
    scanner = _OpenDocumentScanner(sheet)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = scanner.start, scanner.end
    parser.CharacterDataHandler = scanner.data
    with zipfile.ZipFile(io.BytesIO(data)) as book, book.open(PART) as file:
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
        """The fault of the current cell, "" if its displayed text is used; None: its value is used."""
        attrs = self._attrs or {}
        if attrs.get("calcext:value-type") == "error":
            return "error"
        kind = attrs.get("office:value-type")
        if kind == "percentage" or (kind == "float" and _KEEP_DISPLAYED.fullmatch(self._displayed.strip())):
            return "" if self._displayed.strip() else None
        return None
