"""Rejected parameters: parsed from the 400 of every provider, omitted from then on, and reported to the user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from core.errors import BadRequest, Unavailable
from core.providers import Client, CompletionRequest, Provider, RetryPolicy, parameters
from core.providers.async_client import AsyncTextClient
from core.providers.batches import read_answer
from core.providers.rejected_parameters import refused_parameters
from tests.support import fault_server
from tests.support.fault_server import Answer, FaultServer
from tests.support.waiting import at_once

_REQUEST = CompletionRequest("gpt-5", "Tell a story.", temperature=0.5, top_p=0.9, max_tokens=77, stop=("END",), seed=3)
_ONCE = RetryPolicy(total_s=5, tries=1)


def _openai(param: str, message: str, code: str = "unsupported_parameter") -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error", "param": param, "code": code}


def _said(message: object) -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error", "param": None, "code": None}


def _forbidden(*names: str) -> list[dict[str, Any]]:
    return [
        {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}
        for name in names
    ]


_LIMIT_REACHED = (
    "Could not finish the message because max_tokens or model output limit was reached. "
    "Please try again with higher max_tokens."
)
# server messages about a parameter (public bug reports), and the parameter they reject
_REFUSALS: list[tuple[str, object, set[str]]] = [
    (
        "OpenAI, the token cap",
        _openai(
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
        ),
        {"max_tokens"},
    ),
    (
        "a gateway that hands on only the words",
        {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "code": "invalid_request_body",
        },
        {"max_tokens"},
    ),
    ("a plain recommendation", _said("Please use max_completion_tokens instead of max_tokens."), {"max_tokens"}),
    (
        "an older Azure",
        _said("Unrecognized request argument supplied: max_completion_tokens"),
        {"max_completion_tokens"},
    ),
    (
        "Azure with a link",
        _said(
            "Unrecognized request argument supplied: stream_options. Please contact us through an Azure support "
            "request at: https://go.microsoft.com/fwlink/?linkid=2213926 for further questions."
        ),
        {"stream_options"},
    ),
    (
        "several at once",
        _said("Unrecognized request arguments supplied: seed, stream_options"),
        {"seed", "stream_options"},
    ),
    (
        "OpenAI, only the default",
        _openai(
            "temperature",
            "Unsupported value: 'temperature' does not support 0.7 with this model. "
            "Only the default (1) value is supported.",
            "unsupported_value",
        ),
        {"temperature"},
    ),
    (
        "the same without code and param",
        _said(
            "Unsupported value: 'temperature' does not support 0 with this model. "
            "Only the default (1) value is supported."
        ),
        {"temperature"},
    ),
    (
        "Azure, an unknown one",
        _openai("stream_options", "Unknown parameter: 'stream_options'.", "unknown_parameter"),
        {"stream_options"},
    ),
    ("not recognized", _said("This endpoint does not recognize the parameter `seed`."), {"seed"}),
    ("not a valid parameter", _said("Invalid request: seed is not a valid parameter for this model."), {"seed"}),
    ("unexpected, of a JSON schema", _said("'seed' was unexpected"), {"seed"}),
    ("invalid for a model", _said("The parameter top_p is invalid for this model."), {"top_p"}),
    ("the limit that was reached, not refused", _said(_LIMIT_REACHED), set()),
    ("OpenAI, stop", _said("Unsupported parameter: 'stop' is not supported with this model."), {"stop"}),
    (
        "OpenAI, n",
        _openai("n", "Unsupported value: 'n' does not support 3 with this model.", "unsupported_value"),
        {"n"},
    ),
    ("Mistral", {"object": "error", "message": {"detail": _forbidden("seed", "n")}, "code": None}, {"seed", "n"}),
    (
        "Mistral, below a parameter",
        {
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "stream_options", "include_usage"],
                        "msg": "Extra inputs are not permitted",
                        "input": True,
                        "url": "https://errors.pydantic.dev/2.10/v/extra_forbidden",
                    }
                ]
            }
        },
        {"stream_options"},
    ),
    ("Mistral behind a proxy", _said(json.dumps({"detail": _forbidden("top_p")})), {"top_p"}),
    (
        "vLLM, a Python list as text",
        {
            "object": "error",
            "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not "
            "permitted', 'input': {'include_usage': True}}]",
            "code": 400,
        },
        {"stream_options"},
    ),
    ("FastAPI", {"detail": _forbidden("seed")}, {"seed"}),
    (
        "an older pydantic",
        _said("1 validation error for Request\nstream_options\n  extra fields not permitted (type=value_error.extra)"),
        {"stream_options"},
    ),
    ("Python's own words", _said("create() got an unexpected keyword argument 'seed'"), {"seed"}),
    ("unexpected", _said("Unexpected parameter 'stream_options'"), {"stream_options"}),
    (
        "a suggestion of another one",
        _said("property 'body.seed' is unsupported, did you mean 'stop'?"),
        {"seed"},
    ),
    ("not a supported one", _said("seed is not a supported parameter"), {"seed"}),
    ("Chinese, without spaces", _said("该模型不支持temperature参数"), {"temperature"}),
    ("Bedrock", _said("extraneous key [seed] is not permitted, please reformat your input and try again."), {"seed"}),
    ("either of two", _said("`top_p` cannot be specified together with `temperature`."), {"top_p"}),
    ("either of two, in other words", _said("temperature and top_p are mutually exclusive"), {"top_p"}),
    ("the default only", _said("Only the default value of temperature is supported."), {"temperature"}),
    ("a value", _said("`temperature` must be strictly positive"), set()),
    ("Fireworks", _said("Extra inputs are not permitted, field: 'seed', value: 7"), {"seed"}),
    ("Anthropic", _said("`temperature` is deprecated for this model."), {"temperature"}),
    ("Anthropic, without quotes", _said("temperature is deprecated for this model."), {"temperature"}),
    (
        "Anthropic while it thinks",
        _said("`temperature` may only be set to 1 when thinking is enabled or in adaptive mode."),
        {"temperature"},
    ),
    (
        "Bedrock through LiteLLM",
        {
            "message": 'litellm.BadRequestError: BedrockException - {"message":"The model returned the following '
            'errors: `temperature` and `top_p` cannot both be specified for this model. Please use only one."}',
            "code": "400",
        },
        {"top_p"},
    ),
    ("Moonshot", _said("invalid temperature: only 1 is allowed for this model"), {"temperature"}),
    ("Moonshot, another one", _said("invalid temperature: only 0.6 is allowed for this model"), {"temperature"}),
    ("xAI", {"code": "invalid-argument", "error": "Model grok-4.6 does not support parameter stop."}, {"stop"}),
    (
        "xAI, another version",
        {"code": "Client specified an invalid argument", "error": "Argument not supported on this model: stop"},
        {"stop"},
    ),
    (
        "Gemini",
        {
            "code": 400,
            "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.\n'
            'Invalid JSON payload received. Unknown name "top_p": Cannot find field.',
            "status": "INVALID_ARGUMENT",
        },
        {"seed", "top_p"},
    ),
    (
        "LiteLLM",
        _said("litellm.UnsupportedParamsError: openai does not support parameters: ['temperature'], for model=gpt-5"),
        {"temperature"},
    ),
    (
        "LiteLLM with values",
        _said("ollama does not support parameters: {'seed': 1}, for model=llama3:latest. To drop these, set …"),
        {"seed"},
    ),
    ("Groq", _said("property 'seed' is unsupported"), {"seed"}),
    (
        "a server written in Rust names what it takes",
        "Failed to deserialize the JSON body into the target type: unknown field `stream_options`, expected one of "
        "`model`, `messages`, `temperature`, `top_p`, `seed`, `stop` at line 1 column 90",
        {"stream_options"},
    ),
    ("in Chinese", _said("该模型不支持 temperature 参数"), {"temperature"}),
    # messages about something else
    ("a value out of range", _said("temperature is too high"), set()),
    (
        "OpenAI's range",
        _openai("temperature", "Invalid 'temperature': expected a value <= 2.", "decimal_above_max_value"),
        set(),
    ),
    (
        "DashScope's range",
        _said("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]"),
        set(),
    ),
    ("DeepSeek's range", _said("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"), set()),
    (
        "too many tokens",
        _openai(
            "max_tokens",
            "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
            "invalid_value",
        ),
        set(),
    ),
    ("a value that is not allowed to be so large", _said("max_tokens is not allowed to exceed 4096"), set()),
    ("another parameter", _openai("messages[0].role", "Unsupported value: 'system'", "unsupported_value"), set()),
    ("a long prompt", _said("This model's maximum context length is 8192 tokens. Please reduce the prompt."), set()),
    ("a finish reason", _said("The model stopped for an unknown reason: stop"), set()),
    ("a name inside another", _said("Unknown parameter: 'seed_everything'."), set()),
    ("no object", None, set()),
    ("a web page", "<html><title>400</title></html>", set()),
]


@pytest.mark.parametrize(("error", "names"), [r[1:] for r in _REFUSALS], ids=[r[0] for r in _REFUSALS])
def test_which_parameters_an_error_is_about(error: object, names: set[str]) -> None:
    assert refused_parameters(error) == names


# --- what is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "temperature", "top_p", "sent"),
    [
        ("engine", 1.0, 1.0, {}),
        ("openai", 1.0, 1.0, {}),
        ("azure", 1.0, 1.0, {}),
        ("compatible", 1.0, 1.0, {"temperature": 1.0}),  # its default is unknown
        ("openai", 0.0, 1.0, {"temperature": 0.0}),
        ("engine", 0.5, 0.9, {"temperature": 0.5, "top_p": 0.9}),
        ("compatible", 0.7, 0.0, {"temperature": 0.7, "top_p": 0.0}),
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_defaults_are_not_sent(
    kind: str, temperature: float, top_p: float, sent: dict[str, float], endpoint: str
) -> None:
    request = CompletionRequest("m", "x", endpoint=endpoint, temperature=temperature, top_p=top_p)  # type: ignore[arg-type]
    with FaultServer() as server:
        Client(server.provider(kind)).complete(request)
        body = server.requests[0].body
    assert {name: body[name] for name in ("temperature", "top_p") if name in body} == sent


class _Picky:
    """A model that rejects some parameters, one at a time, with its provider's message."""

    def __init__(self, *refused: str, said: Callable[[str], dict[str, Any]] | None = None) -> None:
        self.refused = refused
        self._said = said or (lambda name: _openai(name, f"Unsupported parameter: '{name}' is not supported."))

    def __call__(self, body: Any) -> Answer:
        for name in self.refused:
            if name in body:
                error_body = json.dumps({"error": self._said(name)}).encode()
                return Answer(status=400, body=error_body)
        return fault_server.text("A story.")


