"""An OpenAI-compatible server on loopback that fails on demand: 429, 5xx, silence, quota, HTML, cut streams, …

A test queues answers (`enqueue`), or binds them to part of a prompt (`when`); other requests get the default. The
server records all requests. It never sleeps: a held request waits until `release()`.

    with FaultServer() as server:
        server.enqueue(rate_limit(retry_after="0"), text("once upon a time"))
        Client(server.provider()).complete(...)
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

from core.providers import Provider, Registry, RetryPolicy
from tests.support.waiting import WAIT_LIMIT_S

KEY = "sk-test-key-that-must-not-leak"
GIVE_UP_S = 2 * WAIT_LIMIT_S  # limit for a held request that is never released; longer than a test waits


@dataclass(frozen=True)
class Answer:
    """One answer.

    `pieces` are joined to form the text; in a stream, each is one chunk. `end`: how the connection ends: `ok`, `drop`
    (closed without an answer), `hold` (waits for `release()`, then answers), `stall` (a stream: the pieces, then
    nothing until `release()`), `cut` (closed after the pieces), `error` (an error object after the pieces). `model`:
    the model that the server reports; default: the requested one.
    """

    pieces: tuple[str, ...] = ("Once upon", " a time.")
    finish_reason: str | None = "stop"
    status: int = 200
    body: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    end: str = "ok"
    message: Mapping[str, Any] = field(default_factory=dict)
    usage: bool = True
    choices: bool = True
    model: str | None = None


def text(*pieces: str, finish_reason: str | None = "stop") -> Answer:
    """A complete text, or one that ends for another reason (`length`, `content_filter`, None)."""
    return Answer(pieces=pieces, finish_reason=finish_reason)


def refusal(words: str) -> Answer:
    """A refusal by the model: chat's `refusal` field, no content."""
    return Answer(pieces=(), message={"content": None, "refusal": words})


