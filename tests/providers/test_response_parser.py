"""Real responses of providers: texts, finish reasons, usage and errors; complete, parallel, streamed and in batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from core.errors import (
    BadRequest,
    FabulaError,
    ModelNotFound,
    ProviderError,
    RateLimited,
    Refused,
    StreamCut,
    Unavailable,
    Unreadable,
)
from core.providers import Client, Completion, CompletionRequest, Provider, RetryPolicy
from core.providers.async_client import AsyncTextClient
from core.providers.batches import read_answer
from core.providers.response_parser import normalize_finish_reason, parse_completion, parsed
from core.providers.usage import Usage, read_usage
from tests.support.fault_server import KEY, Answer, FaultServer, error, raw, text

PROVIDER = Provider("fault", "compatible", "The test server", "http://127.0.0.1:1/v1", KEY)
QUICK = RetryPolicy(total_s=5, tries=4, base_s=0.001, cap_s=0.01)
CHAT = CompletionRequest("writer", "Tell a story.", max_tokens=77)
STORY = "A story."
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def chat(content: object = STORY, finish_reason: object = "stop", usage: object = USAGE, **more: Any) -> dict[str, Any]:
    """A chat completion with the given deviations."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "model": "writer", "choices": [choice], "usage": usage, **more}


def without(answer: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in names}


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm, a story."}]}
WHOLE: dict[str, dict[str, Any]] = {
    "a string": chat(),
    "a list with one part": chat([{"type": "text", "text": STORY}]),
    "parts of text": chat([{"type": "text", "text": "A "}, {"type": "text", "text": "story."}]),
    "output_text (Responses API)": chat([{"type": "output_text", "text": STORY, "annotations": []}]),
    "thinking before the text (Mistral)": chat([THINKING, {"type": "text", "text": STORY}]),
    "an empty thought between two texts (Magistral)": chat(
        [{"type": "text", "text": "A "}, {"type": "thinking", "thinking": []}, {"type": "text", "text": "story."}]
    ),
    "reasoning and text": chat([{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": STORY}]),
    "redacted thinking": chat([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": STORY}]),
    "strings in a list": chat(["A ", "story."]),
    "a part without a type": chat([{"text": STORY}]),
    "a part by itself": chat({"type": "text", "text": STORY}),
    "a text with a value (Assistants)": chat([{"type": "text", "text": {"value": STORY, "annotations": []}}]),
    "with reasoning_content (DeepSeek)": {
        **chat(),
        "choices": [{"message": {"content": STORY, "reasoning_content": "Hm."}, "finish_reason": "stop"}],
    },
    "no model": without(chat(), "model"),
    "a null model": chat(model=None),
    "an empty model": chat(model=""),
    "a model that is a number": chat(model=7),
    "with a null error": chat(error=None),
    "with an empty error": chat(error={}),
    "with code 200": chat(code=200, message="success"),
    "a choice with a text": {**chat(), "choices": [{"text": STORY, "finish_reason": "stop"}]},
    "a delta in a whole answer": {**chat(), "choices": [{"delta": {"content": STORY}, "finish_reason": "stop"}]},
    "a message that is a string": {**chat(), "choices": [{"message": STORY, "finish_reason": "stop"}]},
    "one choice, not in a list": {**chat(), "choices": {"message": {"content": STORY}, "finish_reason": "stop"}},
    "Anthropic's content": {
        "type": "message",
        "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": STORY}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 5},
    },
    "Ollama's message": {
        "message": {"role": "assistant", "content": STORY},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 10,
        "eval_count": 5,
    },
    "Gemini's candidates": {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [{"text": "Hm.", "thought": True}, {"text": "A "}, {"text": "story."}],
                },
                "finishReason": "STOP",
            }
        ],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5},
    },
    "Cohere's message": {
        "message": {"role": "assistant", "content": [{"type": "text", "text": STORY}]},
        "finish_reason": "COMPLETE",
        "usage": {"billed_units": {"input_tokens": 10, "output_tokens": 5}, "tokens": {"input_tokens": 9}},
    },
    "in an object of a gateway's own": {"code": 0, "message": "success", "data": chat()},
    "with an error of code 0": chat(error={"code": 0, "message": "ok"}),
    "thinking inside the text (DeepSeek-R1 on vLLM, Ollama, LM Studio)": chat(f"<think>\nHm.\n</think>\n\n{STORY}"),
    "empty thinking inside the text (Qwen3)": chat(f"<think>\n\n</think>\n\n{STORY}"),
    "thinking that the prompt has opened": chat(f"Hm, a story.\n</think>\n\n{STORY}"),
    "thinking inside the text (Magistral)": chat(f"[THINK]Hm.[/THINK]{STORY}"),
    "thinking inside a part": chat([{"type": "text", "text": f"<think>Hm.</think>{STORY}"}]),
    "a message with a text": {**chat(), "choices": [{"message": {"text": STORY}, "finish_reason": "stop"}]},
    "an ending in the provider's own words only (OpenRouter)": {
        **chat(),
        "choices": [{"message": {"content": STORY}, "finish_reason": None, "native_finish_reason": "STOP"}],
    },
    "Bedrock's Converse": {
        "output": {"message": {"role": "assistant", "content": [{"text": STORY}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15},
    },
    "the Responses API": {
        "object": "response",
        "status": "completed",
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": STORY}]},
        ],
        "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    },
    "Cloudflare's result": {
        "result": {"response": STORY, "usage": USAGE, "finish_reason": "stop"},
        "success": True,
        "errors": [],
    },
    "DashScope's own output": {
        "output": {"choices": [{"message": {"content": STORY}, "finish_reason": "stop"}]},
        "usage": {"input_tokens": 10, "output_tokens": 5},
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_text_is_read_whatever_its_shape(name: str) -> None:
    answer = parse_completion(WHOLE[name], PROVIDER, "writer")
    assert [(c.text, c.finish_reason, c.error) for c in answer.texts] == [(STORY, "stop", "")]
    assert (answer.model, answer.prompt_tokens, answer.completion_tokens) == ("writer", 10, 5)


@pytest.mark.parametrize("name", WHOLE)
def test_it_is_the_same_alone_in_bulk_in_a_batch_and_where_a_stream_was_asked_for(
    server: FaultServer, name: str
) -> None:
    server.default = raw(json.dumps(WHOLE[name]).encode())
    ours = Client(server.provider(), retry_policy=QUICK)
    completion = ours.complete(CHAT)
    assert completion == asyncio.run(in_bulk(server.provider()))
    line = json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": WHOLE[name]}, "error": None})
    answer = read_answer(PROVIDER, line.encode(), CHAT)
    assert answer is not None and answer.completion == completion
    stream = ours.stream(CHAT)
    assert list(stream) == [STORY]
    facts = stream.facts
    assert (facts.finish_reason, facts.prompt_tokens, facts.tokens, facts.model) == ("stop", 10, 5, "writer")
    assert len(server.requests) == 3


async def in_bulk(provider: Provider) -> Completion:
    bulk = AsyncTextClient(provider)
    try:
        return await bulk.complete(CHAT)
    finally:
        await bulk.aclose()


@pytest.mark.parametrize(
    ("body", "text_"),
    [
        (b"\xef\xbb\xbf" + json.dumps(chat()).encode(), STORY),
        (b"\n\n\n" + json.dumps(chat()).encode() + b"\n", STORY),  # DeepSeek keeps a connection alive with blank lines
        (json.dumps(chat()).encode() + b"{}", STORY),
        (json.dumps(chat("caf\xe9"), ensure_ascii=False).encode("latin-1"), "caf\ufffd"),
        (json.dumps(chat("a b")).replace("a b", "a\tb").encode(), "a\tb"),
        (json.dumps(chat("\ud800")).encode(), "\ud800"),
    ],
)
def test_damage_to_the_bytes_costs_no_more_than_itself(body: bytes, text_: str) -> None:
    assert parse_completion(parsed(body), PROVIDER, "writer").texts[0].text == text_


def test_events_where_a_whole_answer_was_asked_for_are_put_together(server: FaultServer) -> None:
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": part}}]} for part in ("A ", "story.")]
    chunks += [{"choices": [{"delta": {}, "finish_reason": "STOP"}]}, {"choices": [], "usage": USAGE}]
    body = ": OPENROUTER PROCESSING\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    server.default = raw(f"{body}data: [DONE]\n\n".encode(), "text/event-stream")
    for answer in (Client(server.provider()).complete(CHAT), asyncio.run(in_bulk(server.provider()))):
        assert (answer.texts[0].text, answer.texts[0].finish_reason) == (STORY, "stop")
        assert (answer.prompt_tokens, answer.completion_tokens, answer.model) == (10, 5, "writer")


def test_a_broken_event_among_others_leaves_the_text_and_its_usage(server: FaultServer) -> None:
    first, last = {"choices": [{"delta": {"content": "A "}}]}, {"choices": [], "usage": USAGE}
    body = f"data: {json.dumps(first)}\n\ndata: {{broken\n\ndata: {json.dumps(last)}\n\ndata: [DONE]\n\n"
    server.default = raw(body.encode(), "text/event-stream")
    completion = Client(server.provider()).complete(CHAT)
    (choice,) = completion.texts
    assert (choice.text, choice.finish_reason, completion.prompt_tokens, completion.completion_tokens) == (
        "A ",
        "error",
        10,
        5,
    )
    assert "cannot be read" in choice.error


def _nested(open_: str, close: str, depth: int) -> bytes:
    return (open_ * depth + '"x"' + close * depth).encode()


@pytest.mark.parametrize("depth", [150, 500, 980, 100_000])
@pytest.mark.parametrize("status", [200, 400])
def test_json_without_a_bottom_is_no_answer_and_no_bug(server: FaultServer, depth: int, status: int) -> None:
    content = b'{"choices":[{"message":{"content":' + _nested("[", "]", depth) + b"}}]}"
    for body in (content, _nested('{"error":', "}", depth), _nested('{"output":', "}", depth)):
        server.default = Answer(status=status, body=body)
        with pytest.raises(BadRequest if status == 400 else Unreadable):
            asyncio.run(in_bulk(server.provider()))
        line = b'{"custom_id":"a","response":{"status_code":200,"body":' + body + b"}}"
        assert read_answer(PROVIDER, line) is None


# --- usage ----------------------------------------------------------------------------------------------------------

COUNTS: list[tuple[dict[str, Any], Usage]] = [
    (USAGE, Usage(10, 5)),
    # reasoning that is in the total only: Gemini's compatible endpoint, xAI, gateways
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 1015,
            "completion_tokens_details": {"reasoning_tokens": 1000},
        },
        Usage(10, 1005),
    ),
    ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, Usage(20, 603)),
    (
        {
            "prompt_tokens": 21,
            "completion_tokens": 0,
            "total_tokens": 81,
            "completion_tokens_details": {"reasoning_tokens": 60},
        },
        Usage(21, 60),
    ),
    (
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 1000}},
        Usage(10, 1005),
    ),
    (
        {"prompt_tokens": 10, "completion_tokens": 105, "completion_tokens_details": {"reasoning_tokens": 100}},
        Usage(10, 105),
    ),
    ({"prompt_tokens": 10, "total_tokens": 15}, Usage(10, 5)),
    ({"completion_tokens": 5, "total_tokens": 15}, Usage(10, 5)),
    ({"total_tokens": 15}, Usage(None, None)),
    ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 0}, Usage(10, 5)),
    # counts that are not integers
    ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, Usage(10, 5)),
    ({"prompt_tokens": "10", "completion_tokens": "5", "total_tokens": "15"}, Usage(10, 5)),
    ({"prompt_tokens": "10.0", "completion_tokens": " 1,005 "}, Usage(10, 1005)),
    ({"prompt_tokens": 10.2, "completion_tokens": 4.5}, Usage(11, 5)),
    ({"prompt_tokens": True, "completion_tokens": 5}, Usage(None, 5)),
    ({"prompt_tokens": -1, "completion_tokens": 5}, Usage(None, 5)),
    ({"prompt_tokens": None, "completion_tokens": "many"}, Usage(None, None)),
    ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, Usage(None, None)),
    ({"prompt_tokens": 10, "completion_tokens": 10**20}, Usage(10, None)),
    # cached prompts
    ({**USAGE, "prompt_tokens_details": {"cached_tokens": 8}}, Usage(10, 5, 8)),
    ({**USAGE, "prompt_tokens_details": None}, Usage(10, 5)),
    ({**USAGE, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2}, Usage(10, 5, 8)),
    ({"completion_tokens": 5, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2}, Usage(10, 5, 8)),
    ({**USAGE, "cached_tokens": 8}, Usage(10, 5, 8)),
    (
        {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": "8"}},
        Usage(10, 5, 8),
    ),
    # Anthropic counts them in addition to `input_tokens`; LiteLLM and OpenRouter among `prompt_tokens`
    ({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 2000}, Usage(2010, 5, 2000)),
    ({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 8}, Usage(18, 5, 8)),
    (
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 0,
        },
        Usage(110, 5, 0),
    ),
    ({"prompt_tokens": 10, "completion_tokens": 5, "cache_read_input_tokens": 8}, Usage(10, 5, 8)),
    ({**USAGE, "cache_creation_input_tokens": 2000, "cache_read_input_tokens": 0}, Usage(2010, 5)),
    ({**USAGE, "cache_creation_input_tokens": 9}, Usage(10, 5)),
    ({"inputTokens": 10, "outputTokens": 5, "totalTokens": 15, "cacheReadInputTokens": 8}, Usage(10, 5, 8)),
    ({"promptTokens": 10, "completionTokens": 5}, Usage(10, 5)),
]


