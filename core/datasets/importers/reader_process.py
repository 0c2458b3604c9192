"""Reads one untrusted file in its own process and writes its rows as JSON lines, with limited memory.

`python -m core.datasets.importers.reader_process parquet BYTES`, or `… workbook BYTES [SHEET]`. The file is read from
standard input. This process accesses no other files and no network, and gets no keys.

Parquet: a single changed byte can crash the process that reads it (uncaught C++ exceptions in Arrow), and a small file
can unpack to any size. The first line has the column names, and the names of binary columns; each further line is a row
of texts.

Workbooks: a workbook is a zip file of XML, and calamine keeps a sheet as a full rectangle: a file of a few kilobytes
can require more memory than is available, and no check before opening catches every case. The first line lists the
sheets and names the one that is read; each further line is a row, from row 1 on: a list of texts, or `{"cells": [...],
"errors": [...], "formulas": [...]}` if it has cells with an error, or with a formula without a saved value, by index.

An error is a single line `{"error": …}`.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from core.datasets.importers.cells import OPENDOCUMENT_PART, SpecialCell, cell_text, opendocument_cells, xlsx_cells

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

CPU_SECONDS = 60  # CPU time; a sheet of a million rows takes ten
_BATCH = 1_000  # rows
_ENCRYPTED_PART = "EncryptedPackage".encode("utf-16-le")  # a workbook with a password is an OLE file with this part
_EXCEL_DIGITS = 15  # displayed by Excel: 0.1 + 0.2 is stored as 0.30000000000000004
Range = tuple[tuple[int, int], tuple[int, int]]  # the first and the last cell, each (row, column) from 0


def _write_message(line: object) -> None:
    """Write one line of JSON for the parent process."""
    sys.stdout.write(json.dumps(line) + "\n")


def _apply_limits(memory: int) -> None:
    """Limit memory and CPU time of this process, and disable core dumps, where the system supports it.

    Args:
        memory: bytes of address space.
    """
    try:
        import resource
    except ImportError:  # Windows: only the parent's timeout applies
        return
    for resource_id, maximum in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(resource_id, (maximum, maximum))
        except (ValueError, OSError):  # macOS does not support all of them
            continue


def read_parquet(memory: int) -> None:
    """Read the file on standard input and write its rows.

    Args:
        memory: bytes of address space for this process.
    """
    _apply_limits(memory)
    import pyarrow as pa  # imported after the limit is set, because imports count too
    import pyarrow.parquet as pq

    try:
        parquet_file = pq.ParquetFile(pa.BufferReader(sys.stdin.buffer.read()), pre_buffer=False)
        schema = parquet_file.schema_arrow
        text_columns = [i for i, field in enumerate(schema) if not _holds_bytes(pa, field.type)]
        binary_columns = [field.name for i, field in enumerate(schema) if i not in text_columns]
        classes = _class_names(schema)
        _write_message({"columns": [schema.field(i).name for i in text_columns], "bytes": binary_columns})
        for batch in parquet_file.iter_batches(batch_size=_BATCH, use_threads=False) if text_columns else ():
            columns = (_column_values(pa, batch.column(i), classes.get(schema.field(i).name)) for i in text_columns)
            for row in zip(*columns, strict=True):
                _write_message([cell_text(value) for value in row])
    except (MemoryError, pa.ArrowMemoryError):
        _write_message({"error": "memory"})
    except (pa.ArrowException, OSError, ValueError):
        _write_message({"error": "broken"})


def _column_values(pa: Any, column: Any, names: Sequence[str] | None) -> list[Any]:
    """The values of a column; class numbers are replaced with their names (from `names`)."""
    values = column.to_pylist()
    if names is not None:
        return [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]
    return [_plain(pa, value, column.type) for value in values] if _needs_conversion(pa, column.type) else values


def _needs_conversion(pa: Any, kind: Any) -> bool:
    """True for types whose values need conversion: single precision and maps, also nested."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind) or pa.types.is_map(kind):
        return True
    return any(_needs_conversion(pa, kind.field(number).type) for number in range(kind.num_fields))


