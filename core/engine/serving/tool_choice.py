"""The parameters `tools`, `tool_choice` and `parallel_tool_calls`, and the grammar that keeps calls valid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
AFTER_TRIGGER = "grammar_after_trigger"
"""Option that llama.cpp does not have: the grammar of what follows the trigger of a lazy one."""
_WORD = 1  # llama.cpp's number for a trigger that is a text


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request.

    Attributes:
        tools: those that the model is shown; none with `tool_choice: "none"`.
        mode: whether it may or must call one.
        name: the one that it must call; None for any.
        allowed: names of those that it may call; None for all.
        parallel: whether it may call several.
    """

    tools: tuple[Tool, ...] = ()
    mode: Mode = "none"
    name: str | None = None
    allowed: frozenset[str] | None = None
    parallel: bool = True

    def may_call(self, tool: Tool) -> bool:
        """Whether the model may call this tool."""
        return self.name in (None, tool.name) and (self.allowed is None or tool.name in self.allowed)


NO_TOOLS = ToolUse()


def parse(body: Mapping[str, Any], *, parallel: bool) -> ToolUse:
    """Parse the three parameters; `parallel` is used if the request does not say. Raises ApiError 400."""
    try:
        tools = parse_tools(body.get("tools"))
    except BadTools as exc:
        raise bad_value("tools", exc.sentence) from exc
    wanted = body.get("parallel_tool_calls")
    if wanted not in (None, True, False):
        raise bad_value("parallel_tool_calls", msg("'{name}' must be true or false.", name="parallel_tool_calls"))
    use = _choice(body.get("tool_choice"), tools)
    return replace(
        use, tools=tools if use.mode != "none" else (), parallel=parallel if wanted is None else bool(wanted)
    )


def _choice(value: object, tools: Sequence[Tool]) -> ToolUse:
    """How the tools may be used; without the tools themselves."""
    if is_missing(value) or value == "auto":
        return ToolUse(mode="auto" if tools else "none")
    if value == "none":
        return ToolUse()
    if not tools:
        raise bad_value("tool_choice", msg("'tool_choice' is only allowed when 'tools' are specified."))
    if value == "required":
        return ToolUse(mode="required")
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        return _allowed(value.get("allowed_tools"), tools)
    return ToolUse(mode="required", name=_named(value, "tool_choice", tools))


def _allowed(value: object, tools: Sequence[Tool]) -> ToolUse:
    """The choice of OpenAI's `allowed_tools`: the model is shown all tools, but may call only some."""
    listed = value.get("tools") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(listed, list) or not listed:
        raise bad_value("tool_choice.allowed_tools", _bad_choice())
    mode = value.get("mode")
    if mode not in ("auto", "required"):
        path = "tool_choice.allowed_tools.mode"
        raise bad_value(path, msg("'{name}' must be 'auto' or 'required'.", name=path))
    places = (f"tool_choice.allowed_tools.tools[{index}]" for index in range(len(listed)))
    names = frozenset(_named(one, place, tools) for place, one in zip(places, listed, strict=True))
    return ToolUse(mode=mode, allowed=names)


def _named(value: object, path: str, tools: Sequence[Tool]) -> str:
    """The name of the tool that a `{"type": "function", …}` names."""
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if name is None:
        raise bad_value(path, _bad_choice())
    if not any(tool.name == name for tool in tools):
        raise bad_value(path, msg("'tool_choice' names a tool that is not in 'tools': '{name}'.", name=name))
    return str(name)


def _bad_choice() -> str:
    return msg(
        "'tool_choice' must be 'none', 'auto', 'required', {form} or {allowed}.",
        form=_CHOICE_FORM,
        allowed=_ALLOWED_FORM,
    )


def grammar_options(use: ToolUse, form: ToolFormat, wanted_format: object = None) -> dict[str, Any]:
    """llama.cpp's parameters for a request with these tools and this `response_format`.

    With `auto`, the grammar begins at the marker of a call, so that other answers are free; with a response format, an
    answer is either calls or in that format. AFTER_TRIGGER is for servers whose grammars begin after the marker.

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
    return {
        **options,
        "grammar": builder.text(calls),
        "grammar_lazy": True,
        "grammar_triggers": triggers,
        AFTER_TRIGGER: builder.text(_calls(use, form, builder, opened=True)),
    }


def _calls(use: ToolUse, form: ToolFormat, builder: GrammarBuilder, *, opened: bool = False) -> str:
    """The name of a rule for one call or several; with `opened`, without the marker of the first one."""
    call = _call(use, form, builder)
    first = _call(use, form, builder, opened=True) if opened else call
    if not use.parallel or use.name is not None:
        return first
    between = literal(form.between.strip()) if form.between.strip() else ""
    return builder.rule(f"{first} ({_SPACE} {between} {call}){{0,{_MAX_CALLS - 1}}}")


def _call(use: ToolUse, form: ToolFormat, builder: GrammarBuilder, *, opened: bool = False) -> str:
    begin, end = form.begin.strip(), form.end.strip()
    # without a text before it, the marker is the beginning of the JSON object
    n_written = len(form.marker) - len(form.begin) if opened and not begin else 0
    bodies = []
    for tool in filter(use.may_call, use.tools):
        arguments = _arguments(tool, use.tools.index(tool), builder)
        head = f'{{"{form.name_key}": {json.dumps(tool.name)}, "{form.arguments_key}": '
        bodies.append(f'{literal(head[n_written:])} {arguments} "}}"')
    lead = f"{'' if opened else literal(begin)} {_SPACE}" if begin else ""
    tail = f"{_SPACE} {literal(end)}" if end else ""
    return builder.rule(f"{lead} ({' | '.join(bodies)}) {tail}")


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


_ALLOWED_FORM = '{"type": "allowed_tools", "allowed_tools": {"mode": …, "tools": […]}}'
_CHOICE_FORM = '{"type": "function", "function": {"name": …}}'
