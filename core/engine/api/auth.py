"""Authentication by bearer token, compared in constant time; adds a request id to every response."""

from __future__ import annotations

import hmac
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.engine.api.errors import ApiError
from core.message import msg

# A complete Host header that names this machine. A name that only starts or ends like this (`localhost.evil.example`,
# `x@localhost`) may also resolve to this machine and would let a foreign web page reach the engine (DNS rebinding).
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_OWN_SITE = frozenset({None, "none", "same-origin"})  # Sec-Fetch-Site of requests that come from no other web site


class BearerAuth:
    """ASGI middleware: 401 without the right token. `/health` is public, but returns more with a valid token.

    Without a configured token (`--no-auth`), only requests to a loopback host are accepted, and none from a web page of
    another origin (including other ports of this machine), so that pages in a local browser cannot use the engine.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["authorized"] = authorized = self._is_authorized(Headers(scope=scope))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = f"req_{uuid.uuid4().hex}"
            await send(message)

        if authorized or scope["path"] == "/health":
            await self._app(scope, receive, send_with_id)
        else:
            error = self._unauthorized_error(Headers(scope=scope))
            response = JSONResponse(error.body(), error.status, {"www-authenticate": "Bearer"})
            await response(scope, receive, send_with_id)

    def _is_authorized(self, headers: Headers) -> bool:
        if self._expected is None:
            return _is_local(headers)
        given = headers.get("authorization", "").encode("latin-1", "replace")
        return hmac.compare_digest(given, self._expected)

    def _unauthorized_error(self, headers: Headers) -> ApiError:
        if self._expected is None:
            message = msg(
                "Without a token, the engine only accepts requests from this machine, addressed to "
                "localhost or 127.0.0.1."
            )
        elif headers.get("authorization"):
            message = msg("Incorrect API key provided. Use the engine's token (FABULA_ENGINE_TOKEN) as the API key.")
        else:
            message = msg("You didn't provide an API key. Send the engine's token as 'Authorization: Bearer TOKEN'.")
        return ApiError(401, message, code="invalid_api_key")


def _is_local(headers: Headers) -> bool:
    """Whether a request addresses this machine and was not sent by a web page of another origin."""
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or _LOOPBACK.fullmatch(hosts[0]) is None or headers.get("sec-fetch-site") not in _OWN_SITE:
        return False
    return all(origin.lower() == f"http://{hosts[0].lower()}" for origin in origins)