@pytest.mark.parametrize(("usage", "counts"), COUNTS)
def test_what_was_used_is_read_as_providers_tell_it(usage: dict[str, Any], counts: Usage) -> None:
    assert read_usage({"usage": usage}) == counts
    whole = parse_completion(chat(usage=usage), PROVIDER, "writer")
    assert (whole.prompt_tokens, whole.completion_tokens, whole.cached_tokens) == (
        counts.prompt_tokens,
        counts.completion_tokens,
        counts.cached_tokens,
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"delta": {}, "usage": USAGE}]},  # Moonshot, in the last event of a stream
        {"choices": [], "x_groq": {"id": "req_1", "usage": USAGE}},
        {"usage": None, "x_groq": {"usage": USAGE}},
        {"usage": {}, "choices": [{"usage": USAGE}]},
        {"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 2, "totalTokenCount": 15}},
    ],
)
def test_usage_is_found_where_providers_put_it(answer: dict[str, Any]) -> None:
    assert read_usage(answer) == Usage(10, 5)


@pytest.mark.parametrize("usage", [None, {}, [], "10", {"total_tokens": None}, {"prompt_tokens": {}}])
def test_usage_that_is_none_is_unknown(usage: object) -> None:
    whole = parse_completion(chat(usage=usage), PROVIDER, "writer")
    assert (whole.texts[0].text, whole.prompt_tokens, whole.completion_tokens) == (STORY, None, None)


