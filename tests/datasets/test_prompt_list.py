"""A file of prompts or conversations as a list: what is recognised and asked, and which rows are named as unusable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.datasets import conversation_prompts
from core.datasets.importers import prompt_list, table_reader
from core.datasets.importers.prompt_list import PromptList
from core.errors import BadFile, BadRecipe
from core.generation.provider_connection import completion_request
from tests.support.live_runs import recipe

SYSTEM = {"role": "system", "content": "You sort tickets."}
TOOL = {"type": "function", "function": {"name": "weather"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def jsonl(*rows: object) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows).encode()


def read(data: bytes, filename: str = "list.jsonl", template: str | None = None) -> PromptList:
    imported = table_reader.read_table(data, filename, as_table=True)
    how = prompt_list.recognise(imported)
    if template is not None:
        how = prompt_list.ListFormat("prompts", None, template)
    return prompt_list.build(imported, how)


def texts(listed: PromptList) -> list[str]:
    return [prompt.values["prompt"] for prompt in listed.prompts]


@pytest.mark.parametrize(
    ("data", "filename", "kind", "prompts"),
    [
        (b"prompt\nHello\nBye\n", "a.csv", "prompts", ["Hello", "Bye"]),
        (b"\xef\xbb\xbfprompt\r\nHello\r\n\"two\r\nlines\"\r\n", "a.csv", "prompts", ["Hello", "two\r\nlines"]),
        ("text\n你好，世界\n🧑🏽‍🚀 fly\n".encode(), "a.csv", "prompts", ["你好，世界", "🧑🏽‍🚀 fly"]),
        (b"id,ticket,label\n1,My card is lost,card\n2,Where is it?,\n", "a.csv", "prompts",
         ["My card is lost", "Where is it?"]),
        (jsonl({"prompt": "a ->", "completion": " b."}), "a.jsonl", "training", ["a ->"]),
        (jsonl({"instruction": "Sum", "input": "1+1", "output": "2"}), "a.jsonl", "training", ["Sum\n1+1"]),
        (jsonl({"instruction": "Sum", "input": "", "output": "2"}), "a.jsonl", "training", ["Sum"]),
        (jsonl({"messages": [user("a")]}), "a.jsonl", "conversations", ["a"]),
        (jsonl({"messages": [user("a"), answer("b")]}), "a.jsonl", "training", ["a"]),
        (jsonl({"custom_id": "1", "method": "POST", "url": "/v1/x", "body": {"messages": [user("a")]}}), "a.jsonl",
         "conversations", ["a"]),
        (jsonl({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}), "a.jsonl",
         "training", ["a"]),
        (json.dumps({"object": "list", "data": [
            {"id": "1", "choices": [{"message": answer("b")}],
             "messages": [{"role": "user", "content": None, "content_parts": [{"type": "text", "text": "a"}]}]},
            {"id": "2", "messages": [user("c")], "choices": [{"message": answer("d")}]},
        ]}).encode(), "a.json", "conversations", ["a", "c"]),
    ],
)  # fmt: skip
def test_a_file_is_recognised(data: bytes, filename: str, kind: str, prompts: list[str]) -> None:
    imported = table_reader.read_table(data, filename, as_table=True)
    how = prompt_list.recognise(imported)
    assert how.kind == kind
    listed = prompt_list.build(imported, how)
    assert (texts(listed), listed.problems) == (prompts, ())


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"messages": [{"role": "user"', "Line 2: It is not JSON"),
        ({"messages": [SYSTEM]}, "Line 2: It has no user message."),
        ({"messages": [answer("b")]}, "Line 2: It has no user message."),
        ({"messages": []}, 'Line 2: Its "messages" is not a non-empty list of messages.'),
        ({"messages": "hello"}, 'Line 2: Its "messages" is not a non-empty list of messages.'),
        ({"messages": [user("  "), answer("b")]}, "Line 2: Its last user message is empty."),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])]}, "an image or other content"),
        ({"messages": [{"content": "a"}]}, "Line 2: Message 1 has no role."),
        ({"messages": [user("x" * 1_000_000)]}, "more than 100,000 characters"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named_and_the_others_are_kept(row: object, problem: str) -> None:
    listed = read(jsonl({"messages": [user("a")]}, row, {"messages": [user("c")]}))
    assert (texts(listed), listed.left_out) == (["a", "c"], 1)
    assert problem in listed.problems[0]


@pytest.mark.parametrize(
    ("data", "filename", "fault"),
    [
        (b"", "a.jsonl", "is empty"),
        (jsonl({"messages": [SYSTEM]}), "a.jsonl", "It has no user message"),
        (b"id,prompt\n1,\n2,  \n", "a.csv", "Line 2: The prompt is empty."),
    ],
)
def test_a_file_without_prompts_says_why(data: bytes, filename: str, fault: str) -> None:
    with pytest.raises(BadFile, match=fault):
        read(data, filename)


@pytest.mark.parametrize(
    ("messages", "system", "sent", "text"),
    [
        ([user("a"), answer("b")], "", [user("a")], "a"),
        ([SYSTEM, user("a"), answer("b"), user("c"), answer("d"), answer("e")], "You sort tickets.",
         [user("a"), answer("b"), user("c")], "User: a\n\nAssistant: b\n\nUser: c"),
        ([{"role": "developer", "content": "Be brief."}, user("a")], "Be brief.", [user("a")], "a"),
        ([user("a"), {"role": "assistant", "content": None, "tool_calls": [CALL]},
          {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}, answer("It is sunny.")], "",
         [user("a"), {"role": "assistant", "content": None, "tool_calls": [CALL]},
          {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}], None),
        ([user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "", [user("ab")], "ab"),
    ],
)  # fmt: skip
def test_a_conversation_is_asked_up_to_its_last_user_turn(
    messages: list[Any], system: str, sent: list[Any], text: str | None
) -> None:
    asked = conversation_prompts.unanswered(messages)
    assert (asked.system, list(asked.messages)) == (system, sent)
    assert text is None or asked.text == text
    stored = conversation_prompts.loads(conversation_prompts.dumps(asked, asked.system))
    assert (stored.system, stored.messages, stored.text) == (asked.system, asked.messages, asked.text)


def test_the_shared_system_text_is_kept_apart_and_other_texts_stay_with_their_rows() -> None:
    shared = read(jsonl({"messages": [SYSTEM, user("a")]}, {"messages": [SYSTEM, user("b")]}))
    assert (shared.system, shared.columns, shared.conversations) == ("You sort tickets.", ("prompt",), False)
    mixed = read(jsonl({"messages": [SYSTEM, user("a")]}, {"messages": [user("b")]}))
    assert (mixed.system, mixed.columns, mixed.conversations) == ("", ("system", "prompt"), True)
    made = recipe(conversations=True, system="The form's.")
    asked = [completion_request(made, "writer", listed.prompt, "chat", None) for listed in mixed.prompts]
    assert [(one.system, one.messages) for one in asked] == [
        ("You sort tickets.", (user("a"),)),
        ("The form's.", (user("b"),)),
    ]


def test_duplicates_are_counted_and_asked_once() -> None:
    listed = read(b"prompt,id\nHello,1\nBye,2\nHello,3\n", "a.csv")
    assert (texts(listed), listed.read, listed.duplicates) == (["Hello", "Bye"], 3, 1)
    assert listed.prompts[0].values == {"prompt": "Hello", "id": "1"}


def test_a_template_is_filled_from_any_columns() -> None:
    data = "商品,lang,prompt\n鞋,en,old\n,de,old\n".encode()
    listed = read(data, "a.csv", "Describe {商品} in {lang}.")
    assert [(p.prompt, p.values["prompt (file)"]) for p in listed.prompts] == [
        ("Describe 鞋 in en.", "old"),
        ("Describe  in de.", "old"),
    ]
    with pytest.raises(BadRecipe, match="colour"):
        read(data, "a.csv", "Describe {colour}.")


def test_parameters_that_are_the_same_everywhere_are_proposed() -> None:
    body = {"model": "ft:gpt-4o-mini:x", "max_completion_tokens": 50, "response_format": {"type": "json_object"}}
    rows = [{"body": {**body, "temperature": i / 10, "messages": [user(f"q{i}")]}} for i in range(2)]
    listed = read(jsonl(*rows))
    assert listed.parameters == {
        "model": "ft:gpt-4o-mini:x",
        "max_tokens": 50,
        "response_format": {"type": "json_object"},
    }
    assert any("temperature" in note for note in listed.notes)
    some = read(jsonl({"messages": [user("a")], "temperature": 0.0}, {"messages": [user("b")]}))
    assert some.parameters == {} and any("temperature" in note for note in some.notes)


@pytest.mark.parametrize("name", ["system", "System", "system_prompt", "System_Prompt"])
def test_a_column_with_system_texts_is_the_system_text_of_its_rows(name: str) -> None:
    listed = read(f"{name},question\nBe kind.,a\nBe brief.,b\n".encode(), "a.csv")
    stored = [conversation_prompts.loads(one.prompt) for one in listed.prompts]
    assert [(one.system, one.text) for one in stored] == [("Be kind.", "a"), ("Be brief.", "b")]
    assert [one.values for one in listed.prompts] == [
        {"system": "Be kind.", "prompt": "a"},
        {"system": "Be brief.", "prompt": "b"},
    ]


BODY = {"model": "ft:x", "temperature": 0.2, "messages": [SYSTEM, user("a")]}
ASKED = ("You sort tickets.", "a", {"model": "ft:x", "temperature": 0.2})


@pytest.mark.parametrize(
    "line",
    [
        BODY,
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": BODY},
        {"request": BODY, "response": {"choices": [{"message": answer("b")}]}},
        {"input": BODY, "output": {"choices": [{"message": answer("b")}]}, "tags": {"app": "x"}},  # OpenPipe
        {"response_id": "1", "request_body": BODY, "response_body": {"choices": []}, "model": "ft:x"},  # Helicone
        {"id": "1", "call_type": "acompletion", "model": "ft:x", "model_parameters": {"temperature": 0.2},
         "messages": BODY["messages"], "response": {"choices": []}},  # LiteLLM
        {"id": "1", "type": "GENERATION", "model": "ft:x", "modelParameters": {"temperature": 0.2},
         "input": BODY["messages"], "output": answer("b")},  # Langfuse
        {"body": {"model": "ft:x", "temperature": 0.2, "instructions": "You sort tickets.", "input": "a"}},
        {"body": {"model": "ft:x", "temperature": 0.2, "instructions": "You sort tickets.", "input": [user("a")]}},
    ],
)  # fmt: skip
def test_a_log_of_requests_is_asked_again(line: dict[str, Any]) -> None:
    listed = read(jsonl(line, line))
    assert (listed.system, texts(listed)[0], listed.parameters) == ASKED
    assert (listed.duplicates, listed.left_out, listed.columns) == (1, 0, ("prompt",))
    assert not listed.prompts[0].values.keys() & {"model_parameters", "modelParameters", "response_body", "output"}


def test_a_prompt_of_the_old_completions_api_is_asked() -> None:
    bodies = [{"model": "ft:davinci", "prompt": f"{name} ->", "max_tokens": 9} for name in "ab"]
    listed = read(jsonl(*({"body": body} for body in bodies)))
    assert (texts(listed), listed.parameters["max_tokens"]) == (["a ->", "b ->"], 9)


def test_parameters_that_differ_are_named_with_their_values() -> None:
    rows = [{**BODY, "temperature": value, "messages": [user(str(i))]} for i, value in enumerate((0, 0, 0.5, 0.7, 1))]
    listed = read(jsonl(*rows, {"messages": [user("x")]}))
    (note,) = (one for one in listed.notes if "temperature" in one)
    assert "(0: 2, 0.5: 1, 0.7: 1, …, –: 1)" in note
    form = {"type": "json_schema", "name": "a", "schema": {}}
    given = {"model": "ft:x", "input": "a", "text": {"format": form}, "tool_choice": "required", "logit_bias": {}}
    listed = read(jsonl({"body": given}, {"body": given}))
    assert listed.parameters["response_format"] == {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    assert listed.notes == ("Parameters that a run does not send: tool_choice.",)


def test_tools_are_sent_with_their_rows() -> None:
    function: Any = TOOL["function"]
    old = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
    items = [
        user("a"),
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    ]
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    bodies = [
        {"model": "ft:x", "messages": [user("a")], "tools": [TOOL], "parallel_tool_calls": False},
        {"model": "ft:x", "messages": [user("a"), old, {"role": "function", "name": "weather", "content": "sunny"}],
         "functions": [function]},
        {"model": "ft:x", "input": items, "tools": [{"type": "function", **function}]},
        {"model": "ft:x", "messages": [user("a")]},
    ]  # fmt: skip
    assert read(jsonl(*bodies[:2])).prompts[1].tools == read(jsonl(*({"body": one} for one in bodies))).prompts[1].tools
    listed = read(jsonl(*({"body": body} for body in bodies)))
    assert (len(listed.prompts), listed.duplicates, listed.conversations) == (3, 1, True)
    made = recipe(conversations=True)
    first, second, third = (completion_request(made, "writer", one.prompt, "chat", None) for one in listed.prompts)
    assert (json.loads(first.tools), first.parallel_tool_calls, first.messages) == ([TOOL], False, (user("a"),))
    assert (json.loads(second.tools), second.messages) == ([TOOL], (user("a"), called, result))
    assert (third.tools, third.parallel_tool_calls) == ("", None)
    assert "weather" in listed.prompts[0].text and "weather" not in listed.prompts[2].text


def test_half_a_surrogate_pair_in_a_name_or_a_tool_call_can_be_stored() -> None:
    call = {**CALL, "function": {"name": "weather", "arguments": "\ud800"}}
    messages = [{**user("a"), "name": "\ud800"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    asked = conversation_prompts.unanswered([*messages, {"role": "tool", "tool_call_id": "call_1", "content": "b"}])
    assert conversation_prompts.dumps(asked, asked.system).encode()


def test_a_list_of_a_hundred_thousand_rows_is_read() -> None:
    rows = "\n".join(["id,prompt", *(f"{i},question {i % 99_999}" for i in range(100_000))])
    listed = read(rows.encode(), "a.csv")
    assert (len(listed.prompts), listed.duplicates) == (99_999, 1)


@pytest.mark.parametrize(
    ("data", "offered", "proposed", "prompts"),
    [
        (b"Where is my parcel?\nMy card is lost\n", True, True, ["Where is my parcel?", "My card is lost"]),
        ("我的包裹在哪里？\n卡丢了\n".encode(), True, True, ["我的包裹在哪里？", "卡丢了"]),
        (b"prompt\nMy card is lost\n", True, False, ["prompt", "My card is lost"]),
        (b"id,prompt\n1,My card is lost\n", False, False, None),
        (jsonl({"My card is lost": "yes"}), False, False, None),
    ],
)
def test_the_first_line_of_a_file_with_one_column_can_be_a_prompt(
    data: bytes, offered: bool, proposed: bool, prompts: list[str] | None
) -> None:
    imported = table_reader.read_table(data, "list.csv" if data[:1] != b"{" else "list.jsonl", as_table=True)
    assert prompt_list.may_lack_header(imported) is offered
    if prompts is not None:
        assert prompt_list.looks_like_prompt(str(imported.frame.columns[0])) is proposed
        read_with = prompt_list.with_first_line(imported)
        assert texts(prompt_list.build(read_with, prompt_list.recognise(read_with))) == prompts
