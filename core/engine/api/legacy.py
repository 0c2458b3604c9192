"""OpenAI's API of 2023, for programs with `openai` 0.27: /v1/fine-tunes and /v1/engines, on today's jobs and models.

Endpoints of that time that do the work of no endpoint here answer with the line to write instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core import packaged_models
from core.engine.api import job_request, serializers
from core.engine.api.errors import ApiError
from core.engine.api.files import Files
from core.engine.api.jobs import Jobs
from core.engine.api.models import Model, ModelCatalogue
from core.engine.api.requests import EventStream, json_body, reject_unknown
from core.engine.chat_messages import is_missing
from core.engine.event_log import add_event
from core.engine.store import EngineStore, Event, File, Job, Status
from core.message import msg

_BASES: Final = ("ada", "babbage", "curie", "davinci")
"""The bases that could be fine-tuned in 2023. OpenAI has retired them."""
_DEFAULT_BASE: Final = "curie"
_HYPERPARAMETERS: Final = ("n_epochs", "batch_size", "learning_rate_multiplier")
_SAME_NAMES: Final = ("training_file", "validation_file")
_CLASSIFICATION: Final = (
    "compute_classification_metrics",
    "classification_n_classes",
    "classification_positive_class",
    "classification_betas",
)
_KNOWN = frozenset({"model", "suffix", "prompt_loss_weight", *_SAME_NAMES, *_HYPERPARAMETERS, *_CLASSIFICATION})
_PROMPT_LOSS_WEIGHTS: Final = (0, 0.01)  # 0.01 was the default: nearly the same as the engine's 0
_STATUSES: dict[Status, str] = {"validating_files": "pending", "queued": "pending", "paused": "pending"}
_ENDED: tuple[Status, ...] = ("succeeded", "failed", "cancelled")
_NOT_IN_SUFFIX = re.compile(r"[^A-Za-z0-9._-]+")
_LOOK_S: Final = 0.5  # between two looks at a job's events; the trainer writes about one a second
_COMMENT_S: Final = 15.0  # silence after which a stream gets a comment, so that proxies keep it open
_PAGE: Final = 200

_CHAT: Final = 'openai.ChatCompletion.create(model=…, messages=[{"role": "user", "content": …}])'
RETIRED: Final[Mapping[tuple[str, str], str]] = {
    ("POST", "/v1/edits"): _CHAT,
    ("POST", "/v1/engines/{id:path}/edits"): _CHAT,
    ("POST", "/v1/engines/{id:path}/generate"): "openai.Completion.create(engine=…, prompt=…)",
    ("POST", "/v1/engines/{id:path}/search"): _CHAT,
    ("POST", "/v1/search"): _CHAT,
    ("POST", "/v1/classifications"): _CHAT,
    ("POST", "/v1/answers"): _CHAT,
    ("DELETE", "/v1/fine-tunes/{id}"): "openai.Model.delete(fine_tuned_model)",
}
"""Endpoints that are not served, and the line to write instead."""


@dataclass(frozen=True)
class LegacyApi:
    """The endpoints of 2023. Completions with an engine's name in the path are answered by `Inference`.

    Attributes:
        stopping: set when the engine begins to stop, which ends streams of events.
    """

    store: EngineStore
    files: Files
    models: ModelCatalogue
    jobs: Jobs
    stopping: asyncio.Event

    def list_engines(self, request: Request) -> Response:
        """GET /v1/engines."""
        return JSONResponse({"object": "list", "data": [_engine(model) for model in self.models.listed()]})

    def get_engine(self, request: Request) -> Response:
        """GET /v1/engines/{id}."""
        return JSONResponse(_engine(self.models.find(request.path_params["id"])))

    async def create(self, request: Request) -> Response:
        """POST /v1/fine-tunes. A retired base (`curie` by default) stands for the packaged base, unless an alias or a
        model has its name.
        """
        body = await json_body(request)
        asked = _DEFAULT_BASE if is_missing(body.get("model")) else body["model"]
        model = await run_in_threadpool(self._trained, asked)
        job = await self.jobs.submit(job_request.parse(_todays_request(body, model)))
        if model != asked:
            replaced = msg("OpenAI has retired {asked}; {model} is trained instead.", asked=asked, model=model)
            await run_in_threadpool(add_event, self.store, job.id, replaced, level="warn")
        return JSONResponse(await run_in_threadpool(self._with_events, job))

    def list_jobs(self, request: Request) -> Response:
        """GET /v1/fine-tunes: all jobs, oldest first."""
        rows = self.store.select(Job, "1")
        return JSONResponse({"object": "list", "data": [self._fine_tune(row) for row in rows]})

    def get_job(self, request: Request) -> Response:
        """GET /v1/fine-tunes/{id}, with its events."""
        return JSONResponse(self._with_events(self.jobs.find(request)))

    def cancel(self, request: Request) -> Response:
        """POST /v1/fine-tunes/{id}/cancel."""
        self.jobs.cancel(request)
        return self.get_job(request)

    async def events(self, request: Request) -> Response:
        """GET /v1/fine-tunes/{id}/events?stream: oldest first; a stream ends with the job, and
        without `[DONE]` when the engine stops.
        """
        job = await run_in_threadpool(self.jobs.find, request)
        if request.query_params.get("stream", "").lower() == "true":
            return EventStream(self._stream(job.id))
        return JSONResponse({"object": "list", "data": await run_in_threadpool(self._events, job.id)})

    def _trained(self, asked: object) -> object:
        """The model that a request for `asked` trains."""
        if asked not in _BASES:
            return asked  # checked with the rest of the request
        try:
            return self.models.find(asked).id
        except ApiError:
            return packaged_models.BASE

    def _fine_tune(self, job: Job) -> serializers.Json:
        """A job as a `fine-tune` object."""
        return {
            "id": job.id,
            "object": "fine-tune",
            "created_at": job.created_at,
            "updated_at": job.finished_at or job.started_at or job.created_at,
            "model": job.model,
            "fine_tuned_model": job.fine_tuned_model,
            "organization_id": serializers.OWNER,
            "status": _STATUSES.get(job.status, job.status),
            "hyperparams": {
                "n_epochs": job.n_epochs,
                "batch_size": job.batch_size,
                "learning_rate_multiplier": job.learning_rate_multiplier,
                "prompt_loss_weight": 0,
            },
            "training_files": self._file_objects(job.training_file),
            "validation_files": self._file_objects(job.validation_file),
            "result_files": self._file_objects(job.result_file),
        }

    def _file_objects(self, file_id: str | None) -> list[serializers.Json]:
        """A list with one file object, also for a file that was deleted; empty if there is no file."""
        row = None if file_id is None else self.store.get(File, file_id)
        return [] if row is None else [serializers.file(row, self.files.size(row))]

    def _with_events(self, job: Job) -> serializers.Json:
        return {**self._fine_tune(job), "events": self._events(job.id)}

    def _events(self, job_id: str) -> list[serializers.Json]:
        return [_event(row) for row in self.store.select(Event, "job_id = ? AND type = 'message'", (job_id,))]

    async def _stream(self, job_id: str) -> AsyncGenerator[bytes, None]:
        last: str | None = None
        sent_at = time.monotonic()
        while not self.stopping.is_set():
            job = await run_in_threadpool(self.store.get, Job, job_id)  # before its events, so that none is missed
            rows, more = await run_in_threadpool(self._new_messages, job_id, last)
            for row in rows:
                last, sent_at = row.id, time.monotonic()
                yield b"data: " + json.dumps(_event(row), ensure_ascii=False).encode() + b"\n\n"
            if more:
                continue
            if job is None or job.status in _ENDED:
                yield b"data: [DONE]\n\n"
                return
            if time.monotonic() - sent_at > _COMMENT_S:
                sent_at = time.monotonic()
                yield b": the job is not finished\n\n"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self.stopping.wait()

    def _new_messages(self, job_id: str, last: str | None) -> tuple[list[Event], bool]:
        where = "job_id = ? AND type = 'message'"
        return self.store.page(Event, where, (job_id,), after=last, limit=_PAGE, newest_first=False)


def retired(line: str, request: Request) -> Response:
    """An endpoint that is not served: the error contains the `line` to write instead."""
    message = msg(
        "The engine does not serve {endpoint}. Write instead: {line}",
        endpoint=f"{request.method} {request.url.path}",
        line=line,
    )
    raise ApiError(404, message, code="endpoint_retired")


def _engine(model: Model) -> serializers.Json:
    """A model as an `engine` object."""
    return {
        "id": model.id,
        "object": "engine",
        "owner": serializers.OWNER,
        "ready": True,
        "created": None,
        "permissions": None,
    }


def _event(row: Event) -> serializers.Json:
    """An event as a `fine-tune-event` object."""
    return {"object": "fine-tune-event", "created_at": row.created_at, "level": row.level, "message": row.message}


def _todays_request(body: Mapping[str, Any], model: object) -> dict[str, Any]:
    """Convert the body of POST /v1/fine-tunes to that of POST /v1/fine_tuning/jobs. Raises ApiError 400."""
    reject_unknown(body, _KNOWN)
    for name in _CLASSIFICATION:
        if not is_missing(body.get(name)) and body[name] is not False:
            message = msg("'{name}' is not supported by this engine. Leave it out.", name=name)
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    weight = body.get("prompt_loss_weight")
    if weight is not None and (isinstance(weight, bool) or weight not in _PROMPT_LOSS_WEIGHTS):
        message = msg("The engine learns from completions only. Leave '{name}' out.", name="prompt_loss_weight")
        raise ApiError(400, message, param="prompt_loss_weight", code="unsupported_parameter")
    suffix = body.get("suffix")
    return {
        "model": model,
        **{name: body[name] for name in _SAME_NAMES if name in body},
        # the shell line of that time, split at its spaces, sends a suffix in quotes
        "suffix": _NOT_IN_SUFFIX.sub("-", suffix).strip("-") if isinstance(suffix, str) else suffix,
        "hyperparameters": {name: body[name] for name in _HYPERPARAMETERS if name in body},
    }
