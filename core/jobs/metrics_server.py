"""Serves the metrics of a separate worker, which has no other web server."""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from core import metrics
from core.db.store import Store
from core.jobs import ledger_metrics
from core.settings import Settings

_log = logging.getLogger("fabula.metrics")


def sources(settings: Settings) -> tuple[metrics.Source, ...]:
    """The gauges of the ledger and the engine. The database is opened when they are first read."""
    store = Store(settings.database_url, settings.home)
    return ledger_metrics.ledger_source(store), ledger_metrics.engine_source(settings)


def start(settings: Settings) -> ThreadingHTTPServer | None:
    """Serve `/metrics` on FABULA_METRICS_PORT in a daemon thread; return None if that is not set up."""
    if settings.metrics_port is None or settings.metrics_token is None:
        return None
    handler = type("Handler", (_Handler,), {"token": settings.metrics_token, "sources": sources(settings)})
    try:
        server = ThreadingHTTPServer(("", settings.metrics_port), handler)
    except OSError as exc:  # the worker runs on without metrics
        _log.error("Metrics cannot be served on port %s: %s.", settings.metrics_port, exc.strerror)
        return None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="fabula-metrics", daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    token: str
    sources: tuple[metrics.Source, ...]

    def do_GET(self) -> None:  # name set by http.server
        """Answer one request."""
        if self.path != "/metrics":
            return self._answer(404, b"Not found\n")
        if not metrics.is_allowed(self.headers.get("authorization", ""), self.token):
            return self._answer(401, b"Send FABULA_METRICS_TOKEN as a bearer token.\n")
        self._answer(200, metrics.exposition(*self.sources), metrics.CONTENT_TYPE)

    def log_message(self, *_arguments: object) -> None:
        """Requests are not logged."""

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
