"""Turns regular expressions into grammars for the text inside a JSON string. Pure.

Python's own parser reads the expression. Supported is what describes a set of texts: literals, classes, groups,
alternatives and repetitions. References and looking ahead are not, nor a counted repetition of what may be empty, as in
`(a?){9}`: llama.cpp would follow each way to leave parts out, and nested ones would occupy it for hours.
"""

from __future__ import annotations

import re
import warnings
from re import _constants as codes  # type: ignore[attr-defined]  # Python's parser has no public name
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, TypeAlias

from core.engine.structured.grammar import GrammarBuilder, code_point, literal

Ranges: TypeAlias = "list[tuple[int, int]]"

_HIGHEST = 0x10FFFF
_MAX_PATTERN_CHARS = 1000
_MAX_DEPTH = 30
_DIGIT, _SPACE = [(48, 57)], [(9, 10), (13, 13), (32, 32)]
_WORD = [(48, 57), (65, 90), (95, 95), (97, 122)]
# characters that a JSON string cannot contain as they are, and how it writes those that have a short form
_UNWRITABLE: Ranges = [(0, 31), (34, 34), (92, 92), (127, 127), (0xD800, 0xDFFF)]
_SHORT = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


class UnsupportedPattern(ValueError):
    """A regular expression is broken, or uses what a grammar cannot express."""


def pattern_rule(pattern: str, builder: GrammarBuilder) -> str:
    """The name of a rule for the texts in which `pattern` is found, as a JSON string writes them.

    Raises:
        UnsupportedPattern: the expression cannot be a grammar.
        GrammarTooLarge: the grammar would be too long.
    """
    if len(pattern) > _MAX_PATTERN_CHARS:
        raise UnsupportedPattern
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = list(parser.parse(pattern, re.ASCII))
    except (re.error, RecursionError, OverflowError) as exc:
        raise UnsupportedPattern from exc
    branches = [list(one) for one in parsed[0][1][1]] if len(parsed) == 1 and parsed[0][0] is codes.BRANCH else [parsed]
    return builder.any_of(_anchored(items, builder) for items in branches)


def _anchored(items: list[Any], builder: GrammarBuilder) -> str:
    """The body of a rule for one alternative; without `^` or `$`, any text may stand before or after it."""
    starts = bool(items) and items[0] == (codes.AT, codes.AT_BEGINNING)
    ends = bool(items) and items[-1] == (codes.AT, codes.AT_END)
    inner = items[1 if starts else 0 : len(items) - (1 if ends else 0)]
    parts = ["" if starts else "char*", _sequence(inner, builder, 0), "" if ends else "char*"]
    return " ".join(filter(None, parts)) or '""'


def _sequence(items: list[Any], builder: GrammarBuilder, depth: int) -> str:
    if depth > _MAX_DEPTH:
        raise UnsupportedPattern
    return " ".join(_item(code, value, builder, depth) for code, value in items)


def _item(code: Any, value: Any, builder: GrammarBuilder, depth: int) -> str:
    if code is codes.LITERAL:
        return _characters([(value, value)], builder)
    if code is codes.NOT_LITERAL:
        return _characters(_inverted([(value, value)]), builder)
    if code is codes.ANY:
        return _characters(_inverted([(10, 10)]), builder)
    if code is codes.IN:
        return _characters(_class(value), builder)
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
        least, most, inner = value
        if inner.getwidth()[0] == 0 and most is not codes.MAXREPEAT and most > 1:
            raise UnsupportedPattern
        item = builder.rule(_sequence(list(inner), builder, depth + 1) or '""')
        return builder.repeat(item, int(least), None if most is codes.MAXREPEAT else int(most))
    if code is codes.SUBPATTERN and value[1] == 0 and value[2] == 0:
        return builder.rule(_sequence(list(value[3]), builder, depth + 1) or '""')
    if code is codes.BRANCH:
        return builder.any_of(_sequence(list(one), builder, depth + 1) or '""' for one in value[1])
    raise UnsupportedPattern


def _class(items: list[Any]) -> Ranges:
    ranges: Ranges = []
    negated = False
    for code, value in items:
        if code is codes.NEGATE:
            negated = True
        elif code is codes.LITERAL:
            ranges.append((value, value))
        elif code is codes.RANGE:
            ranges.append((value[0], value[1]))
        elif code is codes.CATEGORY:
            ranges += _category(value)
        else:
            raise UnsupportedPattern
    return _inverted(ranges) if negated else ranges


def _category(value: Any) -> Ranges:
    categories = {
        codes.CATEGORY_DIGIT: _DIGIT,
        codes.CATEGORY_NOT_DIGIT: _inverted(_DIGIT),
        codes.CATEGORY_SPACE: _SPACE,
        codes.CATEGORY_NOT_SPACE: _inverted(_SPACE),
        codes.CATEGORY_WORD: _WORD,
        codes.CATEGORY_NOT_WORD: _inverted(_WORD),
    }
    return list(categories[value])


def _characters(ranges: Ranges, builder: GrammarBuilder) -> str:
    """An expression for one character of a set, as a JSON string writes it."""
    short = [code for code in _SHORT if any(low <= code <= high for low, high in ranges)]
    plain = _inverted([*_inverted(ranges), *_UNWRITABLE])
    parts = [literal(_SHORT[code]) for code in short]
    if plain:
        spans = "".join(
            code_point(low) if low == high else f"{code_point(low)}-{code_point(high)}" for low, high in plain
        )
        parts.append(f"[{spans}]")
    if not parts:
        raise UnsupportedPattern
    return builder.any_of(parts)


def _inverted(ranges: Ranges) -> Ranges:
    """All code points that are not in `ranges`."""
    gaps: Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    return [*gaps, (start, _HIGHEST)] if start <= _HIGHEST else gaps