@pytest.mark.parametrize(
    ("usage", "content", "counts"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, STORY, (None, None)),
        ({"prompt_tokens": "0", "completion_tokens": 0.0}, STORY, (None, None)),
        ({"prompt_tokens": 10, "completion_tokens": 0}, STORY, (10, None)),
        ({"prompt_tokens": 0, "completion_tokens": 5}, STORY, (None, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, [THINKING], (None, None)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, "", (0, 0)),  # a filtered prompt
        ({"prompt_tokens": 10, "completion_tokens": 0}, None, (10, 0)),
    ],
)
def test_zero_beside_a_text_is_unknown_not_free(usage: object, content: object, counts: object) -> None:
    whole = parse_completion(chat(content, usage=usage), PROVIDER, "writer")
    assert (whole.prompt_tokens, whole.completion_tokens) == counts


# --- finish reasons --------------------------------------------------------------------------------------------------

ENDINGS: list[tuple[object, str | None]] = [
    *((word, "stop") for word in ("stop", "STOP", "Stop", " stop ", "FinishReason.STOP", "FINISH_REASON_STOP")),
    *((word, "stop") for word in ("COMPLETE", "end_turn", "endTurn", "END_TURN", "stop_sequence", "eos", "eos_token")),
    *((word, "stop") for word in ("</s>", "<|im_end|>", "end", "completed", "endoftext", "FINISH", "eosFound")),
    *(
        (word, "length")
        for word in ("length", "LENGTH", "MAX_TOKENS", "max_tokens", "maxTokens", "FinishReason.MAX_TOKENS")
    ),
    *(
        (word, "length")
        for word in ("model_length", "max_output_tokens", "model_context_window_exceeded", "ERROR_LIMIT")
    ),
    *((word, "content_filter") for word in ("content_filter", "content-filter", "contentFilter", "CONTENT_FILTERED")),
    *((word, "content_filter") for word in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "sensitive", "ERROR_TOXIC")),
    *((word, "content_filter") for word in ("guardrail_intervened", "BLOCKLIST", "SPII")),
    *((word, "stop") for word in ("eos_id", "stop_str", "stopped_word")),
    *((word, "length") for word in ("maximum_tokens", "MAX_TOTAL_TOKENS", "max_model_len", "stopped_limit")),
    *((word, "content_filter") for word in ("content_policy_violation", "IMAGE_PROHIBITED_CONTENT")),
    *((word, "error") for word in ("userStopped", "modelUnloaded")),
    ("refusal", "refusal"),
    *((word, "tool_calls") for word in ("tool_calls", "tool_use", "function_call", "MALFORMED_FUNCTION_CALL")),
    *((word, "error") for word in ("error", "network_error", "insufficient_system_resource", "abort")),
    *((word, None) for word in ("", " ", "null", "none", "UNSPECIFIED", "FINISH_REASON_UNSPECIFIED", "unknown", "…")),
    *((word, None) for word in (None, 1, 0.5, True, [], ["stop"], {}, {"length": 16})),
    ({"type": "length", "length": 16}, "length"),  # SGLang
    ({"type": "stop", "matched": 2}, "stop"),
    ("pause_turn", "pause_turn"),
    ("A Word Of Its Own, And Longer Than Any Column", "a_word_of_its_own_and_longer_t"),
]


