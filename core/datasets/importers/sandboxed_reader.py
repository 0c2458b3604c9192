"""Parquet files, Excel workbooks and OpenDocument sheets as tables.

They are opened in a child process (`reader_process`), because a malicious file could exhaust memory or crash it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, BinaryIO

from core.datasets.importers import table
from core.datasets.importers.reader_process import CPU_SECONDS
from core.datasets.importers.table import MAX_LINE_CHARACTERS, ImportProblems, TableRows
from core.errors import BadFile
from core.message import msg

_READER = "core.datasets.importers.reader_process"
_TIMEOUT_S = 2 * CPU_SECONDS  # wall-clock time, with a margin for a busy machine
_BLOCK = 1 << 20
_ROOT = Path(__file__).resolve().parents[3]
_PASSED_ENVIRONMENT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "LANG", "TEMP", "TMP")  # contains no keys
# Arrow's other memory pools reserve a gigabyte of address space at start.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
MAX_PARQUET_BYTES = 500_000_000  # limit for the compressed file
PARQUET_MEMORY = 3_000_000_000  # bytes for the child: the file and one unpacked batch of rows
_SAVE_AGAIN = msg("Save it again, or as CSV or JSONL.")
MAX_WORKBOOK_BYTES = 100_000_000  # limit for the compressed workbook, which contains about ten times as much text
WORKBOOK_MEMORY = 1_500_000_000  # bytes for the child; a sheet of 10 million cells takes half of it
_MAX_TITLES = 10  # rows above the header
_AS_CSV = msg("Save the sheet as CSV (UTF-8), then choose that file.")


@contextmanager
def _run_reader(
    arguments: Sequence[str], file: BinaryIO, timeout_s: float = _TIMEOUT_S
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the reader process with the whole file on its standard input.

    The process is killed after a timeout, and at the end of the block.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", _READER, *arguments],
        cwd=_ROOT,
        env=_ENVIRONMENT | {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    timer = threading.Timer(timeout_s, child.kill)
    timer.start()
    try:
        # If the pipe breaks, the child has ended; `_read_messages` reports why.
        with suppress(BrokenPipeError), _closing(child.stdin) as stdin:
            file.seek(0)
            while block := file.read(_BLOCK):
                stdin.write(block)
        yield child
    finally:
        timer.cancel()
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _read_messages(child: subprocess.Popen[bytes], to_error: Callable[[str], BadFile]) -> Iterator[Any]:
    """Read the child's messages, one JSON value per line.

    Raises:
        BadFile: from `to_error`, called with the child's `{"error": …}`; with "broken" if it failed; with "memory" if
            it was killed.
    """
    assert child.stdout is not None  # opened with PIPE
    while line := child.stdout.readline(8 * MAX_LINE_CHARACTERS):
        try:
            message = json.loads(line)
        except ValueError:  # incomplete: the row is too long, or the child was killed
            break
        if isinstance(message, dict) and "error" in message:
            raise to_error(str(message["error"]))
        yield message
    else:
        if (code := child.wait()) == 0:
            return
        if code > 0:  # it failed; negative codes are signals
            raise to_error("broken")
    raise to_error("memory")


@contextmanager
def _closing(pipe: IO[bytes] | None) -> Iterator[IO[bytes]]:
    """The child's input pipe; closing it marks the end of the file."""
    assert pipe is not None  # opened with PIPE
    try:
        yield pipe
    finally:
        with suppress(BrokenPipeError):
            pipe.close()


def read_parquet(file: BinaryIO, filename: str, problems: ImportProblems) -> TableRows:
    """The usable rows, all cells as text; lists and objects become JSON. Binary columns are left out.

    Raises:
        BadFile: it is broken, too large when unpacked, or has no usable row.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MAX_PARQUET_BYTES:
        raise BadFile(
            msg(
                "{filename} is a Parquet file of {size} MB; the limit is {value} MB.",
                filename=filename,
                size=f"{size // 1_000_000:,}",
                value=MAX_PARQUET_BYTES // 1_000_000,
            ),
            msg("Split it into several files."),
        )
    with _run_reader(["parquet", str(PARQUET_MEMORY)], file) as child:
        answers = _read_messages(child, lambda why: _parquet_error(why, filename))
        about = next(answers)
        for name in about["bytes"]:
            problems.note(msg("The column {name} contains binary data, not text; it is left out.", name=name))
        if not about["columns"]:
            raise BadFile(msg("{filename} has no column of text or numbers.", filename=filename), _SAVE_AGAIN)
        table.check_width(len(about["columns"]), filename)
        return _parquet_table(about["columns"], answers, filename, problems)


def _parquet_table(headers: list[str], rows: Iterator[list[str]], filename: str, problems: ImportProblems) -> TableRows:
    names = table.names(headers, problems)
    builder = table.TableBuilder(names)
    for row, cells in enumerate(rows, 1):
        if table.usable(row, names, cells, problems):
            builder.add(cells, row)
        if builder.full:
            table.report_full(len(builder), problems)
            break
    _require_rows(builder, filename, problems, _SAVE_AGAIN)
    return table.without_index(builder.rows("Row"), headers[0], problems)


def _require_rows(builder: table.TableBuilder, filename: str, problems: ImportProblems, next_step: str) -> None:
    """Raise BadFile if no row could be used."""
    if not len(builder):
        what = msg("{filename} has no row that can be used. {first}", filename=filename, first=problems.first())
        raise BadFile(what, next_step)


def _parquet_error(reason: str, filename: str) -> BadFile:
    if reason == "memory":
        return BadFile(
            msg(
                "{filename} is a Parquet file that is broken, or takes more than {value} MB to open.",
                filename=filename,
                value=f"{PARQUET_MEMORY // 1_000_000:,}",
            ),
            msg("Save it with smaller row groups, or as CSV or JSONL."),
        )
    return BadFile(msg("{filename} is a Parquet file that is broken or cut off.", filename=filename), _SAVE_AGAIN)


@dataclass(frozen=True, slots=True)
class WorkbookSheet:
    """The sheet that was read, and all sheets of the workbook."""

    name: str | None
    names: tuple[str, ...]


NO_SHEET = WorkbookSheet(None, ())


def read_workbook(
    file: BinaryIO,
    filename: str,
    problems: ImportProblems,
    wanted: str | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> tuple[TableRows, WorkbookSheet]:
    """The usable rows of one sheet, all cells as text: sheet `wanted`, or the first non-empty one. The first row is the
    header.

    Raises:
        BadFile: it is broken, password-protected, too large when opened, takes more than `timeout_s` seconds, or has
            no usable row.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MAX_WORKBOOK_BYTES:
        raise BadFile(
            msg(
                "{filename} is a workbook of {size} MB; the limit is {value} MB.",
                filename=filename,
                size=f"{size // 1_000_000:,}",
                value=MAX_WORKBOOK_BYTES // 1_000_000,
            ),
            _AS_CSV,
        )
    arguments = ["workbook", str(WORKBOOK_MEMORY), *([wanted] if wanted else [])]
    with _run_reader(arguments, file, timeout_s) as child:
        answers = _read_messages(child, lambda why: _workbook_error(why, filename))
        about = next(answers)
        rows = _workbook_table(_rows(answers), filename, problems)
    return rows, WorkbookSheet(str(about["sheet"]), tuple(about["sheets"]))


