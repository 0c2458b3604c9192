"""Which error responses prove that nothing was billed: every status and format, for each kind of request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest

from core.errors import ProviderError
from core.providers import Client, CompletionRequest, Provider, RetryPolicy
from core.providers.async_client import AsyncTextClient
from core.providers.errors import from_status
from core.stories.error_explanation import explain
from tests.support.fault_server import KEY, Answer, FaultServer, error, html, raw

_ENVOY = "upstream connect error or disconnect/reset before headers. reset reason: "
_JSON = {"content-type": "application/json"}
_CHAT = CompletionRequest("writer", "Tell a story.", max_tokens=9)


def _provider(kind: str = "compatible") -> Provider:
    return Provider("p", kind, "The test server", "http://127.0.0.1:1/v1", KEY)  # type: ignore[arg-type]  # for brevity


def _said(message: str, code: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "code": code}}


STATUSES: list[tuple[int, object, Mapping[str, str], bool]] = [
    # rejected before the request was processed
    (301, "", {"content-type": "text/html"}, False),
    (307, "", {"content-type": "text/html"}, False),
    (400, _said("no"), _JSON, False),
    (401, _said("key"), _JSON, False),
    (402, _said("pay"), _JSON, False),
    (403, _said("region"), _JSON, False),
    (404, _said("model not found", "model_not_found"), _JSON, False),
    (409, _said("locked"), _JSON, False),
    (413, _said("too large"), _JSON, False),
    (422, _said("no"), _JSON, False),
    (425, _said("early"), _JSON, False),
    (429, _said("slow down"), _JSON, False),
    (498, _said("no flex capacity"), _JSON, False),
    (503, _said("The engine is currently overloaded"), _JSON, False),
    (503, "The model is loading", {"content-type": "application/json; charset=utf-8"}, False),
    (503, "busy", {}, False),  # an error inside another response
    (521, "error code: 521", {"content-type": "text/plain"}, False),
    (523, "error code: 523", {"content-type": "text/plain"}, False),
    (525, "error code: 525", {"content-type": "text/plain"}, False),
    (529, _said("Overloaded", "overloaded_error"), _JSON, False),
    # it may have been processed
    (303, "", {"content-type": "text/html"}, True),
    (400, _said("The response was filtered", "content_filter"), _JSON, True),
    # refused after the model had generated text
    (400, {"error": {"message": "Failed to call a function.", "failed_generation": "Once"}}, _JSON, True),
    (400, _said("Parsing failed.", "output_parse_failed"), _JSON, True),
    (400, _said("Tool choice is none, but model called a tool", "tool_use_failed"), _JSON, True),
    (400, _said("Could not finish the message because max_tokens or model output limit was reached."), _JSON, True),
    (
        400,
        _said("The output text may contain sensitive information.", "OutputTextSensitiveContentDetected"),
        _JSON,
        True,
    ),
    (400, _said("It violates ContentSecurityDetection.", "OutputTextRiskDetection"), _JSON, True),
    (400, _said("Output data may contain inappropriate content.", "data_inspection_failed"), _JSON, True),
    (400, _said("系统检测到输入或生成内容可能包含不安全或敏感内容", "1301"), _JSON, True),
    # refused before: filters of the input, and limits
    (400, _said("Input data may contain inappropriate content.", "data_inspection_failed"), _JSON, False),
    (400, _said("The input text may contain sensitive information.", "SensitiveContentDetected"), _JSON, False),
    (400, _said("max_tokens is too large: 9. This model supports at most 8 output tokens."), _JSON, False),
    (408, _said("late"), _JSON, True),
    (424, _said("the model failed"), _JSON, True),
    (500, _said("oops"), _JSON, True),
    (501, _said("no"), _JSON, True),
    (502, "<html></html>", {"content-type": "text/html"}, True),
    (503, "<html><title>Application error</title></html>", {"content-type": "text/html"}, True),
    (503, "", {"content-length": "0"}, True),
    (503, _ENVOY + "connection termination", {"content-type": "text/plain"}, True),
    (503, {"error": {"message": _ENVOY + "connection termination"}}, _JSON, True),
    (503, {"error": {"message": _ENVOY + "connection failure"}}, _JSON, False),
    (503, {"error": {"message": _ENVOY + "overflow"}}, _JSON, False),
    (504, _said("late"), _JSON, True),
    (520, "error code: 520", {"content-type": "text/plain"}, True),
    (522, "error code: 522", {"content-type": "text/plain"}, True),
    (524, "error code: 524", {"content-type": "text/plain"}, True),
    (530, "error code: 1033", {"content-type": "text/plain"}, True),
    (599, "", {"content-type": "text/plain"}, True),
]


@pytest.mark.parametrize(("status", "body", "headers", "billed"), STATUSES)
def test_what_an_error_answer_proves(status: int, body: object, headers: Mapping[str, str], billed: bool) -> None:
    assert from_status(status, body, headers, _provider()).may_be_billed is billed


@pytest.mark.parametrize(
    ("kind", "message", "code", "billed"),
    [
        ("azure", "This model's maximum context length is 8192 tokens", "context_length_exceeded", True),
        ("openai", "This model's maximum context length is 8192 tokens", "context_length_exceeded", False),
        ("azure", "The response was filtered", "content_filter", True),
        ("compatible", "The response was filtered", "ResponsibleAIPolicyViolation", True),
        ("azure", "Unsupported parameter: 'top_p' is not supported with this model.", "unsupported_parameter", False),
    ],
)
def test_azure_bills_prompts_that_it_read_before_it_refused_them(
    kind: str, message: str, code: str, billed: bool
) -> None:
    """Microsoft's "Plan to manage costs" and "Content filtering"."""
    body = {"error": {"message": message, "code": code, "param": "top_p" if "top_p" in message else None}}
    assert from_status(400, body, _JSON, _provider(kind)).may_be_billed is billed


