"""An OpenAI account over real HTTP, in the documented shapes: fine-tuning jobs over pages, files, models with
`shutdown_date`, chat completions, and an organization's usage.

A test fills it (`add_tune`, `add_file`, `serve`) and can break it: `faults` (answers for the next requests whose path
contains a text), `forbidden` (paths that the key may not read), `close_after` (requests after which the account is
closed).
`requests` are the paths that it received, `prompts` the last messages of completed chats, `sent` the complete contents
that it handed out.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from core.providers import Provider
from tests.support import fault_server

KEY, ADMIN_KEY = "sk-test-account-key", "sk-admin-test-key"
DARK = "2027-01-14"
_CREATED = 1_760_000_000
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Fault:
    """An answer instead of the documented one. `cut`: close the connection after this many bytes of a file."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Content:
    """A file's content: its bytes, or `size` generated ones, of which none is kept in memory."""

    data: bytes = b""
    size: int = 0

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        for block in self._all_blocks():
            if rest := block[start:]:
                yield rest
            start = max(0, start - len(block))

    def _all_blocks(self) -> Iterator[bytes]:
        if not self.size:
            yield self.data
            return
        line = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
        left = self.size
        while left > 0:
            block = (line * (_BLOCK // len(line) + 1))[: min(_BLOCK, left)]
            left -= len(block)
            yield block

    def __len__(self) -> int:
        return self.size or len(self.data)


class OpenAIAccount:
    """Use as `with OpenAIAccount() as account:`; `account.provider()` leads to it."""

    prefix = "/v1"

    def __init__(self, port: int = 0) -> None:
        self.jobs: list[dict[str, Any]] = []  # newest first
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.checkpoints: dict[str, list[dict[str, Any]]] = {}
        self.files: list[dict[str, Any]] = []  # newest first
        self.contents: dict[str, Content] = {}
        self.models: list[dict[str, Any]] = [_model("gpt-4o-mini-2024-07-18", DARK), _model("gpt-6-luna", None)]
        self.completions: list[dict[str, Any]] | None = None  # oldest first; None: this account has no such list
        self.messages: dict[str, list[dict[str, Any]]] = {}  # by completion
        self.answers: dict[str, Callable[[str], str]] = {}  # by model
        self.buckets: list[dict[str, Any]] = []
        self.faults: list[tuple[str, deque[Fault]]] = []
        self.forbidden: tuple[str, ...] = ()
        self.close_after: int | None = None
        self.ranges = True  # whether it supports requests for a part of a file
        self.bytes_sent = 0
        self.starts: list[tuple[str, int]] = []  # each download: the file, and the byte that it began at
        self.requests: list[str] = []
        self.prompts: list[str] = []
        self.sent: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"account": self}))
        self._http.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}{self.prefix}"

    def provider(self, key: str = KEY) -> Provider:
        return Provider("openai", "openai", "OpenAI", self.url, key)

    def when(self, part: str, *faults: Fault) -> None:
        """Answer the next requests whose path contains `part` in these ways."""
        self.faults.append((part, deque(faults)))

    def add_file(self, file_id: str, content: bytes | Content, purpose: str = "fine-tune", name: str = "") -> str:
        """Add a file to the account."""
        held = Content(content) if isinstance(content, bytes) else content
        listed = fault_server.file(file_id, purpose)
        self.files.insert(0, {**listed, "bytes": len(held), "filename": name or f"{file_id}.jsonl"})
        self.contents[file_id] = held
        return file_id

    def delete_file(self, file_id: str, *, listed: bool = False) -> None:
        """Delete a file's content; `listed`: the list still has it, as just after a deletion."""
        self.contents.pop(file_id, None)
        if not listed:
            self.files = [one for one in self.files if one["id"] != file_id]

    def add_tune(self, number: int, rows: int = 4, method: str | None = "supervised", **values: Any) -> dict[str, Any]:
        """Add a finished job with training file, results (plain for even numbers, base64 for odd ones), events and
        checkpoints. `values`: fields of the job.
        """
        training, results = f"file-train{number}", f"file-results{number}"
        if "training_file" not in values:
            self.add_file(training, training_lines(number, rows))
        plain = f"step,train_loss,train_accuracy\n1,2.5,0.4\n2,1.{number},0.7\n".encode()
        self.add_file(
            results, base64.b64encode(plain) if number % 2 else plain, "fine-tune-results", "step_metrics.csv"
        )
        job_id = f"ftjob-{number}"
        job = fault_server.job(
            job_id,
            model="gpt-4o-mini-2024-07-18",
            fine_tuned_model=f"ft:gpt-4o-mini-2024-07-18:acme:intents:{number}",
            created_at=_CREATED + 1_000 * number,
            finished_at=_CREATED + 1_000 * number + 600,
            status="succeeded",
            trained_tokens=1_000 + number,
            training_file=training,
            result_files=[results],
            hyperparameters={"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8},
            **({} if method is None else {"method": {"type": method, method: {"hyperparameters": {"n_epochs": 3}}}}),
        )
        job.update(values)
        self.jobs.insert(0, job)
        self.events[job_id] = [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{number}-{i}",
                "created_at": _CREATED + 1_000 * number + i,
                "level": "info",
                "message": f"Step {i}",
                "type": "message",
                "data": {},
            }
            for i in range(3, 0, -1)
        ]
        self.checkpoints[job_id] = [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt-{number}",
                "created_at": _CREATED + 1_000 * number + 500,
                "fine_tuned_model_checkpoint": f"{job['fine_tuned_model']}:ckpt-step-2",
                "fine_tuning_job_id": job_id,
                "metrics": {"step": 2, "train_loss": 1.2},
                "step_number": 2,
            }
        ]
        return job

    def complete(self, model: str, prompt: str, answer: str | None, system: str = "Name the intent.") -> str:
        """Add a stored chat completion. Returns its id."""
        self.completions = self.completions or []
        completion_id = f"chatcmpl-{len(self.completions)}"
        message = {"role": "assistant", "content": answer, "tool_calls": None, "function_call": None}
        self.completions.append(
            {
                "id": completion_id,
                "object": "chat.completion",
                "model": model,
                "created": _CREATED + len(self.completions),
                "request_id": f"req_{completion_id}",
                "metadata": {},
                "temperature": 0.2,
                "top_p": 1.0,
                "seed": 7,
                "response_format": None,
                "tools": None,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            }
        )
        asked = [("system", system), ("user", prompt)]
        self.messages[completion_id] = [
            {"id": f"{completion_id}-{n}", "role": role, "content": text, "name": None, "content_parts": None}
            for n, (role, text) in enumerate(asked)
        ]
        return completion_id

    def serve(self, model: str, answer: Callable[[str], str]) -> None:
        """Let a model answer chat completions until it goes dark: `answer` gets the text of the last message."""
        self.answers[model] = answer
        self.models.append(_model(model, DARK))

    def use(self, model: str, days_ago: int, calls: int, tokens: int = 1_000) -> None:
        """Add a day of usage."""
        day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days_ago)
        result = {
            "object": "organization.usage.completions.result",
            "input_tokens": tokens,
            "output_tokens": tokens,
            "input_cached_tokens": 0,
            "num_model_requests": calls,
            "model": model,
        }
        start = int(day.timestamp())
        self.buckets.append({"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": [result]})

    def key_of(self, headers: Message) -> str:
        """The key that a request sends."""
        return (headers.get("authorization") or "").removeprefix("Bearer ")

    def answer(self, path: str, query: dict[str, str]) -> object:
        """What this account answers, where that is not as OpenAI does; None: as OpenAI does."""
        return None

    def count(self, part: str) -> int:
        """How many requests had this text in their path."""
        return sum(part in path for path in self.requests)

    def fault(self, path: str) -> Fault | None:
        """Record a request, and return the fault to answer it with, if any."""
        with self._lock:
            self.requests.append(path)
            if self.close_after is not None and len(self.requests) > self.close_after:
                return Fault(401)
            for part, queued in self.faults:
                if part in path and queued:
                    return queued.popleft()
        return Fault(403) if any(part in path for part in self.forbidden) else None


