"""Client connections: authentication, web pages of other origins, limits on their number, and timeouts for incomplete
requests.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import uuid
from typing import Literal
from urllib.parse import quote

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from core.engine.api.errors import ApiError
from core.message import msg

# Matches a complete Host header that names this machine. A name that only starts or ends like one of these
# (`localhost.evil.example`, `x@localhost`) may also resolve to this machine and would let a foreign web page reach the
# engine (DNS rebinding).
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
# Sec-Fetch-Site values of requests that do not come from another web site
_OWN_SITE = frozenset({None, "none", "same-origin"})

MAX_REQUESTS = 256  # concurrent requests; uvicorn responds to any further ones with 503
# connections beyond this are closed unread, so that file descriptors do not run out
_MAX_CONNECTIONS = MAX_REQUESTS + 64
HEADERS_TIMEOUT_S = 10.0  # time from the first byte of a request, or from connecting, to the end of its headers
BODY_IDLE_TIMEOUT_S = 60.0  # time without receiving any bytes of an incomplete body

MODEL_HEADER = "fabula-model"
"""Response header with the id of the model that wrote an answer, also if the request named an alias."""

_Phase = Literal["headers", "body"]


class BearerAuth:
    """ASGI middleware that responds with 401 unless the token is valid. `/health` is public, but returns more
    information with a valid token.

    Without a configured token (`--no-auth`), only requests to a loopback host are accepted, and none from a web page of
    another origin (including other ports of this machine) except `origins`, so that pages in a local browser cannot use
    the engine.
    """

    def __init__(self, app: ASGIApp, token: str | None, origins: frozenset[str] = frozenset()) -> None:
        self._app, self._origins = app, origins
        self._expected = None if token is None else token.encode()

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
            return _is_local(headers, self._origins)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # the name of the scheme is case-insensitive (RFC 9110, 11.1)
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("latin-1", "replace"), self._expected
        )

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


def cors_middleware(origins: frozenset[str]) -> list[Middleware]:
    """The middleware that answers browsers for pages of `origins`; empty if there are none. It goes before
    authentication, because browsers first ask without a token.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("x-request-id", MODEL_HEADER),
            allow_private_network=True,
        )
    ]


def model_header(model_id: str) -> dict[str, str]:
    """The response header with a model's own id; its name may have letters that headers cannot have."""
    return {MODEL_HEADER: quote(model_id, safe=":/@+ ")}


def _is_local(headers: Headers, allowed: frozenset[str]) -> bool:
    """Whether a request is addressed to this machine and was not sent by a web page from another origin, except those
    in `allowed`.
    """
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or _LOOPBACK.fullmatch(hosts[0]) is None:
        return False
    if len(origins) == 1 and origins[0] in allowed:
        return True
    own = f"http://{hosts[0].lower()}"
    return headers.get("sec-fetch-site") in _OWN_SITE and all(origin.lower() == own for origin in origins)


class ClientConnection(H11Protocol):
    """One client's connection, with timeouts; uvicorn's own class waits indefinitely for the rest of a request.

    To use this class, pass `uvicorn.Config(http=ClientConnection)`. After a timeout the response is 408, unless one was
    already sent, and the connection is closed; the request handler sees a disconnected client.
    """

    _timer: asyncio.TimerHandle | None = None
    _phase: _Phase | None = None
    _started = False  # whether the client has sent anything

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        """Start the timeout for the first request."""
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
            return
        self._set_timer("headers")

    def data_received(self, data: bytes) -> None:
        """Process the received bytes and restart the timeout."""
        self._started = True
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            if self._phase != "headers":
                self._set_timer("headers")
        elif self.conn.their_state is h11.SEND_BODY:
            self._set_timer("body")
        else:
            self._set_timer(None)

    def on_response_complete(self) -> None:
        """Keep the timeout running if the body is still being sent after an early response (401, 413)."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._set_timer("body")

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        self._set_timer(None)
        super().connection_lost(exc)

    def _set_timer(self, phase: _Phase | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._phase, self._timer = phase, None
        if phase is not None and not self.transport.is_closing():
            self._timer = self.loop.call_later(
                HEADERS_TIMEOUT_S if phase == "headers" else BODY_IDLE_TIMEOUT_S, self._on_timeout, phase
            )

    def _on_timeout(self, phase: _Phase) -> None:
        if phase == "body" and self.flow.read_paused:  # the engine itself has paused reading
            self._set_timer("body")
            return
        answered = self.cycle is not None and self.cycle.response_started
        if self._started and (phase == "headers" or not answered):
            self.transport.write(_timeout(phase))
        self.transport.close()


def _timeout(phase: _Phase) -> bytes:
    """Return a 408 response as bytes, because h11 cannot send a response in the middle of a request."""
    if phase == "headers":
        seconds = f"{HEADERS_TIMEOUT_S:.0f}"
        message = msg(
            "The request was not sent completely: the engine waited {seconds} seconds for its headers.", seconds=seconds
        )
    else:
        seconds = f"{BODY_IDLE_TIMEOUT_S:.0f}"
        message = msg(
            "The request was not sent completely: the engine waited {seconds} seconds for more.", seconds=seconds
        )
    error = ApiError(408, message, code="request_timeout")
    body = json.dumps(error.body()).encode()
    head = (
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
