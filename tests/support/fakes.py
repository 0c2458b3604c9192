"""Fake clients with queued answers; they record the requests."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import ModelNotFound, NotFound
from core.finetuning.job_views import JobView
from core.providers import (
    CompletionRequest,
    JobRequest,
    ModelInfo,
    Provider,
    RemoteCheckpoint,
    RemoteEvent,
    RemoteJob,
    StreamFacts,
)

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RESULTS = (
    "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy\n"
    "1,625,4,2.8,0.0,0.42\n2,1250,8,1.7,0.0,0.6\n"
)


def remote_job(status: str = "queued", **values: Any) -> RemoteJob:
    """A job as a provider would report it."""
    succeeded = status == "succeeded"
    job = RemoteJob(
        id="ftjob-1",
        status=status,
        model="gemma-3-270m",
        fine_tuned_model="ft:gemma-3-270m:fabula:tour:AbC123" if succeeded else None,
        error=None,
        trained_tokens=1250 if succeeded else None,
        estimated_finish=None,
        result_files=("file-results",) if status in ("running", "succeeded") else (),
        training_file="file-1",
        validation_file=None,
        created_at=MOMENT,
        finished_at=MOMENT if succeeded else None,
        seed=None,
        hyperparameters={},
        intent=None,
    )
    return replace(job, **values)


def event(number: int, message: str, type_: str = "message") -> RemoteEvent:
    """An event whose time increases with its number."""
    at = datetime.fromtimestamp(MOMENT.timestamp() + number, UTC)
    return RemoteEvent(f"ftevent-{number}", at, "info", message, type_, {})


class FakeStream(Iterator[str]):
    """A stream of queued pieces that follows the contract of `core.providers.TextStream` (see
    `tests/providers/test_stream_contract.py`).

    Args:
        pieces: each is a text, an exception to raise, or `...`, after which nothing arrives until the stream is closed.
        model: model name reported by the endpoint.
        usage: whether to report token counts after the last piece.
    """

    def __init__(self, pieces: tuple[object, ...], model: str, *, usage: bool = True) -> None:
        self._pieces = deque(pieces)
        self._usage = usage
        self._over = False
        self.closed = threading.Event()
        self.facts = StreamFacts(model=model)

    def __iter__(self) -> FakeStream:
        return self

    def __next__(self) -> str:
        if self._over or self.closed.is_set():
            self._over = True
            raise StopIteration
        piece = self._pieces.popleft() if self._pieces else None
        if isinstance(piece, str):
            self._learn()
            return piece
        self._over = True
        if piece is ...:
            self.closed.wait()
        elif isinstance(piece, BaseException):
            raise piece
        else:
            self._end()
        raise StopIteration

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream, from any thread; a waiting reader is woken."""
        self.closed.set()

    def _learn(self) -> None:
        n = self.facts.chunks + 1
        rate = 40.0 if n > 1 else None
        self.facts = replace(self.facts, chunks=n, first_text_s=0.4, duration_s=0.4 + n, tokens_per_s=rate)

    def _end(self) -> None:
        self.facts = replace(self.facts, finish_reason="stop")
        if self._usage:
            self.facts = replace(self.facts, prompt_tokens=9, tokens=self.facts.chunks)


@dataclass
class FakeClient:
    """A fake client for fine-tuning and streaming.

    Each call has a queue of results or exceptions to raise; the last one is repeated. `created`: the provider's jobs by
    intent; even a POST that fails may create one.
    """

    provider: Provider = field(default_factory=lambda: Provider("engine", "engine", "The engine", "http://x/v1", ""))
    sent: list[tuple[str, Any]] = field(default_factory=list)
    created: dict[str, RemoteJob] = field(default_factory=dict)
    uploaded: list[str] = field(default_factory=list)
    _queues: dict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))

    def enqueue(self, call: str, *answers: Any) -> None:
        """Queue results for the next calls of `call`."""
        self._queues[call].extend(answers)

    def count(self, call: str) -> int:
        """The number of calls to `call`."""
        return sum(1 for name, _ in self.sent if name == call)

    def upload(self, path: Path, purpose: str = "fine-tune", on_progress: object = None) -> str:
        self.uploaded.append(path.read_text(encoding="utf-8"))
        return str(self._answer("upload", path.name, "file-1"))

    def models(self) -> list[ModelInfo]:
        return list(self._answer("models", None, [ModelInfo("storyteller", "engine", "gemma-3-270m", "chat", None)]))

    def create_job(self, request: JobRequest, intent_id: str) -> RemoteJob:
        self.created[intent_id] = remote_job(intent=intent_id)
        answer: RemoteJob = self._answer("create_job", (request, intent_id), self.created[intent_id])
        return answer

    def find_job(self, intent_id: str) -> RemoteJob | None:
        answer: RemoteJob | None = self._answer("find_job", intent_id, self.created.get(intent_id))
        return answer

    def job(self, job_id: str) -> RemoteJob:
        answer: RemoteJob = self._answer("job", job_id, remote_job("succeeded"))
        return answer

    def events(self, job_id: str, after: str | None = None) -> list[RemoteEvent]:
        answer: list[RemoteEvent] = self._answer("events", after, [])
        return answer

    def checkpoints(self, job_id: str) -> list[RemoteCheckpoint]:
        answer: list[RemoteCheckpoint] = self._answer("checkpoints", job_id, [])
        return answer

    def file_text(self, file_id: str) -> str:
        return str(self._answer("file_text", file_id, RESULTS))

    def cancel(self, job_id: str) -> RemoteJob:
        return self._act("cancel", job_id, "cancelled")

    def pause(self, job_id: str) -> RemoteJob:
        return self._act("pause", job_id, "paused")

    def resume(self, job_id: str) -> RemoteJob:
        return self._act("resume", job_id, "running")

    def stream(self, request: CompletionRequest) -> FakeStream:
        answer: FakeStream = self._answer("stream", request, FakeStream(("从前", "有一天"), request.model))
        return answer

    def _act(self, call: str, job_id: str, status: str) -> RemoteJob:
        answer: RemoteJob = self._answer(call, job_id, remote_job(status))
        return answer

    def _answer(self, call: str, what: Any, otherwise: Any) -> Any:
        self.sent.append((call, what))
        queue = self._queues[call]
        answer = otherwise
        if queue:
            answer = queue.popleft() if len(queue) > 1 or isinstance(queue[0], BaseException) else queue[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@dataclass
class FakeRegistry:
    """Providers by id; for unknown ids, raises the same error as the real registry."""

    clients: dict[str, Any] = field(default_factory=dict)

    def get(self, provider_id: str) -> Any:
        if provider_id not in self.clients:
            raise NotFound(f"There is no provider {provider_id!r} on this machine.", "Choose another provider.")
        client = self.clients[provider_id]
        if isinstance(client, BaseException):
            raise client
        return client


NO_MODEL = ModelNotFound("The engine does not have this model.", "Choose another model.")


def job_view(id: str = "a", **values: object) -> JobView:
    base = JobView(
        id, None, f"job {id}", "engine", "gemma-3-270m", None, {}, None, "completion", None, None, "succeeded",
        None, None, None, None, None, None, 100, None, None, None, MOMENT, MOMENT, None,
    )  # fmt: skip
    return replace(base, **values)  # type: ignore[arg-type]  # any of its fields


TUNED, BASE = "ft:gemma-3-270m:fabula:x:1", "gemma-3-270m"
LABELS = ("refund", "balance", "card lost")
