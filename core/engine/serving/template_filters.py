"""The filters and tests that chat templates can use: a subset of Jinja's, each with its cost.

All other filters are unknown to templates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.filters
import jinja2.runtime
import jinja2.tests
import jinja2.utils

from core.engine.serving import template_limits
from core.engine.serving.template_limits import TemplateRefused, budget

_MAX_INDENT, _MAX_DIGITS = 16, 20


def _limited(function: Callable[..., Any], before: Callable[..., int]) -> Callable[..., Any]:
    """Wrap a filter or test so that its result is counted; `before` returns the maximum number of bytes that it may
    need.

    The wrapper takes the context as an argument, so that Jinja does not evaluate it at compile time.
    """
    passed = jinja2.utils._PassArg.from_obj(function)

    @jinja2.utils.pass_context
    def run(context: jinja2.runtime.Context, *arguments: Any, **named: Any) -> Any:
        budget.spend(1)
        budget.afford(before(*arguments, **named))
        kinds = jinja2.utils._PassArg
        first = {None: (), kinds.context: (context,), kinds.eval_context: (context.eval_ctx,)}
        return budget.result(function(*first.get(passed, (context.environment,)), *arguments, **named))

    return run


def _as_text(value: Any, *arguments: Any, **named: Any) -> int:
    """Cost of filters that write the value as text, with up to six characters per character."""
    budget.read(arguments, named)
    return 6 * template_limits.WIDEST * (len(value) if isinstance(value, str) else budget.read(value))


def _as_items(value: Any, *arguments: Any, **named: Any) -> int:
    """Cost of filters that only pass on the items."""
    budget.read(arguments, named)
    budget.spend(template_limits.length(value) // template_limits.ITEMS_PER_STEP)
    return template_limits.length(value) * (template_limits.CHARACTER_BYTES if isinstance(value, str) else 8)


def _compared(value: Any, *arguments: Any, **named: Any) -> int:
    """Cost of filters that compare the items; iterators are refused."""
    if isinstance(value, Iterator):
        raise TemplateRefused("it sorts something that is not a list")
    return template_limits.WIDEST * budget.read(value, arguments, named) + _as_items(value)


def _stripped(value: Any, chars: Any = None) -> int:
    return _as_text(value) if not isinstance(value, str) else template_limits.searched_backwards(value, chars)


def _read(*values: Any) -> int:
    budget.read(*values)
    return 0


def _numbers(*values: Any) -> int:
    if not all(isinstance(one, int | float) for one in values):
        raise TemplateRefused("it calculates with something else than numbers")
    return 0


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = budget.text(value)
    if (width if isinstance(width, int) else len(width)) > _MAX_INDENT:
        raise TemplateRefused("it pads a text")
    budget.afford(template_limits.pieces(text))
    template_limits.check_length(len(text) + _MAX_INDENT * (text.count("\n") + 1))
    return jinja2.filters.do_indent(text, width, first, blank)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = str(budget.text(value)), budget.text(old), budget.text(new)
    budget.afford(template_limits.replaced(text, old, new))
    return text.replace(old, new, -1 if count is None else count)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not isinstance(value, int | float) or not -_MAX_DIGITS <= precision <= _MAX_DIGITS:
        raise TemplateRefused("it calculates with something else than numbers")
    return jinja2.filters.do_round(value, precision, method)  # type: ignore[arg-type]  # do_round checks it


def _format(value: Any, *values: Any, **named: Any) -> str:
    return template_limits.format_text(budget.text(value), named or values)


@jinja2.utils.pass_environment
def _items_of(environment: jinja2.Environment, values: Iterable[Any], attribute: str | int | None) -> Iterator[Any]:
    found = values if attribute is None else map(jinja2.filters.make_attrgetter(environment, attribute), values)
    for value in found:
        budget.spend(1)
        yield value


@jinja2.utils.pass_environment
def _join(environment: jinja2.Environment, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    separator, texts, total = str(budget.text(d)), [], 0
    for item in _items_of(environment, value, attribute):
        texts.append(str(budget.text(item)))
        total += len(texts[-1]) + len(separator)
        template_limits.check_length(total)
    budget.afford(template_limits.WIDEST * total)
    return separator.join(texts)


@jinja2.utils.pass_environment
def _sum(environment: jinja2.Environment, value: Any, attribute: str | int | None = None, start: float = 0) -> float:
    total = start
    for item in _items_of(environment, value, attribute):
        _numbers(total, item)
        total += item
    return total


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """The `tojson` filter as in transformers: without HTML escapes."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= _MAX_INDENT):
        raise TemplateRefused("it pads a text")
    parts, size = [], 0
    for part in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        budget.spend(1)
        size += len(part)
        template_limits.check_length(size)
        parts.append(part)
    return "".join(parts)


def _nothing(*_: Any, **__: Any) -> int:
    return 0


def _filters() -> dict[str, Callable[..., Any]]:
    """Jinja's filters that chat templates use, with their cost."""
    known: Any = jinja2.filters.FILTERS  # jinja2 types its values as plain functions
    groups: Mapping[Callable[..., int], str] = {
        _as_text: "capitalize e escape float int lower safe string title upper",
        _as_items: "items list map reject rejectattr reverse select selectattr",
        _compared: "dictsort groupby max min sort unique",
        _stripped: "trim",
        _numbers: "abs",
    }
    found = {name: _limited(known[name], before) for before, names in groups.items() for name in names.split()}
    found |= {name: known[name] for name in ("attr", "count", "d", "default", "first", "last", "length")}
    own: dict[str, Callable[..., Any]] = {
        "format": _format, "indent": _indent, "join": _join, "replace": _replace, "round": _round, "sum": _sum,
        "tojson": _to_json,
    }  # fmt: skip
    return found | {name: _limited(function, _nothing) for name, function in own.items()}


def _tests() -> dict[str, Callable[..., Any]]:
    """Jinja's tests; tests that read their values are counted."""
    known: Any = jinja2.tests.TESTS
    read = "in == eq equalto != ne > gt greaterthan >= ge < lt lessthan <= le lower upper"
    counted = {name: _limited(known[name], _read) for name in read.split()}
    return {**known, **counted} | {name: _limited(known[name], _numbers) for name in ("odd", "even", "divisibleby")}


FILTERS: Mapping[str, Callable[..., Any]] = _filters()
TESTS: Mapping[str, Callable[..., Any]] = _tests()
