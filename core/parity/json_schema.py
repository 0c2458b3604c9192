"""Validity of answers against a JSON Schema that the user gives. Nothing is fetched.

The schema may be wrapped as in OpenAI's `response_format`. A `$ref` to another document is refused. RE2 matches the
patterns, in time linear in the text; Python's `re` can take forever, and stops every other thread meanwhile.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jsonschema
import jsonschema.protocols
import re2
import referencing
import referencing.exceptions

from core.errors import FabulaError
from core.evaluation import scoring
from core.evaluation.scoring import Interval
from core.message import Message, msg
from core.parity.row_scores import JsonAnswer, without_item_numbers
from core.sanitize import storable

MAX_CHARS = 200_000
"""The largest schema that is read."""
_MAX_DEPTH = 100
_MOST_PATHS = 10
# an escape of a JavaScript pattern that RE2 writes differently; the first part skips escaped backslashes
_UNICODE_ESCAPE = re.compile(r"\\\\|\\u([0-9A-Fa-f]{4})")


class BadSchema(FabulaError, ValueError):
    """The schema can't be used."""


@dataclass(frozen=True, slots=True)
class InvalidPath:
    """A place in the answers that broke the schema by `n` of them (their first error). "" is the whole answer."""

    path: str
    rule: str
    n: int


@dataclass(frozen=True, slots=True)
class SchemaValidity:
    """The share of answers that the schema accepts, and the most frequent errors."""

    valid: Interval | None
    errors: tuple[InvalidPath, ...]


def read_schema(text: str) -> dict[str, Any]:
    """The JSON Schema in a text.

    Raises:
        BadSchema: it is too large, not JSON, not a valid schema, or refers to another document.
    """
    if len(text) > MAX_CHARS:
        raise _bad(msg("The schema is longer than {n} characters.", n=f"{MAX_CHARS:,}"))
    try:
        schema = _unwrapped(json.loads(text))
    except (ValueError, RecursionError):
        raise _bad(msg("The schema is not valid JSON.")) from None
    if not isinstance(schema, dict):
        raise _bad(msg("The schema is not a JSON object."))
    _check_inside(schema)
    try:
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as exc:
        raise _bad(msg("This is not a valid JSON Schema: {error}", error=exc.message[:300])) from exc
    except RecursionError:
        raise _bad(msg("The schema is nested too deeply.")) from None
    return schema


def validity(schema: Mapping[str, Any], answers: Sequence[JsonAnswer]) -> SchemaValidity:
    """How many answers the schema accepts. Answers that are not JSON are not valid.

    Raises:
        BadSchema: a reference inside the schema leads nowhere, or RE2 can't match a pattern.
    """
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    checked = jsonschema.validators.extend(kind, _WITH_RE2)
    alike = _without_dialects(schema)
    validator = cast(jsonschema.protocols.Validator, checked(alike, registry=referencing.Registry()))
    valid, errors = 0, Counter[tuple[str, str]]()
    for answer in answers:
        if not answer.valid:
            errors["", "json"] += 1
            continue
        try:
            error = next(validator.iter_errors(answer.value), None)
        except referencing.exceptions.Unresolvable as exc:
            raise _bad(msg("The schema refers to {ref}, which it does not contain.", ref=str(exc.ref)[:200])) from exc
        except RecursionError:  # a schema that refers to itself without end, or a deep answer
            errors["", "depth"] += 1
            continue
        if error is None:
            valid += 1
        else:
            errors[without_item_numbers(error.json_path.removeprefix("$").removeprefix(".")), str(error.validator)] += 1
    found = tuple(InvalidPath(path, rule, n) for (path, rule), n in errors.most_common(_MOST_PATHS))
    return SchemaValidity(scoring.wilson(valid, len(answers)), found)


def _unwrapped(value: Any) -> Any:
    """The schema itself, without OpenAI's `response_format` around it."""
    for name in ("json_schema", "schema"):
        if isinstance(value, dict) and isinstance(value.get(name), dict) and not {"properties", "$defs"} & value.keys():
            value = value[name]
    return value


def _without_dialects(value: Any) -> Any:
    """A schema without `$schema`, for which the library would choose a validator of its own, with Python's `re`."""
    if isinstance(value, Mapping):
        named = {name: one for name, one in value.items() if name != "$schema" or not isinstance(one, str)}
        return {name: _without_dialects(one) for name, one in named.items()}
    return [_without_dialects(one) for one in value] if isinstance(value, list) else value


def _check_inside(schema: Mapping[str, Any]) -> None:
    """Refuse references to other documents, and patterns that RE2 can't match.

    Raises:
        BadSchema: there is one.
    """
    members = list(_members(schema, 0))
    has_patterns = any(key == "patternProperties" for key, _value in members)
    for key, value in members:
        if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str) and not value.startswith("#"):
            raise _bad(msg("The schema refers to another document: {ref}. Nothing is fetched.", ref=value[:200]))
        if key == "pattern" and isinstance(value, str):
            _compiled(value)
        elif key == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                _compiled(pattern)
        elif key == "unevaluatedProperties" and has_patterns:
            raise _bad(msg("A schema with patternProperties and unevaluatedProperties can't be checked."))


def _members(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise _bad(msg("The schema is nested too deeply."))
    if isinstance(value, dict):
        yield from value.items()
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _members(inside, depth + 1)


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    """A pattern for RE2.

    Raises:
        BadSchema: RE2 can't match it.
    """
    translated = _UNICODE_ESCAPE.sub(lambda found: f"\\x{{{found[1]}}}" if found[1] else found[0], storable(pattern))
    try:
        return re2.compile(translated, _quiet())
    except re2.error as exc:
        reason = exc.args[0].decode(errors="replace") if isinstance(exc.args[0], bytes) else str(exc)
        raise _bad(
            msg(
                "The pattern {pattern} can't be used ({reason}). Look-around and back-references are not supported.",
                pattern=pattern[:200],
                reason=reason[:200],
            )
        ) from exc


def _quiet() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    return options


def _found(pattern: str, text: str) -> bool:
    return _compiled(pattern).search(storable(text)) is not None


_Errors = Iterator[jsonschema.ValidationError]


def _pattern(validator: Any, pattern: str, value: Any, _schema: Any) -> _Errors:
    if validator.is_type(value, "string") and not _found(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], value: Any, _schema: Any) -> _Errors:
    for pattern, inside in patterns.items() if validator.is_type(value, "object") else ():
        for name in value:
            if _found(pattern, name):
                yield from validator.descend(value[name], inside, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, value: Any, schema: Mapping[str, Any]) -> _Errors:
    """The library's check, for the properties that neither `properties` nor a pattern names."""
    if validator.is_type(value, "object"):
        patterns = schema.get("patternProperties", {})
        named = {name for name in value if any(_found(pattern, name) for pattern in patterns)}
        others = {name: one for name, one in value.items() if name not in named}
        rest = {name: one for name, one in schema.items() if name != "patternProperties"}
        yield from jsonschema.Draft202012Validator.VALIDATORS["additionalProperties"](validator, allowed, others, rest)


_WITH_RE2 = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}


def _bad(what: Message) -> BadSchema:
    return BadSchema(what, msg("Nothing was changed. Paste another schema."))
