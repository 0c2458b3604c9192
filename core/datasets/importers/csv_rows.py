"""Reads CSV: a header line, then one cell per column. A malformed row affects only its own line.

The dialect is detected from the first lines: separator, spaces before quotes, backslashes, title lines.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from core.datasets.importers import table
from core.datasets.importers.decoding import LineReader, LineTooLong, RowTooLong
from core.datasets.importers.table import MAX_CELL_CHARACTERS, MAX_LINE_CHARACTERS, ImportProblems, TableRows
from core.errors import BadFile
from core.message import msg

_DELIMITERS = (",", ";", "\t", "|")  # most likely first; a later one must fit better
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')  # written by Excel as first line
_MAX_LINES = 500
_MAX_CHARACTERS = 1_000_000
_MAX_TITLES = 10  # maximum number of lines above the header
_MIN_FULL_ROWS = 0.9  # share of rows with the full number of cells that is required to skip title lines
_ESCAPED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
_MARKDOWN_RULE = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?\s*)?\s*")  # the rule between a header and its rows
_MARKDOWN_BAR = re.compile(r"\s*(?<!\\)\|\s*")
_SPACE_BEFORE_QUOTE = re.compile(r'[,;\t|] +"')


@dataclass(frozen=True, slots=True)
class CsvRecord:
    """One row, which may span several lines; `line` is the first, from 1."""

    line: int
    cells: list[str]


def read(lines: LineReader, filename: str, problems: ImportProblems) -> TableRows:
    """The usable rows, all cells as text.

    Raises:
        BadFile: there are none, or there are too many columns.
    """
    dialect = sniff(lines)
    rows_read = records(lines, dialect, problems)
    for title in islice(rows_read, dialect.titles):
        problems.note(msg("Line {line} is a title above the columns; it is left out.", line=f"{title.line:,}"))
    header = next(rows_read, None)
    if header is None:
        raise BadFile(
            msg("{filename} is empty. {first}", filename=filename, first=problems.first()),
            msg("Choose a file with rows."),
        )
    table.check_width(len(header.cells), filename)
    builder = table.TableBuilder(table.names(header.cells, problems))
    for record in rows_read:
        if not any(cell.strip() for cell in record.cells[len(header.cells) :]):
            del record.cells[len(header.cells) :]  # cells from trailing separators that the header does not have
        if len(record.cells) > 1 and record.cells == header.cells:
            problems.note(msg("Line {line} repeats the header; it is left out.", line=f"{record.line:,}"))
        elif _usable(record, len(header.cells), problems):
            builder.add(record.cells, record.line)
            if builder.full:
                table.report_full(len(builder), problems)
                break
    if not len(builder):
        if not problems.first():
            raise BadFile(
                msg("{filename} has no rows: nothing follows its first line.", filename=filename),
                msg("Choose a file with rows."),
            )
        raise BadFile(
            msg("{filename} has no row that can be used. {first}", filename=filename, first=problems.first()),
            msg("The first line must name the columns, and each further line must have a cell for each."),
        )
    rows = table.without_index(builder.rows("Line"), header.cells[0], problems)
    rows = table.without_empty(rows, header.cells)
    return replace(rows, delimiter=dialect.delimiter if len(header.cells) > 1 else None)


def records(lines: LineReader, dialect: Dialect, problems: ImportProblems) -> Iterator[CsvRecord]:
    """The rows of a CSV file, including the header. Blank rows are skipped.

    An unclosed quote would consume the rest of the file: its line is left out, and reading continues after it.
    """
    reader = csv.reader(
        dialect.normalized_lines(lines), delimiter=dialect.delimiter, skipinitialspace=dialect.spaced, strict=True
    )
    while True:
        first = lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, LineTooLong, RowTooLong) as exc:
            _report_broken(exc, first, lines, problems)
            continue
        if any(cell.strip() for cell in cells):
            yield CsvRecord(first, cells)


def _report_broken(exc: Exception, first: int, lines: LineReader, problems: ImportProblems) -> None:
    """Report the malformed row that begins at line `first`, and continue after that line."""
    last = lines.number
    if isinstance(exc, LineTooLong) and exc.number == first:
        problems.add(
            msg(
                "Line {number} has more than {value} characters.", number=f"{first:,}", value=f"{MAX_LINE_CHARACTERS:,}"
            )
        )
    elif "unexpected end of data" in str(exc):
        problems.add(msg("Line {first}: a quote is opened but never closed; the line is left out.", first=f"{first:,}"))
    elif last > first:
        problems.add(
            msg(
                "Line {first}: a quote is opened but not closed correctly; the line is left out.",
                first=f"{first:,}",
            )
        )
    elif "field larger than field limit" in str(exc):
        problems.add(
            msg(
                "Line {first}: a cell has more than {value} characters.",
                first=f"{first:,}",
                value=f"{MAX_CELL_CHARACTERS:,}",
            )
        )
    else:
        problems.add(msg("Line {first}: the quotes do not match.", first=f"{first:,}"))
    if last > first and not lines.rewind(keep=1):
        problems.add(
            msg(
                "Lines {first} to {last} are between quotes that do not match; they are left out.",
                first=f"{first + 1:,}",
                last=f"{last:,}",
            )
        )


def _usable(record: CsvRecord, width: int, problems: ImportProblems) -> bool:
    line, cells = record.line, record.cells
    if len(cells) != width:
        if len(cells) == 1:
            problems.add(msg("Line {line} has 1 cell, but the header has {width}.", line=f"{line:,}", width=width))
        else:
            problems.add(
                msg(
                    "Line {line} has {cells} cells, but the header has {width}.",
                    line=f"{line:,}",
                    cells=len(cells),
                    width=width,
                )
            )
        return False
    for number, cell in enumerate(cells, 1):
        if (problem := table.cell_problem(cell)) is not None:
            problems.add(
                msg("Line {line}, column {number}: {problem}", line=f"{line:,}", number=number, problem=problem)
            )
            return False
        if table.is_missing_number(cell):
            problems.note(
                msg(
                    "Line {line}, column {number} contains {text}; it is kept as text.",
                    line=f"{line:,}",
                    number=number,
                    text=cell.strip(),
                )
            )
    return True


@dataclass(frozen=True, slots=True)
class Dialect:
    r"""How to read a CSV file.

    Attributes:
        spaced: quotes may be preceded by spaces (`a, "b, c"`), which belong to no cell.
        backslashed: quotes inside a cell are written `\"`, not `""`.
        markdown: a Markdown table, with bars at both ends and a rule below the header.
        titles: number of rows above the header, such as a title or a date.
    """

    delimiter: str
    spaced: bool = False
    backslashed: bool = False
    markdown: bool = False
    titles: int = 0

    def normalized_lines(self, lines: Iterator[str]) -> Iterator[str]:
        """The lines as `csv.reader` expects them."""
        if self.markdown:
            return map(_markdown_to_csv, lines)
        # `map` can continue after a line that raised an error.
        return map(_replace_escaped_quotes, lines) if self.backslashed else lines


def _replace_escaped_quotes(line: str) -> str:
    return _ESCAPED_QUOTE.sub(r'\1""', line)


def _markdown_to_csv(line: str) -> str:
    """A line of a Markdown table as a CSV line; the rule becomes blank."""
    if _MARKDOWN_RULE.fullmatch(line):
        return "\n"
    cells = _MARKDOWN_BAR.split(line.strip().removeprefix("|").removesuffix("|").strip())
    return "|".join('"' + cell.replace("\\|", "|").replace('"', '""') + '"' for cell in cells) + "\n"


@dataclass(frozen=True, slots=True, order=True)
class _Fit:
    """How well a dialect fits the first rows; higher is better."""

    share: float  # share of rows with the most common number of cells
    header: bool  # True if the first row is one of them


def sniff(lines: LineReader) -> Dialect:
    """Detect the dialect of a file. Its lines are read again afterwards.

    In the right dialect most rows have as many cells as the header; in a wrong one they do not, because texts contain
    commas irregularly. If several dialects fit equally well, the simplest is used.
    """
    sample, complete = _sample(lines)
    if sample and (separator_line := _SEPARATOR_LINE.fullmatch(sample[0])):
        return Dialect(separator_line[1])
    lines.rewind()
    if len(sample) > 1 and "|" in sample[0] and _MARKDOWN_RULE.fullmatch(sample[1]):
        return Dialect("|", markdown=True)
    text = "".join(sample)
    spaced = (False, True) if _SPACE_BEFORE_QUOTE.search(text) else (False,)
    backslashed = (False, True) if '\\"' in text else (False,)
    best_fit, best_dialect = _Fit(0, False), Dialect(",")
    for escapes in backslashed:
        for spaces in spaced:
            for delimiter in _DELIMITERS:
                dialect = Dialect(delimiter, spaces, escapes)
                fit = _fit(_widths(sample, dialect, complete))
                simpler = replace(dialect, spaced=False)
                cut = spaces and fit == best_fit and best_dialect == simpler and _cuts_quotes(sample, simpler)
                if fit > best_fit or cut:
                    best_fit, best_dialect = fit, dialect
    return replace(best_dialect, titles=_count_titles(_widths(sample, best_dialect, complete)))


def _sample(lines: LineReader) -> tuple[list[str], bool]:
    """The first lines, and True if they are the whole file. After a line `sep=;` no more is needed."""
    lines.begin_row()
    sample, characters = list[str](), 0
    try:
        for line in lines:
            sample.append(line)
            characters += len(line)
            if len(sample) == 1 and _SEPARATOR_LINE.fullmatch(line):
                return sample, False
            if len(sample) >= _MAX_LINES or characters >= _MAX_CHARACTERS:
                return sample, False
    except (LineTooLong, RowTooLong):
        return sample, False
    return sample, True


def _widths(sample: Sequence[str], dialect: Dialect, complete: bool) -> list[int]:
    """Number of cells of each row in the sample, 0 if it is unreadable; an incomplete last row does not count."""
    rows = _rows(sample, dialect)
    widths = [0 if row is None else len(row) for row in rows if row is None or any(cell.strip() for cell in row)]
    return widths if complete else widths[:-1]


def _cuts_quotes(sample: Sequence[str], dialect: Dialect) -> bool:
    """Whether a dialect without spaces before quotes cuts a quoted cell: ` "b` and ` c"`."""
    cells = (cell for row in _rows(sample, dialect) for cell in row or ())
    return any(cell.startswith(" ") and cell.lstrip().startswith('"') and cell.count('"') % 2 for cell in cells)


def _rows(sample: Sequence[str], dialect: Dialect) -> Iterator[list[str] | None]:
    """The rows of the sample; None for a row that this dialect cannot read."""
    reader = csv.reader(
        dialect.normalized_lines(iter(sample)),
        delimiter=dialect.delimiter,
        skipinitialspace=dialect.spaced,
        strict=True,
    )
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None


def _fit(widths: Sequence[int]) -> _Fit:
    common = _most_common_width(widths)
    if common < 2:
        return _Fit(0, False)
    return _Fit(round(widths.count(common) / len(widths), 2), widths[0] == common)


def _most_common_width(widths: Sequence[int]) -> int:
    """The most common number of cells; if tied, that of the header, or the larger."""
    counts = Counter(width for width in widths if width)
    highest = max(counts.values(), default=0)
    candidates = [width for width, count in counts.items() if count == highest]
    return widths[0] if widths and widths[0] in candidates and widths[0] > 1 else max(candidates, default=0)


def _count_titles(widths: Sequence[int]) -> int:
    """Number of single-cell rows above a wider header."""
    above = next((i for i, width in enumerate(widths) if width > 1), 0)
    table, common = widths[above:], _most_common_width(widths)
    is_table = len(table) > 2 and table[0] == common and table.count(common) >= _MIN_FULL_ROWS * len(table)
    return above if above <= _MAX_TITLES and is_table else 0
