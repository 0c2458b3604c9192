"""Reads user files as tables:

CSV, JSONL, Parquet, Excel. Supports large files. Usable rows are kept, others reported.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

import pandas as pd

from core.datasets.importers import csv_rows, decoding, file_type, json_table, sandboxed_reader, table_format
from core.datasets.importers.decoding import LineReader
from core.datasets.importers.file_type import HEAD, Kind
from core.datasets.importers.table import ImportProblems, RowUnit, TableRows
from core.datasets.importers.table_format import RecognisedFormat
from core.errors import BadFile
from core.message import msg

CHAT: Literal["chat"] = "chat"  # source of a data set made from conversations
MAX_BYTES = 4_000_000_000  # limit for a text, which is read in blocks; a gigabyte takes about 15 s
Source = bytes | Path | BinaryIO


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import.

    Attributes:
        frame: the usable rows, all cells as text, with unique column names.
        encoding: common name of the file's encoding; None for Parquet and Excel.
        problems: a sentence with its line for everything that could not be used; at most about 100, the last one counts
            the others.
        kind: the file type, by content.
        recognised: the format of the rows, and how many have it.
        notes: what was changed or is unusual in the rows kept; at most about 100 sentences.
        left_out: number of unusable rows.
        cut_short: why reading ended before the end of the file (also the first of `problems`); None if it did not.
        sheet: for a workbook, the sheet that was read.
        sheets: for a workbook, all sheets.
        delimiter: for a CSV file, its separator; None for a single column.
        compression: how the file was compressed; None if it was not.
        lines, entries, unit: the position of each row in the file, see `table.position`.
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
    compression: file_type.Compression | None = None
    lines: Sequence[int] = ()
    entries: Sequence[int] = ()
    unit: RowUnit = "Line"

    @property
    def source(self) -> Literal["upload", "chat"]:
        """The source of a data set made from these rows: `CHAT` if all were conversations, else `upload`."""
        return CHAT if self.frame.attrs.get("chat") else "upload"

    def left_out_summary(self, limit: int) -> list[str]:
        """A short summary of what was left out: `limit` rows with their reason, and the total."""
        first = [] if self.cut_short is None else [self.cut_short]
        reasons = [msg("Left out: {problem}", problem=problem) for problem in self.problems[len(first) :][:limit]]
        total = [msg("Rows left out in total: {rows}.", rows=f"{self.left_out:,}")] if self.left_out > limit else []
        return [*first, *reasons, *total]


def read_table(
    source: Source, filename: str, *, encoding: str | None = None, sheet: str | None = None, as_table: bool = False
) -> Imported:
    """The rows of a file. Its type is detected by content, not by name; it may be compressed (`file_type`).

    CSV: with a header line; comma, semicolon, tab or bar; a first column of row numbers is dropped. JSON: lines, an
    array, or any other layout (`json_objects`). Conversation columns become examples (`conversations`). Memory is
    limited by what is kept (`table.MAX_CHARACTERS`), not by the size of the file or of a line.

    Args:
        source: the file's bytes, its path, or the open file (read from its beginning, left open).
        filename: its name, for messages.
        encoding: for text, one of `decoding.CHOICES`; None means detected, see `decoding`.
        sheet: for a workbook, the sheet to read; None means the first non-empty one.
        as_table: do not convert conversation columns.

    Raises:
        BadFile: nothing in it can be used; `what` gives the line, `next_step` what to do.
    """
    options = _ReadOptions(encoding, sheet, as_table)
    with _open_seekable(source) as file:
        compression = file_type.compression(file)
        if compression is None:
            return _read(file, filename, options)
        with file_type.unpacked(file, filename, compression) as inside:
            return replace(_read(inside, file_type.inner_name(filename), options), compression=compression)


@dataclass(frozen=True, slots=True)
class _ReadOptions:
    """Options of `read_table`."""

    encoding: str | None
    sheet: str | None
    as_table: bool


def _read(file: BinaryIO, filename: str, options: _ReadOptions) -> Imported:
    size = file.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        raise BadFile(
            msg(
                "{filename} is {size} MB; the limit is {value} MB.",
                filename=filename,
                size=f"{size // 1_000_000:,}",
                value=f"{MAX_BYTES // 1_000_000:,}",
            ),
            msg("Split it into several files."),
        )
    head = _head(file)
    file_type.reject_other_formats(head, filename, tables=True)
    problems, encoding, sheet = ImportProblems(), None, sandboxed_reader.NO_SHEET
    kind = file_type.binary_kind(head)
    if kind == "workbook":
        rows, sheet = sandboxed_reader.read_workbook(file, filename, problems, options.sheet)
    elif kind == "parquet":
        rows = sandboxed_reader.read_parquet(file, filename, problems)
    else:
        kind, rows, encoding = _text(file, filename, problems, options.encoding)
    delimiter = rows.delimiter
    rows, recognised = table_format.recognise(rows, filename, problems, as_table=options.as_table)
    mismatch = file_type.extension_mismatch(kind, filename)
    return Imported(
        frame=rows.frame,
        encoding=encoding,
        problems=problems.problems(),
        recognised=recognised,
        kind=kind,
        notes=[*([mismatch] if mismatch else []), *problems.notes()],
        left_out=problems.left_out,
        cut_short=problems.cut_short,
        sheet=sheet.name,
        sheets=sheet.names,
        delimiter=delimiter,
        lines=rows.lines,
        entries=rows.entries,
        unit=rows.unit,
    )


def _text(file: BinaryIO, filename: str, problems: ImportProblems, encoding: str | None) -> tuple[Kind, TableRows, str]:
    """The kind of a text, its rows, and the name of its encoding."""
    if encoding is not None and encoding in decoding.CHOICES:
        detected = decoding.Encoding(decoding.CHOICES[encoding], encoding)
    else:
        detected = decoding.detect(file, filename)
    text = decoding.open_text(file, detected)
    try:
        kind = file_type.text_kind(text.read(HEAD), filename)
        text.seek(0)
        if kind == "jsonl":
            return kind, json_table.read(text, filename, problems), detected.label
        return kind, csv_rows.read(LineReader(text), filename, problems), detected.label
    finally:
        text.detach()  # the caller owns the file


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(HEAD)


@contextmanager
def _open_seekable(source: Source) -> Iterator[BinaryIO]:
    """The file, seekable; a stream that is not seekable is copied to disk first."""
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
    """A stream that ends just after `MAX_BYTES`, because larger files are rejected anyway."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._remaining = stream, MAX_BYTES + 1

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._remaining) if size >= 0 else self._remaining)
        self._remaining -= len(data)
        return data
