"""OpenAI's Files and Batches over real HTTP, on loopback: each request for a batch moves it one step forward.

with BatchServer() as server:
    server.fates.append("expired")               # fate of the next batch; default: completed
    server.answers["n0003"] = (429, "slow down") # result of the line with this prompt; default: a story
    server.faults["POST /v1/batches"] = ["drop"] # faults of the next such requests
"""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from core.providers import Provider, Registry, RetryPolicy
from tests.support import fault_server

KEY = "sk-batch-key-that-must-not-leak"
_STEPS = ("validating", "in_progress", "finalizing")
_SKIPPED = object()  # a line that was never processed

Line = dict[str, Any]


@dataclass
class BatchServer:
    """The batch server, a context manager.

    Attributes:
        fates: how the next batches end (completed, expired, failed, endless); cancelling a batch always works.
        answers: results by the line's prompt: (status, message), a finish reason, a dict as the body with status 200,
            bytes as a raw line, None for no line, or a function of the line's body.
        errors: errors of failing batches: (line or None, code, message).
        faults: by "METHOD path", for the next such requests: a status, "drop" (processed, no response),
            "cut" (half a response).
        usage: whether the answer to a prompt includes token counts.
        done_share: fraction of an expired or cancelled batch that was processed.
        keys: the account's keys.
        on: called with "METHOD path" before each response.
        requests, files, batches: everything received and stored.
    """

    fates: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    errors: list[tuple[int | None, str, str]] = field(default_factory=list)
    faults: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    done_share: float = 0.5
    usage: Callable[[str], bool] = lambda prompt: True
    limit: int | None = None
    keys: tuple[str, ...] = (KEY,)
    on: Callable[[str], object] = lambda what: None
    requests: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    bought: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_BatchHandler,), {"owner": self}))
        self._http.daemon_threads = True

    def __enter__(self) -> BatchServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def provider(self, kind: str = "openai", id: str = "openai") -> Provider:
        return Provider(id, kind, "The batch server", self.url, KEY)  # type: ignore[arg-type]  # str for brevity

    def registry(self, kind: str = "openai", id: str = "openai") -> Registry:
        return Registry(
            [self.provider(kind, id)], retry_policy=RetryPolicy(total_s=5, tries=2, base_s=0.001, cap_s=0.01)
        )

    def count(self, request: str) -> int:
        """Number of requests of this kind, for example `POST /v1/batches`."""
        return self.requests.count(request)

    def lines(self, batch: int = 0) -> list[Line]:
        """The uploaded lines of a batch's file."""
        found = list(self.batches.values())[batch]
        return [json.loads(line) for line in self.files[found["input_file_id"]].splitlines()]

    # --- batches -------------------------------------------------------------------------------------------------

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        fate = self.fates.pop(0) if self.fates else "completed"
        total = len(self.files[body["input_file_id"]].splitlines())
        batch = {
            "id": f"batch_{len(self.batches) + 1}",
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "metadata": body.get("metadata"),
            "created_at": 1_700_000_000,
            "expires_at": 1_700_086_400,
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "_fate": "crowded" if self.limit is not None and total > self.limit else fate,
        }
        self.batches[batch["id"]] = batch
        return batch

    def step(self, batch: dict[str, Any]) -> None:
        """Move the batch one step forward."""
        status, fate = batch["status"], batch["_fate"]
        if status == "cancelling":
            self._end(batch, "cancelled", self.done_share)
        elif status == "validating" and fate in ("failed", "crowded"):
            crowded = [(None, "token_limit_exceeded", "Enqueued token limit reached. Limit: 90,000 enqueued tokens.")]
            data = [
                {"line": line, "code": code, "message": message, "param": None}
                for line, code, message in (crowded if fate == "crowded" else self.errors)
            ]
            batch.update(status="failed", errors={"object": "list", "data": data})
        elif status in _STEPS[:-1] and not (status == "in_progress" and fate == "endless"):
            batch["status"] = _STEPS[_STEPS.index(status) + 1]
            batch["request_counts"] = {"total": len(self._lines(batch)), "completed": 1, "failed": 0}
        elif status == "finalizing":
            self._end(batch, fate, 1.0 if fate == "completed" else self.done_share)

    def _lines(self, batch: dict[str, Any]) -> list[Line]:
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]

    def _end(self, batch: dict[str, Any], status: str, share: float) -> None:
        lines = self._lines(batch)
        done = [self._carried_out(line) for line in lines[: round(len(lines) * share)]]
        code = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(status, "")
        left = [
            {"custom_id": line["custom_id"], "response": None, "error": {"code": code, "message": "Out of time."}}
            for line in lines[round(len(lines) * share) :]
        ]
        done = [line for line in done if line is not _SKIPPED]
        good = [line for line in done if isinstance(line, bytes) or line["response"]["status_code"] == 200]
        batch["output_file_id"] = self._file(good, batch["id"], "output")
        taken = {id(line) for line in good}
        bad = [line for line in done if id(line) not in taken]
        batch["error_file_id"] = self._file(bad + left, batch["id"], "error")
        batch["status"] = status
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(lines) - len(good)}

    def _file(self, lines: list[Any], batch_id: str, what: str) -> str | None:
        """Store results as a file, in arbitrary order."""
        if not lines:
            return None
        random.Random(7).shuffle(lines)
        raw = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        self.files[f"file-{batch_id}-{what}"] = b"".join(line + b"\n" for line in raw)
        return f"file-{batch_id}-{what}"

    def _carried_out(self, line: Line) -> Any:
        body, custom_id = line["body"], line["custom_id"]
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        said = self.answers.get(prompt, "stop")
        if callable(said):
            said = said(body)
        if said is None:
            return _SKIPPED
        if isinstance(said, bytes):
            return said
        if isinstance(said, tuple):
            error = {
                "error": {"message": said[1], "type": "test", "param": None, "code": said[2] if said[2:] else None}
            }
            return {"custom_id": custom_id, "response": {"status_code": said[0], "body": error}, "error": None}
        self.bought.append(custom_id)
        if isinstance(said, dict):
            return {"custom_id": custom_id, "response": {"status_code": 200, "body": said}, "error": None}
        text = f"A story of {prompt}."
        one = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15} if self.usage(prompt) else None
        answer = {
            "object": "chat.completion" if "messages" in body else "text_completion",
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": said, **one}],
            "usage": usage,
        }
        return {"id": "r", "custom_id": custom_id, "response": {"status_code": 200, "body": answer}, "error": None}


