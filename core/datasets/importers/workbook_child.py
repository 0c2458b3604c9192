"""A reader process for one workbook; writes its rows as JSON lines: `… workbook_child BYTES [SHEET]`.

The workbook is read from standard input. A workbook is a zip file of XML, and calamine keeps a sheet as a full
rectangle: a file of a few kilobytes can require more memory than there is, and no check before opening catches every
case. Only this process is affected. It accesses no other files and no network, and gets no keys.

The first line lists the sheets and names the one that is read; each further line is a row, from row 1 on: a list of
texts, or `{"cells": [...], "errors": [...], "formulas": [...]}` if it has cells with an error, or with a formula
without a saved value, by index. An error is a single line `{"error": …}`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from xml.parsers import expat

from core.datasets.importers import opendocument_cells, workbook_cells
from core.datasets.importers.sandboxed_reader import apply_limits, write_message
from core.datasets.importers.workbook_cells import SpecialCell

_EXCEL_DIGITS = 15  # displayed by Excel: 0.1 + 0.2 is stored as 0.30000000000000004
Range = tuple[tuple[int, int], tuple[int, int]]  # the first and the last cell, each (row, column) from 0


def main(memory: int, sheet_name: str | None) -> None:
    """Read the workbook on standard input and write the rows of sheet `sheet_name`, or of the first non-empty sheet.

    Args:
        memory: bytes of address space for this process.
    """
    apply_limits(memory)
    # After the limit, because imports count too.
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

    try:
        data = sys.stdin.buffer.read()
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        worksheets = [metadata for metadata in book.sheets_metadata if metadata.typ == SheetTypeEnum.WorkSheet]
        visible = [metadata.name for metadata in worksheets if metadata.visible == SheetVisibleEnum.Visible]
        names = visible or [metadata.name for metadata in worksheets]
        for name in [sheet_name] if sheet_name in names else names:
            sheet = book.get_sheet_by_name(name)
            if sheet.height:
                break
        else:
            write_message({"error": "empty"})
            return
        write_message({"sheets": names, "sheet": name})
        offset = 0 if sheet.start is None else sheet.start[1]
        merged = _MergedCells(sheet.merged_cell_ranges or (), offset)
        special_rows = _by_row(_special_cells(data, sheet.name))
        next_special = next(special_rows, None)
        number, width, values = 0, sheet.end[1] - offset + 1 if sheet.end else 0, sheet.iter_rows()
        # The values may end before the last formula without a value.
        while (row := next(values, None)) is not None or (next_special is not None and number <= next_special[0]):
            cells, row_special = (
                [_cell_text(value) for value in row] if row is not None else [""] * width,
                list[SpecialCell](),
            )
            if next_special is not None and next_special[0] == number:
                row_special = [cell for cell in next_special[1] if 0 <= cell.column - offset < len(cells)]
                next_special = next(special_rows, None)
            for cell in row_special:
                cells[cell.column - offset] = cell.text
            write_message(_row_message(merged.filled(number, cells), row_special, offset))
            number += 1
    except PasswordError:
        write_message({"error": "password"})
    except (CalamineError, ValueError, OSError):
        write_message({"error": "broken"})
    except MemoryError:
        write_message({"error": "memory"})


def _row_message(cells: list[str], special: list[SpecialCell], offset: int) -> object:
    """A row as it is sent to the parent."""
    faults = {
        name: [cell.column - offset for cell in special if cell.fault == fault]
        for name, fault in (("errors", "error"), ("formulas", "formula"))
    }
    return {"cells": cells, **faults} if any(faults.values()) else cells


def _special_cells(data: bytes, sheet: str) -> Iterator[SpecialCell]:
    """The special cells. If calamine can read a workbook but this cannot, those before the fault."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            names = book.namelist()
        reader = opendocument_cells if opendocument_cells.PART in names else workbook_cells
        yield from reader.special_cells(data, sheet)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, expat.ExpatError):
        return


def _by_row(cells: Iterable[SpecialCell]) -> Iterator[tuple[int, list[SpecialCell]]]:
    """Special cells grouped by row. Stops at rows that are out of order."""
    row, row_cells = -1, list[SpecialCell]()
    for cell in cells:
        if cell.row < row:
            break
        if cell.row > row and row_cells:
            yield row, row_cells
            row_cells = []
        row = cell.row
        row_cells.append(cell)
    if row_cells:
        yield row, row_cells


class _MergedCells:
    """Merged cells that span several rows: every row gets the text of the first one."""

    def __init__(self, ranges: Iterable[Range], offset: int) -> None:
        multi_row = (cell_range for cell_range in ranges if cell_range[1][0] > cell_range[0][0])
        self._pending = sorted(multi_row, reverse=True)
        self._offset = offset
        self._open: dict[int, tuple[int, str]] = {}  # by column: last row and text

    def filled(self, row: int, cells: list[str]) -> list[str]:
        """The cells of a row with merged cells filled in; an otherwise empty row stays empty."""
        while self._pending and self._pending[-1][0][0] <= row:
            (first, column), (last, _column) = self._pending.pop()
            index = column - self._offset
            if first == row and 0 <= index < len(cells):
                self._open[index] = (last, cells[index])
        self._open = {index: entry for index, entry in self._open.items() if entry[0] >= row} if self._open else {}
        if self._open and any(cell.strip() for cell in cells):
            for index, (_last, text) in self._open.items():
                cells[index] = cells[index] or text
        return cells


def _cell_text(value: object) -> str:
    """A cell as text: integers without decimal point, dates in ISO 8601."""
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
