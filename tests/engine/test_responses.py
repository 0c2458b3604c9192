"""/v1/responses: created, streamed in OpenAI's order of events, continued, kept over a restart, and deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

from core.engine.responses.api import KEEP_S
from core.engine.store import EngineStore, StoredResponse
from tests.support.engine_process import TINY, EngineUnderTest, poll, running
from tests.support.tiny_gemma import write_tiny_gemma

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["西安", "洛阳"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "name": "weather", "description": "About it.", "parameters": SCHEMA, "strict": True}


class Hero(BaseModel):
    kind: Literal["英雄", "怪兽"]
    flies: bool


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    folder = tmp_path_factory.mktemp("responses")
    with running(folder / "home", write_tiny_gemma(folder / "tiny.gguf", context=2048)) as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


def _create(client: OpenAI, **more: Any) -> Any:
    return client.responses.create(**{"model": TINY, "input": "一个英雄", "max_output_tokens": 8, **more})


def test_a_response_is_created_and_retrieved(client: OpenAI) -> None:
    made = _create(client, instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    assert made.status in ("completed", "incomplete")
    assert made.output_text == made.output[0].content[0].text
    assert (made.instructions, made.metadata, made.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    assert made.usage.input_tokens + made.usage.output_tokens == made.usage.total_tokens
    if made.status == "incomplete":
        assert made.incomplete_details.reason == "max_output_tokens"
    assert client.responses.retrieve(made.id) == made
    items = client.responses.input_items.list(made.id)
    assert [part.text for item in items for part in item.content] == ["一个英雄"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "given",
    [
        [{"role": "user", "content": "一个英雄"}],
        [
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": part} for part in ("一个", "英雄")],
            }
        ],
    ],
)
def test_the_forms_of_a_text_mean_the_same(client: OpenAI, given: Any) -> None:
    asked: Any = {"temperature": 0}
    assert _create(client, input=given, **asked).output_text == _create(client, **asked).output_text


def test_a_response_equals_the_chat_completion(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model=TINY, messages=[{"role": "user", "content": "一个英雄"}], max_tokens=8, temperature=0
    )
    made = _create(client, temperature=0)
    assert made.output_text == chat.choices[0].message.content
    assert chat.usage is not None
    assert made.usage.input_tokens == chat.usage.prompt_tokens


TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
CALL_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.completed",
]


def _kinds(events: list[Any]) -> list[str]:
    """The types of events in order, repeated deltas once."""
    kinds = [event.type for event in events]
    return [kind for at, kind in enumerate(kinds) if at == 0 or kind != kinds[at - 1]]


def test_events_have_openais_names_and_order(client: OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "a", "schema": {"enum": ["abc", "def"]}}}
    events = list(_create(client, stream=True, text=form, max_output_tokens=40))
    assert _kinds(events) == TEXT_EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text
    assert json.loads(final.output_text) in ("abc", "def")
    assert events[0].response.output == []
    assert client.responses.retrieve(final.id) == final


def test_a_call_has_its_own_events(client: OpenAI) -> None:
    asked: Any = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 300}
    events = list(_create(client, stream=True, **asked))
    assert _kinds(events) == CALL_EVENTS
    call = events[-1].response.output[0]
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    assert json.loads(call.arguments)["city"] in ("西安", "洛阳")
    whole = _create(client, **asked, stream=False)
    assert [item.type for item in whole.output] == ["function_call"]
    assert whole.tools[0].name == "weather"


def test_a_stream_that_reaches_the_limit_ends_as_incomplete(client: OpenAI) -> None:
    form: Any = {"format": {"type": "json_object"}}
    events = list(_create(client, stream=True, text=form, max_output_tokens=1))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output[0].status == "incomplete"


def test_the_sdks_helpers_parse_and_stream(client: OpenAI) -> None:
    parsed = client.responses.parse(model=TINY, input="一个英雄", text_format=Hero)
    assert isinstance(parsed.output_parsed, Hero)
    with client.responses.stream(model=TINY, input="一个英雄", text_format=Hero) as stream:
        kinds = _kinds(list(stream))
        final = stream.get_final_response()
    assert kinds == TEXT_EVENTS
    assert isinstance(final.output_parsed, Hero)


def test_log_probabilities_are_included_when_asked_for(client: OpenAI) -> None:
    made = _create(client, include=["message.output_text.logprobs"], top_logprobs=2, temperature=0)
    part = made.output[0].content[0]
    assert "".join(token.token for token in part.logprobs) == part.text
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)


def test_a_conversation_continues_from_the_previous_response(client: OpenAI) -> None:
    first = _create(client, instructions="s", temperature=0)
    second = _create(client, input="再来", previous_response_id=first.id, temperature=0)
    assert second.previous_response_id == first.id
    written: Any = [
        {"role": "user", "content": "一个英雄"},
        *([{"role": "assistant", "content": first.output_text}] if first.output_text else []),
        {"role": "user", "content": "再来"},
    ]
    assert _create(client, input=written, temperature=0).usage.input_tokens == second.usage.input_tokens


def test_a_functions_output_continues_the_conversation(client: OpenAI) -> None:
    asked: Any = {"tools": [TOOL], "max_output_tokens": 300}
    first = _create(client, tool_choice="required", parallel_tool_calls=False, **asked)
    output = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "雨"}
    second = _create(client, input=[output], previous_response_id=first.id, tool_choice="none", **asked)
    assert second.output
    items = client.responses.input_items.list(second.id, order="asc")
    assert [item.type for item in items] == ["function_call_output"]
    with pytest.raises(BadRequestError, match="No tool output found") as refused:
        _create(client, previous_response_id=first.id, **asked)
    assert refused.value.param == "input"


def test_responses_survive_a_restart_and_are_deleted(client: OpenAI, engine: EngineUnderTest) -> None:
    made, unkept = _create(client), _create(client, store=False)
    engine.kill()
    engine.start()
    client = engine.client()
    assert client.responses.retrieve(made.id) == made
    assert _create(client, previous_response_id=made.id).output
    with pytest.raises(NotFoundError):
        client.responses.retrieve(unkept.id)
    client.responses.delete(made.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(NotFoundError):
        client.responses.delete(made.id)
    with pytest.raises(BadRequestError) as refused:
        _create(client, previous_response_id=made.id)
    assert (refused.value.param, refused.value.code) == ("previous_response_id", "previous_response_not_found")


def test_responses_are_deleted_after_30_days_and_their_space_is_freed(tmp_path: Path) -> None:
    path = tmp_path / "home" / "engine.db"
    with running(tmp_path / "home") as engine:
        client, store = engine.client(), EngineStore(path)
        made, now = _create(client), int(time.time())
        for number, age in enumerate((KEEP_S - 60, KEEP_S + 60)):
            body = made.model_copy(update={"id": f"resp_{number}"}).model_dump_json()
            store.add(StoredResponse(f"resp_{number}", now - age, None, json.dumps(["a" * 500_000]), body))
        kept, expired = "resp_0", "resp_1"
        assert client.responses.retrieve(kept).id == kept
        with pytest.raises(NotFoundError):
            client.responses.retrieve(expired)
        with pytest.raises(BadRequestError, match=expired):
            _create(client, previous_response_id=expired)
        engine.stop()
        store.shrink()
        size = path.stat().st_size
        engine.start()
        poll(lambda: store.get(StoredResponse, expired) is None)
        poll(lambda: path.stat().st_size < size - 400_000)
        engine.client().responses.delete(kept)
        assert path.stat().st_size < size - 900_000


_CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}


def _output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "雨"}


def _allowed(mode: str, *names: str) -> Any:
    return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name} for name in names]}


def test_only_allowed_tools_are_called(client: OpenAI) -> None:
    tools = [TOOL, {**TOOL, "name": "climate"}, {**TOOL, "name": "snow"}]
    choice = _allowed("required", "snow", "climate")
    made = _create(client, tools=tools, tool_choice=choice, parallel_tool_calls=True, max_output_tokens=300)
    assert {call.name for call in made.output if call.type == "function_call"} <= {"snow", "climate"}
    assert made.output[0].type == "function_call"
    assert made.tool_choice.type == "allowed_tools"


def test_an_item_reference_stands_for_the_stored_item(client: OpenAI) -> None:
    """Vercel's AI SDK sends the answers of a conversation in this form."""
    asked, following = {"role": "user", "content": "一个英雄"}, {"role": "user", "content": "a"}
    made = _create(client, input=[asked])
    (item,) = made.output
    question = client.responses.input_items.list(made.id).data[0]
    whole = _create(client, input=[asked, item.to_dict(), following], temperature=0)
    for ids in ((item.id,), (question.id, item.id)):
        references = [{"type": "item_reference", "id": one} for one in ids]
        referring = _create(client, input=[*([asked][len(ids) - 1 :]), *references, following], temperature=0)
        assert referring.output_text == whole.output_text
        assert referring.usage.input_tokens == whole.usage.input_tokens
        kept = client.responses.input_items.list(referring.id, order="asc").data
        assert [one.type for one in kept] == ["message"] * 3
    client.responses.delete(made.id)
    for missing in (made.id, "msg_none", "%"):
        with pytest.raises(NotFoundError, match="not found") as refused:
            _create(client, input=[{"type": "item_reference", "id": missing}, following])
        assert refused.value.param == "input"


