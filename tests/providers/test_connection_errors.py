"""Connection errors: each cause has its own sentence and next step, and is retried if that helps."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from core.errors import BadRequest, FabulaError, Misconfigured, ModelNotFound, NotThere, Unavailable
from core.providers import Client, CompletionRequest, Provider, RetryPolicy, connection_errors
from core.providers import errors as answer_errors
from core.providers.async_client import AsyncTextClient
from core.providers.endpoint_setup import check_setup
from core.providers.registry import Registry
from core.settings import Settings
from tests.support import fault_server
from tests.support.fault_server import FaultServer
from tests.support.tls_server import certificate_for, serving

_REQUEST = CompletionRequest("writer", "x")
_QUICK = RetryPolicy(total_s=60, tries=3, base_s=0.001, cap_s=0.01)
_SECRET = "sk-secret-part"


def _whole(provider: Provider) -> object:
    return Client(provider, retry_policy=_QUICK).complete(_REQUEST)


def _streamed(provider: Provider) -> object:
    return list(Client(provider, retry_policy=_QUICK).stream(_REQUEST))


def _models(provider: Provider) -> object:
    return Client(provider, retry_policy=_QUICK).models()


def _in_bulk(provider: Provider) -> object:
    async def ask() -> object:
        bulk = AsyncTextClient(provider)
        try:
            return await bulk.complete(_REQUEST)
        finally:
            await bulk.aclose()

    return asyncio.run(ask())


_WAYS = [_whole, _streamed, _in_bulk]
_every_way = pytest.mark.parametrize("ask", _WAYS, ids=["whole", "stream", "bulk"])
Ask = Callable[[Provider], object]


def _provider(url: str, key: str = _SECRET, id: str = "compatible") -> Provider:
    return Provider(id, "compatible", "The server", url, key)


def _told(ask: Ask, provider: Provider) -> FabulaError:
    with pytest.raises(FabulaError) as caught:
        ask(provider)
    error, chain = caught.value, []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(f"{cause!r} {cause}")
        cause = cause.__cause__ or cause.__context__
    assert error.next_step and not any(_SECRET in one for one in chain)
    return error


# --- before anything is sent ------------------------------------------------------------------------------------------


@_every_way
@pytest.mark.parametrize(
    ("url", "what", "next_step"),
    [
        ("api.example.com/v1", "does not start with http://", "OPENAI_BASE_URL to https://api.example.com/v1"),
        ("localhost:8000/v1", "does not start with http://", "http:// for a server without TLS"),
        ("127.0.0.1:8000", "does not start with http://", "https://127.0.0.1:8000"),
        ("ftp://example.com/v1", "begins with ftp://", "https://example.com/v1"),
        ("https//example.com/v1", "does not start with http://", "to https://example.com/v1 and"),
        ("https:/example.com/v1", "does not start with http://", "to https://example.com/v1 and"),
        ("https：//example.com/v1", "does not start with http://", "to https://example.com/v1 and"),
        ("//example.com/v1", "does not start with http://", "to https://example.com/v1 and"),
        ("http-host/v1", "does not start with http://", "to https://http-host/v1 and"),
        ('"https://example.com/v1"', 'begins with "https://', "to https://example.com/v1 and"),
        ("http://127.0.0.1:1/v1?api-version=1", "contains a ?", "to http://127.0.0.1:1/v1 and"),
        ("http://127.0.0.1:1/v1#", "contains a #", "to http://127.0.0.1:1/v1 and"),
        ("ws://example.com/v1", "begins with ws://", "https://example.com/v1"),
        ("http:///v1", "is not a web address", "https://api.example.com/v1"),
        ("http://my host/v1", "is not a web address", "https://api.example.com/v1"),
        ("http://127.0.0.1:999999/v1", "is not a web address", "https://api.example.com/v1"),
        ("http://127.0.0.1:80a/v1", "is not a web address", "https://api.example.com/v1"),
        (
            "http://127.0.0.1:1/v1/chat/completions",
            "is a single endpoint, not the base URL",
            "to http://127.0.0.1:1/v1 and",
        ),
        (
            "http://127.0.0.1:1/v1/chat/completions/",
            "is a single endpoint, not the base URL",
            "to http://127.0.0.1:1/v1 and",
        ),
        ("http://127.0.0.1:1/v1/completions", "ends in /completions", "to http://127.0.0.1:1/v1 and"),
        ("http://127.0.0.1:1/v1/models", "ends in /models", "to http://127.0.0.1:1/v1 and"),
        (
            "http://127.0.0.1:1/openai/deployments/x/chat/completions?api-version=1",
            "is a single endpoint",
            "deployments/x and",
        ),
    ],
)
def test_an_address_that_cannot_work_is_told_before_anything_is_sent(
    ask: Ask, url: str, what: str, next_step: str
) -> None:
    error = _told(ask, _provider(url))
    assert isinstance(error, Misconfigured) and what in error.what and next_step in error.next_step


@_every_way
@pytest.mark.parametrize(
    ("key", "what"),
    [
        (f"{_SECRET}\n{_SECRET}", "a line break"),
        (f"{_SECRET}\r\n", "a line break"),
        (f"{_SECRET}\0", "a control character"),
        (f"“{_SECRET}”", "the character “"),
        (f"{_SECRET}密", "the character 密"),
        (f"{_SECRET}…", "the character …"),
        (f'"{_SECRET}"', 'the character "'),
        (f"'{_SECRET}'", "the character '"),
        (f"Bearer {_SECRET}", "a space"),
        (f"{_SECRET}\u200b", "a line break or a control character"),
        (f"{_SECRET}ｓｋ", "the character ｓ"),
    ],
)
def test_a_key_that_no_header_takes_is_told_without_showing_it(ask: Ask, key: str, what: str) -> None:
    with FaultServer() as server:
        error = _told(ask, Provider("openai", "openai", "OpenAI", server.url, key))
        assert server.requests == []
    assert isinstance(error, Misconfigured) and what in error.what and "OPENAI_API_KEY" in error.next_step


@pytest.mark.parametrize("path", ["openai/deployments/x/chat/completions?api-version=1", "openai/v1?api-version=1"])
def test_the_resource_is_named_where_azures_portal_shows_one_call(path: str) -> None:
    environ = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": f"https://x.example.com/{path}"}
    registry = Registry.from_settings(Settings.from_env(environ), environ)
    with pytest.raises(Misconfigured) as caught:
        registry.get("azure").models()
    assert "Set AZURE_OPENAI_ENDPOINT to https://x.example.com and" in caught.value.next_step


@pytest.mark.parametrize(
    ("environ", "provider", "setting"),
    [
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "example.com/v1"}, "compatible", "OPENAI_BASE_URL"),
        ({"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "x.example.com"}, "azure", "AZURE_OPENAI_ENDPOINT"),
        ({"TOGETHER_API_KEY": "k", "TOGETHER_BASE_URL": "example.com/v1"}, "together", "TOGETHER_BASE_URL"),
    ],
)
def test_the_setting_to_change_is_named(environ: dict[str, str], provider: str, setting: str) -> None:
    registry = Registry.from_settings(Settings.from_env(environ), environ)
    with pytest.raises(Misconfigured) as caught:
        registry.get(provider).models()
    assert setting in caught.value.next_step


# --- wrong addresses -----------------------------------------------------------------------------------


_NO_ROUTE = [
    fault_server.error(404, "Invalid URL (POST /chat/completions)"),
    fault_server.raw(b'{"detail":"Not Found"}'),
    fault_server.raw(b"404 page not found", "text/plain"),
    fault_server.raw(b""),
    fault_server.error(405, "Method Not Allowed"),
]


@pytest.mark.parametrize("ask", [*_WAYS, _models], ids=["whole", "stream", "bulk", "models"])
@pytest.mark.parametrize("number", range(len(_NO_ROUTE)))
def test_an_address_without_its_version_is_told(ask: Ask, number: int) -> None:
    answer = _NO_ROUTE[number]
    status = answer.status if answer.status >= 400 else 404
    with FaultServer() as server:
        server.enqueue(fault_server.Answer(status=status, body=answer.body, content_type=answer.content_type))
        url = server.url.removesuffix("/v1")
        error = _told(ask, _provider(f"{url}/"))
        assert len(server.requests) == 1
    assert isinstance(error, Misconfigured) and f"no OpenAI-compatible API at {url}" in error.what
    assert f"OPENAI_BASE_URL to {url}/v1" in error.next_step


@_every_way
def test_an_address_without_its_version_is_told_under_http_200_too(ask: Ask) -> None:
    body = b'{"error":"Unexpected endpoint or method. (POST /chat/completions)"}'
    with FaultServer(fault_server.raw(body)) as server:
        url = server.url.removesuffix("/v1")
        error = _told(ask, _provider(url))
        assert len(server.requests) == 1
    assert isinstance(error, Misconfigured) and f"OPENAI_BASE_URL to {url}/v1" in error.next_step


@_every_way
@pytest.mark.parametrize("path", ["/v1", "/v1beta/openai", "/api/paas/v4", "/compatible-mode/v1", "/api/v3/"])
def test_an_address_with_a_version_is_not_doubted(ask: Ask, path: str) -> None:
    with FaultServer(fault_server.error(404, "Not found")) as server:
        error = _told(ask, _provider(server.url.removesuffix("/v1") + path))
    assert (
        isinstance(error, NotThere) and "Compare OPENAI_BASE_URL with the provider's documentation" in error.next_step
    )
    assert "There is no endpoint /chat/completions at http" in error.what and "Not found" in error.what


@pytest.mark.parametrize("ask", [*_WAYS, _models], ids=["whole", "stream", "bulk", "models"])
@pytest.mark.parametrize(("status", "path"), [(404, ""), (404, "/v1"), (405, ""), (200, ""), (200, "/v1")])
def test_a_website_is_called_one_and_not_advised_to_end_in_v1(ask: Ask, status: int, path: str) -> None:
    with FaultServer() as server:
        server.enqueue(*[fault_server.html(status)] * 3)
        error = _told(ask, _provider(server.url.removesuffix("/v1") + path))
    assert "a web page" in error.what and "documentation" in error.next_step
    assert "end in /v1" not in error.next_step
    assert path or server.url not in error.next_step


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("No endpoints found for x/y.", ModelNotFound),
        ("Unable to access x. Visit the list of models.", ModelNotFound),
        ("Not found the model x or Permission denied", ModelNotFound),
        ("No such route", NotThere),
    ],
)
def test_a_404_that_speaks_of_the_model_is_no_missing_endpoint(message: str, kind: type[FabulaError]) -> None:
    with FaultServer(fault_server.error(404, message)) as server:
        error = _told(_whole, _provider(server.url))
    assert isinstance(error, kind)


def test_a_missing_file_or_job_is_no_missing_endpoint() -> None:
    with FaultServer() as server:
        server.enqueue(fault_server.error(404, "No such job"))
        error = _told(lambda one: Client(one, retry_policy=_QUICK).job("ftjob-1"), _provider(server.url))
    assert "could not find it" in error.what and "It was deleted" in error.next_step


@_every_way
@pytest.mark.parametrize(
    "answer",
    [
        fault_server.error(404, "The model `x` does not exist", "model_not_found"),
        fault_server.error(404, "The API deployment for this resource does not exist.", "DeploymentNotFound"),
        fault_server.error(404, "model 'x' not found, try pulling it first"),
    ],
    ids=["OpenAI", "Azure", "Ollama"],
)
def test_a_model_that_is_missing_is_no_wrong_address(ask: Ask, answer: fault_server.Answer) -> None:
    with FaultServer(answer) as server:
        error = _told(ask, _provider(server.url.removesuffix("/v1")))
    assert isinstance(error, ModelNotFound)


def test_a_batch_api_that_is_missing_says_nothing_about_the_address() -> None:
    with FaultServer() as server:
        server.enqueue(fault_server.error(404, "Not Found"))
        assert not Client(_provider(server.url.removesuffix("/v1")), retry_policy=_QUICK).supports_batches()


# --- TLS --------------------------------------------------------------------------------------------------------------


@_every_way
def test_a_certificate_that_nobody_vouches_for_is_told(ask: Ask, tmp_path: Path) -> None:
    with serving(certificate_for(tmp_path / "c.pem", "127.0.0.1")) as at:
        error = _told(ask, _provider(f"https://{at}/v1"))
    assert isinstance(error, Misconfigured) and "The certificate of 127.0.0.1 is not trusted: self-signed" in error.what
    assert "SSL_CERT_FILE" in error.next_step


@_every_way
@pytest.mark.parametrize(
    ("address", "ends", "what", "next_step"),
    [
        ("127.0.0.1", timedelta(days=-1), "has expired", "clock"),
        ("127.0.0.2", timedelta(days=1), "IP address mismatch", "OPENAI_BASE_URL"),
    ],
    ids=["expired", "for another name"],
)
def test_a_certificate_with_another_fault_has_another_next_step(
    ask: Ask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    ends: timedelta,
    what: str,
    next_step: str,
) -> None:
    path = certificate_for(tmp_path / "c.pem", address, ends)
    trusting = ssl.create_default_context(cafile=path)
    for module in ("connection", "async_client"):
        monkeypatch.setattr(f"core.providers.{module}.tls_context", lambda certificates: trusting)
    with serving(path) as at:
        error = _told(ask, _provider(f"https://{at}/v1"))
    assert isinstance(error, Misconfigured) and what in error.what and next_step in error.next_step


@_every_way
def test_https_spoken_to_a_plain_port_is_told(ask: Ask) -> None:
    with serving() as at:
        error = _told(ask, _provider(f"https://{at}/v1"))
    assert isinstance(error, Misconfigured) and f"begins with https://, but {at} speaks http" in error.what
    assert f"OPENAI_BASE_URL to http://{at}/v1" in error.next_step


@_every_way
@pytest.mark.parametrize(
    "page",
    [
        b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.",
    ],
    ids=["nginx", "Go", "Apache"],
)
def test_plain_http_spoken_to_a_port_for_tls_is_told(ask: Ask, page: bytes) -> None:
    with FaultServer(fault_server.Answer(status=400, body=page, content_type="text/html")) as server:
        error = _told(ask, _provider(server.url))
        assert len(server.requests) == 1
    assert isinstance(error, Misconfigured) and "begins with http://, but" in error.what
    assert f"https://{server.url.removeprefix('http://')}" in error.next_step


@_every_way
def test_a_tls_server_that_hangs_up_on_plain_http_is_hinted_at(ask: Ask, tmp_path: Path) -> None:
    with serving(certificate_for(tmp_path / "c.pem", "127.0.0.1")) as at:
        error = _told(ask, _provider(f"http://{at}/v1"))
    assert isinstance(error, Unavailable) and "closes the connection without an answer" in error.what
    assert "https://" in error.next_step


# --- names and proxies ------------------------------------------------------------------------------------------------


@_every_way
@pytest.mark.parametrize(
    ("code", "kind", "what"),
    [
        (socket.EAI_NONAME, Misconfigured, "There is no server named api.example.com."),
        (socket.EAI_AGAIN, Unavailable, "could not be looked up"),
    ],
)
def test_a_name_that_does_not_exist_is_told_and_one_that_cannot_be_looked_up_is_tried_again(
    ask: Ask, code: int, kind: type[FabulaError], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def getaddrinfo(*args: object, **options: object) -> list[object]:
        asked.append(args[0])
        raise socket.gaierror(code, "no")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    error = _told(ask, _provider("https://api.example.com/v1"))
    assert isinstance(error, kind) and what in error.what
    tries = 1 if kind is Misconfigured or ask is _in_bulk else _QUICK.tries
    assert len(asked) == tries


@_every_way
@pytest.mark.parametrize(
    ("status", "kind", "what", "next_step"),
    [
        (407, Misconfigured, "asks for a user name and a password", "HTTPS_PROXY"),
        (403, Misconfigured, "does not let you connect to api.example.com (403)", "NO_PROXY to api.example.com"),
        (405, Misconfigured, "(405)", "NO_PROXY"),
        (502, Unavailable, "could not connect to api.example.com (502)", "retries automatically"),
        (503, Unavailable, "could not connect to api.example.com (503)", "retries automatically"),
    ],
)
def test_a_proxy_that_refuses_is_told_without_its_password(
    ask: Ask, status: int, kind: type[FabulaError], what: str, next_step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(status=status) as at:
        monkeypatch.setenv("HTTPS_PROXY", f"http://somebody:hunter2@{at}")
        error = _told(ask, _provider("https://api.example.com/v1"))
    assert isinstance(error, kind) and what in error.what and next_step in error.next_step
    assert f"The proxy {at}" in error.what and "hunter2" not in error.what


@_every_way
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_that_is_not_there_is_told(ask: Ask, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}{at}")
    error = _told(ask, _provider("https://api.example.com/v1"))
    assert isinstance(error, Unavailable) and error.what == f"The proxy {at} cannot be reached."
    assert "HTTPS_PROXY" in error.next_step


@_every_way
def test_a_407_that_is_handed_through_is_the_proxys(ask: Ask) -> None:
    with FaultServer(fault_server.error(407, "Proxy Authentication Required")) as server:
        error = _told(ask, _provider(server.url))
    assert isinstance(error, Misconfigured) and "password" in error.what


def test_what_is_wrong_with_a_request_is_still_the_requests() -> None:
    with FaultServer(fault_server.error(400, "max_tokens is too large")) as server:
        error = _told(_whole, _provider(server.url))
    assert type(error) is BadRequest


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:s3cret@api.example.com",
        "https://ann:s3cret@api.example.com/v1/chat/completions",
        "https://ann:s3cret@api.example.com/v1?x=1",
        "https://ann:s3cr@et@api.example.com/v1",
        "ftp://ann:s3cret@api.example.com/v1",
        "https://ann:s3cret@api.example.com\nhttps://b.example.com/v1",
    ],
)
def test_a_password_in_an_address_is_in_no_sentence(url: str) -> None:
    provider = Provider("fault", "compatible", "The test server", url, "k")
    found: list[FabulaError] = [
        connection_errors.no_version(provider, "Not found"),
        connection_errors.plain_to_tls(provider),
        connection_errors.unreachable(provider, OSError("refused")),
        answer_errors.unreadable(provider),
        answer_errors.not_an_api_answer(provider),
    ]
    try:
        check_setup(provider)
    except Misconfigured as exc:
        found.append(exc)
    for error in found:
        assert "s3cr" not in f"{error.what} {error.next_step}", error.what
