"""What the server adds to answers and refuses in local mode, and how its layers treat requests in team mode."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.exceptions import InvalidStatus

from core.settings import Settings
from core.team_mode import ServerSetup
from pages.ui import web_security
from tests.support import bare_tab, team
from tests.support.studio_process import RunningStudio

_TEAM = Settings.from_env(team.TEAM_VARIABLES)


# --- local mode, a real server ----------------------------------------------------------------------------------------


def test_every_answer_has_the_security_headers(studio: RunningStudio) -> None:
    for path in ("/", "/api/health", "/no/such/page", "/_stcore/host-config"):
        answer = httpx2.get(studio.url + path, timeout=60)
        assert {name: answer.headers.get(name) for name in web_security.HEADERS} == dict(web_security.HEADERS)
        assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "http://127.0.0.1", "null"])
def test_a_websocket_of_another_page_is_refused(studio: RunningStudio, origin: str) -> None:
    with pytest.raises(InvalidStatus) as caught, bare_tab.joined(studio.url, origin=origin):
        pass
    assert caught.value.response.status_code == 403


def test_a_page_under_another_name_for_this_machine_is_refused(studio: RunningStudio) -> None:
    """DNS rebinding: `evil.example` leads to 127.0.0.1, so its page is of the same host and port as the request."""
    port = studio.url.rpartition(":")[2]
    with pytest.raises(InvalidStatus), bare_tab.joined(studio.url, origin=f"http://evil.example:{port}",
                                                       host=f"evil.example:{port}"):  # fmt: skip
        pass


@pytest.mark.parametrize("origin", ["", None])
def test_its_own_pages_and_programs_are_served(studio: RunningStudio, origin: str | None) -> None:
    with bare_tab.joined(studio.url, origin=origin) as tab:
        assert "Fabula" in bare_tab.drawn(tab)


# --- team mode, layer by layer ----------------------------------------------------------------------------------------


def _app(redirect_uri: str = "", middleware: Sequence[Middleware] = ()) -> Any:
    """A server behind these layers, by default all of team mode for this address."""

    async def answer(request: Request) -> PlainTextResponse:
        response = PlainTextResponse(request.url.path)
        response.set_cookie("a", "1", httponly=True)
        return response

    setup = ServerSetup({"redirect_uri": redirect_uri}, "", agent_api=False, trusted_user_headers={}, allowed_hosts=())
    routes = [Route("/{path:path}", answer)]
    return Starlette(routes=routes, middleware=middleware or web_security.layers(_TEAM, setup))


def _client(app: Any, address: str = "192.0.2.1") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app, client=(address, 1)), base_url="http://studio")


@pytest.mark.parametrize(
    ("redirect_uri", "secure"),
    [("https://fabula.example.com/oauth2callback", True), ("http://localhost:{port}/oauth2callback", False)],
)
def test_cookies_and_pages_stay_on_tls(redirect_uri: str, secure: bool) -> None:
    async def ask() -> httpx2.Response:
        async with _client(_app(redirect_uri)) as client:
            return await client.get("/")

    answer = asyncio.run(ask())
    assert ("secure" in answer.headers["set-cookie"].lower()) is secure
    assert ("strict-transport-security" in answer.headers) is secure


@pytest.mark.parametrize(
    ("redirect_uri", "origin", "host", "accepted"),
    [
        ("https://fabula.example.com/oauth2callback", "https://fabula.example.com", "fabula.example.com", True),
        ("https://fabula.example.com/oauth2callback", "https://fabula.example.com", "web1:8501", True),
        ("https://fabula.example.com/oauth2callback", "http://fabula.example.com", "fabula.example.com", False),
        ("https://fabula.example.com/oauth2callback", "https://fabula.example.com:8443", "fabula.example.com", False),
        ("https://fabula.example.com/oauth2callback", "https://evil.example", "evil.example", False),
        ("https://fabula.example.com/oauth2callback", None, "fabula.example.com", False),
        ("http://localhost:{port}/oauth2callback", "http://localhost:8501", "localhost:8501", True),
        ("http://localhost:{port}/oauth2callback", "http://localhost:8502", "localhost:8501", False),
        ("http://localhost:{port}/oauth2callback", None, "localhost:8501", False),
    ],
)
def test_a_team_accepts_websockets_of_its_own_address_only(
    redirect_uri: str, origin: str | None, host: str, accepted: bool
) -> None:
    sent: list[Any] = []
    reached: list[str] = []

    async def inner(scope: Any, _receive: Any, _send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    origins, _tls = web_security._own_origin(redirect_uri)
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    scope = {"type": "websocket", "path": "/_stcore/stream", "headers": headers}
    asyncio.run(web_security.OwnPages(inner, origins, in_team=True)(scope, receive, send))
    assert reached == (["websocket"] if accepted else [])
    assert [one["type"] for one in sent] == ([] if accepted else ["websocket.close"])


async def _ask(app: Any, address: str, path: str, times: int = 1) -> list[int]:
    async with _client(app, address) as client:
        return [(await client.get(path)).status_code for _ in range(times)]


@pytest.mark.parametrize("path", ["/auth/login", "/oauth2callback", "/base/auth/login", "/api/health"])
def test_each_address_has_its_own_limit(path: str) -> None:
    app = _app(middleware=[Middleware(web_security.RateLimits, "5/hour", "5/hour")])
    assert asyncio.run(_ask(app, "192.0.2.1", path, 7)) == [200] * 5 + [429] * 2
    assert asyncio.run(_ask(app, "192.0.2.2", path)) == [200]
    neighbours = [asyncio.run(_ask(app, f"2001:db8::{number:x}", path))[0] for number in range(7)]
    assert neighbours == [200] * 5 + [429] * 2  # one customer has all of these
    assert asyncio.run(_ask(app, "2001:db8:0:1::1", path)) == [200]


def test_what_is_no_sign_in_and_no_api_is_not_counted() -> None:
    app = _app(middleware=[Middleware(web_security.RateLimits, "5/hour", "5/hour")])
    for path in ("/", "/media/x", "/_stcore/health", "/dataset"):
        assert asyncio.run(_ask(app, "192.0.2.1", path, 9)) == [200] * 9


def test_a_refusal_says_how_long_to_wait() -> None:
    async def ask() -> httpx2.Response:
        async with _client(_app(middleware=[Middleware(web_security.RateLimits, "1/hour", "1/hour")])) as client:
            await client.get("/api/x")
            return await client.get("/api/x")

    answer = asyncio.run(ask())
    assert answer.status_code == 429 and 3000 < int(answer.headers["retry-after"]) <= 3600
    assert "Too many requests from this address" in answer.text
