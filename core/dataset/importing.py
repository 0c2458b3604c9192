"""Tables of other people: CSV and JSONL, whatever their encoding. Good rows are kept, broken ones named. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import pandas as pd

from core.dataset import jsonlines
from core.dataset.decoding import decode
from core.dataset.problems import LONGEST_CELL, Problems
from core.errors import BadFile

if TYPE_CHECKING:
    import _csv

CHAT: Literal["chat"] = "chat"  # the source of a data set whose lines all were messages
_INDEX_NAMES = {"", "index", "unnamed: 0"}  # what pandas and people call a column that only counts
_MOST_COLUMNS = 1_000
_MOST_RESTARTS = 20  # each reads the rest of the file again
_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True, slots=True)
class Imported:
    """What could be read.

    Attributes:
        frame: the good rows, all cells text, the columns under names of their own.
        encoding: what the file was in, as people call it.
        problems: a sentence for everything that could not be used, naming its line; at most about 100, the last one
            counting the others.
    """

    frame: pd.DataFrame
    encoding: str
    problems: list[str]

    @property
    def source(self) -> Literal["upload", "chat"]:
        """Where a data set of these rows comes from: `CHAT` when they all were messages, else `upload`."""
        return CHAT if self.frame.attrs.get("chat") else "upload"


def read_table(data: bytes, filename: str) -> Imported:
    """The rows of a CSV or JSONL file.

    CSV: a header line; comma, semicolon or tab; a first column that only counts is dropped. JSONL: lines of
    `{"prompt", "completion"}` or `{"messages": […]}`. Encodings: see `decoding.decode`.

    Raises:
        BadFile: nothing in it can be used; `what` names the line, `next_step` what to do.
    """
    decoded = decode(data, filename)
    problems = Problems()
    if filename.lower().endswith(_JSON_ENDINGS) or decoded.text.lstrip()[:1] == "{":
        frame = jsonlines.read(decoded.text, filename, problems)
    else:
        frame = _read_csv(decoded.text, filename, problems)
    return Imported(frame, decoded.encoding, problems.told())


def _read_csv(text: str, filename: str, problems: Problems) -> pd.DataFrame:
    delimiter = _delimiter(text)
    lines = _records(text, delimiter, problems)
    header = next(lines, None)
    if header is None:
        raise BadFile(f"{filename} is empty.", "Choose a file with rows.")
    if len(header.cells) > _MOST_COLUMNS:
        raise BadFile(f"{filename} has {len(header.cells):,} columns.", f"{_MOST_COLUMNS:,} can be read.")
    good = [r.cells for r in lines if _usable(r, len(header.cells), problems)]
    if not good:
        raise BadFile(
            f"{filename} has no row that can be used. {' '.join(problems.told()[:1])}".strip(),
            "The first line must name the columns, and each further line must have a cell for each.",
        )
    frame = pd.DataFrame(good, columns=_names(header.cells, problems), dtype="str")
    return _without_index(frame, header.cells[0])


@dataclass(frozen=True, slots=True)
class _Record:
    """One row of a CSV file, which may span lines; `line` is its first, from 1."""

    line: int
    cells: list[str]


def _records(text: str, delimiter: str, problems: Problems) -> Iterator[_Record]:
    """The rows of a CSV file. Blank ones are skipped.

    A quote that is never closed swallows the rest of the file: its line is left out, and reading begins anew after it.
    """
    lines = list(io.StringIO(text, newline=""))
    start, restarts = 0, 0
    while start < len(lines) and restarts <= _MOST_RESTARTS:
        reader = csv.reader(islice(lines, start, None), delimiter=delimiter, strict=True)
        try:
            yield from _until_unclosed(reader, start, problems)
            return
        except _Unclosed as exc:
            problems.add(f"Line {exc.line:,}: a quote is opened and never closed; the line is left out.")
            start, restarts = exc.line, restarts + 1


class _Unclosed(Exception):
    """The row that begins at `line` (from 1) has a quote without an end."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def _until_unclosed(reader: _csv.Reader, skipped: int, problems: Problems) -> Iterator[_Record]:
    while True:
        line = skipped + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            if "unexpected end of data" in str(exc):
                raise _Unclosed(line) from exc
            if "field larger than field limit" in str(exc):
                problems.add(f"Line {line:,}: a cell has more than {LONGEST_CELL:,} characters.")
            else:
                problems.add(f"Line {skipped + reader.line_num:,}: the quotes do not fit together.")
            continue
        if any(cell.strip() for cell in cells):
            yield _Record(line, cells)


def _usable(record: _Record, width: int, problems: Problems) -> bool:
    line, cells = record.line, record.cells
    if len(cells) != width:
        problems.add(f"Line {line:,} has {len(cells)} cells, but the header has {width}.")
        return False
    for number, cell in enumerate(cells, 1):
        if "\0" in cell:
            problems.add(f"Line {line:,}, column {number}: there is a NUL character.")
            return False
        if len(cell) > LONGEST_CELL:
            problems.add(f"Line {line:,}, column {number}: the cell has more than {LONGEST_CELL:,} characters.")
            return False
    return True


def _names(header: Sequence[str], problems: Problems) -> list[str]:
    """Names of the columns, each once: an empty one is numbered, a second one of the same name too."""
    names: list[str] = []
    for number, cell in enumerate(header, 1):
        name = " ".join(cell.replace("\0", "").split()) or (f"column {number}" if number > 1 else "")
        if name in names:
            again = next(f"{name} ({n})" for n in range(2, len(header) + 2) if f"{name} ({n})" not in names)
            problems.add(f"Two columns are called {name}: the second one is {again} here.")
            name = again
        names.append(name)
    return names


def _without_index(frame: pd.DataFrame, first: str) -> pd.DataFrame:
    """Drop a first column that only counts the rows."""
    name = frame.columns[0]
    counts = first.strip().lower() in _INDEX_NAMES and frame[name].str.fullmatch(r"\d+").all()
    if counts and len(frame.columns) > 1:
        return frame.drop(columns=name)
    return frame.rename(columns={"": "column 1"})


def _delimiter(text: str) -> str:
    """Comma, unless the first line has more semicolons or tabs."""
    first = text.lstrip("\r\n").split("\n", 1)[0]
    return max((",", ";", "\t"), key=first.count)
