"""Parquet files, read by a child process: see `parquet_child`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from core.datasets.importers import sandboxed_reader, table
from core.datasets.importers.table import ImportProblems, TableRows
from core.errors import BadFile
from core.message import msg

MAX_BYTES = 500_000_000  # limit for the compressed file
MAX_MEMORY = 3_000_000_000  # bytes for the child: the file and one unpacked batch of rows
_NEXT_STEP = msg("Save it again, or as CSV or JSONL.")


def read(file: BinaryIO, filename: str, problems: ImportProblems) -> TableRows:
    """The usable rows, all cells as text; lists and objects become JSON. Binary columns are left out.

    Raises:
        BadFile: it is broken, too large when unpacked, or has no usable row.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        raise BadFile(
            msg(
                "{filename} is a Parquet file of {size} MB; the limit is {value} MB.",
                filename=filename,
                size=f"{size // 1_000_000:,}",
                value=MAX_BYTES // 1_000_000,
            ),
            msg("Split it into several files."),
        )
    with sandboxed_reader.run_reader("core.datasets.importers.parquet_child", [str(MAX_MEMORY)], file) as child:
        answers = sandboxed_reader.read_messages(child, lambda why: _read_error(why, filename))
        about = next(answers)
        for name in about["bytes"]:
            problems.note(msg("The column {name} contains binary data, not text; it is left out.", name=name))
        if not about["columns"]:
            raise BadFile(msg("{filename} has no column of text or numbers.", filename=filename), _NEXT_STEP)
        table.check_width(len(about["columns"]), filename)
        return _table(about["columns"], answers, filename, problems)


def _table(headers: list[str], rows: Iterator[list[str]], filename: str, problems: ImportProblems) -> TableRows:
    names = table.names(headers, problems)
    builder = table.TableBuilder(names)
    for row, cells in enumerate(rows, 1):
        if table.usable(row, names, cells, problems):
            builder.add(cells, row)
        if builder.full:
            table.report_full(len(builder), problems)
            break
    if not len(builder):
        raise BadFile(
            msg("{filename} has no row that can be used. {first}", filename=filename, first=problems.first()),
            _NEXT_STEP,
        )
    return table.without_index(builder.rows("Row"), headers[0], problems)


def _read_error(reason: str, filename: str) -> BadFile:
    if reason == "memory":
        return BadFile(
            msg(
                "{filename} is a Parquet file that is broken, or takes more than {value} MB to open.",
                filename=filename,
                value=f"{MAX_MEMORY // 1_000_000:,}",
            ),
            msg("Save it with smaller row groups, or as CSV or JSONL."),
        )
    return BadFile(msg("{filename} is a Parquet file that is broken or cut off.", filename=filename), _NEXT_STEP)