def _serve(server: FaultServer, picky: _Picky) -> None:
    server.judge = picky


def _whole(provider: Provider) -> str:
    return Client(provider, retry_policy=_ONCE).complete(_REQUEST).texts[0].text


def _streamed(provider: Provider) -> str:
    return "".join(Client(provider, retry_policy=_ONCE).stream(_REQUEST))


def _in_bulk(provider: Provider) -> str:
    async def ask() -> str:
        bulk = AsyncTextClient(provider)
        try:
            return (await bulk.complete(_REQUEST)).texts[0].text
        finally:
            await bulk.aclose()

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [_whole, _streamed, _in_bulk], ids=["whole", "stream", "bulk"])
@pytest.mark.parametrize("kind", ["engine", "openai", "azure", "compatible"])
def test_a_refused_parameter_is_sent_once_and_never_again(ask: Callable[[Provider], str], kind: str) -> None:
    with FaultServer() as server:
        _serve(server, _Picky("temperature", "stop"))
        provider = server.provider(kind)
        assert ask(provider) == "A story."
        assert len(server.requests) == 3
        assert ask(provider) == "A story."
        bodies = [seen.body for seen in server.requests]
    assert ["temperature" in body for body in bodies] == [True, False, False, False]
    assert ["stop" in body for body in bodies] == [True, True, False, False]
    assert all(body["top_p"] == 0.9 and body["seed"] == 3 for body in bodies)


