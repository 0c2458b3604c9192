"""Excel workbooks (also OpenDocument sheets), opened by a process of their own: see `workbook_child`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pandas as pd

from core.dataset.intake import apart, table
from core.dataset.intake.problems import Problems
from core.errors import BadFile

MOST_BYTES = 100_000_000  # of a workbook, which is packed: ten times that as text
MOST_MEMORY = 1_500_000_000  # bytes for the child: a sheet of 10 million cells takes half of it
_AS_CSV = "Save the sheet as CSV (UTF-8), then choose that file."


@dataclass(frozen=True, slots=True)
class Sheet:
    """What was read of a workbook: its good rows, which sheet they are on, and which sheets there are."""

    frame: pd.DataFrame
    name: str
    names: tuple[str, ...]


def read(file: BinaryIO, filename: str, problems: Problems, wanted: str | None = None) -> Sheet:
    """The good rows of one sheet, all cells text: `wanted`, or the first one that has some. The first row names the
    columns.

    Raises:
        BadFile: it is broken, locked, too large when opened, or has no row that can be used.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MOST_BYTES:
        raise BadFile(
            f"{filename} is a workbook of {size // 1_000_000:,} MB; {MOST_BYTES // 1_000_000} can be read.", _AS_CSV
        )
    arguments = [str(MOST_MEMORY), *([wanted] if wanted else [])]
    with apart.opened("core.dataset.intake.workbook_child", arguments, file) as child:
        answers = apart.answers(child, lambda why: _refused(why, filename))
        about = next(answers)
        rows = ((row, cells) for row, cells in enumerate(answers, 1) if any(c.strip() for c in cells))
        frame = _table(rows, filename, problems)
    return Sheet(frame, str(about["sheet"]), tuple(about["sheets"]))


def _table(rows: Iterator[tuple[int, list[str]]], filename: str, problems: Problems) -> pd.DataFrame:
    header = next(rows, (0, []))[1]
    while header and not header[-1].strip():
        header.pop()
    table.checked_width(len(header), filename)
    names = table.names(header, problems)
    good = table.Table(names)
    for row, cells in rows:
        if any(cell.strip() for cell in cells[len(names) :]):
            problems.add(f"Row {row:,} has a cell beyond the last column that has a name.")
        elif table.usable(row, names, cells[: len(names)], problems):
            good.add(cells[: len(names)])
        if good.full:
            table.ends_early(len(good), row, problems)
            break
    if not len(good):
        raise BadFile(
            f"{filename} has no row that can be used. {problems.first()}",
            "The first row must name the columns, and rows must follow.",
        )
    return table.without_index(good.frame(), header[0], problems)


def _refused(why: str, filename: str) -> BadFile:
    if why == "password":
        return BadFile(
            f"{filename} is an Excel workbook with a password.", "Take the password off, then choose it again."
        )
    if why == "empty":
        return BadFile(f"{filename} is an Excel workbook without any row.", "Choose a workbook with rows.")
    if why == "memory":
        limit = MOST_MEMORY // 1_000_000
        return BadFile(
            f"{filename} is an Excel workbook that takes more than {limit:,} MB or too long to open.", _AS_CSV
        )
    return BadFile(f"{filename} is an Excel workbook that is broken, or a zip file of another kind.", _AS_CSV)
