"""A local server that simulates the download address of genai-prices, or returns other content."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class PriceAddress:
    """The server's URL, its response (None for an error 500), and the number of requests."""

    url: str
    body: bytes | None
    asked: int = 0


@contextmanager
def price_server(body: bytes | None) -> Iterator[PriceAddress]:
    """Run the server for the duration of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address.asked += 1
            answer = address.body
            self.send_response(500 if answer is None else 200)
            self.send_header("content-length", str(len(answer or b"")))
            self.end_headers()
            self.wfile.write(answer or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = PriceAddress(f"http://127.0.0.1:{server.server_port}/data.json", body)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield address
        finally:
            server.shutdown()
            thread.join()
