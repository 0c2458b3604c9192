"""The parameters `tools`, `tool_choice` and `parallel_tool_calls`, and the grammar that keeps calls valid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.engine.api.errors import ApiError, bad_value
from core.engine.chat_messages import is_missing
from core.engine.serving.tool_format import ToolFormat
from core.engine.structured import response_format
from core.engine.structured.grammar import GrammarBuilder, literal
from core.engine.structured.schema import SchemaRefused, schema_rule
from core.engine.tool_calls import BadTools, Tool, parse_tools
from core.message import msg

Mode = Literal["none", "auto", "required"]
_SPACE = "[ \\n]{0,2}"  # between a marker and the JSON object; the template's own is one line break or nothing
_MAX_CALLS = 16  # in one answer; a small model might otherwise repeat calls up to the end of its context
_WORD = 1  # llama.cpp's number for a trigger that is a text


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request.

    Attributes:
        tools: those that the model is shown; none with `tool_choice: "none"`.
        mode: whether it may or must call one.
        name: the one that it must call; None for any.
        parallel: whether it may call several.
    """

    tools: tuple[Tool, ...] = ()
    mode: Mode = "none"
    name: str | None = None
    parallel: bool = True


NO_TOOLS = ToolUse()


def parse(body: Mapping[str, Any]) -> ToolUse:
    """Parse the three parameters. Raises ApiError 400."""
    try:
        tools = parse_tools(body.get("tools"))
    except BadTools as exc:
        raise bad_value("tools", exc.sentence) from exc
    parallel = body.get("parallel_tool_calls")
    if parallel not in (None, True, False):
        raise bad_value("parallel_tool_calls", msg("'{name}' must be true or false.", name="parallel_tool_calls"))
    mode, name = _choice(body.get("tool_choice"), [tool.name for tool in tools])
    return ToolUse(tools if mode != "none" else (), mode, name, parallel is not False)


def _choice(value: object, names: Sequence[str]) -> tuple[Mode, str | None]:
    if is_missing(value):
        return ("auto", None) if names else ("none", None)
    if value in ("none", "auto"):
        return ("auto", None) if value == "auto" and names else ("none", None)
    if not names:
        raise bad_value("tool_choice", msg("'tool_choice' is only allowed when 'tools' are specified."))
    if value == "required":
        return "required", None
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if name is None:
        raise bad_value(
            "tool_choice",
            msg("'tool_choice' must be 'none', 'auto', 'required', or {form}.", form=_CHOICE_FORM),
        )
    if name not in names:
        raise bad_value("tool_choice", msg("'tool_choice' names a tool that is not in 'tools': '{name}'.", name=name))
    return "required", str(name)


def grammar_options(use: ToolUse, form: ToolFormat, wanted_format: object = None) -> dict[str, Any]:
    """llama.cpp's parameters for a request with these tools and this `response_format`.

    With `auto`, the grammar begins at the marker of a call, so that other answers are free; with a response format, an
    answer is either calls or in that format.

    Raises:
        ApiError: 400 if a schema that has to be followed cannot be a grammar.
    """
    builder = GrammarBuilder()
    answer = response_format.rule_of(wanted_format, builder)
    if not use.tools:
        return {} if answer is None else {"grammar": builder.text(answer)}
    calls = _calls(use, form, builder)
    markers = [text for text in (form.begin.strip(), form.end.strip()) if text]
    options: dict[str, Any] = {"preserved_tokens": markers}  # llama.cpp writes them even if they are control tokens
    if use.mode == "required" or answer is not None:
        root = calls if use.mode == "required" or answer is None else f"{calls} | {answer}"
        return {**options, "grammar": builder.text(root)}
    triggers = [{"type": _WORD, "value": form.marker}]
    return {**options, "grammar": builder.text(calls), "grammar_lazy": True, "grammar_triggers": triggers}


def _calls(use: ToolUse, form: ToolFormat, builder: GrammarBuilder) -> str:
    """The name of a rule for one call or several."""
    callable_tools = [tool for tool in use.tools if use.name in (None, tool.name)]
    begin, end = form.begin.strip(), form.end.strip()
    bodies = []
    for tool in callable_tools:
        arguments = _arguments(tool, use.tools.index(tool), builder)
        head = literal(f'{{"{form.name_key}": {json.dumps(tool.name)}, "{form.arguments_key}": ')
        bodies.append(f'{head} {arguments} "}}"')
    lead = f"{literal(begin)} {_SPACE}" if begin else ""
    tail = f"{_SPACE} {literal(end)}" if end else ""
    call = builder.rule(f"{lead} ({' | '.join(bodies)}) {tail}")
    if not use.parallel or use.name is not None:
        return call
    between = literal(form.between.strip()) if form.between.strip() else ""
    return builder.rule(f"{call} ({_SPACE} {between} {call}){{0,{_MAX_CALLS - 1}}}")


def _arguments(tool: Tool, index: int, builder: GrammarBuilder) -> str:
    """The name of a rule for a tool's arguments; any object if its schema cannot be a grammar and is not strict."""
    try:
        if len(tool.parameters) > response_format.MAX_SCHEMA_CHARS:
            raise SchemaRefused((), response_format.too_long(len(tool.parameters)))
        return schema_rule(json.loads(tool.parameters), builder)
    except SchemaRefused as exc:
        if not tool.strict:
            return "object"
        raise ApiError(
            400,
            msg("Invalid schema for function '{name}': {reason}", name=tool.name, reason=exc.args[0]),
            param=f"tools[{index}].function.parameters",
            code="invalid_function_parameters",
        ) from exc


_CHOICE_FORM = '{"type": "function", "function": {"name": …}}'
