"""Tables of other people: CSV, JSONL, Parquet, Excel. Good rows are kept, broken ones named, whatever the size."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import pandas as pd

from core.dataset.intake import csvrows, decoding, jsonlines, parquet, recognising, workbooks
from core.dataset.intake.problems import Problems
from core.dataset.intake.recognising import HEAD, Kind
from core.dataset.intake.textlines import Lines
from core.errors import BadFile

CHAT: Literal["chat"] = "chat"  # the source of a data set whose lines all were messages
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
        notes: what was changed or is odd in the rows that were kept; at most about 100 sentences.
        left_out: how many rows could not be used.
        cut_short: why reading ended before the file did, also the first of `problems`; None when it did not.
        sheet: of a workbook: which sheet was read.
        sheets: of a workbook: which ones there are.
    """

    frame: pd.DataFrame
    encoding: str | None
    problems: list[str]
    kind: Kind = "csv"
    notes: list[str] = field(default_factory=list)
    left_out: int = 0
    cut_short: str | None = None
    sheet: str | None = None
    sheets: tuple[str, ...] = ()

    @property
    def source(self) -> Literal["upload", "chat"]:
        """Where a data set of these rows comes from: `CHAT` when they all were messages, else `upload`."""
        return CHAT if self.frame.attrs.get("chat") else "upload"


def read_table(source: Source, filename: str, *, encoding: str | None = None, sheet: str | None = None) -> Imported:
    """The rows of a file. What it is, is told by its content, not by its name.

    CSV: a header line; comma, semicolon or tab; a first column that only counts is dropped. JSONL: lines of
    `{"prompt", "completion"}` or `{"messages": […]}`, or with the same keys throughout. Memory is bounded by what is
    kept (`table.MOST_KEPT` characters), not by the size of the file or of a line.

    Args:
        source: the file's bytes, where it lies, or the open file (read from its beginning, left open).
        filename: what people call it.
        encoding: of a text, one of `decoding.CHOICES`; None: as found, see `decoding`.
        sheet: of a workbook; None: the first one with rows.

    Raises:
        BadFile: nothing in it can be used; `what` names the line, `next_step` what to do.
    """
    problems = Problems()
    with _opened(source) as file:
        size = file.seek(0, os.SEEK_END)
        if size > MOST_BYTES:
            raise BadFile(
                f"{filename} has {size // 1_000_000:,} MB; {MOST_BYTES // 1_000_000:,} MB can be read.",
                "Split it into several files.",
            )
        file.seek(0)
        head = file.read(HEAD)
        recognising.refuse_others(head, filename, tables=True)
        kind = recognising.binary_kind(head)
        if kind == "workbook":
            found = workbooks.read(file, filename, problems, sheet)
            return _imported(found.frame, None, kind, filename, problems, found.name, found.names)
        if kind == "parquet":
            return _imported(parquet.read(file, filename, problems), None, kind, filename, problems)
        return _text(file, filename, problems, encoding)


def _text(file: BinaryIO, filename: str, problems: Problems, chosen: str | None) -> Imported:
    if chosen is not None and chosen in decoding.CHOICES:
        found = decoding.Encoding(decoding.CHOICES[chosen], chosen)
    else:
        found = decoding.detect(file, filename)
    text = decoding.text_of(file, found)
    try:
        kind = recognising.text_kind(text.read(HEAD), filename)
        text.seek(0)
        read = jsonlines.read if kind == "jsonl" else csvrows.read
        return _imported(read(Lines(text), filename, problems), found.called, kind, filename, problems)
    finally:
        text.detach()  # the file is not ours to close


def _imported(
    frame: pd.DataFrame,
    encoding: str | None,
    kind: Kind,
    filename: str,
    problems: Problems,
    sheet: str | None = None,
    sheets: tuple[str, ...] = (),
) -> Imported:
    otherwise = recognising.otherwise(kind, filename)
    notes = [*([otherwise] if otherwise else []), *problems.notes()]
    return Imported(
        frame=frame,
        encoding=encoding,
        problems=problems.told(),
        kind=kind,
        notes=notes,
        left_out=problems.left_out,
        cut_short=problems.cut_short,
        sheet=sheet,
        sheets=sheets,
    )


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    """The file, so that it can be read from anywhere; one that cannot is put on the disk first."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as exc:
            raise BadFile(f"{source.name} cannot be opened.", "Choose a file that is there.") from exc
        with file:
            yield file
    elif source.seekable():
        yield source
    else:
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(_AtMost(source), copy)
            yield copy


class _AtMost:
    """A stream that ends a little after `MOST_BYTES`, where reading it is refused anyway."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MOST_BYTES + 1

    def read(self, size: int = -1) -> bytes:
        part = self._stream.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(part)
        return part