def test_an_explained_error_is_billed_like_the_one_that_it_explains(store: object) -> None:
    said = _said("The prompt triggered Azure OpenAI's content management policy", "content_filter")
    refused = from_status(400, said, _JSON, _provider())
    explained = explain(store, None, _provider(), "writer", refused)  # type: ignore[arg-type]  # not looked at
    assert explained is not refused and isinstance(explained, ProviderError) and explained.may_be_billed


INSIDE: list[tuple[object, bool]] = [
    ({"message": "Slow down", "code": 429}, False),
    ({"message": "The server is overloaded", "code": "server_error"}, False),
    ({"message": "Service unavailable", "code": 503}, False),
    ({"code": "1234", "message": "网络错误"}, True),
    ({"message": "Provider returned error", "code": 502}, True),
    ({"message": "Internal server error", "type": "server_error"}, True),
    ("Upstream request timed out", True),
    ({"message": "bad gateway"}, True),
    # an error that says nothing about the request: the endpoint had accepted it
    ("generation failed", True),
    ({"message": "Something went wrong"}, True),
    ({"message": "The model returned an empty response", "code": "empty_response"}, True),
    ({"code": -1, "message": "生成失败"}, True),
    ({"code": "content_filter", "message": "Filtered"}, True),
    # and one that rejects it
    ("Unexpected endpoint or method. (POST /chat)", False),
    ({"message": "no", "code": 400}, False),
    ({"message": "no", "type": "invalid_request_error"}, False),
    ({"message": "no such model", "code": "model_not_found"}, False),
    ({"message": "This model's maximum context length is 8192 tokens", "code": "context_length_exceeded"}, False),
    ({"message": "Unsupported parameter: 'seed'"}, False),
    ({"message": "messages is required"}, False),
    ("Missing field model", False),
    ({"message": "prompt must not be empty"}, False),
    ({"message": "temperature must be <= 1"}, False),
    ({"message": "maximum context is 4096 tokens; you asked for 5000"}, False),
    ({"message": "model `x` not exist"}, False),
]


@pytest.mark.parametrize(
    ("code", "message", "billed"),
    [(1027, "output new_sensitive", True), (1026, "input new_sensitive", True), (2013, "invalid params", False)],
)
def test_what_an_error_of_minimax_proves(server: FaultServer, code: int, message: str, billed: bool) -> None:
    answer = raw(json.dumps({"choices": None, "base_resp": {"status_code": code, "status_msg": message}}).encode())
    assert _asked(server, answer, "single").may_be_billed is billed


@pytest.mark.parametrize(("inner", "billed"), INSIDE)
@pytest.mark.parametrize("way", ["bulk", "single"])
def test_what_an_error_inside_200_proves(server: FaultServer, inner: object, billed: bool, way: str) -> None:
    answer = raw(json.dumps({"error": inner}).encode())
    assert _asked(server, answer, way).may_be_billed is billed


@pytest.mark.parametrize(
    ("answer", "billed"),
    [(error(503, "busy"), False), (html(503), True), (error(500, "x"), True), (error(529, "x"), False)],
)
@pytest.mark.parametrize("way", ["bulk", "single"])
def test_both_clients_read_it_from_a_real_answer(server: FaultServer, answer: Answer, billed: bool, way: str) -> None:
    assert _asked(server, answer, way).may_be_billed is billed


def _asked(server: FaultServer, answer: Answer, way: str) -> ProviderError:
    server.default = answer
    with pytest.raises(ProviderError) as failed:
        if way == "bulk":
            asyncio.run(_in_bulk(server.provider()))
        else:
            Client(server.provider(), retry_policy=RetryPolicy(total_s=5, tries=1)).complete(_CHAT)
    return failed.value


async def _in_bulk(provider: Provider) -> None:
    client = AsyncTextClient(provider)
    try:
        await client.complete(_CHAT)
    finally:
        await client.aclose()