def error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    """An error with OpenAI's body; header names are written with `_` for `-`."""
    body = {"error": {"message": message, "type": "test", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, body=json.dumps(body).encode(), headers=named)


def rate_limit(**headers: str) -> Answer:
    return error(429, "Rate limit reached for requests", "rate_limit_exceeded", **headers)


def quota() -> Answer:
    return error(429, "You exceeded your current quota", "insufficient_quota")


def unauthorized() -> Answer:
    return error(401, f"Incorrect API key provided: {KEY}", "invalid_api_key")


def html(status: int = 200, content_type: str = "text/html") -> Answer:
    body = b"<!doctype html><html><head><title>Sign in</title></head><body>x</body></html>"
    return Answer(status=status, body=body, content_type=content_type)


def raw(body: bytes, content_type: str = "application/json") -> Answer:
    return Answer(body=body, content_type=content_type)


def no_choices() -> Answer:
    return Answer(choices=False)


def drop() -> Answer:
    return Answer(end="drop")


def held(answer: Answer | None = None) -> Answer:
    return replace(answer or Answer(), end="hold")


def stalled(*pieces: str) -> Answer:
    return Answer(pieces=pieces, end="stall")


def cut(*pieces: str) -> Answer:
    return Answer(pieces=pieces, end="cut")


def error_in_stream(*pieces: str) -> Answer:
    return Answer(pieces=pieces, end="error")


@dataclass(frozen=True)
class RecordedRequest:
    """One received request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any  # JSON, or the bytes of a form


class FaultHandler(BaseHTTPRequestHandler):
    fault: FaultServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each response waits 40 ms for an acknowledgement

    def log_message(self, *args: object) -> None:
        """Suppress log output."""

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def _handle(self, method: str) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(data) if data else None
        except ValueError:
            body = data
        path = self.path.split("?")[0]
        self.fault._saw(RecordedRequest(method, path, {k.lower(): v for k, v in self.headers.items()}, body))
        if path.endswith(("/completions", "/speech")) or self.fault._queue:
            self.fault._fly(1)
            try:
                self._complete(self.fault._answer(body), body)
            finally:
                self.fault._fly(-1)
        elif (name := path.partition("/v1/models/")[2]) and (found := self._model(unquote(name))) is None:
            self._send(404, json.dumps({"error": {"message": "No such model", "code": "model_not_found"}}).encode())
        else:
            self._send(200, json.dumps(found if name else self._resource(method, path, body)).encode())

    def _model(self, name: str) -> dict[str, Any] | None:
        """Find a listed model, or one tuned here; like checkpoints, tuned models are available without being listed."""
        listed = next((one for one in self.fault.models if one["id"] == name), None)
        tuned = {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "test"}
        return listed or (tuned if name.startswith("ft:") else None)

    def _complete(self, answer: Answer, body: object) -> None:
        if answer.end == "hold":
            self.fault._released.wait(GIVE_UP_S)
        if answer.end == "drop":
            self.close_connection = True
            self.connection.close()
        elif self.fault.refuses_n and isinstance(body, dict) and int(body.get("n") or 1) > 1:
            refused = error(400, "Only n = 1 is supported")
            self._send(refused.status, refused.body or b"")
        elif answer.body is not None:
            self._send(answer.status, answer.body, answer.content_type, answer.headers, cut=answer.end == "cut")
        elif not isinstance(body, dict) or not body.get("model"):
            self._send(400, b"{}")
        elif body.get("stream"):
            self.stream(answer, body)
        else:
            self._send(200, json.dumps(_whole(answer, body, self.fault.most_choices)).encode(), headers=answer.headers)

    def _send(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        self.close_connection = self.close_connection or cut
        try:
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body) + cut))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client disconnected

    def stream(self, answer: Answer, body: dict[str, Any]) -> None:
        """Send the answer piece by piece."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        chunks = [chunk_of(answer, body, piece, None) for piece in answer.pieces]
        if answer.end == "error":
            chunks.append({"error": {"message": "The server is overloaded", "code": "server_error"}})
        elif answer.end not in ("cut", "stall"):
            chunks.append(chunk_of(answer, body, "", answer.finish_reason))
            if answer.usage and body.get("stream_options", {}).get("include_usage"):
                chunks.append({**chunk_of(answer, body, "", None), "choices": [], "usage": _usage(answer, 1)})
        try:
            for chunk in chunks:
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
            if answer.end == "stall":
                self.fault._released.wait(GIVE_UP_S)
            if answer.end in ("ok", "hold"):
                self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            return

    def _resource(self, method: str, path: str, body: object) -> dict[str, Any]:
        parts = path.removeprefix("/v1/").split("/")
        if parts[0] == "models":
            return {"object": "list", "data": self.fault.models}
        if parts[0] == "files" and method == "POST":
            file_id = f"file-{len(self.fault.files) + 1}"
            self.fault.files[file_id] = body if isinstance(body, bytes) else b""
            return file(file_id)
        if parts[:2] == ["fine_tuning", "jobs"]:
            return self._jobs(method, parts[2:], body)
        if parts[0] == "files":
            return {"step": "the content of a file"}
        if parts[-1] == "tokenize" and isinstance(body, dict):
            return {"tokens": self.fault.count_tokens(body["text"])}
        return {"status": "ok", "version": "1", "models": ["writer"], "queue": 0, "training": None}

    def _jobs(self, method: str, rest: list[str], body: object) -> dict[str, Any]:
        if isinstance(body, dict) and not rest:
            self.fault.jobs.insert(0, job(f"ftjob-{len(self.fault.jobs) + 1}", **body))
            return self.fault.jobs[0]
        if not rest:
            return {"object": "list", "data": self.fault.jobs, "has_more": False}
        found = next((j for j in self.fault.jobs if j["id"] == rest[0]), None) or job(rest[0])
        if rest[1:] == ["events"]:
            return {"object": "list", "data": self.fault.events.get(rest[0], []), "has_more": False}
        if rest[1:] == ["checkpoints"]:
            return {"object": "list", "data": found.get("checkpoints", []), "has_more": False}
        if rest[1:] in (["cancel"], ["pause"], ["resume"]):
            found["status"] = {"cancel": "cancelled", "pause": "paused", "resume": "running"}[rest[1]]
        return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # connections that a run opens at once; the default of 5 delays the others by seconds


class FaultServer:
    """The faulty server, a context manager. `default` is the answer to requests for which none is queued."""

    handler = FaultHandler
    address = "127.0.0.1"

    def __init__(self, default: Answer | Callable[[str], Answer] | None = None) -> None:
        self.default = default or Answer()
        self.requests: list[RecordedRequest] = []
        self.flying = 0
        self.peak = 0
        self.most_choices: int | None = None  # some servers accept `n` but return one completion
        self.refuses_n = False  # others respond with 400
        self.count_tokens: Callable[[str], int] = lambda text: 7  # as the engine's tokenizer would count
        # chooses answers by the whole body; takes precedence over queued ones
        self.judge: Callable[[Any], Answer] | None = None
        self.jobs: list[dict[str, Any]] = []
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.files: dict[str, bytes] = {}
        self.models: list[dict[str, Any]] = [
            {"id": "writer", "object": "model", "created": 1_700_000_000, "owned_by": "test"}
        ]
        self._queue: deque[Answer] = deque()
        self._bound: list[tuple[str, deque[Answer]]] = []
        self._news = threading.Condition()
        self._released = threading.Event()
        self._http = _Server((self.address, 0), type("Handler", (self.handler,), {"fault": self}))

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def provider(self, kind: str = "compatible", id: str = "fault", key: str = KEY) -> Provider:
        return Provider(id, kind, "The test server", self.url, key)  # type: ignore[arg-type]  # str for brevity

    def registry(self, kind: str = "compatible", id: str = "fault") -> Registry:
        retry_policy = RetryPolicy(total_s=5, tries=4, base_s=0.001, cap_s=0.01)
        return Registry([self.provider(kind, id)], retry_policy=retry_policy)

    def enqueue(self, *answers: Answer) -> None:
        """Queue answers for the next completion requests, in order."""
        self._queue.extend(answers)

    def when(self, part: str, *answers: Answer) -> None:
        """Set the answers for requests whose prompt contains `part`; the last one is repeated."""
        self._bound.append((part, deque(answers)))

    def forget(self) -> None:
        """Drop the queued and bound answers, so that every further request gets the default."""
        with self._news:
            self._queue.clear()
            self._bound.clear()

    def release(self) -> None:
        """Answer all held requests, current and future."""
        self._released.set()

    def wait_for(self, condition: Callable[[FaultServer], bool], timeout_s: float = WAIT_LIMIT_S) -> None:
        """Wait until `condition` is true; it is checked whenever a request starts or ends."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self), timeout_s), "the server never saw it"

    def prompts(self) -> list[str]:
        """Prompts of all completion requests so far."""
        return [prompt_of(r.body) for r in list(self.requests) if r.path.endswith("/completions")]

    def _answer(self, body: object) -> Answer:
        prompt = prompt_of(body)
        if self.judge is not None:
            return self.judge(body)
        with self._news:
            for part, answers in self._bound:
                if part in prompt:
                    return answers.popleft() if len(answers) > 1 else answers[0]
            if self._queue:
                return self._queue.popleft()
        return self.default(prompt) if callable(self.default) else self.default

    def _saw(self, seen: RecordedRequest) -> None:
        with self._news:
            self.requests.append(seen)
            self._news.notify_all()

    def _fly(self, change: int) -> None:
        with self._news:
            self.flying += change
            self.peak = max(self.peak, self.flying)
            self._news.notify_all()


def prompt_of(body: object) -> str:
    """Return the prompt of a chat or legacy request, or the text of a speech request."""
    if not isinstance(body, dict):
        return ""
    if "messages" in body:
        return str(body["messages"][-1]["content"])
    return str(body.get("prompt", body.get("input", "")))


def file(id: str, purpose: str = "fine-tune") -> dict[str, Any]:
    """A file object in OpenAI's format."""
    return {
        "id": id,
        "object": "file",
        "bytes": 1,
        "created_at": 1_700_000_000,
        "filename": "x",
        "purpose": purpose,
        "status": "processed",
    }


def job(id: str, **given: object) -> dict[str, Any]:
    """A job object in OpenAI's format."""
    return {
        "id": id,
        "object": "fine_tuning.job",
        "created_at": 1_700_000_000,
        "error": None,
        "fine_tuned_model": None,
        "finished_at": None,
        "hyperparameters": {},
        "model": "base",
        "organization_id": "org",
        "result_files": [],
        "seed": 1,
        "status": "queued",
        "trained_tokens": None,
        "training_file": "file-1",
        "validation_file": None,
        **given,
    }


def _usage(answer: Answer, n: int) -> dict[str, int]:
    count = n * len(answer.pieces)
    return {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}


def _whole(answer: Answer, body: dict[str, Any], most_choices: int | None = None) -> dict[str, Any]:
    said = "".join(answer.pieces)
    n = min(int(body.get("n") or 1), most_choices or 10_000)
    if "messages" in body:
        one: dict[str, Any] = {"message": {"role": "assistant", "content": said, **answer.message}}
    else:
        one = {"text": said, "logprobs": None}
    choices = [{"index": i, "finish_reason": answer.finish_reason, **one} for i in range(n)]
    return {
        "id": "cmpl-1",
        "object": "chat.completion" if "messages" in body else "text_completion",
        "created": 1_700_000_000,
        "model": answer.model or body["model"],
        "choices": choices if answer.choices else [],
        "usage": _usage(answer, n) if answer.usage else None,
    }


def chunk_of(answer: Answer, body: dict[str, Any], piece: str, finish_reason: str | None) -> dict[str, Any]:
    """One chunk of a stream."""
    if "messages" in body:
        one: dict[str, Any] = {"delta": {"content": piece} if piece else {}}
    else:
        one = {"text": piece, "logprobs": None}
    return {
        "id": "cmpl-1",
        "object": "chat.completion.chunk" if "messages" in body else "text_completion",
        "created": 1_700_000_000,
        "model": answer.model or body["model"],
        "choices": [{"index": 0, "finish_reason": finish_reason, **one}] if answer.choices else [],
    }
