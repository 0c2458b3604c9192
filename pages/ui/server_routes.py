"""HTTP routes for operators: health checks and metrics. No page uses them."""

from __future__ import annotations

from functools import cache

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core import metrics
from core.jobs import metrics_server
from core.jobs.health import HealthCheck
from core.settings import Settings

_FRESH = {"cache-control": "no-store"}
_UNAVAILABLE = 503


async def _live(_request: Request) -> JSONResponse:
    """`GET /api/health/live`: always 200. It checks nothing, so that a lost database does not restart the server."""
    return JSONResponse({"status": "live"}, headers=_FRESH)


async def _ready(_request: Request) -> JSONResponse:
    """`GET /api/health/ready`: 200 if the server can serve requests, else 503, with a sentence for each problem."""
    health = await run_sync(_health_check().check)
    status = _UNAVAILABLE if health.state == "not ready" else 200
    return JSONResponse({"status": health.state, "reasons": health.reasons}, status, headers=_FRESH)


async def _metrics(request: Request) -> Response:
    """`GET /metrics`, for Prometheus. Responds with 404 unless FABULA_METRICS_TOKEN is set."""
    token = Settings.from_env().metrics_token
    if token is None:
        return Response("Not found\n", 404)
    if not metrics.is_allowed(request.headers.get("authorization", ""), token):
        return Response("Send FABULA_METRICS_TOKEN as a bearer token.\n", 401, {"www-authenticate": "Bearer"})
    text = await run_sync(metrics.exposition, *_sources())
    return Response(text, headers=_FRESH | {"content-type": metrics.CONTENT_TYPE})


ROUTES = [
    Route("/api/health/live", _live),
    Route("/api/health/ready", _ready),
    Route("/metrics", _metrics),
]


@cache
def _health_check() -> HealthCheck:
    return HealthCheck(Settings.from_env())


@cache
def _sources() -> tuple[metrics.Source, ...]:
    return metrics_server.sources(Settings.from_env())