@pytest.mark.parametrize(("word", "ending"), ENDINGS)
def test_an_ending_is_the_same_whole_streamed_and_in_a_batch(
    server: FaultServer, word: object, ending: str | None
) -> None:
    assert normalize_finish_reason(word) == ending
    whole = chat(finish_reason=word)
    assert parse_completion(whole, PROVIDER, "writer").texts[0].finish_reason == ending
    line = json.dumps({"custom_id": "a", "response": {"status_code": "200", "body": whole}})
    answer = read_answer(PROVIDER, line.encode())
    assert answer is not None and answer.completion is not None
    assert answer.completion.texts[0].finish_reason == ending
    chunks = [{"choices": [{"delta": {"content": STORY}}]}, {"choices": [{"delta": {}, "finish_reason": word}]}]
    server.default = events(*chunks)
    stream = Client(server.provider()).stream(CHAT)
    assert list(stream) == [STORY]
    assert stream.facts.finish_reason == (ending or "unknown")  # the server said [DONE]: it is over


def events(*chunks: object, done: bool = True) -> Answer:
    """A body of server-sent events."""
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n" * done
    return raw(body.encode(), "text/event-stream")


# --- errors inside HTTP 200 -----------------------------------------------------------------------------------------

INNER: list[tuple[object, type[FabulaError], str]] = [
    ({"error": {"message": "Rate limit exceeded", "code": 429}}, RateLimited, "slow down: Rate limit exceeded"),
    ({"error": {"message": "Rate limit exceeded", "code": "429"}}, RateLimited, "Rate limit exceeded"),
    ({"error": {"message": "Slow", "type": "rate_limit_error"}}, RateLimited, "Slow"),
    ({"error": {"code": "1302", "message": "您的账户已达到速率限制"}}, RateLimited, "速率限制"),
    ({"error": "Rate limit reached"}, RateLimited, "Rate limit reached"),
    ({"error": "Unexpected endpoint or method. (POST /chat)"}, BadRequest, "Unexpected endpoint or method"),
    ({"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "x"}}}, Unavailable, "(502)"),
    ({"error": {"message": "busy", "code": 503.0}}, Unavailable, "(503): busy"),
    ({"error": {"message": "oops", "type": "server_error"}}, Unavailable, "oops"),
    ({"error": {"type": "overloaded_error", "message": "Overloaded"}}, Unavailable, "Overloaded"),
    ({"error": {"message": "No auth credentials found", "code": 401}}, Refused, "(401): No auth credentials found"),
    ({"error": {"message": "no such model", "code": "model_not_found"}}, ModelNotFound, "no such model"),
    ({"error": {"message": "bad", "status_code": 400, "code": "tool_use_failed"}}, BadRequest, "(400): bad"),
    ({"error": {"message": "what?"}}, BadRequest, "what?"),
    ({"error": {"code": 400}}, BadRequest, "(400)"),
    ({"errors": [{"message": "bad", "code": 422}]}, BadRequest, "(422): bad"),
    ([{"error": {"code": 429, "message": "Quota.", "status": "RESOURCE_EXHAUSTED"}}], RateLimited, "Quota."),
    ({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}, BadRequest, "too long"),
    ({"code": 50003, "msg": "Too many requests", "data": None}, RateLimited, "Too many requests"),
    ({"status_code": 500, "status_message": "oops"}, Unavailable, "(500): oops"),
    ({"success": False, "message": "try again later"}, Unavailable, "try again later"),
    ({"base_resp": {"status_code": 1008, "status_msg": "no money"}, "choices": None}, Refused, "no credit"),
    ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": None}, RateLimited, "rate limit"),
    ({"choices": None, "error": {"message": "Slow down", "code": 429}}, RateLimited, "Slow down"),
    ({"choices": [{"error": {"message": "Slow down", "code": 429}, "finish_reason": "error"}]}, RateLimited, "Slow"),
    (
        chat("", usage={"prompt_tokens": 0, "completion_tokens": 0}, error={"message": "x", "code": 500}),
        Unavailable,
        "x",
    ),
    ({"choices": None}, Unreadable, "not in OpenAI's format"),
    ({"id": "1", "model": "writer"}, Unreadable, "not in OpenAI's format"),
]


@pytest.mark.parametrize(("body", "kind", "words"), INNER)
def test_an_error_inside_200_is_that_error(
    server: FaultServer, body: object, kind: type[FabulaError], words: str
) -> None:
    server.default = raw(json.dumps(body).encode())
    one_try = Client(server.provider(), retry_policy=RetryPolicy(tries=1))
    asks = [
        lambda: one_try.complete(CHAT),
        lambda: asyncio.run(in_bulk(server.provider())),
        lambda: list(one_try.stream(CHAT)),  # a JSON body in answer to `stream: true`
    ]
    server_events = [events(body)] if kind is not Unreadable else []
    for ask in asks:
        with pytest.raises(kind) as caught:
            ask()
        assert words in caught.value.what and caught.value.next_step
    for server.default in server_events:  # and as the first event of a stream
        with pytest.raises(kind) as caught:
            list(one_try.stream(CHAT))
        assert words in caught.value.what
    line = json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": body}})
    answer = read_answer(PROVIDER, line.encode())
    assert answer is not None and (kind is Unreadable or isinstance(answer.error, kind))


@pytest.mark.parametrize(
    "first",
    [
        {"error": {"message": "Rate limit exceeded", "code": 429}},
        {"error": {"message": "Overloaded", "type": "overloaded_error"}},
        {"id": "1", "choices": [], "error": {"message": "Worker limit reached", "code": 503}},
        {"choices": [{"delta": {"content": ""}, "error": {"message": "x", "code": 503}, "finish_reason": "error"}]},
        {"error": "Server busy"},
    ],
)
def test_a_stream_whose_first_event_is_an_error_is_tried_again(server: FaultServer, first: object) -> None:
    server.enqueue(events(first), raw(json.dumps(first).encode()), text("a", "b"))
    assert "".join(Client(server.provider(), retry_policy=QUICK).stream(CHAT)) == "ab"
    assert len(server.requests) == 3


def test_a_stream_that_has_begun_is_never_tried_again(server: FaultServer) -> None:
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    server.default = events(role, {"error": {"message": "Rate limit exceeded", "code": 429}})
    with pytest.raises(StreamCut, match="Rate limit exceeded") as caught:
        list(Client(server.provider(), retry_policy=QUICK).stream(CHAT))
    assert caught.value.may_be_billed and len(server.requests) == 1


PIECES: list[tuple[list[Any], tuple[object, ...]]] = [
    ([{"choices": [{"delta": {"content": [{"type": "text", "text": STORY}]}}]}], (STORY, None, None, 0)),
    (
        [{"choices": [{"delta": {"content": [THINKING]}}]}, {"choices": [{"delta": {"content": STORY}}]}],
        (STORY, None, None, 0),
    ),
    ([{"choices": [{"text": STORY, "finish_reason": "STOP"}], "usage": USAGE}], (STORY, 10, 5, 0)),
    ([{"choices": [{"delta": {"content": STORY}, "usage": USAGE}]}], (STORY, 10, 5, 0)),
    ([{"choices": [{"delta": {"content": STORY}}], "x_groq": {"usage": USAGE}}], (STORY, 10, 5, 0)),
    ([{"choices": [{"delta": {"content": STORY}}]}, {"choices": None, "usage": USAGE}], (STORY, 10, 5, 0)),
    ([{"choices": [{"delta": {"content": STORY}}]}, {"usage": {**USAGE, "cached_tokens": 8}}], (STORY, 10, 5, 8)),
    (
        [{"choices": [{"delta": {"content": STORY}}], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}],
        (STORY, None, None, 0),
    ),
    ([{"choices": [{"delta": None, "message": {"content": STORY}}], "model": None}], (STORY, None, None, 0)),
    (
        [
            {"choices": [{"index": 0, "delta": {"content": STORY}}]},
            {"choices": [{"index": 1, "delta": {"content": "x"}}]},
        ],
        (STORY, None, None, 0),
    ),
    (["a word", 7, None, {"choices": [{"delta": {"content": STORY}}]}, {"choices": [None]}], (STORY, None, None, 0)),
    ([{"error": {"code": 0, "message": "ok"}}, {"choices": [{"delta": {"content": STORY}}]}], (STORY, None, None, 0)),
    ([{"choices": [{"index": "0", "delta": {"content": STORY}}]}], (STORY, None, None, 0)),
    ([{"choices": [{"index": 1, "delta": {"content": STORY}}]}], (STORY, None, None, 0)),
    ([{"choices": [{"delta": {"text": STORY}}]}], (STORY, None, None, 0)),
    (  # the whole message at the end (Perplexity)
        [
            {"choices": [{"delta": {"content": "A "}}]},
            {"choices": [{"delta": {"content": "story."}}]},
            {"choices": [{"message": {"content": STORY}, "finish_reason": "stop"}], "usage": USAGE},
        ],
        (STORY, 10, 5, 0),
    ),
    (  # thinking inside the text, its tags split over events
        [
            {"choices": [{"delta": {"content": part}}]}
            for part in ("\n", "<th", "ink>Hm", ".</thi", "nk>", "\n\n", "A ", "story.")
        ],
        (STORY, None, None, 0),
    ),
    ([{"choices": [{"delta": {"content": "<"}}]}, {"choices": [{"delta": {"content": "3"}}]}], ("<3", None, None, 0)),
    ([{"choices": [{"delta": {"content": "[TH"}}]}], ("[TH", None, None, 0)),
    ([{"choices": [{"delta": {"content": "<think>Hm"}, "finish_reason": "length"}]}], ("<think>Hm", None, None, 0)),
    (  # counts that fall back to 0 in the last event
        [
            {"choices": [{"delta": {"content": STORY}}], "usage": {**USAGE, "cached_tokens": 8}},
            {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
        ],
        (STORY, 10, 5, 8),
    ),
]


@pytest.mark.parametrize(("chunks", "expected"), PIECES)
def test_a_stream_is_read_whatever_the_shape_of_its_events(
    server: FaultServer, chunks: list[object], expected: tuple[object, ...]
) -> None:
    server.default = events(*chunks)
    stream = Client(server.provider()).stream(CHAT)
    text_ = "".join(stream)
    facts = stream.facts
    assert (text_, facts.prompt_tokens, facts.tokens, facts.cached_tokens) == expected
    assert facts.finish_reason in ("stop", "unknown", "length") and facts.started and facts.model == "writer"


@pytest.mark.parametrize(
    ("first", "has_thinking"), [("\n", False), ("<", False), ("<think>\n", False), ("<think>Hm", True)]
)
def test_what_is_held_back_is_not_yet_thinking(server: FaultServer, first: str, has_thinking: bool) -> None:
    server.default = events(*({"choices": [{"delta": {"content": part}}]} for part in (first, "</think>", STORY)))
    stream = Client(server.provider()).stream(CHAT)
    assert STORY in "".join(stream)
    assert stream.facts.has_thinking is has_thinking


@pytest.mark.parametrize(
    ("prompt", "parts", "expected"),
    [
        ("once<think>", ("Hm, a ", "sto", "ry.</th", "ink>\n\n", STORY), STORY),
        ("once<think>\n", (f"Hm.</think>{STORY}",), STORY),
        ("once[THINK]", ("Hm.[/THI", f"NK]{STORY}"), STORY),
        ("once<think>", ("Hm, it never", " ends."), "Hm, it never ends."),
        ("once", (STORY,), STORY),
    ],
)
def test_thinking_that_the_prompt_has_opened_is_left_out_of_a_stream(
    server: FaultServer, prompt: str, parts: tuple[str, ...], expected: str
) -> None:
    server.default = events(*({"choices": [{"delta": {"content": part}}]} for part in parts))
    assert "".join(Client(server.provider()).stream(replace(CHAT, prompt=prompt))) == expected


def test_our_own_models_write_what_they_have_learned_to(server: FaultServer) -> None:
    thinking = f"<think>Hm.</think>{STORY}"
    server.default = text("<think>", f"Hm.</think>{STORY}")
    engine = Client(server.provider("engine"))
    assert "".join(engine.stream(CHAT)) == engine.complete(CHAT).texts[0].text == thinking


ERROR_LINES = [
    'error: {"code": 500, "message": "context full", "type": "server_error"}\n\n',  # llama.cpp
    '{"error": {"message": "context full", "type": "api_error"}}\n',  # Ollama
    '{"error": "context full"}\n\n',
    "event: error\ndata: context full\n\n",
    'event: error\ndata: {"error": {"message": "context full"}}\n\n',
]


@pytest.mark.parametrize("line", ERROR_LINES)
@pytest.mark.parametrize("announced", [True, False])
def test_an_error_line_of_a_stream_is_its_end_in_its_own_words(server: FaultServer, line: str, announced: bool) -> None:
    written = 'data: {"choices": [{"delta": {"content": "A "}}]}\n\n'
    end = "data: [DONE]\n\n" * announced
    server.default = raw((written + line + end).encode(), "text/event-stream")
    client = Client(server.provider(), retry_policy=RetryPolicy(tries=1))
    stream = client.stream(CHAT)
    assert next(stream) == "A "
    with pytest.raises(StreamCut, match="context full"):
        next(stream)
    (choice,) = client.complete(CHAT).texts
    assert (choice.text, choice.finish_reason, choice.error) == ("A ", "error", "context full")
    server.default = raw((line + end).encode(), "text/event-stream")
    with pytest.raises(ProviderError, match="context full"):  # the first event: nothing has begun
        list(client.stream(CHAT))


@pytest.mark.parametrize(
    "body",
    [
        'data: {"choices": [{"delta": {"content": "A "}}]}\r\n\r\n'
        'data: {"choices": [{"delta": {"content": "story."}, "finish_reason": "stop"}]}\r\n\r\n',
        'data: ping\n\ndata: {"choices": [{"delta": {"content": "A "}}]}\n\ndata: ping\n\n'
        'data: {"choices": [{"delta": {"content": "story."}, "finish_reason": "stop"}]}\n\n',
        ': hello\n\nevent: chunk\nid: 1\ndata:{"choices": [{"text": "A story.", "finish_reason": "stop"}]}\n\n',
        'data: {"choices": [{"text": "A "}]}\n'
        'data: {"choices": [{"text": "story.", "finish_reason": "stop"}]}\ndata: [DONE]\n',
        'data: {"choices":\ndata: [{"text": "A story.", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
        '\ufeff\n\ndata: {"choices": [{"text": "A story.", "finish_reason": "stop"}]}',
    ],
)
def test_events_are_decoded_as_the_standard_and_servers_write_them(server: FaultServer, body: str) -> None:
    server.default = raw(body.encode(), "text/event-stream")
    stream = Client(server.provider()).stream(CHAT)
    assert "".join(stream) == STORY and stream.facts.finish_reason == "stop"


@pytest.mark.parametrize("body", [b"", b"busy", b"data: {\n\n", b"data: [DONE]\n\n", b'{"choices'])
def test_a_stream_without_a_first_event_may_be_billed_and_is_not_repeated(server: FaultServer, body: bytes) -> None:
    server.default = raw(body, "text/event-stream")
    with pytest.raises(Unreadable) as caught:
        list(Client(server.provider(), retry_policy=QUICK).stream(CHAT))
    assert caught.value.may_be_billed and len(server.requests) == 1


def test_an_error_beside_usage_is_an_answer_that_is_billed() -> None:
    completion = parse_completion(
        chat("", usage=USAGE, error={"message": "upstream broke", "code": 502}), PROVIDER, "writer"
    )
    assert (completion.texts[0].error, completion.prompt_tokens, completion.completion_tokens) == (
        "upstream broke",
        10,
        5,
    )
    broken = {"message": {"content": "A st"}, "finish_reason": "error", "error": {"message": "broke", "code": 502}}
    cut = parse_completion({"choices": [broken], "usage": USAGE}, PROVIDER, "writer")
    assert (cut.texts[0].text, cut.texts[0].finish_reason, cut.texts[0].error) == ("A st", "error", "broke")


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": "", "reasoning_content": "Hm."}, "finish_reason": "error"},
        {"message": {"content": [THINKING]}, "finish_reason": "error"},
        {"message": {"content": None, "reasoning": "Hm."}, "error": {"message": "broke", "code": 429}},
    ],
)
def test_an_error_beside_thinking_is_an_answer_at_an_unknown_cost(server: FaultServer, choice: dict[str, Any]) -> None:
    body = {"choices": [choice], "error": {"message": "broke", "code": 429}}
    completion = parse_completion(body, PROVIDER, "writer")
    assert (completion.texts[0].text, completion.texts[0].error) == ("", "broke")
    assert (completion.prompt_tokens, completion.completion_tokens) == (None, None)
    server.default = events({**body, "choices": [{**choice, "delta": choice["message"]}]})
    assert asyncio.run(in_bulk(server.provider())).texts[0].error == "broke"
    with pytest.raises(StreamCut, match="broke") as caught:
        list(Client(server.provider(), retry_policy=QUICK).stream(CHAT))
    assert caught.value.may_be_billed and len(server.requests) == 2


@pytest.mark.parametrize("last", [b"data: {broken\n\n", b'data: {"error": {"message": "x"}}\n\n', b"data: [DON"])
def test_a_stream_that_breaks_after_its_ending_has_its_whole_text(server: FaultServer, last: bytes) -> None:
    whole = {"choices": [{"delta": {"content": STORY}, "finish_reason": "stop"}]}
    server.default = raw(b"data: " + json.dumps(whole).encode() + b"\n\n" + last, "text/event-stream")
    stream = Client(server.provider()).stream(CHAT)
    assert ("".join(stream), stream.facts.finish_reason, stream.facts.tokens) == (STORY, "stop", None)


# --- no credit ---

BROKE: list[tuple[int, object]] = [
    (429, {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": None}}),
    (429, {"error": {"message": "You exceeded your current quota", "type": "x", "code": "insufficient_quota"}}),
    (429, {"error": {"code": "1113", "message": "您的账户已欠费，请充值后重试"}}),
    (429, {"error": {"code": 1113, "message": "Your account is in arrears, please recharge and try again"}}),
    (429, {"error": {"message": "余额不足或无可用资源包,请充值。"}}),
    (
        400,
        {
            "error": {
                "code": "Arrearage",
                "message": "Access denied, please make sure your account is in good standing.",
            }
        },
    ),
    (400, {"code": "Arrearage", "message": "Access denied."}),
    (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}}),
    (402, {"error": {"code": 402, "message": "This request requires more credits, or fewer max_tokens."}}),
    (402, "Payment Required"),
    (429, {"error": {"type": "exceeded_current_quota_error", "message": "Your account is suspended."}}),
    (403, {"error": {"message": "用户额度不足", "code": "insufficient_user_quota"}}),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
    (403, {"error": {"code": "AccountOverdueError", "message": "The request failed."}}),
    (403, {"error": {"code": "AllocationQuota.FreeTierOnly", "message": "The free tier has been exhausted."}}),
    (400, {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}}),
    (412, {"error": {"message": "Account is suspended, possibly due to reaching the monthly spending limit."}}),
    (429, {"error": {"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached"}}),
    (401, {"error": {"type": "insufficient_quota", "message": "You exceeded your current quota"}}),
    (200, {"error": {"code": 402, "message": "Insufficient credits"}}),
    (400, {"error": {"message": "Budget has been exceeded! Current cost: 0.5", "type": "budget_exceeded"}}),  # LiteLLM
    (400, {"error": {"message": "You have reached your specified API usage limits.", "type": "invalid_request_error"}}),
    (429, [{"error": {"code": 429, "message": "Your prepayment credits are depleted."}}]),  # Gemini
    (429, [{"error": {"code": 429, "message": "Your project has exceeded its monthly spending cap."}}]),  # Gemini
    (429, {"error": {"message": "您的账号资源包已用尽"}}),
    (429, {"error": {"message": "当前账户可用额度为0"}}),
    (429, {"error": {"code": "1309", "message": "您的GLM Coding Plan套餐已到期，暂无法使用"}}),
    (429, {"error": {"code": "1311", "message": "当前订阅套餐暂未开放GLM-5权限"}}),
    (429, {"error": {"code": "SetLimitExceeded", "message": "The set inference limit is reached."}}),  # Volcengine
    (429, {"error": {"message": "订阅套餐已到期，请续费"}}),
    (200, {"error": {"code": "1113", "message": "余额不足"}}),
    (200, {"code": 50002, "msg": "Insufficient balance"}),
]