class _BatchHandler(BaseHTTPRequestHandler):
    owner: BatchServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Suppress log output."""

    def do_GET(self) -> None:
        self._handle("GET", b"")

    def do_POST(self) -> None:
        self._handle("POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _handle(self, method: str, body: bytes) -> None:
        path = self.path.partition("?")[0]
        kind = f"{method} {path}"
        self.owner.on(kind)
        with self.owner.lock:
            self.owner.requests.append(kind)
            queued = self.owner.faults.get(kind) or []
            fault = queued.pop(0) if queued else None
            if self.headers.get("Authorization") not in [f"Bearer {key}" for key in self.owner.keys]:
                fault = 401
            if isinstance(fault, int):
                words = "You exceeded your current quota" if fault == 402 else f"fault {fault}"
                return self._send(fault, json.dumps({"error": {"message": words}}).encode())
            status, answer = self._answer(method, path.removeprefix("/v1/").split("/"), body)
        if fault == "drop":
            self.close_connection = True
            return None
        return self._send(status, answer, cut=fault == "cut")

    def _answer(self, method: str, parts: list[str], body: bytes) -> tuple[int, bytes]:
        owner = self.owner
        if parts[0] == "files" and method == "POST":
            form = _form(self.headers["Content-Type"], body)
            assert form["purpose"] == b"batch"
            file_id = f"file-{len(owner.files) + 1}"
            owner.files[file_id] = form["file"]
            return _json(fault_server.file(file_id, "batch"))
        if parts[0] == "files" and parts[1] in owner.files:
            return 200, owner.files[parts[1]]
        if parts[0] == "batches" and len(parts) == 1:
            if method == "POST":
                return _json(owner.create(json.loads(body)))
            return _json({"object": "list", "data": list(owner.batches.values())[::-1], "has_more": False})
        batch = owner.batches.get(parts[1]) if parts[0] == "batches" else None
        if batch is None:
            return 404, json.dumps({"error": {"message": f"No such {parts[0]}"}}).encode()
        if parts[2:] == ["cancel"]:
            if batch["status"] not in _STEPS:
                return 409, json.dumps({"error": {"message": "It has ended."}}).encode()
            batch["status"] = "cancelling"
        else:
            owner.step(batch)
        return _json(batch)

    def _send(self, status: int, body: bytes, cut: bool = False) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut
        except OSError:  # the client has died
            self.close_connection = True


def _json(answer: dict[str, Any]) -> tuple[int, bytes]:
    return 200, json.dumps(answer).encode()


def _form(content_type: str, body: bytes) -> dict[str, bytes]:
    """Parse the fields of a multipart form."""
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    found: dict[str, bytes] = {}
    for part in parts:
        assert isinstance(part, Message)
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found[str(name)] = content
    return found
