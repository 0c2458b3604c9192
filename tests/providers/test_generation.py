"""Text through the real SDK, against a server that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx2
import pytest

from core.errors import (
    BadRequest,
    EngineMissing,
    FabulaError,
    ModelNotFound,
    NotFound,
    ProviderError,
    RateLimited,
    Refused,
    StreamCut,
    Transient,
    Unavailable,
)
from core.providers import Client, Completion, CompletionRequest, Provider, Registry, RetryPolicy
from core.providers.async_client import AsyncTextClient
from core.settings import Settings
from tests.support.fault_server import (
    KEY,
    Answer,
    FaultServer,
    cut,
    drop,
    error,
    error_in_stream,
    held,
    html,
    no_choices,
    quota,
    rate_limit,
    raw,
    refusal,
    text,
    unauthorized,
)

QUICK = RetryPolicy(total_s=5, tries=4, base_s=0.001, cap_s=0.01)
ONE_TRY = RetryPolicy(total_s=5, tries=1, base_s=0.001, cap_s=0.01)
CHAT = CompletionRequest("writer", "Tell a story.", system="Be brief.", temperature=0.5, max_tokens=77, seed=3)
LEGACY = CompletionRequest("writer", "宋,发射激光,艰难 ->\n", endpoint="completion", stop=(".",), max_tokens=2000)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def client(server: FaultServer, kind: str = "compatible", retry_policy: RetryPolicy = QUICK) -> Client:
    return Client(server.provider(kind), retry_policy=retry_policy)


@pytest.mark.parametrize("request_", [CHAT, LEGACY], ids=["chat", "legacy"])
def test_a_whole_answer_has_its_text_reason_and_tokens(server: FaultServer, request_: CompletionRequest) -> None:
    server.enqueue(text("从前", "有座山"))
    answer = client(server).complete(request_)
    assert [(c.text, c.finish_reason) for c in answer.texts] == [("从前有座山", "stop")]
    assert (answer.model, answer.prompt_tokens, answer.completion_tokens) == ("writer", 10, 2)


def test_what_is_sent_is_what_was_asked_for(server: FaultServer) -> None:
    ours = client(server)
    ours.complete(CHAT)
    ours.complete(LEGACY)
    chat, legacy = (r.body for r in server.requests)
    assert chat == {
        "model": "writer",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell a story."}],
        "temperature": 0.5,
        "max_tokens": 77,
        "seed": 3,
    }
    assert legacy == {
        "model": "writer",
        "prompt": "宋,发射激光,艰难 ->\n",
        "temperature": 1.0,
        "max_tokens": 2000,
        "stop": ["."],
    }


def test_openai_gets_the_newer_name_of_the_token_cap(server: FaultServer) -> None:
    client(server, "openai").complete(CHAT)
    assert server.requests[0].body["max_completion_tokens"] == 77
    assert "max_tokens" not in server.requests[0].body


def test_several_answers_to_one_request(server: FaultServer) -> None:
    answer = client(server).complete(CompletionRequest("writer", "x", n=3))
    assert len(answer.texts) == 3


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (text("half a", finish_reason="length"), [("half a", "length")]),
        (text("", finish_reason="content_filter"), [("", "content_filter")]),
        (refusal("I can't."), [("I can't.", "refusal")]),
        (text("no reason", finish_reason=None), [("no reason", None)]),
        (no_choices(), []),
        (raw(b'{"id":"1","object":"chat.completion","model":"writer","choices":[],"usage":null}'), []),
    ],
)
def test_unfinished_answers_say_what_they_are(server: FaultServer, answer: Answer, texts: list[object]) -> None:
    server.enqueue(answer)
    assert [(c.text, c.finish_reason) for c in client(server).complete(CHAT).texts] == texts


ERRORS = [
    (rate_limit(), RateLimited, "asks to slow down"),
    (quota(), Refused, "no credit left: You exceeded your current quota"),
    (error(402, "Insufficient Balance"), Refused, "no credit"),
    (unauthorized(), Refused, "refused the key (401)"),
    (error(403, "Country not supported"), Refused, "(403): Country not supported"),
    (error(400, "temperature is too high"), BadRequest, "(400): temperature is too high"),
    (error(422, "n must be 1"), BadRequest, "(422)"),
    (error(413, "too long"), BadRequest, "(413)"),
    (error(404, "The model `x` does not exist", "model_not_found"), ModelNotFound, "does not have this model"),
    (error(404, "The model `x` has been deprecated"), ModelNotFound, "does not have this model"),
    (error(404, "Not Found"), NotFound, "There is no endpoint /chat/completions at"),
    (error(408, "slow"), Unavailable, "(408)"),
    (error(409, "locked"), Unavailable, "(409)"),
    (error(500, "oops"), Unavailable, "(500): oops"),
    (html(502), Unavailable, "(502): a web page (Sign in)"),
    (html(200), Unavailable, "answered with a web page, not as an API"),
    (html(200, "application/json"), Unavailable, "not in OpenAI's format"),
    (raw(b"{"), Unavailable, "not in OpenAI's format"),
    (raw(b'["list"]'), Unavailable, "not in OpenAI's format"),
    (raw(b'"words"'), Unavailable, "not in OpenAI's format"),
    (raw(b"{}"), Unavailable, "not in OpenAI's format"),
    (raw(b'{"detail": "Not authenticated"}'), Refused, "refused the key (401): Not authenticated"),
    (drop(), Unavailable, "cannot be reached"),
]


@pytest.mark.parametrize(("answer", "kind", "words"), ERRORS)
@pytest.mark.parametrize("in_bulk", [False, True], ids=["alone", "in bulk"])
def test_every_fault_becomes_a_sentence_and_a_next_step(
    server: FaultServer, answer: Answer, kind: type[FabulaError], words: str, in_bulk: bool
) -> None:
    server.enqueue(answer)
    with pytest.raises(kind) as caught:
        if in_bulk:
            asyncio.run(_ask(server.provider()))
        else:
            client(server, retry_policy=ONE_TRY).complete(CHAT)
    assert words in caught.value.what
    assert caught.value.next_step
    assert KEY not in caught.value.what
    assert len(server.requests) == 1


async def _ask(provider: Provider) -> Completion:
    bulk = AsyncTextClient(provider)
    try:
        return await bulk.complete(CHAT)
    finally:
        await bulk.aclose()


@pytest.mark.parametrize(("kind", "key"), [("compatible", None), ("openai", None), ("azure", KEY)])
def test_a_request_in_bulk_is_the_same_as_one_alone(server: FaultServer, kind: str, key: str | None) -> None:
    assert client(server, kind).complete(CHAT) == asyncio.run(_ask(server.provider(kind)))
    alone, in_bulk = server.requests
    assert alone.body == in_bulk.body
    for seen in (alone, in_bulk):
        assert (seen.headers["authorization"], seen.headers.get("api-key")) == (f"Bearer {KEY}", key)


def test_the_cause_is_kept(server: FaultServer) -> None:
    server.enqueue(error(400, "no"))
    with pytest.raises(BadRequest) as caught:
        client(server).complete(CHAT)
    assert type(caught.value.__cause__).__name__ == "BadRequestError"


def test_nobody_there_is_unavailable_and_names_the_address() -> None:
    with FaultServer() as gone:
        provider = gone.provider()
    with pytest.raises(Unavailable, match=r"cannot be reached at http://127\.0\.0\.1"):
        Client(provider, retry_policy=ONE_TRY).complete(CHAT)


def test_a_silent_server_times_out(server: FaultServer) -> None:
    server.enqueue(held())
    with pytest.raises(Unavailable, match="did not answer in time"):
        Client(server.provider(), retry_policy=ONE_TRY, timeout=0.05).complete(CHAT)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "20"}, 20.0),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_how_long_the_server_asks_to_wait(
    server: FaultServer, headers: dict[str, str], wait: float | None, status: int
) -> None:
    server.enqueue(error(status, "slow down", **headers))
    with pytest.raises(Transient) as caught:
        client(server, retry_policy=ONE_TRY).complete(CHAT)
    assert caught.value.retry_after_s == wait


def test_a_passing_fault_is_waited_out(server: FaultServer) -> None:
    server.enqueue(rate_limit(retry_after_ms="1"), error(503, "busy"), error(409, "locked"), text("done"))
    assert client(server).complete(CHAT).texts[0].text == "done"
    assert len(server.requests) == 4


@pytest.mark.parametrize("answer", [drop(), raw(b'{"choices": [{"mess'), error(504, "gateway timeout"), raw(b"")])
def test_a_request_that_may_be_billed_is_not_sent_twice(server: FaultServer, answer: Answer) -> None:
    server.default = answer
    with pytest.raises(Unavailable) as caught:
        client(server).complete(CHAT)
    assert caught.value.may_be_billed and len(server.requests) == 1


def test_a_server_that_stays_away_is_asked_as_often_as_the_policy_says_and_then_reported(server: FaultServer) -> None:
    server.default = error(503, "oops")
    with pytest.raises(Unavailable):
        client(server).complete(CHAT)
    assert len(server.requests) == QUICK.tries


@pytest.mark.parametrize("answer", [quota(), unauthorized(), error(400, "no"), error(404, "no"), error(422, "no")])
def test_what_stays_wrong_is_sent_once(server: FaultServer, answer: Answer) -> None:
    server.default = answer
    with pytest.raises(FabulaError):
        client(server).complete(CHAT)
    assert len(server.requests) == 1


def test_a_wait_longer_than_patience_is_not_begun(server: FaultServer) -> None:
    server.default = rate_limit(retry_after="3600")
    with pytest.raises(RateLimited):
        client(server).complete(CHAT)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("tries", "asked", "least", "most"),
    [(1, None, 0, 0.5), (3, None, 0, 2.0), (50, None, 0, 20), (1, 7.0, 7.0, 7.5), (9, 0.0, 0.0, 0.5)],
)
def test_waits_stay_in_their_bounds(tries: int, asked: float | None, least: float, most: float) -> None:
    waits = [RetryPolicy(base_s=0.5, cap_s=20).wait_s(tries, asked) for _ in range(200)]
    assert least <= min(waits) and max(waits) <= most
    assert len(set(waits)) > 100  # jitter


@pytest.mark.parametrize("request_", [CHAT, LEGACY], ids=["chat", "legacy"])
def test_a_stream_is_an_iterator_of_text_with_facts(server: FaultServer, request_: CompletionRequest) -> None:
    server.enqueue(text("一", "二", "三"))
    stream = client(server).stream(request_)
    assert server.requests == []  # nothing is sent before the first next()
    assert list(stream) == ["一", "二", "三"]
    facts = stream.facts
    assert (facts.model, facts.finish_reason, facts.tokens, facts.prompt_tokens) == ("writer", "stop", 3, 10)
    assert facts.first_text_s is not None and facts.duration_s is not None and facts.duration_s >= facts.first_text_s
    assert server.requests[0].body["stream_options"] == {"include_usage": True}


def test_a_stream_without_usage_leaves_tokens_unknown(server: FaultServer) -> None:
    server.enqueue(Answer(pieces=("a", "b"), usage=False))
    stream = client(server).stream(CHAT)
    assert "".join(stream) == "ab"
    assert stream.facts.tokens is None and stream.facts.chunks == 2


@pytest.mark.parametrize("answer", [cut("one ", "two"), error_in_stream("one ", "two")], ids=["cut", "error"])
@pytest.mark.parametrize("request_", [CHAT, LEGACY], ids=["chat", "legacy"])
def test_a_cut_stream_gives_what_came_and_says_so(
    server: FaultServer, answer: Answer, request_: CompletionRequest
) -> None:
    server.default = answer
    stream = client(server).stream(request_)
    got: list[str] = []
    with pytest.raises(StreamCut) as caught:
        for piece in stream:
            got.append(piece)
    assert got == ["one ", "two"]
    assert caught.value.next_step
    assert stream.facts.chunks == 2 and stream.facts.finish_reason is None
    assert len(server.requests) == 1  # never repeated after its first text


def test_a_stream_waits_out_faults_before_its_first_text(server: FaultServer) -> None:
    server.enqueue(rate_limit(), error(503, "x"), text("a", "b"))
    assert "".join(client(server).stream(CHAT)) == "ab"


def test_a_stream_of_html_is_no_text(server: FaultServer) -> None:
    server.default = html()
    with pytest.raises(Unavailable, match="answered with a web page"):
        next(client(server, retry_policy=ONE_TRY).stream(CHAT))


def test_a_closed_stream_just_ends(server: FaultServer) -> None:
    server.enqueue(text("a", "b", "c"))
    stream = client(server).stream(CHAT)
    assert next(stream) == "a"
    stream.close()
    assert list(stream) == []
    assert stream.facts.finish_reason is None


def test_a_stream_closed_before_it_began_sends_nothing(server: FaultServer) -> None:
    stream = client(server).stream(CHAT)
    stream.close()
    assert list(stream) == [] and server.requests == []


def test_models_that_write_text_newest_first(server: FaultServer) -> None:
    def model(id: str, created: int, **extra: object) -> dict[str, object]:
        return {"id": id, "object": "model", "created": created, "owned_by": "x", **extra}

    server.models = [
        model("gemma-3-270m", 5, fabula={"base": None, "format": "both", "job": None}),
        model("text-embedding-3-small", 9),
        model("ft:gemma-3-270m:fabula:u:A", 7, fabula={"base": "gemma-3-270m", "format": "completion", "job": "j"}),
        model("ft:gpt-4o-mini-2024-07-18:org:u:B", 8),
        model("davinci-002", 0),
    ]
    found = client(server, "engine").models()
    assert [(m.id, m.base, m.format, m.job) for m in found] == [
        ("ft:gpt-4o-mini-2024-07-18:org:u:B", "gpt-4o-mini-2024-07-18", None, None),
        ("ft:gemma-3-270m:fabula:u:A", "gemma-3-270m", "completion", "j"),
        ("gemma-3-270m", None, "both", None),
        ("davinci-002", None, "completion", None),
    ]
    assert found[-1].created is None


@pytest.mark.parametrize(
    ("kind", "model", "endpoint"),
    [
        ("engine", "ft:g:f:u:A", "completion"),
        ("engine", "writer", "chat"),
        ("engine", "unknown", "chat"),
        ("openai", "davinci-002", "completion"),
        ("openai", "ft:davinci-002:org:u:A", "completion"),
        ("openai", "gpt-4o-mini", "chat"),
    ],
)
def test_which_endpoint_a_model_answers_on(server: FaultServer, kind: str, model: str, endpoint: str) -> None:
    server.models.append(
        {"id": "ft:g:f:u:A", "object": "model", "created": 1, "owned_by": "x", "fabula": {"format": "completion"}}
    )
    assert client(server, kind).endpoint(model) == endpoint


def test_the_engine_tells_health_and_counts_tokens(server: FaultServer) -> None:
    ours = client(server, "engine")
    assert ours.health().version == "1"
    assert ours.count_tokens("writer", "一位") == 7
    assert [r.path for r in server.requests] == ["/health", "/fabula/v1/tokenize"]
    assert server.requests[1].headers["authorization"] == f"Bearer {KEY}"


def test_other_endpoints_have_no_engine_calls(server: FaultServer) -> None:
    with pytest.raises(NotFound, match="not a Fabula engine"):
        client(server).health()
    assert server.requests == []


def test_nothing_of_openais_variables_reaches_another_endpoint(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "admin-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    client(server, "engine").complete(CHAT)
    sent = server.requests[0].headers
    assert sent["authorization"] == f"Bearer {KEY}"
    assert not {"openai-organization", "openai-project"} & set(sent)


def test_a_provider_does_not_show_its_key(server: FaultServer) -> None:
    assert KEY not in repr(server.provider())
    assert KEY not in repr(client(server))


def test_an_endpoint_without_sign_in_works(server: FaultServer) -> None:
    assert Client(server.provider(key="")).complete(CHAT).texts


def test_transports_can_be_injected() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"object": "list", "data": []})

    provider = Provider("x", "compatible", "X", "http://x.invalid/v1", "k")
    assert Client(provider, transport=httpx2.MockTransport(answer)).models() == []


# --- registry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "ids"),
    [
        ({}, ["engine"]),
        ({"OPENAI_API_KEY": "  "}, ["engine"]),
        ({"OPENAI_API_KEY": "sk-1"}, ["engine", "openai"]),
        ({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "https://api.openai.com/v1"}, ["engine", "openai"]),
        ({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "https://api.deepseek.com/v1"}, ["engine", "compatible"]),
    ],
)
def test_providers_come_from_the_environment(environ: dict[str, str], ids: list[str]) -> None:
    registry = Registry.from_settings(Settings.from_env(environ), environ)
    assert registry.ids() == ids
    for provider_id in ids[1:]:
        assert registry.get(provider_id).provider.api_key == "sk-1"


def test_an_unknown_provider_is_not_found() -> None:
    with pytest.raises(NotFound, match="no provider 'azure'"):
        Registry([]).get("azure")


def test_a_client_is_kept_until_its_address_changes() -> None:
    now = [Provider("engine", "engine", "E", "http://127.0.0.1:1/v1", "a")]
    registry = Registry([("engine", lambda: now[0])])
    first = registry.get("engine")
    assert registry.get("engine") is first
    now[0] = Provider("engine", "engine", "E", "http://127.0.0.1:2/v1", "b")
    assert registry.get("engine") is not first
    assert registry.get("engine").provider.base_url.endswith(":2/v1")


def test_an_engine_that_cannot_run_says_so() -> None:
    def missing() -> Provider:
        raise EngineMissing("The engine is not installed.", "pip install -r requirements-engine.txt")

    with pytest.raises(EngineMissing):
        Registry([("engine", missing)]).get("engine")


# --- a provider that repeats the key --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429, 500])
@pytest.mark.parametrize(
    "words",
    [
        f"Incorrect API key provided: {KEY}.",
        f"{KEY}{KEY}",
        f"headers: {{'authorization': 'Bearer {KEY}'}}\n" * 50,
        f"<html><title>401 {KEY}</title></html>",
    ],
)
@pytest.mark.parametrize("asked_by", ["sdk", "bulk", "stream"])
def test_a_key_that_a_provider_repeats_is_in_no_error(
    server: FaultServer, status: int, words: str, asked_by: str
) -> None:
    server.default = error(status, words)
    with pytest.raises(ProviderError) as caught:
        _ask_by(server, asked_by)
    assert KEY not in f"{caught.value.what} {caught.value.next_step} {caught.value!r}"


def _ask_by(server: FaultServer, asked_by: str) -> None:
    request = CompletionRequest("writer", "a")
    if asked_by == "bulk":
        asyncio.run(_ask_many(server, request))
    elif asked_by == "stream":
        next(client(server).stream(request))
    else:
        client(server).complete(request)


async def _ask_many(server: FaultServer, request: CompletionRequest) -> None:
    bulk = AsyncTextClient(server.provider())
    try:
        await bulk.complete(request)
    finally:
        await bulk.aclose()
