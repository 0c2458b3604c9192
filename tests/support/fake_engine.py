"""A stand-in for the engine process: responds to `GET /health`, and behaves according to FABULA_FAKE_ENGINE.

`well`: works; `deaf`: ignores SIGTERM; `fall`: exits with a message; `port`: reports once that its port is in use;
`chatty`: writes a long log.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {os.environ['FABULA_ENGINE_TOKEN']}"
        more = {"models": ["tiny"], "training": None, "queue": 0, "tokens_per_s": 41.5} if known else {}
        body = json.dumps({"status": "ok", "version": "0", **more}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Suppress log output."""


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--host", "--port", "--home"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    behaviour = os.environ.get("FABULA_FAKE_ENGINE", "well")
    home = Path(options.home)
    with (home / "lives").open("a") as lives:
        lives.write(f"{os.getpid()} {options.port}\n")
    if behaviour == "fall":
        sys.exit("The dog ate the weights.")
    if behaviour == "port" and len((home / "lives").read_text().splitlines()) == 1:
        print(f"Port {options.port} is taken.", file=sys.stderr)
        sys.exit(4)
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "chatty":
        print("x" * 100_000, flush=True)
    ThreadingHTTPServer((options.host, int(options.port)), _Health).serve_forever()


if __name__ == "__main__":
    main()
