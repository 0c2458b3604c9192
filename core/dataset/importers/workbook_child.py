"""A process of its own that opens one workbook and writes its rows as JSON lines: `… workbook_child BYTES [SHEET]`.

The workbook comes on standard input. A workbook is a zip file of XML, and calamine holds a sheet as a full rectangle:
a few kilobytes can ask for more memory than there is, and no check before opening sees every way to do it. Here that
ends this process only. It reads no file, no network, and is given no keys.

The first line tells the sheets, and which one is read; each further line is a row, from row 1 on: a list of texts, or
`{"cells": [...], "errors": [...], "formulas": [...]}` where it has cells with an error or with a formula whose value
was not saved, by their place. Anything else is one line `{"error": …}`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from xml.parsers import expat

from core.dataset.importers import opendocument_cells, workbook_cells
from core.dataset.importers.process_limits import limit, say
from core.dataset.importers.workbook_cells import SpecialCell

_EXCEL_DIGITS = 15  # that Excel shows: 0.1 + 0.2 is stored as 0.30000000000000004
Range = tuple[tuple[int, int], tuple[int, int]]  # the first and the last cell, each (row, column) from 0


def main(memory: int, wanted: str | None) -> None:
    """Read the workbook on standard input and write the rows of sheet `wanted`, or of the first that has some.

    Args:
        memory: bytes of address space that this process may have.
    """
    limit(memory)
    # After the limit, for it counts too.
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

    try:
        data = sys.stdin.buffer.read()
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        tables = [about for about in book.sheets_metadata if about.typ == SheetTypeEnum.WorkSheet]
        seen = [about.name for about in tables if about.visible == SheetVisibleEnum.Visible]
        names = seen or [about.name for about in tables]
        for name in [wanted] if wanted in names else names:
            sheet = book.get_sheet_by_name(name)
            if sheet.height:
                break
        else:
            say({"error": "empty"})
            return
        say({"sheets": names, "sheet": name})
        offset = 0 if sheet.start is None else sheet.start[1]
        merged = _Merged(sheet.merged_cell_ranges or (), offset)
        special = _by_row(_specials(data, sheet.name))
        following = next(special, None)
        number, width, values = 0, sheet.end[1] - offset + 1 if sheet.end else 0, sheet.iter_rows()
        # The sheet's values may end above its last formula without one.
        while (row := next(values, None)) is not None or (following is not None and number <= following[0]):
            cells, here = [_text(value) for value in row] if row is not None else [""] * width, list[SpecialCell]()
            if following is not None and following[0] == number:
                here = [one for one in following[1] if 0 <= one.column - offset < len(cells)]
                following = next(special, None)
            for one in here:
                cells[one.column - offset] = one.text
            say(_row(merged.filled(number, cells), here, offset))
            number += 1
    except PasswordError:
        say({"error": "password"})
    except (CalamineError, ValueError, OSError):
        say({"error": "broken"})
    except MemoryError:
        say({"error": "memory"})


def _row(cells: list[str], special: list[SpecialCell], offset: int) -> object:
    """A row as it is told."""
    faults = {
        name: [one.column - offset for one in special if one.fault == fault]
        for name, fault in (("errors", "error"), ("formulas", "formula"))
    }
    return {"cells": cells, **faults} if any(faults.values()) else cells


def _specials(data: bytes, sheet: str) -> Iterator[SpecialCell]:
    """The special cells; of a workbook that calamine reads and this does not, those before the fault."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            names = book.namelist()
        reader = opendocument_cells if opendocument_cells.PART in names else workbook_cells
        yield from reader.special_cells(data, sheet)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, expat.ExpatError):
        return


def _by_row(cells: Iterable[SpecialCell]) -> Iterator[tuple[int, list[SpecialCell]]]:
    """The cells of each row that has some; rows that do not follow each other are no sheet, and end it."""
    row, held = -1, list[SpecialCell]()
    for one in cells:
        if one.row < row:
            break
        if one.row > row and held:
            yield row, held
            held = []
        row = one.row
        held.append(one)
    if held:
        yield row, held


class _Merged:
    """Cells that were merged over several rows: each row has the text of the first one."""

    def __init__(self, ranges: Iterable[Range], offset: int) -> None:
        tall = (one for one in ranges if one[1][0] > one[0][0])
        self._waiting = sorted(tall, reverse=True)
        self._offset = offset
        self._open: dict[int, tuple[int, str]] = {}  # by column: the last row, and the text

    def filled(self, row: int, cells: list[str]) -> list[str]:
        """The cells of a row, those of merged ranges filled; a row that is empty otherwise stays empty."""
        while self._waiting and self._waiting[-1][0][0] <= row:
            (first, column), (last, _column) = self._waiting.pop()
            place = column - self._offset
            if first == row and 0 <= place < len(cells):
                self._open[place] = (last, cells[place])
        self._open = {place: one for place, one in self._open.items() if one[0] >= row} if self._open else {}
        if self._open and any(cell.strip() for cell in cells):
            for place, (_last, text) in self._open.items():
                cells[place] = cells[place] or text
        return cells


def _text(value: object) -> str:
    """A cell as it is read aloud: whole numbers without a point, dates as ISO 8601 has them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):
        return value.isoformat(" ") if value.time() != time() else value.date().isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float):
        return f"{value:.{_EXCEL_DIGITS}g}"
    return str(value) if isinstance(value, int | timedelta) else value if isinstance(value, str) else ""


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