@pytest.mark.parametrize(("status", "body"), BROKE)
def test_no_credit_ends_it_at_once_in_every_dialect(server: FaultServer, status: int, body: object) -> None:
    words = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    server.default = Answer(status=status, body=words.encode())
    ours = Client(server.provider(), retry_policy=QUICK)
    asks = [
        lambda: ours.complete(CHAT),
        lambda: asyncio.run(in_bulk(server.provider())),
        lambda: list(ours.stream(CHAT)),
    ]
    for count, ask in enumerate(asks, 1):
        with pytest.raises(Refused, match="no credit left"):
            ask()
        assert len(server.requests) == count  # none of them is retried


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, {"error": {"message": "Rate limit reached for requests", "code": "rate_limit_exceeded"}}),
        (429, {"error": {"code": "1302", "message": "您的账户已达到速率限制，请您控制请求频率"}}),
        (
            429,
            {
                "error": {
                    "code": "insufficient_quota",
                    "message": "Allocated quota exceeded, please increase your quota limit.",
                }
            },
        ),
        (
            429,
            [
                {
                    "error": {
                        "code": 429,
                        "message": "You exceeded your current quota, please check your plan and billing details.",
                        "status": "RESOURCE_EXHAUSTED",
                    }
                }
            ],
        ),
        (429, {"error": {"message": "Limit: 3 RPM. Add a payment method to your account to raise it."}}),
        (429, {"error": {"type": "engine_overloaded_error", "message": "The engine is currently overloaded"}}),
        (429, {"error": {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000"}}),
        (429, {"error": {"code": "1310", "message": "已达到每周使用上限，您的限额将在 2026-12-01 重置"}}),
        (200, {"error_code": 18, "error_msg": "Open api qps request limit reached"}),  # Qianfan
    ],
)
def test_what_passes_by_itself_is_no_lack_of_credit(server: FaultServer, status: int, body: object) -> None:
    server.default = Answer(status=status, body=json.dumps(body).encode())
    with pytest.raises(RateLimited):
        Client(server.provider(), retry_policy=RetryPolicy(tries=1)).complete(CHAT)


def test_a_word_of_the_prompt_in_an_error_is_shown_without_the_key(server: FaultServer) -> None:
    server.default = raw(json.dumps({"error": {"message": f"Key {KEY} is odd", "code": 400}}).encode())
    with pytest.raises(ProviderError) as caught:
        Client(server.provider()).complete(CHAT)
    assert KEY not in caught.value.what and "[key]" in caught.value.what


WORDS: list[tuple[object, str]] = [
    ({"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]}, "body.messages: Field"),
    ({"detail": ["bad", {"msg": "worse"}]}, "bad; worse"),
    (
        {"object": "error", "message": {"detail": [{"loc": ["body", "x"], "msg": "Extra inputs are not permitted"}]}},
        "body.x: Extra inputs are not permitted",
    ),
    (
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "The context is full."}}},
        "Provider returned error: The context is full.",
    ),
    (
        {
            "error": {
                "message": "Provider returned error",
                "metadata": {"raw": '{"error": {"message": "No such voice"}}'},
            }
        },
        "Provider returned error: No such voice",
    ),
    ({"error": {"message": "no", "metadata": {"raw": "{" * 5_000, "provider_name": "X"}}}, "no: {{"),
    ({"error": {"message": "no", "metadata": None}}, "no"),
]


