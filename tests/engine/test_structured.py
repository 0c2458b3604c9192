"""`response_format`: answers follow a schema, streamed too; a schema that cannot be a grammar is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel, Field

from core.engine.api.errors import ApiError
from core.engine.structured.grammar import GrammarBuilder
from core.engine.structured.response_format import MAX_SCHEMA_CHARS, named_schema_rule, rule_of
from core.engine.structured.schema import FORMATS
from tests.support.engine_process import TINY, EngineUnderTest, running
from tests.support.tiny_gemma import write_tiny_gemma

ASKED: Any = [{"role": "user", "content": "一个英雄"}]


class Hero(BaseModel):
    kind: Literal["英雄", "怪兽"]
    age: int = Field(ge=18, le=307)
    weight: float = Field(gt=0, le=2)
    flies: bool | None
    marks: list[Literal["a", "b"]] = Field(min_length=1, max_length=3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    folder: Path = tmp_path_factory.mktemp("structured")
    base = write_tiny_gemma(folder / "tiny.gguf", context=2048)
    with running(folder / "home", base) as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def _format(schema: object, name: str = "hero") -> Any:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


_LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}
_LEFT_RECURSION = {
    "$ref": "#/$defs/x",
    "$defs": {
        "x": {"anyOf": [{"type": "object", "properties": {"p": {"$ref": "#/$defs/y"}}}, {"$ref": "#/$defs/y"}]},
        "y": {"anyOf": [{"$ref": "#/$defs/x"}, {"type": "null"}]},
    },
}
_MANY_REPETITIONS = {
    "type": "object",
    "properties": {str(n): {"type": "array", "items": {"const": n}, "maxItems": 499} for n in range(500)},
    "required": [str(n) for n in range(500)],
}
_LONG_CHAIN = {"$ref": "#/$defs/0", "$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(2000)}}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("a text", "must be an object"),
        ({"type": "hero"}, "'type'"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "('properties', 'a'): 'not'"),
        ({"type": "object", "patternProperties": {"a": {}}}, "'patternProperties'"),
        ({"type": "object", "required": ["b"]}, "'required'"),
        ({"type": "object", "properties": []}, "'properties'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "'maxItems'"),
        ({"type": "array", "prefixItems": [{}, {}], "maxItems": 1}, "'maxItems'"),
        ({"type": "string", "maxLength": 1_000_000}, "too large"),
        ({"type": "string", "pattern": "("}, "'pattern'"),
        ({"type": "string", "pattern": "(?=a)b"}, "'pattern'"),
        ({"type": "string", "pattern": "(" * 500 + ")" * 500}, "'pattern'"),
        ({"type": "string", "pattern": "^(((a{0,400}){0,400}){0,400})$"}, "'pattern'"),
        ({"type": "string", "pattern": "(|a){2}"}, "'pattern'"),
        ({"type": "string", "pattern": "^a$", "maxLength": 3}, "'maxLength'"),
        ({"type": "integer", "multipleOf": 5}, "'multipleOf'"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "No number"),
        ({"type": "integer", "exclusiveMaximum": -int("9" * 4300)}, "No number"),
        ({"type": "number", "minimum": 0.5}, "'minimum'"),
        ({"enum": []}, "'enum'"),
        ({"enum": [float("nan")]}, "'enum'"),
        ({"anyOf": []}, "'anyOf'"),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, "'allOf'"),
        ({"$ref": "#/$defs/none"}, "is not in the schema"),
        ({"$ref": "https://example.com/schema"}, "'$ref'"),
        ({"anyOf": [{"$ref": "#"}]}, "refers only to itself"),
        (_LOOP, "refers only to itself"),
        (_LONG_CHAIN, "levels deep"),
        (_nested(200), "levels deep"),
        ({"type": "string", "description": "a" * MAX_SCHEMA_CHARS}, "characters"),
        ({"enum": list(range(1001))}, "enum values"),
        ({"type": "object", "properties": {str(n): {} for n in range(5001)}}, "5000 properties"),
        ({"enum": ["a" * 120_001]}, "120000 characters"),
        (_MANY_REPETITIONS, "too large"),
        ({"anyOf": [{"type": "array", "maxItems": n} for n in range(101)]}, "more than 100 alternatives"),
        ({"type": "object", "properties": {str(n): {} for n in range(101)}}, "More than 100 properties"),
    ],
)
def test_a_schema_that_cannot_be_a_grammar_is_refused_with_its_place(schema: object, reason: str) -> None:
    with pytest.raises(ApiError) as refused:
        rule_of(_format(schema), GrammarBuilder())
    assert (refused.value.status, refused.value.param) == (400, "response_format")
    assert refused.value.message.startswith("Invalid schema for response_format 'hero': In context=(")
    assert reason in refused.value.message


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("json_object", "response_format"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_object", "schema": {"type": "object"}}, "response_format.schema"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": "yes"}},
            "response_format.json_schema.strict",
        ),
    ],
)
def test_a_format_that_is_not_valid_is_refused_by_name(value: object, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        rule_of(value, GrammarBuilder())
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize("year", [0, 1, 4, 100, 400, 1900, 2000, 2023, 2024, 9999])
def test_a_date_can_be_every_day_of_the_calendar_and_no_other(year: int) -> None:
    pattern = re.compile(FORMATS["date"])
    for month, day in product(range(14), range(33)):
        text = f"{year:04}-{month:02}-{day:02}"
        assert (pattern.match(text) is not None) == _is_day(text), text


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("value", [None, {}, {"type": "text"}])
def test_plain_text_needs_no_grammar(value: object) -> None:
    assert rule_of(value, GrammarBuilder()) is None


def test_no_rule_begins_with_an_empty_alternative() -> None:
    """llama.cpp accepts one; xgrammar, which vLLM uses, refuses it."""
    builder = GrammarBuilder()
    schema = {"properties": {"a": {"type": "string", "pattern": "^(|b)$"}, "b": {"enum": ["", "c"]}}}
    grammar = builder.text(named_schema_rule(schema, "values", builder))
    rules = [line.partition("::=")[2].strip() for line in grammar.splitlines()]
    assert not [rule for rule in rules if rule.startswith("|") or "( |" in rule or "(|" in rule or "| |" in rule]


def test_what_values_begin_with_is_in_the_grammar_once() -> None:
    """llama.cpp follows all alternatives for every token of its vocabulary: a thousand of them took seconds a word."""
    builder = GrammarBuilder()
    values = [f"{'long' * 20}{number}" for number in range(1000)]
    grammar = builder.text(named_schema_rule({"enum": values}, "values", builder))
    assert grammar.count("long" * 20) == 1
    assert max(line.count(" | ") for line in grammar.splitlines()[:-14]) < 12


@pytest.mark.parametrize(
    "schema",
    [
        Hero.model_json_schema(),
        {"type": "array", "items": {"type": "number", "minimum": -3, "exclusiveMaximum": 10}, "maxItems": 4},
        {
            "type": "array",
            "prefixItems": [{"type": "integer", "exclusiveMinimum": -207, "maximum": 13}, {"const": None}],
        },
        {"type": ["integer", "null"], "minimum": 1, "maximum": 1_000_000},
        {"type": "number", "minimum": -1, "maximum": 0},
        {"type": "string", "pattern": '^[A-Z]{2,4}-\\d+(foo|ba[rz])?["\\\\]$'},
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "uuid"},
        {"type": "string", "format": "ipv4"},
        {
            "type": "object",
            "properties": {name: {"type": "boolean"} for name in ('é"\\', "b\n", "c")},
            "required": ["c"],
        },
        {"anyOf": [{"type": "null"}, {"enum": ["a", 1, {"b": [2]}]}]},
        {"oneOf": [{"const": "a" * n, "title": "A"} for n in range(200)]},
        {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["next"]},
    ],
)
def test_a_random_model_writes_what_the_schema_accepts(client: OpenAI, schema: dict[str, Any]) -> None:
    answer = client.chat.completions.create(
        model=TINY,
        messages=ASKED,
        response_format=_format(schema),
        n=4,
        max_tokens=700,
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), schema, format_checker=jsonschema.FormatChecker())


def test_long_texts_keep_their_bounds(client: OpenAI) -> None:
    schema = {"type": "array", "items": {"const": 1}, "minItems": 502, "maxItems": 1203}
    builder = GrammarBuilder()
    assert len(builder.text(named_schema_rule(schema, "long", builder))) < 3000
    with pytest.raises(ApiError):
        named_schema_rule({**schema, "maxItems": 100_002}, "too_long", GrammarBuilder())
    answer = client.chat.completions.create(
        model=TINY,
        messages=ASKED,
        response_format=_format({"type": "string", "minLength": 3, "maxLength": 2000}),
        max_tokens=8,
    )
    assert (answer.choices[0].message.content or "").startswith('"')


def test_the_sdk_parses_an_answer(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(model=TINY, messages=ASKED, response_format=Hero)
    assert isinstance(parsed.choices[0].message.parsed, Hero)


def test_the_sdk_parses_a_streamed_answer(client: OpenAI) -> None:
    with client.chat.completions.stream(model=TINY, messages=ASKED, response_format=Hero) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert isinstance(final.choices[0].message.parsed, Hero)


def test_json_object_is_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=TINY, messages=ASKED, response_format={"type": "json_object"}, max_tokens=40
    )
    text = answer.choices[0].message.content or ""
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_bad_schemas_are_refused_before_an_answer_begins(client: OpenAI, stream: bool) -> None:
    schemas: tuple[object, ...] = ({"not": {}}, _nested(200), {"description": "a" * 1_000_000})
    for schema in schemas:
        with pytest.raises(BadRequestError) as refused:
            client.chat.completions.create(
                model=TINY,
                messages=ASKED,
                response_format=_format(schema),
                stream=stream,
            )
        assert refused.value.param == "response_format"
    assert client.chat.completions.create(model=TINY, messages=ASKED, max_tokens=2).choices


def test_a_body_nested_a_thousand_levels_deep_is_refused(engine: EngineUnderTest) -> None:
    levels = 1000
    schema = '{"type":"object","properties":{"a":' * levels + '{"type":"string"}' + "}}" * levels
    wanted = f'{{"type":"json_schema","json_schema":{{"name":"a","schema":{schema}}}}}'
    body = f'{{"model":"{TINY}","messages":[{{"role":"user","content":"a"}}],"response_format":{wanted}}}'
    with engine.http() as http:
        answer = http.post("/v1/chat/completions", content=body.encode())
        assert answer.status_code == 400
        assert "nested" in answer.json()["error"]["message"]
        assert http.get("/health").status_code == 200


def test_a_grammar_that_llama_cpp_refuses_is_an_error_of_the_request(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="grammar"):
        client.chat.completions.create(
            model=TINY,
            messages=ASKED,
            response_format=_format(_LEFT_RECURSION),
        )
