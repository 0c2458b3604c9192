"""A webhook that records what it receives, and answers as a test says."""

from __future__ import annotations

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class WebhookServer:
    """A context manager. `answers` are (status, body) for the next requests; then 200 and `{"code": 0}`."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.received: list[dict[str, Any]] = []
        self.answers = deque(answers)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"webhook": self}))
        self._http.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/hook/secret-part"


class _Handler(BaseHTTPRequestHandler):
    webhook: WebhookServer

    def log_message(self, *args: object) -> None:
        """No log output."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, answer = self.webhook.answers.popleft() if self.webhook.answers else (200, '{"code": 0}')
        self.webhook.received.append(body)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", answer)
        self.end_headers()
        self.wfile.write(answer.encode())