@pytest.mark.parametrize(("body", "words"), WORDS)
def test_the_words_of_an_error_are_found_where_servers_put_them(server: FaultServer, body: object, words: str) -> None:
    server.default = Answer(status=422, body=json.dumps(body).encode())
    with pytest.raises(BadRequest) as caught:
        Client(server.provider()).complete(CHAT)
    assert f"(422): {words}" in caught.value.what


@pytest.mark.parametrize("key", ["k", "none", "ollama", "EMPTY", ""])
def test_a_word_in_place_of_a_key_is_no_secret(server: FaultServer, key: str) -> None:
    server.default = Answer(status=400, body=b'{"error": "none of the tokens in EMPTY is known to ollama"}')
    with pytest.raises(BadRequest, match="none of the tokens in EMPTY is known to ollama"):
        Client(server.provider(key=key)).complete(CHAT)


@pytest.mark.parametrize(
    ("status", "body", "billed"),
    [
        (424, {"error": "Request failed during generation: Server error", "error_type": "generation"}, True),  # TGI
        (424, {"message": "The request failed due to an error while processing the model."}, True),  # Bedrock
        (498, {"error": {"message": "Flex tier capacity exceeded", "code": "capacity_exceeded"}}, False),  # Groq
    ],
)
def test_a_failure_behind_the_server_is_no_fault_of_the_request(
    server: FaultServer, status: int, body: object, billed: bool
) -> None:
    server.default = Answer(status=status, body=json.dumps(body).encode())
    with pytest.raises(Unavailable) as caught:
        Client(server.provider(), retry_policy=RetryPolicy(tries=1)).complete(CHAT)
    assert caught.value.may_be_billed is billed


