"""Tools: calls are parsed, streamed and valid by grammar; tool rows are checked, and trained in a request's words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

from core.engine.chat_messages import BadLine, ChatMessage
from core.engine.finetune_format import Conversation, parse_line
from core.engine.formats.gguf_file import ModelCard
from core.engine.serving.call_reader import CallReader, Part, read
from core.engine.serving.chat import format_for
from core.engine.serving.tool_format import GENERAL, ToolFormat
from core.engine.tool_calls import BadTools, Tool, ToolCall, check_order, parse_tools
from tests.support.engine_process import ROOT, TINY, EngineUnderTest, finished, running, upload
from tests.support.tiny_gemma import vocabulary, write_tiny_gemma
from tests.support.tiny_models import TinyModel

ASKED: Any = [{"role": "user", "content": "天气?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["西安", "洛阳"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
NOW_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def _tool(name: str, schema: dict[str, Any] = SCHEMA, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "About it.", "parameters": schema, **more}}


TOOLS: Any = [_tool("weather", strict=True), _tool("now", NOW_SCHEMA)]
SCHEMAS = {"weather": SCHEMA, "now": NOW_SCHEMA}


def _call(call_id: str, name: str = "weather", arguments: Any = '{"city": "西安", "days": 1}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALLED = {"role": "assistant", "content": None, "tool_calls": [_call("c1")]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "雨"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    folder: Path = tmp_path_factory.mktemp("tools")
    with running(folder / "home", write_tiny_gemma(folder / "tiny.gguf", context=2048)) as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


# Templates: how calls are learned from them, and how conversations with tools become text.

HERMES = """{% if tools %}<s>{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<e>{% endif %}{% for m in messages %}{% if m.role == 'tool' %}<u>[{{ m.content }}]<e>
{%- else %}<{{ m.role[0] }}>{{ m.content or '' }}{% for call in m.tool_calls or [] %}
{%- if m.content or not loop.first %}{{ '\\n' }}{% endif %}<call>
{{- '\\n' }}{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
{{- '\\n' }}</call>{% endfor %}<e>{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"""
BEGIN, END = "<call>\n{{- '\\n' }}", "\n{{- '\\n' }}</call>"
BARE = HERMES.replace(BEGIN, "").replace(END, "").replace('"arguments":', '"parameters":')
LISTED = HERMES.replace(BEGIN, "[").replace(END, "]")
ONLY_TEXT = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}<e>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
ONE_CALL = (
    "{% for m in messages %}{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one') }}"
    "{% endif %}{% endfor %}"
)


def _card(template: str, architecture: str = "llama") -> ModelCard:
    return ModelCard(
        architecture, 512, 400, 2, 1, "", template, control=("<u>", "<a>", "<s>", "<e>", "<t>"), eos_text="<e>"
    )


def _format(template: str) -> Any:
    found = format_for(_card(template))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (HERMES, ToolFormat("<call>\n", "\n</call>", "\n", "\n", "name", "arguments", native=True)),
        (BARE, ToolFormat("", "", "\n", "\n", "name", "parameters", native=True)),
        (LISTED, ToolFormat("[", "]", "\n", "\n", "name", "arguments", native=True)),
        (ONLY_TEXT, GENERAL),
        (ONE_CALL + HERMES, GENERAL),
        ("{{ raise_exception('no') }}", GENERAL),
    ],
)
def test_a_templates_way_of_writing_calls_is_learned(template: str, expected: ToolFormat) -> None:
    assert _format(template).tool_format == expected


CONVERSATION = (
    ChatMessage("user", "a"),
    ChatMessage("assistant", "", calls=(ToolCall("c1", "f", '{"x": "<e>"}'), ToolCall("c2", "f", "{}"))),
    ChatMessage("tool", "r<e>1", call_id="c1"),
    ChatMessage("tool", "r2", call_id="c2"),
)
F = Tool("f", "d", "{}")


def test_a_templates_own_tools_are_rendered_by_it() -> None:
    listed = '{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}'
    called = '<call>\n{"name": "f", "arguments": {"x": ""}}\n</call>\n<call>\n{"name": "f", "arguments": {}}\n</call>'
    made = _format(HERMES).prompt(CONVERSATION, (F,))
    assert made == f"<s>{listed}\n<e><u>a<e><a>{called}<e><u>[r1]<e><u>[r2]<e><a>"


@pytest.mark.parametrize("of", [_format(ONLY_TEXT), format_for(_card("", "gemma3")), format_for(_card("", "qwen3"))])
def test_other_models_read_tools_and_results_as_text(of: Any) -> None:
    made = of.prompt(CONVERSATION, (F,))
    assert '<tools>\n{"name": "f", "description": "d", "parameters": {}}\n</tools>' in made
    assert '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>' in made
    assert "1\n</tool_response>\n<tool_response>\nr2\n</tool_response>" in made


@pytest.mark.parametrize("of", [_format(HERMES), _format(ONLY_TEXT), format_for(_card("", "gemma3"))])
def test_calls_are_learned_in_the_context_of_a_request(of: Any) -> None:
    last = ChatMessage("assistant", "", calls=(ToolCall("c3", "f", "{}"),))
    segments = of.segments((*CONVERSATION, last), (F,))
    assert "".join(text for text, _ in segments[:-1]) == of.prompt(CONVERSATION, (F,))
    answer, trained = segments[-1]
    assert trained
    assert answer.startswith(of.tool_format.text(last.calls))
    assert [trained for _, trained in segments].count(True) == 2  # both calls, not the results


TEXTS = [
    'a <tool_call>\n{"name": "f", "arguments": {"x": "}\\"{", "y": [{}]}}\n</tool_call>\n'
    '<tool_call>{"name":"g","arguments":{}}</tool_call>\n',
    "a < b <tool_ca",
    "<tool_call> no",
    "a \n",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_calls_are_read_the_same_in_any_pieces(text: str, size: int) -> None:
    reader = CallReader(GENERAL)
    parts = [part for at in range(0, len(text), size) for part in reader.feed(text[at : at + size])]
    assert _joined([*parts, *reader.flush()]) == _joined(read(text, GENERAL))


def _joined(parts: list[Part]) -> list[tuple[int | None, str, str]]:
    found: list[tuple[int | None, str, str]] = []
    for part in parts:
        if found and found[-1][0] == part.call:
            found[-1] = (part.call, found[-1][1], found[-1][2] + part.text)
        else:
            found.append((part.call, part.name or "", part.text))
    return found


def test_words_and_calls_are_told_apart() -> None:
    assert _joined(read(TEXTS[0], GENERAL)) == [
        (None, "", "a"),
        (0, "f", '{"x": "}\\"{", "y": [{}]}'),
        (1, "g", "{}"),
    ]


_ONE_CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    "cut", ["\n<tool", "\n<tool_call>", '<tool_call>\n\n{"name": "now"', ' \n<tool_call>{"name": "g", ']
)
def test_a_call_that_is_cut_off_before_its_arguments_is_not_shown_as_words(cut: str) -> None:
    assert _joined(read(_ONE_CALL + cut, GENERAL)) == [(0, "f", "{}")]

    assert _joined(read(TEXTS[1], GENERAL)) == [(None, "", TEXTS[1])]


# Training files.


def _row(*messages: Any, tools: Any = TOOLS, **more: Any) -> bytes:
    return json.dumps({"messages": [*ASKED, *messages], "tools": tools, **more}).encode()


FINAL = {"role": "assistant", "content": "下雨。"}
GOOD_ROWS = [
    _row(CALLED),
    _row(CALLED, RESULT, FINAL, parallel_tool_calls=True),
    _row(
        {**CALLED, "tool_calls": [_call("c1"), _call("c2", "now", "{}")]},
        {**RESULT, "tool_call_id": "c2"},
        RESULT,
        FINAL,
    ),
    _row({**CALLED, "tool_calls": [_call("c1", arguments={"city": "西安"})]}),
    _row(FINAL),
]


@pytest.mark.parametrize("line", GOOD_ROWS)
def test_good_tool_rows_are_read(line: bytes) -> None:
    row = parse_line(line)
    assert isinstance(row, Conversation)
    assert [tool.name for tool in row.tools] == ["weather", "now"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (_row(CALLED, FINAL), "Without a result: c1."),
        (_row({**CALLED, "tool_calls": [_call("c1"), _call("c2")]}, RESULT, FINAL), "Without a result: c2."),
        (_row(CALLED, {"role": "user", "content": "a"}, RESULT, FINAL), "Without a result: c1."),
        (_row(RESULT, FINAL), "no call before it has the id 'c1'"),
        (_row(CALLED, RESULT, RESULT, FINAL), "no call before it has the id 'c1'"),
        (_row(CALLED, {"role": "tool", "content": "a"}, FINAL), "without 'tool_call_id'"),
        (_row(CALLED, {**RESULT, "content": None}, FINAL), "Message 3 has no text content."),
        (_row({**CALLED, "tool_calls": [_call("c1"), _call("c1")]}), "two tool calls with one id"),
        (_row({**CALLED, "tool_calls": [_call("c1", arguments="{")]}), "not a JSON object"),
        (_row({**CALLED, "tool_calls": [_call("c1", arguments="[1]")]}), "not a JSON object"),
        (_row({**CALLED, "tool_calls": [_call("", arguments="{}")]}), "without an id or a name"),
        (_row({**CALLED, "tool_calls": [{"id": "c1"}]}), "not of the form"),
        (_row({**CALLED, "tool_calls": {"id": "c1"}}), "not a list"),
        (_row(CALLED, tools=[_tool("now")]), "calls 'weather', which is not one of its tools"),
        (_row(FINAL, tools=[_tool("now"), _tool("now")]), "Two tools have the name 'now'."),
        (_row(FINAL, tools=[_tool("a b")]), "Tool 1 needs a name"),
        (_row(FINAL, tools=[{"type": "web_search"}]), "Tool 1 is not of the form"),
        (_row(FINAL, tools="weather"), "must be a list"),
        (_row(FINAL, functions=[{"name": "f"}]), "write them as 'tools'"),
        (_row({**FINAL, "function_call": {"name": "f", "arguments": "{}"}}), "write it as 'tool_calls'"),
        (_row({"role": "user", "content": "a", "tool_calls": [_call("c1")]}, FINAL), "only answers can have them"),
    ],
)
def test_a_bad_tool_row_is_refused_with_the_reason(line: bytes, reason: str) -> None:
    with pytest.raises(BadLine) as refused:
        parse_line(line)
    assert reason in refused.value.sentence


def test_a_tool_row_without_results_is_refused_with_its_line_number(engine: EngineUnderTest) -> None:
    client = engine.client(strict=False)
    rows = b"\n".join([GOOD_ROWS[0], GOOD_ROWS[1], _row(CALLED, FINAL)])
    with pytest.raises(BadRequestError, match=r"Line 3: .* Without a result: c1\."):
        client.fine_tuning.jobs.create(model=TINY, training_file=upload(client, rows))


def _documented(language: str) -> list[str]:
    """The examples about JSON and tools in the engine's documentation."""
    text = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    section = text.partition("\n## JSON and tools")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def tuned(engine: EngineUnderTest) -> str:
    """A model that was trained on good rows and on the documented ones."""
    client = engine.client(strict=False)
    documented = [line for example in _documented("jsonl") for line in example.encode().splitlines()]
    assert len(documented) == 2
    file = upload(client, b"\n".join([*GOOD_ROWS[:3], *documented]))
    options: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
    job = finished(client, client.fine_tuning.jobs.create(model=TINY, training_file=file, method=options).id)
    assert job.status == "succeeded", job.error
    return str(job.fine_tuned_model)


def test_tool_rows_train_a_model_that_calls_them(client: OpenAI, tuned: str) -> None:
    made = client.chat.completions.create(model=tuned, messages=ASKED, tools=TOOLS, tool_choice="required")
    assert made.choices[0].message.tool_calls


def test_the_documented_examples_run(client: OpenAI, tuned: str) -> None:
    known = {"client": client, "tuned": tuned, "json": json, "get_weather": lambda city, unit: {"temperature": 9}}
    for example in _documented("python"):
        exec(compile(example, "docs/engine.md", "exec"), known)


def test_a_base_model_reads_the_schema_and_a_tuned_one_reads_what_it_was_trained_on(client: OpenAI, tuned: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "description": "About it.", "schema": SCHEMA}}

    def tokens(model: str, **more: Any) -> int:
        made = client.chat.completions.create(model=model, messages=ASKED, max_tokens=1, **more)
        assert made.usage is not None
        return made.usage.prompt_tokens

    told = len(json.dumps(SCHEMA, ensure_ascii=False))
    assert tokens(TINY, response_format=form) > tokens(TINY) + told // 4
    assert tokens(tuned, response_format=form) == tokens(tuned) == tokens(TINY)
    long = {**SCHEMA, "description": "a" * 4096}
    form["json_schema"]["schema"] = long
    assert tokens(TINY, response_format=form) == tokens(TINY)


# Requests.


def _check_calls(calls: Any) -> None:
    assert calls
    for call in calls:
        assert call.id.startswith("call_")
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert len({call.id for call in calls}) == len(calls)


def test_calls_are_parsed_and_follow_their_schema(client: OpenAI) -> None:
    for _ in range(4):
        answer = client.chat.completions.create(
            model=TINY,
            messages=ASKED,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=True,
            max_tokens=900,
        )
        choice = answer.choices[0]
        calls = choice.message.tool_calls or []
        complete = calls if choice.finish_reason == "tool_calls" else calls[:-1]  # a random model may not end in time
        _check_calls(complete)
        assert choice.message.content is None
        assert len(calls) <= 16


@pytest.mark.parametrize("wanted", [{}, {"parallel_tool_calls": False}])
def test_one_call_if_parallel_calls_are_not_wanted(client: OpenAI, wanted: Any) -> None:
    answer = client.chat.completions.create(
        model=TINY, messages=ASKED, tools=TOOLS, tool_choice="required", n=4, **wanted
    )
    assert [len(choice.message.tool_calls or []) for choice in answer.choices] == [1] * 4


def test_a_named_tool_is_called(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=TINY, messages=ASKED, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "now"}}
    )
    called: Any = answer.choices[0].message.tool_calls
    assert [call.function.name for call in called] == ["now"]
    assert answer.choices[0].finish_reason == "stop"


