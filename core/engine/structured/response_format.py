"""The parameter `response_format` of chat completions, as a rule of a grammar for llama.cpp."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from core.engine.api.errors import ApiError, bad_value, missing_parameter
from core.engine.api.requests import boolean, reject_unknown
from core.engine.chat_messages import is_missing
from core.engine.structured.grammar import GrammarBuilder
from core.engine.structured.schema import SchemaRefused, schema_rule
from core.message import msg

MAX_SCHEMA_CHARS = 500_000  # of a schema as JSON text; OpenAI's own limits allow about 150,000
_PARAM = "response_format"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def rule_of(value: object, builder: GrammarBuilder) -> str | None:
    """The name of the rule that a `response_format` asks for; None for plain text.

    Args:
        value: the parameter's value.
        builder: gets the rules.

    Raises:
        ApiError: 400 for a value that is not valid, or a schema that cannot be a grammar.
    """
    if is_missing(value):
        return None
    if not isinstance(value, dict):
        raise bad_value(_PARAM, msg("'{name}' must be an object.", name=_PARAM))
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        reject_unknown(value, frozenset({"type"}), f"{_PARAM}.")
        return "object"
    if kind == "json_schema":
        reject_unknown(value, frozenset({"type", "json_schema"}), f"{_PARAM}.")
        return _of_schema(value.get("json_schema"), builder)
    raise bad_value(
        f"{_PARAM}.type",
        msg("'{name}' must be 'text', 'json_object' or 'json_schema'.", name=f"{_PARAM}.type"),
    )


def _of_schema(value: object, builder: GrammarBuilder) -> str:
    inner = f"{_PARAM}.json_schema"
    if not isinstance(value, dict):
        raise bad_value(inner, msg("'{name}' must be an object.", name=inner))
    reject_unknown(value, frozenset({"name", "description", "schema", "strict"}), f"{inner}.")
    name = schema_name(value, inner)
    boolean(value, "strict", f"{inner}.")
    if "schema" not in value:
        raise missing_parameter(f"{inner}.schema")
    return named_schema_rule(value["schema"], name, builder)


def schema_name(value: Mapping[str, Any], prefix: str) -> str:
    """The name of a schema. Raises ApiError 400."""
    name = value.get("name")
    if is_missing(name):
        raise missing_parameter(f"{prefix}.name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad_value(
            f"{prefix}.name",
            msg("'{name}' must be 1 to 64 letters, digits, underscores or hyphens.", name=f"{prefix}.name"),
        )
    return name


def named_schema_rule(schema: object, name: str, builder: GrammarBuilder) -> str:
    """The name of the rule of a schema called `name`. Raises ApiError 400 if it cannot be a grammar."""
    chars = len(json.dumps(schema, ensure_ascii=False))
    try:
        if chars > MAX_SCHEMA_CHARS:
            raise SchemaRefused((), too_long(chars))
        return schema_rule(schema, builder)
    except SchemaRefused as exc:
        message = msg("Invalid schema for response_format '{name}': {reason}", name=name, reason=exc.args[0])
        raise ApiError(400, message, param=_PARAM) from exc


def description(value: object) -> str:
    """What a model reads about a `response_format` that `rule_of` accepts; "" if there is nothing to know."""
    wanted = value.get("json_schema") if isinstance(value, dict) and value.get("type") == "json_schema" else None
    if not isinstance(wanted, dict):
        return ""
    schema = json.dumps(wanted["schema"], ensure_ascii=False)
    return f"{wanted.get('description') or ''}\n\nAnswer with JSON that follows this schema:\n{schema}".strip()


def too_long(chars: int) -> str:
    """The reason why a schema of this length is refused."""
    return msg(
        "The schema has {chars} characters; at most {most} are allowed.",
        chars=f"{chars:,}",
        most=f"{MAX_SCHEMA_CHARS:,}",
    )
