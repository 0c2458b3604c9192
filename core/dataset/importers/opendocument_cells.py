"""What a reader of values loses of an OpenDocument sheet (LibreOffice, WPS): percentages, leading zeros, ids of 16 and
more digits, errors. Each cell also says how it is shown, and in these cases that is its text."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import IO
from xml.parsers import expat

from core.dataset.importers.workbook_cells import SpecialCell

PART = "content.xml"
_BLOCK = 1 << 20
_LONGEST_SHOWN = 100  # characters
_MOST_REPEATED = 100_000  # rows that one element may stand for and still be told one by one
_AS_SHOWN = re.compile(r"0\d+|-?\d{16,}")  # leading zeros, or more digits than floating point keeps


def special_cells(data: bytes, sheet: str) -> Iterator[SpecialCell]:
    """The special cells of a sheet, row by row.

    Raises:
        zipfile.BadZipFile, KeyError, ValueError, expat.ExpatError: the file is not as it should be.
    """
    scanner = _OpenDocumentScanner(sheet)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = scanner.start, scanner.end
    parser.CharacterDataHandler = scanner.data
    with zipfile.ZipFile(io.BytesIO(data)) as book, book.open(PART) as file:
        yield from _parsed(parser, scanner, file)


def _parsed(parser: expat.XMLParserType, scanner: _OpenDocumentScanner, file: IO[bytes]) -> Iterator[SpecialCell]:
    while block := file.read(_BLOCK):
        parser.Parse(block, False)
        yield from scanner.found
        scanner.found.clear()


class _OpenDocumentScanner:
    """Handlers for the cells of the wanted sheet."""

    def __init__(self, sheet: str) -> None:
        self.found = list[SpecialCell]()
        self._sheet = sheet
        self._inside = False
        self._row = self._column = 0
        self._rows = 1  # that the open row stands for
        self._attrs: dict[str, str] | None = None
        self._shown = ""
        self._in_row = list[tuple[int, str, str]]()

    def start(self, name: str, attrs: dict[str, str]) -> None:
        if name == "table:table":
            self._inside, self._row = attrs.get("table:name") == self._sheet, 0
        elif not self._inside:
            return
        elif name == "table:table-row":
            self._rows, self._column = int(attrs.get("table:number-rows-repeated", 1)), 0
        elif name in ("table:table-cell", "table:covered-table-cell"):
            self._attrs, self._shown = attrs, ""

    def data(self, text: str) -> None:
        if self._attrs is not None and len(self._shown) < _LONGEST_SHOWN:
            self._shown += text

    def end(self, name: str) -> None:
        if not self._inside:
            return
        if name in ("table:table-cell", "table:covered-table-cell") and self._attrs is not None:
            columns = int(self._attrs.get("table:number-columns-repeated", 1))
            if (fault := self._fault()) is not None:
                self._in_row += [(self._column + place, self._shown, fault) for place in range(min(columns, 1_000))]
            self._column += columns
            self._attrs = None
        elif name == "table:table-row":
            if self._in_row:
                for place in range(min(self._rows, _MOST_REPEATED)):
                    self.found += [SpecialCell(self._row + place, *one) for one in self._in_row]
            self._row, self._in_row = self._row + self._rows, []
        elif name == "table:table":
            self._inside = False

    def _fault(self) -> str | None:
        """What is wrong with the open cell, "" where its text is what is shown; None: it is read by its value."""
        attrs = self._attrs or {}
        if attrs.get("calcext:value-type") == "error":
            return "error"
        kind = attrs.get("office:value-type")
        if kind == "percentage" or (kind == "float" and _AS_SHOWN.fullmatch(self._shown.strip())):
            return "" if self._shown.strip() else None
        return None
