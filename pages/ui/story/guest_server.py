"""Serves the pages of guests on a port of their own, and nothing else, so that phones can vote on a studio that
otherwise listens on its own machine only.
"""

from __future__ import annotations

import logging
import socket
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from pages.ui import web_security
from pages.ui.story import guest_routes

_log = logging.getLogger("fabula.guests")
_QUEUE = 512  # connections that wait to be accepted: an audience scans the code at the same time
_MOST_CONNECTIONS = 2_000  # open at a time
_KEEP_ALIVE_S = 5
_STOP_S = 5


class GuestServer:
    """The server of FABULA_GUEST_PORT, in a thread with an event loop of its own. `port`: 0: the system chooses."""

    def __init__(self, port: int) -> None:
        self.port = port
        app = Starlette(routes=guest_routes.routes(), middleware=[Middleware(web_security.SecurityHeaders)])
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S, limit_concurrency=_MOST_CONNECTIONS,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen on the port at all addresses. If it is taken, log it; the studio runs on without."""
        try:
            listening = socket.create_server(("", self.port), backlog=_QUEUE)
        except OSError as exc:
            _log.error("The pages of guests cannot be served on port %s: %s.", self.port, exc.strerror)
            return
        self.port = listening.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="fabula-guests", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer what has been asked, then close the port."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(_STOP_S)
