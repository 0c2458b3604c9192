"""Tables of other people: CSV, JSONL, Parquet, Excel. Good rows are kept, broken ones named, whatever the size."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

import pandas as pd

from core.dataset.importers import (
    csv_rows,
    decoding,
    decompression,
    json_table,
    parquet,
    sniffing,
    table_format,
    workbooks,
)
from core.dataset.importers.import_problems import ImportProblems
from core.dataset.importers.sniffing import HEAD, Kind
from core.dataset.importers.table import TableRows
from core.dataset.importers.table_format import RecognisedFormat
from core.dataset.importers.text_lines import LineReader
from core.errors import BadFile
from core.message import msg

CHAT: Literal["chat"] = "chat"  # the source of a data set whose rows all were conversations
MOST_BYTES = 4_000_000_000  # of a text; it is read in blocks, a gigabyte in a quarter of a minute
Source = bytes | Path | BinaryIO


@dataclass(frozen=True, slots=True)
class Imported:
    """What could be read.

    Attributes:
        frame: the good rows, all cells text, the columns under names of their own.
        encoding: what the file was in, as people call it; None for Parquet and Excel, which do not leave it open.
        problems: a sentence for everything that could not be used, naming its line; at most about 100, the last one
            counting the others.
        kind: what the file is, by its content.
        recognised: what its rows were taken for, and how many of them are such.
        notes: what was changed or is odd in the rows that were kept; at most about 100 sentences.
        left_out: how many rows could not be used.
        cut_short: why reading ended before the file did, also the first of `problems`; None when it did not.
        sheet: of a workbook: which sheet was read.
        sheets: of a workbook: which ones there are.
        delimiter: of a CSV file: the sign between its cells; None for a single column.
        compression: how the file was compressed; None when it was not.
    """

    frame: pd.DataFrame
    encoding: str | None
    problems: list[str]
    recognised: RecognisedFormat
    kind: Kind = "csv"
    notes: list[str] = field(default_factory=list)
    left_out: int = 0
    cut_short: str | None = None
    sheet: str | None = None
    sheets: tuple[str, ...] = ()
    delimiter: str | None = None
    compression: decompression.Compression | None = None

    @property
    def source(self) -> Literal["upload", "chat"]:
        """Where a data set of these rows comes from: `CHAT` when they all were conversations, else `upload`."""
        return CHAT if self.frame.attrs.get("chat") else "upload"

    def left_out_named(self, most: int) -> list[str]:
        """What was left out, for a page with room for few sentences: `most` rows with the reason, and their count."""
        cut = [] if self.cut_short is None else [self.cut_short]
        named = [msg("Left out: {problem}", problem=problem) for problem in self.problems[len(cut) :][:most]]
        more = [msg("Rows left out in total: {rows}.", rows=f"{self.left_out:,}")] if self.left_out > most else []
        return [*cut, *named, *more]


def read_table(
    source: Source, filename: str, *, encoding: str | None = None, sheet: str | None = None, as_table: bool = False
) -> Imported:
    """The rows of a file. What it is, is told by its content, not by its name; it may be compressed (`decompression`).

    CSV: a header line; comma, semicolon, tab or bar; a first column that only counts is dropped. JSON: lines, an array,
    or any other layout (`json_objects`). Columns of conversations become examples (`conversations`). Memory is bounded
    by what is kept (`table.MOST_KEPT` characters), not by the size of the file or of a line.

    Args:
        source: the file's bytes, where it lies, or the open file (read from its beginning, left open).
        filename: what people call it.
        encoding: of a text, one of `decoding.CHOICES`; None: as found, see `decoding`.
        sheet: of a workbook; None: the first one with rows.
        as_table: leave columns of conversations as they are.

    Raises:
        BadFile: nothing in it can be used; `what` names the line, `next_step` what to do.
    """
    wanted = _ReadOptions(encoding, sheet, as_table)
    with _opened(source) as file:
        compression = decompression.compression(file)
        if compression is None:
            return _read(file, filename, wanted)
        with decompression.unpacked(file, filename, compression) as inside:
            return replace(_read(inside, decompression.name_inside(filename), wanted), compression=compression)


@dataclass(frozen=True, slots=True)
class _ReadOptions:
    """How a person wants a file to be read, as in `read_table`."""

    encoding: str | None
    sheet: str | None
    as_table: bool


def _read(file: BinaryIO, filename: str, wanted: _ReadOptions) -> Imported:
    size = file.seek(0, os.SEEK_END)
    if size > MOST_BYTES:
        raise BadFile(
            msg(
                "{filename} has {size} MB; {value} MB can be read.",
                filename=filename,
                size=f"{size // 1_000_000:,}",
                value=f"{MOST_BYTES // 1_000_000:,}",
            ),
            msg("Split it into several files."),
        )
    head = _head(file)
    sniffing.reject_other_formats(head, filename, tables=True)
    problems, encoding, sheet = ImportProblems(), None, workbooks.NO_SHEET
    kind = sniffing.binary_kind(head)
    if kind == "workbook":
        rows, sheet = workbooks.read(file, filename, problems, wanted.sheet)
    elif kind == "parquet":
        rows = parquet.read(file, filename, problems)
    else:
        kind, rows, encoding = _text(file, filename, problems, wanted.encoding)
    delimiter = rows.delimiter
    rows, recognised = table_format.recognised(rows, filename, problems, as_table=wanted.as_table)
    otherwise = sniffing.extension_mismatch(kind, filename)
    return Imported(
        frame=rows.frame,
        encoding=encoding,
        problems=problems.told(),
        recognised=recognised,
        kind=kind,
        notes=[*([otherwise] if otherwise else []), *problems.notes()],
        left_out=problems.left_out,
        cut_short=problems.cut_short,
        sheet=sheet.name,
        sheets=sheet.names,
        delimiter=delimiter,
    )


def _text(file: BinaryIO, filename: str, problems: ImportProblems, chosen: str | None) -> tuple[Kind, TableRows, str]:
    """The kind of a text, its rows, and what people call its encoding."""
    if chosen is not None and chosen in decoding.CHOICES:
        found = decoding.Encoding(decoding.CHOICES[chosen], chosen)
    else:
        found = decoding.detect(file, filename)
    text = decoding.text_of(file, found)
    try:
        kind = sniffing.text_kind(text.read(HEAD), filename)
        text.seek(0)
        if kind == "jsonl":
            return kind, json_table.read(text, filename, problems), found.called
        return kind, csv_rows.read(LineReader(text), filename, problems), found.called
    finally:
        text.detach()  # the file is not ours to close


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(HEAD)


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    """The file, so that it can be read from anywhere; one that cannot is put on the disk first."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as exc:
            raise BadFile(msg("{name} cannot be opened.", name=source.name), msg("Choose an existing file.")) from exc
        with file:
            yield file
    elif source.seekable():
        yield source
    else:
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(_BoundedStream(source), copy)
            yield copy


class _BoundedStream:
    """A stream that ends a little after `MOST_BYTES`, where reading it is refused anyway."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MOST_BYTES + 1

    def read(self, size: int = -1) -> bytes:
        part = self._stream.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(part)
        return part
