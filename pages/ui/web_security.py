"""What the server does with every request before a page or a route sees it: headers, and what a team's server refuses.

WebSockets are for this server's own pages. In team mode there are also rate limits for sign-in and `/api`, none of
Streamlit's metrics for strangers, and cookies that browsers only send over TLS.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Collection, Mapping
from typing import Final

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.settings import Settings
from core.team_mode import ServerSetup

SIGN_IN_LIMIT = "60/minute"
"""Requests of one address to sign in; one sign-in takes two."""
API_LIMIT = "20/second"
"""Requests of one address to `/api`, which checks of load balancers use too."""
_SIGN_IN_PATHS = ("/auth/login", "/auth/logout", "/oauth2callback")
_STREAMLIT_METRICS = "/_stcore/metrics"
_POLICY_VIOLATION = 1008  # WebSocket close code (RFC 6455)
_ONE_CUSTOMER = 64  # bits of an IPv6 address; who has one usually has all with the same
# Streamlit's pages contain inline styles and scripts, load components from blobs, and Vega compiles expressions.
_CONTENT: Mapping[str, str] = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline' blob:",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "media-src": "'self' data: blob:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "frame-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",
}
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in _CONTENT.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""On every answer."""
_ONLY_TLS = {"Strict-Transport-Security": "max-age=31536000"}  # a year


def layers(settings: Settings, setup: ServerSetup, other_origins: Collection[str] = ()) -> list[Middleware]:
    """The middleware of this server, the outermost first.

    Args:
        settings: the mode.
        setup: the address to which a sign-in returns.
        other_origins: of other web pages that may use this server in local mode.
    """
    if settings.mode != "team":
        return [Middleware(SecurityHeaders), Middleware(OwnPages, other_origins)]
    own, over_tls = _own_origin(str(setup.auth.get("redirect_uri", "")))
    return [
        Middleware(SecurityHeaders, over_tls),
        Middleware(OwnPages, own, in_team=True),
        Middleware(HiddenPaths),
        Middleware(RateLimits),
    ]


def _own_origin(redirect_uri: str) -> tuple[tuple[str, ...], bool]:
    """The origin of this server's pages, none if its port is only known later, and whether it is reached over TLS."""
    scheme, _, rest = redirect_uri.partition("://")
    place = rest.partition("/")[0]
    return () if "{" in place else (f"{scheme}://{place}",), scheme == "https"


class SecurityHeaders:
    """Adds `HEADERS` to every answer. `over_tls`: browsers reach this server with https only."""

    def __init__(self, app: ASGIApp, over_tls: bool = False) -> None:
        self._app, self._over_tls = app, over_tls
        self._headers = dict(HEADERS) | (_ONLY_TLS if over_tls else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if self._over_tls:
                    message["headers"] = [_secure_cookie(*header) for header in message["headers"]]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class OwnPages:
    """Refuses WebSockets that other web pages open: with the visitor's cookies, or in local mode as the local user.

    Streamlit accepts more: no `Origin`, every page of the visitor's own machine, and each host that has its address,
    which it asks a server on the internet for.

    Args:
        app: what comes next.
        origins: of pages that may; `*`: all.
        in_team: a request without an origin is refused, and so is any other origin if `origins` names some. Else a
            page of the host and port that the request names may too.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = (), in_team: bool = False) -> None:
        self._app, self._origins, self._in_team = app, origins, in_team

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self._may(Headers(scope=scope)):
            await receive()  # the client's request
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await self._app(scope, receive, send)

    def _may(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:
            return not self._in_team  # not a browser
        if origin in self._origins or "*" in self._origins:
            return True
        return origin.partition("://")[2] == headers.get("host", "") and not (self._in_team and self._origins)


class HiddenPaths:
    """Answers 404 for paths that are not for strangers."""

    def __init__(self, app: ASGIApp, paths: tuple[str, ...] = (_STREAMLIT_METRICS,)) -> None:
        self._app, self._paths = app, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hidden = scope["type"] == "http" and scope["path"].endswith(self._paths)
        await (PlainTextResponse("Not found\n", 404) if hidden else self._app)(scope, receive, send)


class RateLimits:
    """Refuses an address that asks too often. Counted in this process."""

    def __init__(self, app: ASGIApp, sign_in: str = SIGN_IN_LIMIT, api: str = API_LIMIT) -> None:
        self._app, self._sign_in, self._api = app, parse(sign_in), parse(api)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit_of(scope)
        client = _client(scope)
        if limit is None or self._limiter.hit(limit, client):
            await self._app(scope, receive, send)
            return
        wait_s = max(1, math.ceil(self._limiter.get_window_stats(limit, client).reset_time - time.time()))
        refusal = PlainTextResponse(
            f"Too many requests from this address. Try again in {wait_s} s.\n", 429, {"Retry-After": str(wait_s)}
        )
        await refusal(scope, receive, send)

    def _limit_of(self, scope: Scope) -> RateLimitItem | None:
        if scope["type"] != "http":
            return None
        path: str = scope["path"]
        if path.endswith(_SIGN_IN_PATHS):
            return self._sign_in
        return self._api if path.startswith("/api/") else None


def _client(scope: Scope) -> str:
    """The address that a request comes from; behind a proxy that uvicorn trusts, what the proxy says."""
    host = str((scope.get("client") or ("unknown", 0))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(address if address.version == 4 else ipaddress.ip_network((int(address), _ONE_CUSTOMER), strict=False))


def _secure_cookie(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header, with `Secure` if it sets a cookie."""
    if name.lower() == b"set-cookie" and b"; secure" not in value.lower():
        value += b"; Secure"
    return name, value
