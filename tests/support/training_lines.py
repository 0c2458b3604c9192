"""Training file lines with their expected results, for testing the engine and the file check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.engine import finetune_format
from core.finetuning import file_checker
from core.finetuning.file_checker import FileCheck

_USER: dict[str, Any] = {"role": "user", "content": "a"}
_ANSWER: dict[str, Any] = {"role": "assistant", "content": "b"}


def pair(**values: object) -> bytes:
    """A prompt and completion pair, with these values added or replaced."""
    return json.dumps({"prompt": "a", "completion": "b", **values}).encode()


def chat(*messages: object, **values: object) -> bytes:
    """A conversation, by default a question and an answer, with these additional keys."""
    return json.dumps({"messages": messages or [_USER, _ANSWER], **values}).encode()


def answer(**values: object) -> bytes:
    """A conversation whose answer has these keys added or replaced."""
    return chat(_USER, {**_ANSWER, **values})


def check_file(path: Path, model: str, **options: Any) -> FileCheck:
    """The studio's check of a file; the options are those of `file_checker.check_lines`."""
    with path.open("rb") as file:
        return file_checker.check_lines(finetune_format.lines(file), model, **options)


GOOD_PAIRS = [
    pair(),
    pair(prompt=""),
    pair(messages=None),
    pair(messages=[]),
    pair(id=None),
    pair(id="", tags=[], extra={}),
    pair(tools=None, tools_used=[]),
    pair(completion=" b<end_of_turn>"),
    pair(completion="0"),
    pair(prompt="<bos>"),
    b'{"prompt": "a", "completion": "b"}\r',
    '{"prompt": "唐,隐形 ->", "completion": " 故事。"}'.encode(),
]
GOOD_CHATS = [
    chat(),
    chat(tools=None),
    chat(tools=[]),
    chat(functions=None, tools=None, parallel_tool_calls=None),
    chat(functions=[], parallel_tool_calls=False),
    chat(parallel_tool_calls=True),
    chat(prompt=None, completion=None),
    chat(prompt="", completion="", id=None),
    answer(weight=None),
    answer(weight=1),
    answer(weight=1.0),
    answer(name=None, refusal=None, audio=None),
    answer(function_call=None, tool_calls=None),
    answer(tool_calls=[], function_call={}),
    answer(tool_call_id=None, name=""),
    answer(content=[{"type": "text", "text": "b"}]),
    answer(content=[{"type": "text", "text": ""}, {"type": "text", "text": "b"}]),
    answer(content="b<end_of_turn>"),
    answer(content="<start_of_turn>model\nb"),
    chat({**_USER, "weight": None, "name": None}, _ANSWER),
    chat({**_USER, "content": ""}, _ANSWER),
    chat({**_USER, "name": "Ada"}, _ANSWER),
    chat({"role": "system", "content": "s"}, _USER, _ANSWER),
    chat({"role": "developer", "content": "s"}, _ANSWER),
    chat(_USER, {**_ANSWER, "weight": 0}, _USER, _ANSWER),
]
BAD = [
    (b"oops", "not_json"),
    (b'{"prompt": "a",', "not_json"),
    (b"[" * 100_000, "not_json"),
    (b'{"prompt": ' + b"9" * 5000 + b"}", "not_json"),
    (b'{"prompt": "a", "completion": "\\ud83d"}', "not_json"),
    (b'{"prompt": "\xd6\xd0", "completion": "b"}', "not_utf8"),
    ('{"prompt": "中"}'.encode("utf-16"), "not_utf8"),
    (b"[1, 2]", "not_object"),
    (b'"text"', "not_object"),
    (b"null", "not_object"),
    (b"{}", "shape"),
    (b'{"text": "a"}', "shape"),
    (b'{"prompt": null, "completion": null}', "shape"),
    (pair(prompt=None), "shape"),
    (pair(completion=None), "shape"),
    (pair(completion=7), "shape"),
    (pair(id=1), "shape"),
    (pair(weight=0), "shape"),
    (pair(completion=""), "empty"),
    (pair(completion=" \n\t"), "empty"),
    (pair(completion="<end_of_turn>"), "empty"),
    (pair(completion=" <bos><eos> "), "empty"),
    (pair(completion="\u200b\ufeff"), "empty"),
    (b'{"messages": []}', "shape"),
    (b'{"messages": null}', "shape"),
    (b'{"messages": "hello"}', "shape"),
    (b'{"messages": ["hello"]}', "shape"),
    (b'{"messages": {"role": "user"}}', "shape"),
    (chat(tools=[{"type": "function"}]), "tools"),
    (chat(functions=[{"name": "f"}]), "tools"),
    (chat(temperature=1), "shape"),
    (chat(prompt="a"), "shape"),
    (answer(tool_calls=[{"id": "1", "type": "function"}]), "tools"),
    (answer(function_call={"name": "f", "arguments": ""}), "tools"),
    (answer(weight=2), "shape"),
    (answer(weight="1"), "shape"),
    (answer(weight=0), "no_answer"),
    (answer(content=None), "empty"),
    (answer(content=7), "shape"),
    (answer(content=[]), "shape"),
    (answer(content=[{"type": "text", "text": None}]), "shape"),
    (answer(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "shape"),
    (answer(content=""), "empty"),
    (answer(content=" \n"), "empty"),
    (answer(content="<end_of_turn>"), "empty"),
    (answer(content="<start_of_turn><end_of_turn>\n"), "empty"),
    (answer(content="<|im_start|> <|im_end|>"), "empty"),
    (answer(content="<|endoftext|>"), "empty"),
    (answer(content="<end_of<eos>_turn>"), "empty"),
    (answer(content="\u200b"), "empty"),
    (answer(content=[{"type": "text", "text": " "}]), "empty"),
    (chat({**_USER, "weight": 1}, _ANSWER), "shape"),
    (chat({"role": "narrator", "content": "a"}, _ANSWER), "role"),
    (chat({"role": "tool", "content": "a"}, _ANSWER), "tools"),
    (chat({"role": ["user"], "content": "a"}, _ANSWER), "role"),
    (chat({"role": None, "content": "a"}, _ANSWER), "role"),
    (chat({"content": "a"}, _ANSWER), "role"),
    (chat(_ANSWER), "role"),
    (chat(_USER), "no_answer"),
    (chat(_ANSWER, _USER), "no_answer"),
    (chat(_USER, {**_ANSWER, "content": "<eos>"}, _USER, _ANSWER), "empty"),
    (b'{"prompt": "a", "completion": "' + b"b" * (1 << 20) + b'"}', "too_long_line"),
]
