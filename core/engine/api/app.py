"""The engine as an ASGI application: error handlers, startup and shutdown. Its routes are in `routes`."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.engine import cors_origins
from core.engine.api.connections import BearerAuth, cors_middleware
from core.engine.api.engine import Config, Engine
from core.engine.api.errors import ApiError, disk_full, is_disk_full
from core.engine.api.models import NO_ALIASES_HEADER, no_aliases
from core.engine.api.routes import ROUTES, PickHandler
from core.message import msg

_log = logging.getLogger(__name__)
_CLIENT_CLOSED = 499  # nginx's status code for a client that disconnected; never actually sent


def create_app(config: Config) -> Starlette:
    """Create the ASGI application of one engine. It opens the home directory at startup.

    `app.state.begin_stop()` may be called as soon as the process gets a signal to stop, before requests have ended.

    Raises:
        ValueError: FABULA_ENGINE_CORS_ORIGINS is malformed.
    """
    opened: list[Engine] = []
    allowed = cors_origins.read(config.environ)

    def begin_stop() -> None:
        for engine in opened:
            engine.begin_stop()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine = Engine(config)
        opened.append(engine)
        engine.start()
        try:
            yield
        finally:
            opened.clear()
            await engine.stop()

    def handle(pick: PickHandler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                handler = pick(opened[0])
                no_aliases.set(NO_ALIASES_HEADER in request.headers)  # each request has its own task and context
                if asyncio.iscoroutinefunction(handler):
                    response: Response = await handler(request)
                    return response
                return await run_in_threadpool(handler, request)
            except (ApiError, HTTPException, ClientDisconnect):
                raise
            except Exception as exc:  # here, inside the middleware: a browser can't read an answer without its headers
                return await _failed(request, exc)

        return endpoint

    app = Starlette(
        routes=[Route(path, handle(pick), methods=[method]) for method, path, pick in ROUTES],
        middleware=[*cors_middleware(allowed), Middleware(BearerAuth, token=config.token, origins=allowed)],
        exception_handlers={
            Exception: _failed,
            HTTPException: _http_error,
            ApiError: _api_error,
            OSError: _failed,  # these two: while an answer is sent
            sqlite3.Error: _failed,
            ClientDisconnect: _client_closed,
        },
        lifespan=lifespan,
    )
    app.state.begin_stop = begin_stop
    return app


async def _api_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)
    return JSONResponse(exc.body(), exc.status)


async def _http_error(request: Request, exc: Exception) -> Response:
    """Handle Starlette's own errors: unknown path or wrong method."""
    assert isinstance(exc, HTTPException)
    endpoint = f"{request.method} {request.url.path}"
    if exc.status_code == 405:
        error = ApiError(
            405,
            msg("Not allowed: {endpoint}. Perhaps you meant another HTTP method.", endpoint=endpoint),
            code="method_not_allowed",
        )
    else:
        error = ApiError(exc.status_code, msg("Invalid URL ({endpoint})", endpoint=endpoint), code="unknown_url")
    return JSONResponse(error.body(), exc.status_code)


async def _failed(request: Request, exc: Exception) -> Response:
    """Handle any other error: report a full disk as such, and everything else as OpenAI's generic server error, with
    details in the log.
    """
    if is_disk_full(exc):
        error = disk_full()
    else:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
        message = msg("The engine had an error while processing your request. Its log has the details.")
        error = ApiError(500, message, type="server_error", code="server_error")
    return JSONResponse(error.body(), error.status)


async def _client_closed(_: Request, exc: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED)
