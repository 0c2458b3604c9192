"""Who may ask: a bearer token, compared in constant time; and on every answer an id to ask about."""

from __future__ import annotations

import hmac
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.engine.errors import ApiError
from core.message import msg

# The whole of a Host header that names this machine. A name that only begins or ends so (`localhost.evil.example`,
# `x@localhost`) may resolve to this machine, and is how a web page elsewhere would reach the engine (DNS rebinding).
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_OWN_SITE = frozenset({None, "none", "same-origin"})  # Sec-Fetch-Site of what no other page has sent


class BearerAuth:
    """ASGI middleware: 401 without the right token. `/health` answers everyone, and tells more to those with a token.

    Without a token (`--no-auth`) only requests that name this machine get in, and none that a web page of another
    address has sent (also one on another port of this machine), so that a page that is open in a browser here cannot
    use the engine.
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
            return _is_from_here(headers)
        given = headers.get("authorization", "").encode("latin-1", "replace")
        return hmac.compare_digest(given, self._expected)

    def _refusal(self, headers: Headers) -> ApiError:
        if self._expected is None:
            message = msg(
                "Without a token the engine answers programs on this machine only, by the name localhost or 127.0.0.1."
            )
        elif headers.get("authorization"):
            message = msg("Incorrect API key provided. Use the engine's token (FABULA_ENGINE_TOKEN) as the API key.")
        else:
            message = msg("You didn't provide an API key. Send the engine's token as 'Authorization: Bearer TOKEN'.")
        return ApiError(401, message, code="invalid_api_key")


def _is_from_here(headers: Headers) -> bool:
    """Whether a request names this machine and comes from no web page, or from one of the engine's own address."""
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or _LOOPBACK.fullmatch(hosts[0]) is None or headers.get("sec-fetch-site") not in _OWN_SITE:
        return False
    return all(origin.lower() == f"http://{hosts[0].lower()}" for origin in origins)