def test_an_error_status_stays_what_it_is(server: FaultServer) -> None:
    server.default = error(500, "oops", "429")
    with pytest.raises(Unavailable, match=r"\(500\): oops"):
        Client(server.provider(), retry_policy=RetryPolicy(tries=1)).complete(CHAT)


@pytest.mark.parametrize("in_parallel", [False, True])
def test_a_call_of_a_tool_is_an_answer_where_the_request_offers_tools(server: FaultServer, in_parallel: bool) -> None:
    function = {"name": "track", "arguments": '{"parcel": 7}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    answer = chat(finish_reason="tool_calls") | {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    tools = json.dumps([{"type": "function", "function": {"name": "track"}}])
    provider = server.provider()
    for request, told in (
        (
            replace(CHAT, tools=tools, parallel_tool_calls=False),
            '{"tool_calls": [{"name": "track", "arguments": {"parcel": 7}}]}',
        ),
        (CHAT, ""),
    ):
        server.enqueue(raw(json.dumps(answer).encode()))
        if in_parallel:
            completion = asyncio.run(_once(provider, request))
        else:
            completion = Client(provider).complete(request, once=True)
        assert [choice.text for choice in completion.texts] == [told]
        assert completion.texts[0].finish_reason == ("stop" if told else "tool_calls")
        body = server.requests[-1].body
        assert (json.dumps(body.get("tools")), body.get("parallel_tool_calls")) == (
            (tools, False) if request.tools else ("null", None)
        )
    line = json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": answer}}).encode()
    found = read_answer(PROVIDER, line, replace(CHAT, tools=tools))
    assert found is not None and found.completion is not None and "track" in found.completion.texts[0].text


async def _once(provider: Provider, request: CompletionRequest) -> Completion:
    client = AsyncTextClient(provider)
    try:
        return await client.complete(request)
    finally:
        await client.aclose()