def training_lines(number: int, rows: int) -> bytes:
    """A training file of conversations whose answer is one of three labels."""
    lines = (
        {
            "messages": [
                {"role": "system", "content": "Name the intent."},
                {"role": "user", "content": f"Question {i} of {number}"},
                {"role": "assistant", "content": ("refund", "order", "other")[i % 3]},
            ]
        }
        for i in range(rows)
    )
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def _model(name: str, shutdown_date: str | None) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "system", "shutdown_date": shutdown_date}


def _completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    """A chat completion; a token is a word."""
    asked, answered = sum(len(str(one["content"]).split()) for one in body["messages"]), len(text.split())
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": _CREATED,
        "model": body["model"],
        "choices": [{**choice, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered},
    }


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a killed client resets its connections."""


class _Handler(BaseHTTPRequestHandler):
    account: OpenAIAccount
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Suppress log output."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path).removeprefix(self.account.prefix)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        fault = self.account.fault(path)
        if self._refused(path, fault):
            return
        if path.endswith("/content"):
            self._content(path.split("/")[2], fault)
        else:
            self._answer(path, query)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/v1")
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "{}")
        if self._refused(path, self.account.fault(path)):
            return
        if path != "/chat/completions":
            self._error(404, f"Invalid URL (POST {path})")
        elif (answer := self.account.answers.get(body["model"])) is None:
            self._error(404, f"The model `{body['model']}` does not exist or you do not have access to it.")
        else:
            prompt = body["messages"][-1]["content"]
            self.account.prompts.append(prompt)
            self._json(_completion(body, answer(prompt)))

    def _refused(self, path: str, fault: Fault | None) -> bool:
        """Answer with the fault, or for a wrong key; False if there is neither."""
        is_admin = path.startswith("/organization")
        key = self.account.key_of(self.headers)
        if fault is not None and fault.cut is None:
            self._error(fault.status, f"says {fault.status}", fault.headers)
        elif key != (ADMIN_KEY if is_admin else KEY):
            self._error(401, "Incorrect API key provided")
        else:
            return False
        return True

    def _answer(self, path: str, query: dict[str, str]) -> None:
        account, parts = self.account, path.strip("/").split("/")
        if (answer := account.answer(path, query)) is not None:
            self._json(answer)
        elif path == "/models":
            self._json({"object": "list", "data": account.models})
        elif path == "/files":
            self._page(account.files, query, 10_000)
        elif path == "/fine_tuning/jobs":
            self._page(account.jobs, query, 20)
        elif parts[:2] == ["fine_tuning", "jobs"] and parts[3:] in (["events"], ["checkpoints"]):
            if not any(job["id"] == parts[2] for job in account.jobs):
                self._error(404, f"Could not find fine tune: {parts[2]}")
            else:
                held = account.events if parts[3] == "events" else account.checkpoints
                self._page(held.get(parts[2], []), query, 20)
        elif path == "/chat/completions" and account.completions is not None:
            stored = [one for one in account.completions if query.get("model") in (None, one["model"])]
            self._page(stored[::-1] if query.get("order") == "desc" else stored, query, 20)
        elif parts[:2] == ["chat", "completions"] and parts[3:] == ["messages"] and account.completions is not None:
            self._page(account.messages.get(parts[2], []), query, 20)
        elif path == "/organization/usage/completions":
            buckets = sorted(account.buckets, key=lambda one: one["start_time"])
            begin, limit = int(query.get("page", "0")), int(query.get("limit", "7"))
            following = begin + limit if begin + limit < len(buckets) else None
            page = {"object": "page", "data": buckets[begin : begin + limit], "has_more": following is not None}
            self._json({**page, "next_page": None if following is None else str(following)})
        else:
            self._error(404, f"Invalid URL (GET {path})")

    def _page(self, held: list[dict[str, Any]], query: dict[str, str], default: int) -> None:
        ids = [one["id"] for one in held]
        begin = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        limit = int(query.get("limit", default))
        page = held[begin : begin + limit]
        self._json({"object": "list", "data": page, "has_more": begin + limit < len(held)})

    def _content(self, file_id: str, fault: Fault | None) -> None:
        held = self.account.contents.get(file_id)
        if held is None:
            return self._error(404, f"No such File object: {file_id}")
        wanted = (self.headers.get("range") or "").removeprefix("bytes=").removesuffix("-")
        start = int(wanted) if wanted and self.account.ranges else 0
        self.account.starts.append((file_id, start))
        self.send_response(206 if start else 200)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("content-length", str(len(held) - start))
        if start:
            self.send_header("content-range", f"bytes {start}-{len(held) - 1}/{len(held)}")
        self.end_headers()
        sent = 0
        try:
            for block in held.blocks(start):
                self.account.bytes_sent += len(block)
                if fault is not None and fault.cut is not None and sent + len(block) > fault.cut:
                    self.wfile.write(block[: fault.cut - sent])
                    self.close_connection = True
                    return self.connection.close()
                self.wfile.write(block)
                sent += len(block)
        except OSError:  # the client disconnected
            self.close_connection = True
            return None
        self.account.sent[file_id] += 1
        return None

    def _error(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
        self._json(body, status, headers)

    def _json(self, body: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True