def _content(part: dict[str, Any]) -> Any:
    return [{"role": "user", "content": [{"type": "input_text", "text": "a"}, part]}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": _content({"type": "input_image", "image_url": "data:"})}, "input[0].content[1].type"),
        ({"input": _content({"type": "input_file", "file_id": "file-1"})}, "input[0].content[1].type"),
        ({"input": _content({"type": "input_audio", "input_audio": {}})}, "input[0].content[1].type"),
        ({"input": _content({"type": "input_text"})}, "input[0].content[1].text"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
        ({"input": [{"role": "narrator", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [_CALL, _output("c2")]}, "input[1].call_id"),
        ({"input": [_output("c1")], "instructions": "s"}, "input[0].call_id"),
        ({"input": [_CALL, {"role": "user", "content": "a"}, _output("c1")]}, "input[1]"),
        ({"input": [_CALL, {**_CALL, "call_id": "c2"}, _output("c1")]}, "input"),
        ({"input": [_CALL, _CALL, _output("c1")]}, "input[1].call_id"),
        ({"input": [{"type": "reasoning"}, {**_CALL, "arguments": "[]"}]}, "input[1].arguments"),
        ({"input": [{**_CALL, "name": "a b"}]}, "input[0].name"),
        ({"input": [{**_CALL, "call_id": ""}]}, "input[0].call_id"),
        ({"input": "a" * 20_000, "instructions": "s"}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"model": None}, "model"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "parameters": {"not": {}}}]}, "tools[0].parameters"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": _allowed("required", "none")}, "tool_choice.tools[0]"),
        ({"tools": [TOOL], "tool_choice": _allowed("must", "weather")}, "tool_choice.mode"),
        ({"include": ["web_search_call.action.sources"]}, "include"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temprature": 1}, "temprature"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, body: dict[str, Any], param: str, stream: bool) -> None:
    sent = {"model": TINY, "input": "a", "stream": stream, **body}
    with pytest.raises(BadRequestError) as refused:
        client.post("/responses", body=sent, cast_to=object)
    assert refused.value.param == param


def test_unknown_responses_are_404(client: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        client.responses.retrieve("resp_none")
    with pytest.raises(NotFoundError):
        client.responses.input_items.list("resp_none")
    with pytest.raises(BadRequestError):
        client.responses.cancel(_create(client).id)