def _plain(pa: Any, value: Any, kind: Any) -> Any:
    """A value with single precision in its shortest form (0.1, not 0.10000000149011612), and maps as objects."""
    if value is None:
        return None
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        import numpy as np

        single = np.float32 if pa.types.is_float32(kind) else np.float16
        return value if value != value else float(str(single(value)))
    if pa.types.is_map(kind):
        return {str(key): _plain(pa, item, kind.item_type) for key, item in value}
    if pa.types.is_struct(kind):
        return {field.name: _plain(pa, value[field.name], field.type) for field in kind}
    if kind.num_fields == 1 and isinstance(value, list):
        return [_plain(pa, item, kind.field(0).type) for item in value]
    return value


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Class names by column, which Hugging Face's `datasets` stores in the file's metadata."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        labels = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
        return {
            name: list(map(str, feature["names"]))
            for name, feature in labels.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _holds_bytes(pa: Any, kind: Any) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(pa, kind.field(number).type) for number in range(kind.num_fields))


def read_workbook(memory: int, sheet_name: str | None) -> None:
    """Read the workbook on standard input and write the rows of sheet `sheet_name`, or of the first non-empty sheet.

    Args:
        memory: bytes of address space for this process.
    """
    _apply_limits(memory)
    # Imported after the limit is set, because imports count too.
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

    data = b""
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
            _write_message({"error": "empty"})
            return
        _write_message({"sheets": names, "sheet": name})
        for row in _sheet_rows(sheet, data):
            _write_message(row)
    except PasswordError:
        _write_message({"error": "password"})
    except (CalamineError, ValueError, OSError):  # calamine finds a password only in files that it opens by path
        _write_message({"error": "password" if _ENCRYPTED_PART in data else "broken"})
    except MemoryError:
        _write_message({"error": "memory"})


def _sheet_rows(sheet: CalamineSheet, data: bytes) -> Iterator[object]:
    """The rows of a sheet as they are sent to the parent."""
    offset = 0 if sheet.start is None else sheet.start[1]
    merged = _MergedCells(sheet.merged_cell_ranges or (), offset)
    special_rows = _by_row(_special_cells(data, sheet.name))
    next_special = next(special_rows, None)
    number, width, values = 0, sheet.end[1] - offset + 1 if sheet.end else 0, sheet.iter_rows()
    # The values may end before the last formula without a value.
    while (row := next(values, None)) is not None or (next_special is not None and number <= next_special[0]):
        cells = [_workbook_cell_text(value) for value in row] if row is not None else [""] * width
        row_special = list[SpecialCell]()
        if next_special is not None and next_special[0] == number:
            row_special = [cell for cell in next_special[1] if 0 <= cell.column - offset < len(cells)]
            next_special = next(special_rows, None)
        for cell in row_special:
            cells[cell.column - offset] = cell.text
        yield _row_message(merged.filled(number, cells), row_special, offset)
        number += 1


def _row_message(cells: list[str], special: list[SpecialCell], offset: int) -> object:
    """A row as it is sent to the parent."""
    faults = {
        name: [cell.column - offset for cell in special if cell.fault == fault]
        for name, fault in (("errors", "error"), ("formulas", "formula"))
    }
    return {"cells": cells, **faults} if any(faults.values()) else cells


def _special_cells(data: bytes, sheet: str) -> Iterator[SpecialCell]:
    """The special cells.

    If calamine can read a workbook but this parser cannot, only those before the fault are returned.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            names = book.namelist()
        yield from (opendocument_cells if OPENDOCUMENT_PART in names else xlsx_cells)(data, sheet)
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


def _workbook_cell_text(value: object) -> str:
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
    if sys.argv[1] == "parquet":
        read_parquet(int(sys.argv[2]))
    else:
        read_workbook(int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