@pytest.mark.parametrize("ask", [_whole, _streamed, _in_bulk], ids=["whole", "stream", "bulk"])
@pytest.mark.parametrize(
    ("kind", "refused", "taken"),
    [
        ("openai", "max_completion_tokens", "max_tokens"),
        ("azure", "max_tokens", "max_completion_tokens"),
        ("compatible", "max_tokens", "max_completion_tokens"),
    ],
)
def test_the_token_cap_is_renamed_and_always_sent(
    ask: Callable[[Provider], str], kind: str, refused: str, taken: str
) -> None:
    with FaultServer() as server:
        _serve(server, _Picky(refused))
        provider = server.provider(kind)
        ask(provider)
        ask(provider)
        bodies = [seen.body for seen in server.requests]
    assert [(body.get(refused), body.get(taken)) for body in bodies] == [(77, None), (None, 77), (None, 77)]


def test_a_deployment_that_changes_its_mind_is_followed() -> None:
    """Azure's names refer to deployments, whose model may change."""
    with FaultServer() as server:
        provider = server.provider("azure")
        for refused in ("max_tokens", "max_completion_tokens", "max_tokens"):
            _serve(server, _Picky(refused))
            assert _whole(provider) == "A story."
        assert len(server.requests) == 6


@pytest.mark.parametrize("ask", [_whole, _streamed, _in_bulk], ids=["whole", "stream", "bulk"])
def test_a_model_that_takes_no_token_cap_is_told_as_it_is(ask: Callable[[Provider], str]) -> None:
    with FaultServer() as server:
        _serve(server, _Picky("max_tokens", "max_completion_tokens"))
        with pytest.raises(BadRequest, match="max_completion_tokens"):
            ask(server.provider())
        assert len(server.requests) == 2


