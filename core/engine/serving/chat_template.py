"""A model's own chat template (Jinja, from its GGUF file or tokenizer), rendered in a sandbox.

A template is code that came with a model: it runs without access to Python's objects, and cannot change what it gets.
Training and serving render with the same function, so a fixed day stands for "today" in templates that name one.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence, Sized
from datetime import date
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor

_TODAY = date(2024, 7, 26)  # the day that Llama 3's template names when it is not told another
_MAX_CHARS = 4_000_000  # of a rendered conversation; a template must not fill the memory
_MAX_STEPS = 300_000  # of one rendering, about a second; a long conversation needs some thousands
_MACRO_STEPS = 10  # a call takes longer than an iteration
_CHARS_PER_STEP = 1024  # of texts and lists that a template puts together
_MAX_BITS = 4096  # of a whole number


class TemplateRefused(ValueError):
    """The template does not accept this conversation, or is broken; the message is the template's."""


class _Budget(threading.local):
    """The steps that the rendering in this thread may still do."""

    left = 0

    def spend(self, steps: int) -> None:
        self.left -= max(1, steps)
        if self.left < 0:
            raise TemplateRefused("it takes too long")


_budget = _Budget()


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox whose templates end: loops, macros and what they put together are counted."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`, unless the result would be huge."""
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and _bits(left) * max(1, abs(right)) <= _MAX_BITS):
            raise TemplateRefused("a power is too large")
        if operator == "%" and isinstance(left, str):
            _spend_on(_formatted(left, right))
        elif operator in "+*" and not numbers:
            _spend_on(_length(left) + _length(right) if operator == "+" else _product(left, right))
        elif operator == "*" and _bits(left) + _bits(right) > _MAX_BITS:
            raise TemplateRefused("a number is too large")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        counted: jinja2.nodes.Template = _Counted().visit(super()._parse(source, name, filename))
        return counted


class _Counted(jinja2.visitor.NodeTransformer):
    """Counts every iteration, every condition of a loop, every call of a macro, and what `~` joins."""

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:  # named by jinja2
        self.generic_visit(node)
        node.body.insert(0, jinja2.nodes.ExprStmt(_step(node, 1), lineno=node.lineno))
        if node.test is not None:
            node.test = jinja2.nodes.And(_step(node, 1), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: jinja2.nodes.Macro) -> jinja2.nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, jinja2.nodes.ExprStmt(_step(node, _MACRO_STEPS), lineno=node.lineno))
        return node

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return _filter(jinja2.nodes.List(node.nodes, lineno=node.lineno), "fabula_joined", node)


def _step(node: jinja2.nodes.Node, steps: int) -> jinja2.nodes.Filter:
    return _filter(jinja2.nodes.Const(steps, lineno=node.lineno), "fabula_step", node)


def _filter(value: jinja2.nodes.Expr, name: str, node: jinja2.nodes.Node) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(value, name, [], [], None, None, lineno=node.lineno)


@jinja2.pass_context  # so that it is not computed when the template is compiled
def _count(context: jinja2.runtime.Context, steps: int) -> bool:
    _budget.spend(steps)
    return True


@jinja2.pass_context
def _joined(context: jinja2.runtime.Context, values: list[Any]) -> str:
    texts = [str(value) for value in values]
    _spend_on(sum(map(len, texts)))
    return "".join(texts)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    _budget.spend(len(numbers))
    return numbers


def _spend_on(length: int) -> None:
    """Count a text or list of this length that the template makes."""
    if length > _MAX_CHARS:
        raise TemplateRefused("the text is too long")
    _budget.spend(length // _CHARS_PER_STEP)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _product(left: Any, right: Any) -> int:
    count, items = (left, right) if isinstance(left, int) else (right, left)
    return _length(items) * max(0, count) if isinstance(count, int) else 0


def _formatted(text: str, values: Any) -> int:
    """The most characters that `text % values` can have."""
    if "*" in text or re.search(r"\d{5}", text):
        raise TemplateRefused("it pads a text")
    items = values if isinstance(values, tuple) else values.values() if isinstance(values, Mapping) else (values,)
    return len(text) + text.count("%") * (10_000 + sum(len(str(item)) for item in items))


def _bits(number: float) -> int:
    return number.bit_length() if isinstance(number, int) else 64


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks answers for training libraries; the text in it is rendered."""

    tags: set[str] = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(source: str, messages: Sequence[Mapping[str, str]], **variables: Any) -> str:
    """Render a template with `messages` and what templates expect besides (`add_generation_prompt`, `bos_token`, …).

    Raises:
        TemplateRefused: see there.
    """
    try:
        _budget.left = _MAX_STEPS
        parts, length = [], 0
        for part in _compiled(source).generate(messages=list(messages), tools=None, documents=None, **variables):
            length += len(part)
            if length > _MAX_CHARS:
                raise TemplateRefused("the text is too long")
            parts.append(part)
        return "".join(parts)
    except TemplateRefused:
        raise
    except MemoryError as exc:
        raise TemplateRefused("the text is too long") from exc
    except (  # SyntaxError: more nested blocks than Python compiles
        jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, SyntaxError,
    ) as exc:  # fmt: skip
        raise TemplateRefused(str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__) from exc
    except RecursionError as exc:
        raise TemplateRefused("it is nested too deeply") from exc


@lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters |= {"tojson": _to_json, "fabula_step": _count, "fabula_joined": _joined}
    environment.globals["range"] = _range
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment.from_string(source)


def _refuse(message: object) -> str:
    raise TemplateRefused(str(message)[:200])


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """As transformers' filter: without HTML escapes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
