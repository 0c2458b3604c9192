"""A model's own chat template (Jinja, from its GGUF file or tokenizer), rendered in a sandbox.

A template is code that came with a model: it runs without access to Python's objects, cannot modify its arguments, and
has limited time and memory (`template_limits`). Training and serving use the same function, and templates that print
today's date get a fixed one, so that both render the same text.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils
import jinja2.visitor

from core.engine.serving import template_filters, template_limits
from core.engine.serving.template_limits import TemplateRefused, budget

_TODAY = date(2024, 7, 26)  # the date that Llama 3's template uses by default
_MAX_SOURCE = 1 << 18  # characters of a template; real ones have up to 40,000
_MACRO_STEPS = 10  # a call takes longer than an iteration, so it counts as several steps
_NODES_PER_STEP = 200  # nodes in a loop's body per counted step, for operations that are not counted themselves
_MAX_BITS = 4096  # size limit for integers
_COMPILER_NAMES = ("_loop_vars", "_block_vars")  # arguments that jinja2 adds to calls
_lock = threading.Lock()  # one rendering at a time, so that the memory limit applies to all renderings together


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox in which every template terminates: everything that can repeat or grow is counted."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`, unless the result would be too large."""
        budget.spend(1)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and _bits(left) * max(1, abs(right)) <= _MAX_BITS):
            raise TemplateRefused("a power is too large")
        if operator == "%" and isinstance(left, str):
            return template_limits.format_text(left, right)
        if operator in "+*" and not numbers:
            size = _size(left) + _size(right) if operator == "+" else _product(left, right)
            template_limits.check_length(size)
            budget.afford(8 * size)
        elif operator == "*" and _bits(left) + _bits(right) > _MAX_BITS:
            raise TemplateRefused("a number is too large")
        return budget.result(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return `obj[argument]`; a missing key is named in the error."""
        if not isinstance(argument, str | int):
            budget.read(argument)
        return super().getitem(obj, argument)

    def call(self, context: jinja2.runtime.Context, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call a macro, one of our functions, or a string or list method that is known to terminate."""
        budget.spend(1)
        given = {name: value for name, value in named.items() if name not in _COMPILER_NAMES}
        if not isinstance(function, jinja2.runtime.Macro | jinja2.runtime.LoopContext | jinja2.runtime.BlockReference):
            budget.read(arguments, given)
            self._check_function(function, arguments, given)
        return budget.result(super().call(context, function, *arguments, **named))

    def _check_function(self, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        # the function wrapped by the sandbox, in the case of `format`
        method = getattr(function, "__wrapped__", function)
        owner, name = getattr(method, "__self__", None), str(getattr(method, "__name__", ""))
        if isinstance(owner, str) and name in template_limits.TEXT_METHODS:
            budget.spend(len(owner) // template_limits.CHARS_PER_STEP)
            budget.afford(template_limits.TEXT_METHODS[name](owner, *arguments, **named))
        elif isinstance(owner, list | tuple | dict) and name in template_limits.COLLECTION_METHODS:
            if name in ("index", "count"):
                budget.read(owner)
            budget.afford(16 * len(owner))
        elif not (
            isinstance(function, jinja2.Undefined)
            or isinstance(owner, jinja2.runtime.LoopContext)
            or any(function is known for known in self.globals.values())
        ):
            raise TemplateRefused(f"{name or 'this'} cannot be called")

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        counted: jinja2.nodes.Template = _Counted().visit(super()._parse(source, name, filename))
        return counted


class _Counted(jinja2.visitor.NodeTransformer):
    """Inserts counting calls into a template: for repeated bodies, for new texts and lists, and for comparisons."""

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:  # method names are prescribed by jinja2
        steps = 1 + _nodes(node.body) // _NODES_PER_STEP
        self.generic_visit(node)
        node.body.insert(0, jinja2.nodes.ExprStmt(_step(node, steps), lineno=node.lineno))
        if node.test is not None:
            node.test = jinja2.nodes.And(_step(node, 1), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: jinja2.nodes.Macro | jinja2.nodes.CallBlock | jinja2.nodes.Block) -> jinja2.nodes.Node:
        steps = _MACRO_STEPS + _nodes(node.body) // _NODES_PER_STEP
        self.generic_visit(node)
        node.body.insert(0, jinja2.nodes.ExprStmt(_step(node, steps), lineno=node.lineno))
        return node

    visit_CallBlock = visit_Block = visit_Macro

    def visit_Output(self, node: jinja2.nodes.Output) -> list[jinja2.nodes.Node]:
        self.generic_visit(node)
        data = sum(sys.getsizeof(one.data) for one in node.nodes if isinstance(one, jinja2.nodes.TemplateData))
        node.nodes = [
            one if isinstance(one, jinja2.nodes.TemplateData) else _filter(one, "fabula_output", node)
            for one in node.nodes
        ]
        counted = _filter(jinja2.nodes.Const(data, lineno=node.lineno), "fabula_data", node)
        return [jinja2.nodes.ExprStmt(counted, lineno=node.lineno), node] if data else [node]

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return _filter(jinja2.nodes.List(node.nodes, lineno=node.lineno), "fabula_joined", node)

    def visit_List(self, node: jinja2.nodes.List) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return _filter(node, "fabula_made", node)

    def visit_Tuple(self, node: jinja2.nodes.Tuple) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return _filter(node, "fabula_made", node) if node.ctx == "load" else node

    def visit_Dict(self, node: jinja2.nodes.Dict) -> jinja2.nodes.Node:
        self.generic_visit(node)
        for pair in node.items:
            pair.key = _read(pair.key)
        return _filter(node, "fabula_made", node)

    def visit_Compare(self, node: jinja2.nodes.Compare) -> jinja2.nodes.Node:
        self.generic_visit(node)
        node.expr = _read(node.expr)
        for operand in node.ops:
            operand.expr = _read(operand.expr)
        return node

    def visit_Getitem(self, node: jinja2.nodes.Getitem) -> jinja2.nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, jinja2.nodes.Slice):
            return node
        none = jinja2.nodes.Const(None, lineno=node.lineno)
        bounds = [one or none for one in (node.arg.start, node.arg.stop, node.arg.step)]
        return jinja2.nodes.Filter(node.node, "fabula_slice", bounds, [], None, None, lineno=node.lineno)


def _nodes(body: Sequence[jinja2.nodes.Node]) -> int:
    return sum(1 for node in body for _ in node.find_all(jinja2.nodes.Node))


def _step(node: jinja2.nodes.Node, steps: int) -> jinja2.nodes.Filter:
    return _filter(jinja2.nodes.Const(steps, lineno=node.lineno), "fabula_step", node)


def _read(value: jinja2.nodes.Expr) -> jinja2.nodes.Expr:
    return value if isinstance(value, jinja2.nodes.Const) else _filter(value, "fabula_read", value)


def _filter(value: jinja2.nodes.Expr, name: str, node: jinja2.nodes.Node) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(value, name, [], [], None, None, lineno=node.lineno)


@jinja2.utils.pass_context  # so that it is not evaluated at compile time; the same applies to the functions below
def _count(context: jinja2.runtime.Context, steps: int) -> bool:
    budget.spend(steps)
    return True


@jinja2.utils.pass_context
def _data(context: jinja2.runtime.Context, size: int) -> None:
    budget.made(size)


@jinja2.utils.pass_context
def _output(context: jinja2.runtime.Context, value: Any) -> str:
    text = budget.text(value)
    budget.made(sys.getsizeof(text))
    return text


@jinja2.utils.pass_context
def _joined(context: jinja2.runtime.Context, values: list[Any]) -> Any:
    texts = [str(budget.text(value)) for value in values]
    size = sum(map(len, texts))
    template_limits.check_length(size)
    budget.afford(4 * size)
    return budget.result("".join(texts))


@jinja2.utils.pass_context
def _made(context: jinja2.runtime.Context, value: Any) -> Any:
    return budget.result(value)


@jinja2.utils.pass_context
def _checked(context: jinja2.runtime.Context, value: Any) -> Any:
    budget.read(value)
    return value


@jinja2.utils.pass_context
def _slice(context: jinja2.runtime.Context, value: Any, *bounds: int | None) -> Any:
    budget.spend(1)
    budget.afford(8 * _size(value))
    return budget.result(value[slice(*bounds)])


def _size(value: Any) -> int:
    return template_limits.length(value)


def _product(left: Any, right: Any) -> int:
    count, items = (left, right) if isinstance(left, int) else (right, left)
    return _size(items) * max(0, count) if isinstance(count, int) else 0


def _bits(number: float) -> int:
    return number.bit_length() if isinstance(number, int) else 64


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks answers for training libraries; its contents are rendered as
    usual.
    """

    tags: set[str] = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Parse the tag and return the statements inside it."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(
    source: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), **variables: Any
) -> str:
    """Render a template with `messages`, `tools` and the other values that templates expect (`add_generation_prompt`,
    `bos_token`, …).

    Raises:
        TemplateRefused: the template refuses the messages, is broken, or exceeds the limits.
    """
    try:
        with _lock:
            budget.start()
            compiled = _compiled(source)
            text = "".join(
                compiled.generate(messages=list(messages), tools=list(tools) or None, documents=None, **variables)
            )
            template_limits.check_length(len(text))
            return text
    except TemplateRefused:
        raise
    except MemoryError as exc:
        raise TemplateRefused("the text is too long") from exc
    except (  # SyntaxError: more nested blocks than Python can compile
        jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, SyntaxError,
    ) as exc:  # fmt: skip
        raise TemplateRefused(str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__) from exc
    except RecursionError as exc:
        raise TemplateRefused("it is nested too deeply") from exc


@lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > _MAX_SOURCE:
        raise TemplateRefused("it is too long")
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters = {
        **template_filters.FILTERS, "fabula_step": _count, "fabula_data": _data, "fabula_output": _output,
        "fabula_joined": _joined, "fabula_made": _made, "fabula_read": _checked, "fabula_slice": _slice,
    }  # fmt: skip
    environment.tests = dict(template_filters.TESTS)
    environment.globals = {
        "range": template_limits.number_range, "dict": dict, "namespace": jinja2.utils.Namespace,
        "raise_exception": _refuse, "strftime_now": template_limits.strftime_now(_TODAY),
    }  # fmt: skip
    return environment.from_string(source)


def _refuse(message: object) -> str:
    raise TemplateRefused(budget.text(message)[:200])
