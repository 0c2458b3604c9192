"""Limits for chat templates: the steps and bytes of one rendering, and the functions that templates can call.

Every operation that creates or reads a text or list is counted, even if its result is discarded. The memory used by a
rendering can therefore exceed `MAX_BYTES` by no more than its largest single text. Functions whose results grow with a
numeric argument and that no chat template needs (`center`, `ljust`, …) are not available.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jinja2.utils
from markupsafe import Markup

MAX_CHARS = 4_000_000
"""Maximum size of a rendered conversation, and of every text built during the rendering."""
MAX_STEPS = 300_000
"""Takes about a second; a long conversation needs a few thousand steps."""
MAX_BYTES = 128 << 20
"""Maximum size of all texts and lists created in one rendering; a conversation of 1,000 turns needs a few MB."""
CHARS_PER_STEP = 1024
ITEMS_PER_STEP = 16
CHARACTER_BYTES = 84
"""Size of a single character stored as its own text in a list."""
WIDEST = 4
"""Bytes per character."""
_ESCAPED = 10  # characters needed for one character when a list is written as text: "\\U000e0001"
_NUMBER_CHARS = 1300  # length of the longest integer


class TemplateRefused(ValueError):
    """The template does not accept this conversation, is broken, or exceeds the limits; the message says which."""


class RenderBudget:
    """What the current rendering may still use. There is only one at a time, because `chat_template` renders under a
    lock.
    """

    def __init__(self) -> None:
        self.steps = self.bytes = 0

    def start(self) -> None:
        """Reset the budget for a new rendering."""
        self.steps, self.bytes = MAX_STEPS, MAX_BYTES

    def spend(self, steps: int) -> None:
        """Count steps; negative numbers, which a template can cause, count as zero."""
        self.steps -= max(0, steps)
        if self.steps < 0:
            raise TemplateRefused("it takes too long")

    def afford(self, size: int) -> None:
        """Refuse a result of up to `size` bytes that would not fit; the result itself is counted once it exists."""
        if size > self.bytes:
            raise TemplateRefused("it needs too much memory")

    def made(self, size: int) -> None:
        """Count bytes that were created."""
        self.afford(size)
        self.bytes -= max(0, size)
        self.spend(size // CHARS_PER_STEP)

    def result(self, value: Any) -> Any:
        """Count a text or list that was created; an iterator's items are counted one by one."""
        if isinstance(value, str):
            check_length(len(value))
        if isinstance(value, str | list | tuple | dict | set):
            self.made(sys.getsizeof(value))
        elif isinstance(value, Iterator):
            return self._counted(value)
        return value

    def read(self, *values: Any) -> int:
        """Count reading all of the values, including nested ones; return the maximum number of characters that they can
        have as text.

        A list that occurs twice in another one is counted twice, because it is also read or written twice.
        """
        pending, characters = list(values), 0
        while pending:
            one = pending.pop()
            if isinstance(one, str):
                self.spend(len(one) // CHARS_PER_STEP)
                characters += len(one) * _ESCAPED + 4
                continue
            if isinstance(one, jinja2.utils.Namespace):
                one = object.__getattribute__(one, "_Namespace__attrs")
            if isinstance(one, Mapping):
                inner: Iterable[Any] = (*one.keys(), *one.values())
            elif isinstance(one, list | tuple | set | frozenset):
                inner = one
            else:
                characters += _NUMBER_CHARS
                continue
            self.spend(1 + len(one) // ITEMS_PER_STEP)
            pending.extend(inner)
        return characters

    def text(self, value: Any) -> str:
        """Return `str(value)` and count it."""
        if isinstance(value, str):
            return value
        self.afford(self.read(value) * WIDEST)
        text = str(value)
        self.made(sys.getsizeof(text))
        return text

    def _counted(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(1)
            yield value


budget = RenderBudget()


def check_length(characters: int) -> None:
    """Refuse a text that is longer than any conversation."""
    if characters > MAX_CHARS:
        raise TemplateRefused("the text is too long")


def length(value: Any) -> int:
    """Number of characters or items; a text that is marked as safe may be escaped when it is joined with others."""
    if isinstance(value, Markup):
        return 6 * len(value)
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def formatted(text: str, values: Any, mark: str) -> int:
    """The maximum number of bytes that a text with placeholders (each has a `mark`) can have with these values."""
    if re.search(r"\d{5}|\*|:[^{}]*\{", text):
        raise TemplateRefused("it pads a text")
    each = 10_000 + budget.read(values)
    check_length(len(text) + text.count(mark) * each)
    return (len(text) + text.count(mark) * each) * WIDEST


def format_text(text: str, values: Any) -> str:
    """Return `text % values` and count it."""
    budget.afford(formatted(text, values, "%"))
    made: str = budget.result(text % values)
    return made


def strftime_now(day: Any) -> Callable[[str], str]:
    """Return a function that formats `day`; padding in the format is not allowed."""

    def write(form: str) -> str:
        if len(form) > 100 or re.search(r"%[^A-Za-z%]", form):
            raise TemplateRefused("it pads a date")
        return str(day.strftime(form))

    return write


def number_range(*bounds: int) -> range:
    """Return `range` with all of its items counted immediately."""
    numbers = range(*bounds)
    budget.spend(len(numbers))
    return numbers


# For each string method, a function that computes the result's maximum size in bytes from the text and the arguments.


def _same(text: str, *_: Any) -> int:
    return WIDEST * len(text)


def searched_backwards(text: str, *arguments: Any) -> int:
    """Size for methods whose result is part of the text; these methods may take quadratic time."""
    budget.spend(sum(len(text) * length(one) for one in arguments) // CHARS_PER_STEP)
    return WIDEST * len(text)


def pieces(text: str, separator: Any = None, *_: Any) -> int:
    """Size for methods whose result is a list of parts; without a separator, there is at most one part per two
    characters.
    """
    count = text.count(separator) + 1 if isinstance(separator, str) and separator else len(text) // 2 + 1
    return count * CHARACTER_BYTES + WIDEST * len(text)


def _pieces_backwards(text: str, separator: Any = None, *_: Any) -> int:
    budget.spend(len(text) * length(separator) // CHARS_PER_STEP)
    return pieces(text, separator)


def replaced(text: str, old: Any = "", new: Any = "", *_: Any, **__: Any) -> int:
    """Size if every occurrence is replaced by the new text."""
    count = text.count(old) if isinstance(old, str) else 0
    check_length(len(text) + count * length(new))
    return WIDEST * (len(text) + count * length(new))


def _joined(text: str, items: Any = (), *_: Any) -> int:
    if not isinstance(items, str | list | tuple | dict):
        raise TemplateRefused("it joins something else than a list")
    total = length(text) * len(items) + sum(map(length, items))
    budget.spend(len(items) // ITEMS_PER_STEP)
    check_length(total)
    return WIDEST * total


def _formatted_braces(text: str, *values: Any, **named: Any) -> int:
    return formatted(text, [*values, named], "{")


TEXT_METHODS: Mapping[str, Callable[..., int]] = {
    **dict.fromkeys(("lower", "upper", "title", "capitalize", "casefold", "swapcase"), lambda text: 12 * len(text)),
    **dict.fromkeys(
        ("startswith", "endswith", "find", "index", "count", "partition", "removeprefix", "removesuffix", "isalnum",
         "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper"), _same
    ),
    **dict.fromkeys(("strip", "lstrip", "rstrip", "rfind", "rindex", "rpartition"), searched_backwards),
    **{"split": pieces, "rsplit": _pieces_backwards, "splitlines": lambda text, *_: pieces(text)},
    **{"replace": replaced, "join": _joined, "format": _formatted_braces, "format_map": _formatted_braces},
}  # fmt: skip
COLLECTION_METHODS = frozenset({"items", "keys", "values", "get", "index", "count", "copy"})
