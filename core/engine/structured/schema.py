"""Turns a JSON Schema into a grammar, so that a model can only write JSON that the schema accepts. Pure.

Every keyword that restricts a value is either part of the grammar or refused by name: none is silently dropped. An
object gets only the properties that the schema names, in the schema's order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.engine.structured import numbers
from core.engine.structured.grammar import GrammarBuilder, GrammarTooLarge, json_literal, json_text
from core.engine.structured.regex import UnsupportedPattern, pattern_rule
from core.message import msg

MAX_DEPTH = 64  # OpenAI's limit is 10
MAX_PROPERTIES = 5_000  # this limit and the next two are OpenAI's
MAX_ENUM_VALUES = 1_000
MAX_NAME_CHARS = 120_000
MAX_ALTERNATIVES = 100  # llama.cpp follows all at the same time, for each token of its vocabulary
_KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
_CHOICES = ("enum", "const", "anyOf", "oneOf", "allOf", "$ref")
_VALUE_KEYWORDS = frozenset(_CHOICES).union(*_KEYWORDS.values())
# keywords that restrict a value in a way that a grammar cannot express; unknown keywords are only notes
_RESTRICTIONS = frozenset(
    [
        *("not", "if", "then", "else", "$dynamicRef", "$recursiveRef"),
        *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"),
        *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
        *("additionalItems", "contains", "minContains", "maxContains", "uniqueItems"),
    ]
)
# every day of the calendar: 29 February only in years that have it; without the year 0000
_LEAP_YEAR = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_YEAR = r"([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DAY = r"(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31"
_DATE = rf"({_YEAR}-({_DAY})|{_LEAP_YEAR}-02-29)"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
FORMATS = {
    "date": rf"^{_DATE}$",
    "time": rf"^{_TIME}$",
    "date-time": rf"^{_DATE}T{_TIME}$",
    "duration": r"^P([0-9]{1,4}D|([0-9]{1,4}D)?T([0-9]{1,4}H([0-9]{1,4}M)?([0-9]{1,4}S)?|[0-9]{1,4}M|[0-9]{1,4}S))$",
    "email": r"^[A-Za-z0-9_+-]{1,32}(\.[A-Za-z0-9_+-]{1,32}){0,3}@([A-Za-z0-9-]{1,32}\.){1,4}[A-Za-z]{2,12}$",
    "hostname": r"^[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?){0,5}$",
    "ipv4": r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$",
    "ipv6": r"^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
    "uuid": r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
}
"""Patterns of the values of `format` that a grammar can follow."""


class SchemaRefused(ValueError):
    """A schema that cannot be a grammar; the message says where and why."""

    def __init__(self, path: Sequence[str | int], reason: str) -> None:
        where = "(" + ", ".join(repr(step)[:60] for step in path[-6:]) + ")"
        super().__init__(msg("In context={where}: {reason}", where=where, reason=reason))


@dataclass(frozen=True, slots=True)
class _SchemaPlace:
    """A place in the schema: the way to it, its depth, and the references followed since the last value began."""

    path: tuple[str | int, ...] = ()
    depth: int = 0
    followed: tuple[str, ...] = ()

    def into(self, *steps: str | int) -> _SchemaPlace:
        """A place inside a value that the grammar has already begun."""
        return _SchemaPlace((*self.path, *steps), self.depth + 1)

    def beside(self, *steps: str | int) -> _SchemaPlace:
        """A place that describes the same value."""
        return replace(self, path=(*self.path, *steps), depth=self.depth + 1)


def schema_rule(schema: object, builder: GrammarBuilder) -> str:
    """The name of a rule for the JSON values that a schema accepts.

    Raises:
        SchemaRefused: the schema is broken, too large, or has a keyword that a grammar cannot express.
    """
    return _Converter(schema, builder).rule()


class _Converter:
    """Converts one schema, with its definitions."""

    def __init__(self, schema: object, builder: GrammarBuilder) -> None:
        self._schema, self._builder = schema, builder
        self._definitions: dict[str, str] = {}
        self._properties = self._enum_values = self._name_chars = 0

    def rule(self) -> str:
        """See `schema_rule`."""
        try:
            return self._value(self._schema, _SchemaPlace())
        except GrammarTooLarge as exc:
            raise SchemaRefused((), str(exc)) from exc

    def _value(self, schema: object, place: _SchemaPlace) -> str:
        if place.depth > MAX_DEPTH:
            raise SchemaRefused((), msg("The schema is nested more than {max_depth} levels deep.", max_depth=MAX_DEPTH))
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise SchemaRefused(place.path, msg("A schema must be an object."))
        for keyword in _CHOICES:
            if keyword in schema:
                return self._choice(keyword, schema, place)
        self._refuse(_RESTRICTIONS, schema, place)
        return self._builder.any_of([self._typed(name, schema, place) for name in self._types(schema, place)])

    def _types(self, schema: Mapping[str, Any], place: _SchemaPlace) -> list[str]:
        given = schema.get("type")
        if given is None:  # what its keywords are about; `properties` without a type means an object
            about = [name for name, keywords in _KEYWORDS.items() if keywords & schema.keys()]
            given = about[:1] or list(_KEYWORDS)
        names = given if isinstance(given, list) else [given]
        if not names or not all(isinstance(name, str) and name in _KEYWORDS for name in names):
            raise self._invalid("type", place)
        if schema.get("nullable") is True:
            names = [*names, "null"]
        return list(dict.fromkeys(names))

    def _choice(self, keyword: str, schema: Mapping[str, Any], place: _SchemaPlace) -> str:
        value = schema[keyword]
        self._refuse((_RESTRICTIONS | _VALUE_KEYWORDS) - {keyword}, schema, place)
        if keyword == "const":
            return self._constants([value], place.beside(keyword))
        if keyword == "$ref":
            return self._reference(value, place)
        if not isinstance(value, list) or not value:
            raise self._invalid(keyword, place)
        if keyword == "enum":
            return self._constants(value, place.beside(keyword))
        if keyword == "allOf" and len(value) > 1:
            raise self._unsupported(keyword, place)
        constants = [constant for one in value for constant in _constants_of(one)]
        others = [(index, one) for index, one in enumerate(value) if not _constants_of(one)]
        if len(others) > MAX_ALTERNATIVES:
            raise SchemaRefused(place.path, msg("It has more than {most} alternatives.", most=MAX_ALTERNATIVES))
        rules = [self._value(one, place.beside(keyword, index)) for index, one in others]
        if constants:
            rules.append(self._constants(constants, place.beside(keyword)))
        return self._builder.any_of(rules)

    def _constants(self, values: list[Any], place: _SchemaPlace) -> str:
        self._enum_values += len(values)
        if self._enum_values > MAX_ENUM_VALUES:
            raise SchemaRefused((), msg("The schema has more than {most} enum values.", most=MAX_ENUM_VALUES))
        for value in values:
            self._count_name(value if isinstance(value, str) else "")
        try:
            json.dumps(values, allow_nan=False)
        except ValueError as exc:
            raise self._invalid(str(place.path[-1]), place) from exc
        return self._builder.any_literal(json_text(value) for value in values)

    def _reference(self, target: object, place: _SchemaPlace) -> str:
        if not isinstance(target, str) or not target.startswith("#"):
            raise self._invalid("$ref", place)
        if target in place.followed:
            raise SchemaRefused(place.path, msg("'{target}' refers only to itself.", target=target[:80]))
        if target not in self._definitions:
            found = self._found(target, place)
            name = self._definitions[target] = self._builder.reserve()
            inner = _SchemaPlace(tuple(target.split("/")[1:]), place.depth + 1, (*place.followed, target))
            self._builder.define(name, self._value(found, inner))
        return self._definitions[target]

    def _found(self, target: str, place: _SchemaPlace) -> object:
        found: object = self._schema
        for step in target.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise SchemaRefused(place.path, msg("'{target}' is not in the schema.", target=target[:80]))
            found = found[key]
        return found

    def _typed(self, name: str, schema: Mapping[str, Any], place: _SchemaPlace) -> str:
        if name == "object":
            return self._object(schema, place)
        if name == "array":
            return self._array(schema, place)
        if name == "string":
            return self._string(schema, place)
        if name in ("integer", "number"):
            return self._number(schema, place, whole=name == "integer")
        return name

    def _object(self, schema: Mapping[str, Any], place: _SchemaPlace) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise self._invalid("properties", place)
        if not isinstance(required, list) or not all(isinstance(key, str) and key in properties for key in required):
            raise self._invalid("required", place)
        required = frozenset(required)
        self._properties += len(properties)
        if self._properties > MAX_PROPERTIES:
            raise SchemaRefused((), msg("The schema has more than {most} properties.", most=MAX_PROPERTIES))
        if len(properties) - len(required) > MAX_ALTERNATIVES:
            reason = msg("More than {most} properties are not in 'required'.", most=MAX_ALTERNATIVES)
            raise SchemaRefused(place.path, reason)
        if not properties:
            return self._map(schema.get("additionalProperties", True), place)
        pairs = []
        for key, value in properties.items():
            self._count_name(key)
            rule = self._value(value, place.into("properties", key))
            pairs.append((f'{json_literal(key)} ":" ws {rule}', key in required))
        return self._builder.rule(f'"{{" ws {self._members(pairs)} ws "}}"')

    def _members(self, pairs: Sequence[tuple[str, bool]]) -> str:
        """The members of an object in order; those that are not required may be left out."""
        first = later = '""'  # the members from here on, as the first of the object or after another one
        for pair, required in reversed(pairs):
            member = f"{pair} {later}"
            after_comma = f'ws "," ws {member}'
            first_rule = self._builder.rule(member if required else f"{member} | {first}")
            later = self._builder.rule(after_comma if required else f"{after_comma} | {later}")
            first = first_rule
        return first

    def _map(self, values: object, place: _SchemaPlace) -> str:
        if values is False:
            return self._builder.rule('"{" ws "}"')
        value = self._value(values, place.into("additionalProperties"))
        member = self._builder.rule(f'string ":" ws {value}')
        more = self._builder.rule(f'ws "," ws {member}')
        return self._builder.rule(f'"{{" ws ({member} {more}*)? ws "}}"')

    def _array(self, schema: Mapping[str, Any], place: _SchemaPlace) -> str:
        least, most = self._bounds(schema, "minItems", "maxItems", place)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list) or (first and least > len(first)):
            raise self._invalid("prefixItems", place)
        if first and most is not None and most < len(first):
            raise self._invalid("maxItems", place)
        if first:
            rules = [self._value(one, place.into("prefixItems", index)) for index, one in enumerate(first)]
            return self._builder.rule('"[" ws ' + ' ws "," ws '.join(rules) + ' ws "]"')
        if most == 0:
            return self._builder.rule('"[" ws "]"')
        item = self._value(schema.get("items", True), place.into("items"))
        more = self._builder.rule(f'ws "," ws {item}')
        rest = self._builder.repeat(more, max(0, least - 1), None if most is None else most - 1)
        inner = f"{item} {rest}" if least else f"({item} {rest})?"
        return self._builder.rule(f'"[" ws {inner} ws "]"')

    def _string(self, schema: Mapping[str, Any], place: _SchemaPlace) -> str:
        pattern, form = schema.get("pattern"), schema.get("format")
        if pattern is None and isinstance(form, str):
            pattern = FORMATS.get(form)  # other formats are only notes, as in the standard
        least, most = self._bounds(schema, "minLength", "maxLength", place)
        if pattern is None:
            return self._builder.rule(f'"\\"" {self._builder.repeat("char", least, most)} "\\""')
        if not isinstance(pattern, str):
            raise self._invalid("pattern", place)
        if least or most is not None:
            raise self._unsupported("maxLength" if most is not None else "minLength", place)
        try:
            return self._builder.rule(f'"\\"" {pattern_rule(pattern, self._builder)} "\\""')
        except UnsupportedPattern as exc:
            raise self._unsupported("pattern", place) from exc

    def _number(self, schema: Mapping[str, Any], place: _SchemaPlace, *, whole: bool) -> str:
        if schema.get("multipleOf", 1) != 1:
            raise self._unsupported("multipleOf", place)
        bounds = {name: self._whole(schema, name, place) for name in _KEYWORDS["number"] if name in schema}
        if not bounds:
            return "whole" if whole else "number"
        low, above = _tighter(bounds.get("minimum"), bounds.get("exclusiveMinimum"), max)
        high, below = _tighter(bounds.get("maximum"), bounds.get("exclusiveMaximum"), min)
        if whole:
            low = low + 1 if low is not None and above else low
            high = high - 1 if high is not None and below else high
            body = numbers.whole_numbers(low, high)
        else:
            body = numbers.real_numbers(low, high, above=above, below=below)
        if body is None:
            raise SchemaRefused(place.path, msg("No number is within its bounds."))
        return self._builder.rule(body)

    def _whole(self, schema: Mapping[str, Any], name: str, place: _SchemaPlace) -> int:
        value = schema[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise SchemaRefused(place.path, msg("'{name}' must be a whole number.", name=name))
        return value

    def _bounds(self, schema: Mapping[str, Any], least: str, most: str, place: _SchemaPlace) -> tuple[int, int | None]:
        low = self._whole(schema, least, place) if least in schema else 0
        high = self._whole(schema, most, place) if most in schema else None
        if low < 0 or (high is not None and high < low):
            raise self._invalid(least if high is None else most, place)
        return low, high

    def _refuse(self, keywords: frozenset[str], schema: Mapping[str, Any], place: _SchemaPlace) -> None:
        for keyword in schema:
            if keyword in keywords and schema[keyword] is not False:
                raise self._unsupported(keyword, place)

    def _count_name(self, name: str) -> None:
        self._name_chars += len(name)
        if self._name_chars > MAX_NAME_CHARS:
            raise SchemaRefused(
                (), msg("The names and values in the schema have more than {most} characters.", most=MAX_NAME_CHARS)
            )

    def _unsupported(self, keyword: str, place: _SchemaPlace) -> SchemaRefused:
        return SchemaRefused(place.path, msg("'{keyword}' is not supported here.", keyword=keyword))

    def _invalid(self, keyword: str, place: _SchemaPlace) -> SchemaRefused:
        return SchemaRefused(place.path, msg("'{keyword}' has a value that is not valid.", keyword=keyword))


def _tighter(bound: int | None, exclusive: int | None, pick: Callable[[int, int], int]) -> tuple[int | None, bool]:
    """The stricter of two bounds, and whether it is excluded itself."""
    if bound is None or exclusive is None:
        return (bound, False) if exclusive is None else (exclusive, True)
    chosen = pick(bound, exclusive)
    return chosen, chosen == exclusive


def _constants_of(schema: object) -> list[Any]:
    """The values of a schema that is only a `const` or an `enum`; none for others."""
    restricting = schema.keys() & (_RESTRICTIONS | _VALUE_KEYWORDS) if isinstance(schema, dict) else ()
    if not isinstance(schema, dict) or len(restricting) != 1:
        return []
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else []
