"""Validity of answers against a JSON Schema that the user gives. Nothing is fetched.

The schema may be wrapped as in OpenAI's `response_format`. A `$ref` to another document is refused, and so is a
pattern that can take exponential time to match.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jsonschema
import jsonschema.protocols
import referencing
import referencing.exceptions

from core.errors import FabulaError
from core.evaluation import scoring
from core.evaluation.scoring import Interval
from core.message import Message, msg
from core.parity.row_scores import JsonAnswer, without_item_numbers

MAX_CHARS = 200_000
"""The largest schema that is read."""
_MAX_DEPTH = 100
_MOST_PATHS = 10
_MAX_REPEATED = 100  # a repeated group inside a repetition: at most this many combinations


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
        BadSchema: a reference inside the schema leads nowhere.
    """
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    validator = cast(jsonschema.protocols.Validator, kind(dict(schema), registry=referencing.Registry()))
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


def _check_inside(schema: Mapping[str, Any]) -> None:
    """Refuse references to other documents, and patterns that can take exponential time.

    Raises:
        BadSchema: there is one.
    """
    for key, value in _members(schema, 0):
        if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str) and not value.startswith("#"):
            raise _bad(msg("The schema refers to another document: {ref}. Nothing is fetched.", ref=value[:200]))
        patterns = [value] if key == "pattern" else list(value) if key == "patternProperties" else []
        for pattern in patterns if isinstance(value, str | dict) else []:
            if _may_explode(pattern):
                raise _bad(msg("The pattern {pattern} repeats a repetition; it could match forever.", pattern=pattern))


def _members(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise _bad(msg("The schema is nested too deeply."))
    if isinstance(value, dict):
        yield from value.items()
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _members(inside, depth + 1)


def _may_explode(pattern: str) -> bool:
    """Whether a repetition contains another one, with more than a few combinations: backtracking is exponential."""
    try:
        tree = re._parser.parse(pattern)  # type: ignore[attr-defined]  # no public parser of the standard library
    except (re.error, RecursionError, OverflowError):
        return False  # `check_schema` reports it
    return _repeats(tree, 1)


def _repeats(node: Any, outer: int) -> bool:
    if isinstance(node, tuple) and len(node) == 3 and isinstance(node[0], int) and isinstance(node[1], int):
        least, most, inside = node
        if outer > 1 and least != most and outer * int(most) > _MAX_REPEATED:
            return True
        return _repeats(inside, outer * max(1, int(most)))
    if isinstance(node, str | int) or node is None:
        return False
    try:
        return any(_repeats(one, outer) for one in node)
    except TypeError:
        return False


def _bad(what: Message) -> BadSchema:
    return BadSchema(what, msg("Nothing was changed. Paste another schema."))