def test_streamed_calls_are_put_together_by_the_sdk(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=TINY, messages=ASKED, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds or final.choices[0].message.tool_calls
    assert "tool_calls.function.arguments.done" in kinds
    _check_calls(final.choices[0].message.tool_calls)
    assert (final.choices[0].finish_reason, final.choices[0].message.content) == ("tool_calls", None)


class Weather(BaseModel):
    city: str
    days: int


def test_the_sdk_parses_arguments(client: OpenAI) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    tool["function"]["parameters"] = SCHEMA
    parsed = client.chat.completions.parse(
        model=TINY, messages=ASKED, tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    calls = parsed.choices[0].message.tool_calls
    assert calls and isinstance(calls[0].function.parsed_arguments, Weather)


def test_auto_leaves_the_answer_free_and_keeps_results(client: OpenAI) -> None:
    messages: Any = [*ASKED, CALLED, RESULT]
    answer = client.chat.completions.create(model=TINY, messages=messages, tools=TOOLS, max_tokens=20)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    unasked = client.chat.completions.create(
        model=TINY, messages=messages, tools=TOOLS, tool_choice="none", max_tokens=5
    )
    assert unasked.choices[0].message.tool_calls is None


def test_with_a_format_an_answer_is_a_call_or_in_the_format(client: OpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": 1}}}
    made = client.chat.completions.create(model=TINY, messages=ASKED, tools=TOOLS, response_format=wanted, n=4)
    for choice in made.choices:
        if choice.message.tool_calls:
            _check_calls(choice.message.tool_calls)
        else:
            assert choice.message.content == "1"


def test_auto_follows_the_grammar_once_a_call_has_begun(tmp_path: Path) -> None:
    """The template's calls begin with `!`, and a bias makes the model write it first."""
    template = HERMES.replace("<call>", "!").replace("</call>", "!")
    base = TinyModel("gemma3", chat_template=template, keys={"context_length": 2048}).write(tmp_path / "tiny.gguf")
    mark = [text for text, _, _ in vocabulary()].index("!")
    with running(tmp_path / "home", base) as engine:
        client = engine.client()
        asked: Any = {"model": TINY, "messages": ASKED, "tools": TOOLS, "logit_bias": {str(mark): 100}}
        choice = client.chat.completions.create(**asked, max_tokens=1000, parallel_tool_calls=False).choices[0]
        _check_calls(choice.message.tool_calls)
        assert choice.finish_reason == "tool_calls"
        with client.chat.completions.stream(**asked, max_tokens=1000, parallel_tool_calls=False) as stream:
            stream.until_done()
            _check_calls(stream.get_final_completion().choices[0].message.tool_calls)


def _allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("stream", [False, True])
def test_only_allowed_tools_are_called(client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": TINY, "messages": ASKED, "tools": [*TOOLS, _tool("later", NOW_SCHEMA)], "max_tokens": 200}
    made: Any = client.chat.completions.create(**asked, tool_choice=_allowed("required", "now", "later"), stream=stream)
    if stream:
        deltas = [chunk.choices[0].delta.tool_calls or [] for chunk in made]
        names = {call.function.name for calls in deltas for call in calls if call.function.name}
    else:
        names = {call.function.name for call in made.choices[0].message.tool_calls}
    assert names
    assert names <= {"now", "later"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [_tool("a"), _tool("a")]}, "tools"),
        ({"tools": {"type": "function"}}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools"),
        ({"tools": [_tool(str(n)) for n in range(129)]}, "tools"),
        ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "none"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": TOOLS, "tool_choice": _allowed("auto")}, "tool_choice.allowed_tools"),
        ({"tools": TOOLS, "tool_choice": _allowed("none", "now")}, "tool_choice.allowed_tools.mode"),
        ({"tools": TOOLS, "tool_choice": _allowed("auto", "now", "x")}, "tool_choice.allowed_tools.tools[1]"),
        ({"tools": TOOLS, "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [_tool("a", {"not": {}}, strict=True)]}, "tools[0].function.parameters"),
        ({"messages": [*ASKED, CALLED]}, "messages"),
        ({"messages": [*ASKED, CALLED, {**RESULT, "tool_call_id": "c9"}]}, "messages"),
        ({"messages": [*ASKED, RESULT]}, "messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_tools_are_refused_by_name(client: OpenAI, body: dict[str, Any], param: str, stream: bool) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(**{"model": TINY, "messages": ASKED, "stream": stream, **body})
    assert refused.value.param == param


def test_a_loose_schema_that_cannot_be_a_grammar_still_gives_an_object(client: OpenAI) -> None:
    loose: Any = [_tool("a", {"not": {}})]
    made = client.chat.completions.create(
        model=TINY,
        messages=ASKED,
        tools=loose,
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=60,
    )
    assert made.choices[0].message.tool_calls


def test_tools_and_order_are_checked_in_one_place() -> None:
    assert parse_tools(None) == parse_tools([]) == ()
    with pytest.raises(BadTools):
        check_order(CONVERSATION[:3], open_end=True)
    check_order(CONVERSATION[:2], open_end=True)


class _CountedId(str):
    """An id that counts comparisons with other ids."""

    compared = 0

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        _CountedId.compared += 1
        return str.__eq__(self, other)


def test_many_calls_and_results_are_checked_in_one_pass() -> None:
    ids = [_CountedId(f"call_{number}") for number in range(2000)]
    called = ChatMessage("assistant", "", calls=tuple(ToolCall(one, "now", "{}") for one in ids))
    results = [ChatMessage("tool", "a", call_id=_CountedId(one)) for one in reversed(ids)]
    check_order([called, *results], open_end=False)
    assert _CountedId.compared < 10 * len(ids)
    with pytest.raises(BadTools, match=r"Without a result: call_0, call_1\.$"):
        check_order([called, *results[:-2]], open_end=False)


@pytest.mark.parametrize("of", [None, ONLY_TEXT])
def test_control_tokens_within_control_tokens_are_removed(of: str | None) -> None:
    """A thousand levels deep, none is left, and the work does not grow with the square of their number."""
    card = ModelCard("gemma3", 512, 400, 2, 1, "", of or "", control=("<end_of_turn>",) if of else ())
    form = format_for(card)
    assert form is not None
    turns = form.prompt([ChatMessage("user", "a")]).count("<end_of_turn>")
    for depth in (1, 1000, 200_000):
        text = "<end_of_" * depth + "<end_of_turn>" + "turn>" * depth
        assert form.prompt([ChatMessage("user", text)]).count("<end_of_turn>") == turns