@pytest.mark.parametrize("ask", [_whole, _streamed, _in_bulk], ids=["whole", "stream", "bulk"])
def test_a_refusal_that_leaving_out_does_not_cure_is_told(ask: Callable[[Provider], str]) -> None:
    refusal = json.dumps({"error": _openai("temperature", "Unsupported parameter: 'temperature'.")}).encode()
    with FaultServer(Answer(status=400, body=refusal)) as server:
        with pytest.raises(BadRequest):
            ask(server.provider())
        assert len(server.requests) == 2


def test_stream_options_are_left_out_where_they_are_refused() -> None:
    with FaultServer() as server:
        _serve(server, _Picky("stream_options", said=lambda n: _said(f"Unrecognized request argument supplied: {n}")))
        provider = server.provider("azure")
        stream = Client(provider, retry_policy=_ONCE).stream(_REQUEST)
        assert "".join(stream) == "A story." and stream.facts.tokens is None
        assert _whole(provider) == "A story."  # its defaults were never sent
        assert len(server.requests) == 3


def test_other_models_and_endpoints_keep_their_parameters() -> None:
    with FaultServer() as server:
        _serve(server, _Picky("temperature"))
        provider = server.provider("openai")
        _whole(provider)
        server.judge = None
        Client(provider).complete(replace(_REQUEST, model="gpt-4o"))
        Client(provider).complete(replace(_REQUEST, endpoint="completion"))
        assert [("temperature" in seen.body) for seen in server.requests] == [True, False, True, True]


def test_many_at_once_learn_the_same_thing() -> None:
    with FaultServer() as server:
        _serve(server, _Picky("temperature", "seed"))
        provider = server.provider()
        assert at_once(8, lambda: _whole(provider)) == ["A story."] * 8
        learned = len(server.requests)
        assert learned <= 8 * 3
        _whole(provider)
        assert len(server.requests) == learned + 1


# --- batches ------------------------------------------------------------------------------------------------------


def test_a_line_of_a_batch_that_was_refused_for_a_parameter_goes_again_without_it() -> None:
    client = Client(Provider("openai", "openai", "OpenAI", "http://127.0.0.1:1/v1", ""))
    before = json.loads(client.batch_line("row-1", _REQUEST))["body"]
    error = {"error": _openai("temperature", "Unsupported parameter: 'temperature'.")}
    for n in (1, 2):  # every line of the batch was refused
        line = {"custom_id": f"row-{n}", "response": {"status_code": 400, "body": error}, "error": None}
        answer = read_answer(client.provider, json.dumps(line).encode(), _REQUEST)
        assert answer is not None and isinstance(answer.error, Unavailable)
    after = json.loads(client.batch_line("row-1", _REQUEST))["body"]
    assert after == {name: value for name, value in before.items() if name != "temperature"}
    plain = CompletionRequest("gpt-5", "x")  # no temperature of its own: nothing can be left out
    other = read_answer(client.provider, json.dumps(line).encode(), plain)
    assert other is not None and isinstance(other.error, BadRequest)


# --- notes for the user --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ("temperature", "gpt-5 does not accept `temperature`; the provider's default is used."),
        ("top_p", "gpt-5 does not accept `top_p`; the provider's default is used."),
        ("seed", "gpt-5 does not accept `seed`; its texts can't be reproduced."),
        ("stop", "gpt-5 does not accept `stop`; the model decides where a text ends."),
        ("max_tokens", "gpt-5 does not accept `max_tokens`; `max_completion_tokens` is sent instead."),
    ],
)
def test_what_is_left_out_is_said_to_those_who_asked_for_it(refused: str, words: str) -> None:
    with FaultServer() as server:
        provider = server.provider()
        assert parameters.notes(provider, _REQUEST) == ()
        _serve(server, _Picky(refused))
        _whole(provider)
        assert parameters.notes(provider, _REQUEST) == (words,)
        plain = CompletionRequest("gpt-5", "x")
        assert parameters.notes(provider, plain) == ((words,) if refused in ("temperature", "max_tokens") else ())
        assert parameters.notes(provider, replace(_REQUEST, model="gpt-4o")) == ()