@dataclass(frozen=True, slots=True)
class _Row:
    """A non-empty row: its number as in Excel, its texts, and the indices of errors and unsaved formulas."""

    number: int
    cells: list[str]
    errors: Sequence[int] = ()
    formulas: Sequence[int] = ()

    @property
    def filled(self) -> int:
        """Number of non-empty cells."""
        return sum(bool(cell.strip()) for cell in self.cells) + len(self.formulas)


def _rows(answers: Iterator[Any]) -> Iterator[_Row]:
    for number, message in enumerate(answers, 1):
        row = _Row(number, **message) if isinstance(message, dict) else _Row(number, message)
        if row.filled:
            yield row


def _workbook_table(rows: Iterator[_Row], filename: str, problems: ImportProblems) -> TableRows:
    header, rows = _header(rows, filename, problems)
    names = table.names(header, problems)
    builder = table.TableBuilder(names)
    for row in rows:
        cells = row.cells[: len(names)]
        if any(cell.strip() for cell in row.cells[len(names) :]):
            problems.add(msg("Row {number} has a cell beyond the last named column.", number=f"{row.number:,}"))
        elif cells == header and len(names) > 1:
            problems.note(msg("Row {number} repeats the header; it is left out.", number=f"{row.number:,}"))
        elif _usable(row, names, problems) and table.usable(row.number, names, cells, problems):
            builder.add(cells, row.number)
        if builder.full:
            table.report_full(len(builder), problems)
            break
    expected = msg("The first row must name the columns; at least one data row must follow.")
    _require_rows(builder, filename, problems, expected)
    return table.without_index(builder.rows("Row"), header[0], problems)


def _header(rows: Iterator[_Row], filename: str, problems: ImportProblems) -> tuple[list[str], Iterator[_Row]]:
    """The column names, and the rows below. Single-cell rows above a wider row are titles."""
    first_rows = list(islice(rows, 1))
    while (
        first_rows
        and first_rows[-1].filled == 1
        and len(first_rows) <= _MAX_TITLES
        and (row := next(rows, None)) is not None
    ):
        first_rows.append(row)
    header_index = next((i for i, row in enumerate(first_rows) if row.filled > 1), 0)
    for row in first_rows[:header_index]:
        problems.note(msg("Row {number} is a title above the columns; it is left out.", number=f"{row.number:,}"))
    header = first_rows[header_index].cells if first_rows else []
    while header and not header[-1].strip():
        header.pop()
    table.check_width(len(header), filename)
    return header, chain(first_rows[header_index + 1 :], rows)


def _usable(row: _Row, names: Sequence[str], problems: ImportProblems) -> bool:
    """True if the values of all formulas were saved. Errors are kept as text, and reported."""
    if unsaved := [names[index] for index in row.formulas if index < len(names)]:
        problems.add(
            msg(
                "Row {number}, column {column}: the formula has no saved value. Open the workbook in Excel and "
                "save it there.",
                number=f"{row.number:,}",
                column=unsaved[0],
            )
        )
        return False
    for index in row.errors:
        if index < len(names):
            error = row.cells[index]
            problems.note(
                msg(
                    "Row {number}, column {column} contains the error {error}; it is kept as text.",
                    number=f"{row.number:,}",
                    column=names[index],
                    error=error,
                )
            )
    return True


def _workbook_error(reason: str, filename: str) -> BadFile:
    if reason == "password":
        return BadFile(
            msg("{filename} is an Excel workbook with a password.", filename=filename),
            msg("Remove the password, then choose the file again."),
        )
    if reason == "empty":
        return BadFile(
            msg("{filename} is an Excel workbook without any row.", filename=filename),
            msg("Choose a workbook with rows."),
        )
    if reason == "memory":
        limit = WORKBOOK_MEMORY // 1_000_000
        return BadFile(
            msg(
                "{filename} is an Excel workbook that takes more than {limit} MB or too long to open.",
                filename=filename,
                limit=f"{limit:,}",
            ),
            _AS_CSV,
        )
    return BadFile(
        msg("{filename} is an Excel workbook that is broken, or a zip file of another kind.", filename=filename),
        _AS_CSV,
    )
