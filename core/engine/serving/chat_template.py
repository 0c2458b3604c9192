"""A model's own chat template (Jinja, from its GGUF file or tokenizer), rendered in a sandbox.

A template is code that came with a model: it runs without access to Python's objects, and cannot change what it gets.
Training and serving render with the same function, so a fixed day stands for "today" in templates that name one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

_TODAY = date(2024, 7, 26)  # the day that Llama 3's template names when it is not told another
_MAX_CHARS = 4_000_000  # of a rendered conversation; a template must not fill the memory


class TemplateRefused(ValueError):
    """The template does not accept this conversation, or is broken; the message is the template's."""


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
        parts, length = [], 0
        for part in _compiled(source).generate(messages=list(messages), tools=None, documents=None, **variables):
            length += len(part)
            if length > _MAX_CHARS:
                raise TemplateRefused("the text is too long")
            parts.append(part)
        return "".join(parts)
    except TemplateRefused:
        raise
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as exc:
        raise TemplateRefused(str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__) from exc
    except RecursionError as exc:
        raise TemplateRefused("it is nested too deeply") from exc


@lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment.from_string(source)


def _refuse(message: object) -> str:
    raise TemplateRefused(str(message)[:200])


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """As transformers' filter: without HTML escapes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
