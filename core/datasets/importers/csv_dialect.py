"""Detects the dialect of a CSV file from its first lines: separator, spaces before quotes, backslashes, title lines."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from core.datasets.importers.text_lines import LineReader, LineTooLong, RowTooLong

_DELIMITERS = (",", ";", "\t", "|")  # most likely first; a later one must fit better
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')  # written by Excel as first line
_MAX_LINES = 500
_MAX_CHARACTERS = 1_000_000
_MAX_TITLES = 10  # maximum number of lines above the header
_MIN_FULL_ROWS = 0.9  # share of rows with the full number of cells that is required to skip title lines
_ESCAPED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
_MARKDOWN_RULE = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?\s*)?\s*")  # between a header and its rows
_MARKDOWN_BAR = re.compile(r"\s*(?<!\\)\|\s*")
_SPACE_BEFORE_QUOTE = re.compile(r'[,;\t|] +"')


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
    """The dialect of a file. Its lines are read again afterwards.

    In the right dialect most rows have as many cells as the header; in a wrong one they do not, because texts contain
    commas irregularly. Of dialects that fit equally well, the simplest is used.
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
                widths = _widths(sample, dialect, complete)
                if (fit := _fit(widths)) > best_fit:
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
    """Number of cells of each row in the sample; an incomplete last row does not count."""
    reader = csv.reader(
        dialect.normalized_lines(iter(sample)),
        delimiter=dialect.delimiter,
        skipinitialspace=dialect.spaced,
        strict=True,
    )
    widths = []
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error:  # a row that this dialect cannot read
            widths.append(0)
            continue
        if any(cell.strip() for cell in row):
            widths.append(len(row))
    return widths if complete else widths[:-1]


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
