"""How a CSV file is written, judged over its first lines: separator, spaces before quotes, backslashes, title lines."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from core.dataset.importers.text_lines import LineReader, LineTooLong, RowTooLong

_DELIMITERS = (",", ";", "\t", "|")  # the likelier first; another one must fit better
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')  # what Excel puts on top for itself
_MOST_LINES = 500
_MOST_CHARACTERS = 1_000_000
_MOST_TITLES = 10  # lines above the header
_CERTAIN = 0.9  # of the rows below must have a cell for each column, else the first line is the header
_ESCAPED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
_MARKDOWN_RULE = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?\s*)?\s*")  # between a header and its rows
_MARKDOWN_SIGN = re.compile(r"\s*(?<!\\)\|\s*")
_SPACE_BEFORE_QUOTE = re.compile(r'[,;\t|] +"')


@dataclass(frozen=True, slots=True)
class Dialect:
    r"""How to read a CSV file.

    Attributes:
        spaced: quotes may have spaces in front (`a, "b, c"`), which belong to no cell.
        backslashed: a quote inside a cell is written `\"`, not `""`.
        markdown: it is a table as Markdown writes it, with bars at both ends and a rule below the header.
        titles: how many rows stand above the header: a title, a date.
    """

    delimiter: str
    spaced: bool = False
    backslashed: bool = False
    markdown: bool = False
    titles: int = 0

    def plain(self, lines: Iterator[str]) -> Iterator[str]:
        """The lines as `csv.reader` takes them."""
        if self.markdown:
            return map(_without_frame, lines)
        return map(_unescaped, lines) if self.backslashed else lines  # a map goes on after a line that raised


def _unescaped(line: str) -> str:
    return _ESCAPED_QUOTE.sub(r'\1""', line)


def _without_frame(line: str) -> str:
    """A line of a Markdown table as one of a CSV file; its rule is blank."""
    if _MARKDOWN_RULE.fullmatch(line):
        return "\n"
    cells = _MARKDOWN_SIGN.split(line.strip().removeprefix("|").removesuffix("|").strip())
    return "|".join('"' + cell.replace("\\|", "|").replace('"', '""') + '"' for cell in cells) + "\n"


@dataclass(frozen=True, slots=True, order=True)
class _Fit:
    """How well a dialect fits the first rows; the larger, the better."""

    share: float  # of the rows that have as many cells as most rows have
    header: bool  # the first row is one of them


def sniffed(lines: LineReader) -> Dialect:
    """The dialect of a file; its lines are given back.

    Most rows have as many cells as the header in the right dialect, and in a wrong one they do not, since texts have
    commas here and there. Of dialects that fit alike the plainest is taken.
    """
    sample, whole = _sample(lines)
    if sample and (named := _SEPARATOR_LINE.fullmatch(sample[0])):
        return Dialect(named[1])
    lines.give_back()
    if len(sample) > 1 and "|" in sample[0] and _MARKDOWN_RULE.fullmatch(sample[1]):
        return Dialect("|", markdown=True)
    text = "".join(sample)
    spaced = (False, True) if _SPACE_BEFORE_QUOTE.search(text) else (False,)
    backslashed = (False, True) if '\\"' in text else (False,)
    best, found = _Fit(0, False), Dialect(",")
    for escapes in backslashed:
        for spaces in spaced:
            for delimiter in _DELIMITERS:
                tried = Dialect(delimiter, spaces, escapes)
                widths = _widths(sample, tried, whole)
                if (fit := _fit(widths)) > best:
                    best, found = fit, tried
    return replace(found, titles=_titles(_widths(sample, found, whole)))


def _sample(lines: LineReader) -> tuple[list[str], bool]:
    """The first lines, and whether they are all; after a line `sep=;` what follows is not needed."""
    lines.begin()
    sample, characters = list[str](), 0
    try:
        for line in lines:
            sample.append(line)
            characters += len(line)
            if len(sample) == 1 and _SEPARATOR_LINE.fullmatch(line):
                return sample, False
            if len(sample) >= _MOST_LINES or characters >= _MOST_CHARACTERS:
                return sample, False
    except (LineTooLong, RowTooLong):
        return sample, False
    return sample, True


def _widths(sample: Sequence[str], dialect: Dialect, whole: bool) -> list[int]:
    """How many cells each row of the sample has; the last one may be cut off and does not count then."""
    reader = csv.reader(
        dialect.plain(iter(sample)), delimiter=dialect.delimiter, skipinitialspace=dialect.spaced, strict=True
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
    return widths if whole else widths[:-1]


def _fit(widths: Sequence[int]) -> _Fit:
    usual = _usual(widths)
    if usual < 2:
        return _Fit(0, False)
    return _Fit(round(widths.count(usual) / len(widths), 2), widths[0] == usual)


def _usual(widths: Sequence[int]) -> int:
    """The number of cells that most rows have; of two that are as frequent, the header's or the larger."""
    counted = Counter(width for width in widths if width)
    most = max(counted.values(), default=0)
    often = [width for width, count in counted.items() if count == most]
    return widths[0] if widths and widths[0] in often and widths[0] > 1 else max(often, default=0)


def _titles(widths: Sequence[int]) -> int:
    """How many rows of a single cell stand above a header that has more."""
    above = next((place for place, width in enumerate(widths) if width > 1), 0)
    table, usual = widths[above:], _usual(widths)
    certain = len(table) > 2 and table[0] == usual and table.count(usual) >= _CERTAIN * len(table)
    return above if above <= _MOST_TITLES and certain else 0
