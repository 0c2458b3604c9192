"""A fake provider over real HTTP that trains instantly and counts requests; it can fail, or kill the client.

`faults` are keyed by what they affect: `create` (a list, one for each POST), `upload`, `job`, `results`. A fault is an
HTTP status, `drop` (the connection breaks before a response), or `hang` (no response until the end of the test); with
the prefix `after:` (`after:502`), the job is created first. For `results`, a fault can also be the file's bytes.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support import fault_server
from tests.support.fakes import RESULTS
from tests.support.waiting import WAIT_LIMIT_S

_MODEL = "ft:gemma-3-270m:fabula:x:AbC123"


class JobServer:
    """Use as `with JobServer() as server:`; `server.url` is its address, `server.requests` are the requests it
    received.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.jobs: list[dict[str, Any]] = []
        self.on_created: Callable[[], None] = lambda: None
        self.faults: dict[str, Any] = {}
        self.over = threading.Event()
        handler = type("Handler", (_JobHandler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def count(self, request: str) -> int:
        """The number of requests, for example for `POST /v1/files`."""
        return self.requests.count(request)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create a finished job."""
        job = fault_server.job(
            f"ftjob-{len(self.jobs) + 1}",
            model=body["model"],
            training_file=body["training_file"],
            metadata=body["metadata"],
            status="succeeded",
            created_at=1767323045,
            finished_at=1767323046,
            fine_tuned_model=_MODEL,
            hyperparameters={"n_epochs": 1},
            result_files=["file-results"],
            trained_tokens=1250,
        )
        self.jobs.append(job)
        self.on_created()
        return job


class _JobHandler(BaseHTTPRequestHandler):
    owner: JobServer

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.requests.append(f"POST {self.path}")
        if self.path == "/v1/files":
            if not self._fails(self.owner.faults.get("upload")):
                self._say(fault_server.file("file-1"))
            return
        waiting = self.owner.faults.get("create") or []
        fault = str(waiting.pop(0)) if waiting else None
        made = self.owner.create(json.loads(sent)) if fault is None or fault.startswith("after:") else {}
        if not self._fails(fault and fault.removeprefix("after:")):
            self._say(made)

    def do_GET(self) -> None:
        self.owner.requests.append(f"GET {self.path}")
        path = self.path.partition("?")[0]
        jobs = self.owner.jobs
        if path == "/v1/fine_tuning/jobs":
            self._say({"object": "list", "data": jobs, "has_more": False})
        elif re.fullmatch(r"/v1/fine_tuning/jobs/[\w-]+", path):
            if self._fails(self.owner.faults.get("job")):
                return
            self._say(next(job for job in jobs if job["id"] == path.rpartition("/")[2]))
        elif path.startswith("/v1/files/"):
            results = self.owner.faults.get("results", RESULTS.encode())
            if isinstance(results, bytes):
                self._send(results, "text/csv")
            else:
                self._fails(results)
        else:
            self._say({"object": "list", "data": [], "has_more": False})

    def _fails(self, fault: Any) -> bool:
        """Respond with the configured fault, if any; return whether there was one."""
        if fault is None:
            return False
        if fault == "hang":
            self.owner.over.wait(WAIT_LIMIT_S)
        if fault in ("drop", "hang"):
            self.close_connection = True
            self.connection.close()
        else:
            words = "You are not allowed to use fine-tuning" if str(fault) == "403" else f"says {fault}"
            body = json.dumps({"error": {"message": words, "type": "test", "code": None}}).encode()
            self._send(body, "application/json", int(fault))
        return True

    def _say(self, answer: dict[str, Any]) -> None:
        self._send(json.dumps(answer).encode(), "application/json")

    def _send(self, body: bytes, kind: str, status: int = 200) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client disconnected
            return

    def log_message(self, *_: object) -> None:
        """Suppress output to the terminal."""
