"""A provider that trains in no time, over real HTTP: it counts what it is sent, and can kill who sends."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fakes import RESULTS

_MODEL = "ft:gemma-3-270m:fabula:x:AbC123"


class JobServer:
    """`with JobServer() as server:`; `server.url` is its address, `server.requests` what came."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.jobs: list[dict[str, Any]] = []
        self.on_created: Callable[[], None] = lambda: None
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> JobServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, request: str) -> int:
        """How often exactly this came, for example `POST /v1/files`."""
        return self.requests.count(request)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """A job that has ended already."""
        job = {
            "id": f"ftjob-{len(self.jobs) + 1}",
            "object": "fine_tuning.job",
            "created_at": 1767323045,
            "finished_at": 1767323046,
            "error": None,
            "fine_tuned_model": _MODEL,
            "hyperparameters": {"n_epochs": 1},
            "model": body["model"],
            "organization_id": "fabula",
            "result_files": ["file-results"],
            "seed": 1,
            "status": "succeeded",
            "trained_tokens": 1250,
            "training_file": body["training_file"],
            "validation_file": None,
            "metadata": body["metadata"],
        }
        self.jobs.append(job)
        self.on_created()
        return job


class _Handler(BaseHTTPRequestHandler):
    owner: JobServer

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.requests.append(f"POST {self.path}")
        if self.path == "/v1/files":
            file = {
                "id": "file-1",
                "object": "file",
                "bytes": 1,
                "created_at": 1,
                "filename": "x",
                "status": "processed",
            }
            self._say(file | {"purpose": "fine-tune"})
        else:
            self._say(self.owner.create(json.loads(sent)))

    def do_GET(self) -> None:
        self.owner.requests.append(f"GET {self.path}")
        path = self.path.partition("?")[0]
        jobs = self.owner.jobs
        if path == "/v1/fine_tuning/jobs":
            self._say({"object": "list", "data": jobs, "has_more": False})
        elif re.fullmatch(r"/v1/fine_tuning/jobs/[\w-]+", path):
            self._say(next(job for job in jobs if job["id"] == path.rpartition("/")[2]))
        elif path.startswith("/v1/files/"):
            self._send(RESULTS.encode(), "text/csv")
        else:
            self._say({"object": "list", "data": [], "has_more": False})

    def _say(self, answer: dict[str, Any]) -> None:
        self._send(json.dumps(answer).encode(), "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        try:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # who asked is dead
            return

    def log_message(self, *_: object) -> None:
        """Nothing to the terminal."""
