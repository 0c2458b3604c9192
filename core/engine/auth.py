"""Who may ask: a bearer token, compared in constant time; and on every answer an id to ask about."""

from __future__ import annotations

import hmac
import uuid
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.engine.errors import ApiError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Gate:
    """ASGI middleware: 401 without the right token. `/health` answers everyone, and tells more to those with a token.

    Without a token (`--no-auth`) only requests that name this machine get in, so that a web page somebody visits
    cannot reach the engine through their browser.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["known"] = known = self._knows(Headers(scope=scope))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = f"req_{uuid.uuid4().hex}"
            await send(message)

        if known or scope["path"] == "/health":
            await self._app(scope, receive, send_with_id)
        else:
            error = self._refusal(Headers(scope=scope))
            answer = JSONResponse(error.body(), error.status, {"www-authenticate": "Bearer"})
            await answer(scope, receive, send_with_id)

    def _knows(self, headers: Headers) -> bool:
        if self._expected is None:
            origin = headers.get("origin")
            return _host(f"//{headers.get('host', '')}") in LOOPBACK and (origin is None or _host(origin) in LOOPBACK)
        given = headers.get("authorization", "").encode("latin-1", "replace")
        return hmac.compare_digest(given, self._expected)

    def _refusal(self, headers: Headers) -> ApiError:
        if self._expected is None:
            message = "Without a token the engine answers this machine only, by the name localhost or 127.0.0.1."
        elif headers.get("authorization"):
            message = "Incorrect API key provided. Use the engine's token (FABULA_ENGINE_TOKEN) as the API key."
        else:
            message = "You didn't provide an API key. Send the engine's token as 'Authorization: Bearer TOKEN'."
        return ApiError(401, message, code="invalid_api_key")


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
