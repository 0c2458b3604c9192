"""/v1/fine_tuning/jobs: create, list, get, cancel, pause, resume, events, checkpoints."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine import chat, ids, job_queue, job_request, serializers, validate
from core.engine.errors import ApiError, bad_value, unknown_job
from core.engine.event_log import add_event
from core.engine.files import PURPOSE, SOURCES, Files, source_path
from core.engine.job_request import ParsedJobRequest
from core.engine.models import ModelCatalogue
from core.engine.requests import json_body, query_limit
from core.engine.store import CheckpointRow, EngineStore, Event, Job, Row, Status, to_json
from core.message import msg

ALIVE: tuple[Status, ...] = ("validating_files", "queued", "running")
_MAX_PAGE = 1000
INTENT = "fabula_intent"  # metadata that makes a POST safe to repeat
_HAS_METADATA = "EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)"


class Jobs:
    """The endpoints. The work itself is the runner's; `wake` tells it that something has changed."""

    def __init__(
        self, home: Path, store: EngineStore, files: Files, models: ModelCatalogue, wake: Callable[[], None]
    ) -> None:
        self._folder, self._store, self._files, self._models, self._wake = home / "jobs", store, files, models, wake

    async def create(self, request: Request) -> Response:
        """POST /v1/fine_tuning/jobs. The job exists only when every line of its files has been read and is good.

        A second POST with the same `metadata.fabula_intent` is answered with the first one's job.
        """
        wanted = job_request.parse(await json_body(request))
        job = self._meant(wanted)
        if job is None:
            job = await run_in_threadpool(self._create, wanted)
        self._wake()
        return JSONResponse(self._shape(job))

    def list(self, request: Request) -> Response:
        """GET /v1/fine_tuning/jobs?after&limit&metadata[k]=v (or metadata=null), newest first."""
        where, values = _metadata_filter(request)
        line = job_queue.queue_positions(self._store, time.time())
        return self._page(request, Job, where, values, 20, lambda job: serializers.job(job, line.get(job.id)))

    def get(self, request: Request) -> Response:
        """GET /v1/fine_tuning/jobs/{id}."""
        return JSONResponse(self._shape(self._find(request)))

    def events(self, request: Request) -> Response:
        """GET /v1/fine_tuning/jobs/{id}/events, newest first."""
        return self._page(request, Event, "job_id = ?", [self._find(request).id], 20, serializers.event)

    def checkpoints(self, request: Request) -> Response:
        """GET /v1/fine_tuning/jobs/{id}/checkpoints, newest first."""
        return self._page(request, CheckpointRow, "job_id = ?", [self._find(request).id], 10, serializers.checkpoint)

    def cancel(self, request: Request) -> Response:
        """POST …/cancel: for good; checkpoints stay usable."""
        return self._move(
            request,
            (*ALIVE, "paused"),
            "cancelled",
            msg("The job was cancelled."),
            finished_at=_now(),
            estimated_finish=None,
        )

    def pause(self, request: Request) -> Response:
        """POST …/pause: the trainer saves and leaves; `resume` goes on at the same step."""
        return self._move(request, ("queued", "running"), "paused", msg("The job was paused."), estimated_finish=None)

    def resume(self, request: Request) -> Response:
        """POST …/resume: back into the queue. A job that failed while it trained may be tried again, too."""
        cleared = {"error": None, "finished_at": None}
        started = "status != 'failed' OR started_at IS NOT NULL"
        return self._move(request, ("paused", "failed"), "queued", msg("The job was resumed."), started, **cleared)

    def _shape(self, job: Job) -> serializers.Json:
        """A job as the API shows it, with its place in line while it waits."""
        waits = job.status in ("validating_files", "queued")
        return serializers.job(job, job_queue.queue_positions(self._store, time.time()).get(job.id) if waits else None)

    def _meant(self, wanted: ParsedJobRequest) -> Job | None:
        """The job that this intent has made already."""
        intent = (wanted.metadata or {}).get(INTENT)
        if intent is None:
            return None
        rows = self._store.select(Job, _HAS_METADATA, (INTENT, intent), "ORDER BY seq LIMIT 1")
        return rows[0] if rows else None

    def _create(self, wanted: ParsedJobRequest) -> Job:
        start = self._models.find(wanted.model)
        base = self._models.base(start.base)
        if (reason := self._models.not_trainable(base)) is not None:
            message = msg("The model {name} can be served here, not trained: {reason}.", name=base.name, reason=reason)
            raise ApiError(400, message, param="model", code="model_not_trainable")
        checked = self._check(wanted.training_file, "training_file")
        if wanted.validation_file and self._check(wanted.validation_file, "validation_file").format != checked.format:
            raise bad_value("validation_file", msg("The training file and the validation file differ in format."))
        if checked.format == "chat" and chat.template_for(base.card.architecture) is None:
            raise bad_value(
                "training_file", msg("{name} has no chat format here; use prompt and completion.", name=base.name)
            )
        both = start.adapter is not None and start.format != checked.format
        multiplier = wanted.learning_rate_multiplier
        job = Job(
            id=ids.new("ftjob"),
            created_at=_now(),
            status="validating_files",
            model=wanted.model,
            base=base.name,
            format="both" if both else checked.format,
            tuned_id=ids.tuned_model(base.name, wanted.suffix),
            suffix=wanted.suffix,
            seed=wanted.seed,
            training_file=wanted.training_file,
            validation_file=wanted.validation_file,
            examples=checked.examples,
            n_epochs=wanted.n_epochs or job_request.auto_epochs(checked.examples),
            batch_size=wanted.batch_size or job_request.auto_batch(checked.examples),
            learning_rate_multiplier=1.0 if multiplier is None else multiplier,
            metadata=to_json(wanted.metadata) if wanted.metadata else None,
        )
        return self._keep(job, wanted, start.adapter)

    def _check(self, file_id: str, param: str) -> validate.TrainingFileSummary:
        try:
            file = self._files.find(file_id)
            if file.purpose != PURPOSE:
                raise bad_value(
                    param,
                    msg(
                        "{file_id} has the purpose '{purpose}', not '{value}'.",
                        file_id=file_id,
                        purpose=file.purpose,
                        value=PURPOSE,
                    ),
                )
            return validate.check(self._files.path(file.id))
        except validate.InvalidTrainingFile as exc:
            raise ApiError(
                400, msg("{file_id}: {exc}", file_id=file_id, exc=exc), param=param, code="invalid_training_file"
            ) from exc
        except FileNotFoundError as exc:
            raise _gone(file_id, param) from exc
        except ApiError as exc:
            raise (_gone(file_id, param) if exc.status == 404 else exc) from exc

    def _keep(self, job: Job, wanted: ParsedJobRequest, adapter: Path | None) -> Job:
        """The job's folder first (with copies of its files and of the adapter it starts from), then the row.

        So a job that was answered does not depend on what is deleted or expires later.
        """
        folder = self._folder / job.id
        folder.mkdir(parents=True)
        try:
            self._copy(job, adapter, folder)
            with self._store.transaction():
                if (twin := self._meant(wanted)) is not None:  # two at once: the other one was faster
                    shutil.rmtree(folder, ignore_errors=True)
                    return twin
                self._store.add(job)
                add_event(self._store, job.id, msg("Created fine-tuning job: {id}", id=job.id))
                add_event(
                    self._store,
                    job.id,
                    msg("Validating training file: {training_file}", training_file=job.training_file),
                )
            return job
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _copy(self, job: Job, adapter: Path | None, folder: Path) -> None:
        """Raises ApiError when the adapter or a file was deleted since it was looked at."""
        if adapter is not None:
            try:
                _link(adapter, folder / "start.gguf")
            except FileNotFoundError as exc:
                message = msg("The model '{model}' was deleted.", model=job.model)
                raise ApiError(404, message, param="model", code="model_not_found") from exc
        for param, file_id in zip(SOURCES, (job.training_file, job.validation_file), strict=True):
            if file_id is not None:
                try:
                    _link(self._files.path(file_id), source_path(folder, param))
                except FileNotFoundError as exc:
                    raise _gone(file_id, param) from exc

    def _find(self, request: Request) -> Job:
        job = self._store.get(Job, request.path_params["id"])
        if job is None:
            raise unknown_job(request.path_params["id"])
        return job

    def _move(
        self,
        request: Request,
        before: tuple[Status, ...],
        after: Status,
        message: str,
        also: str = "1",
        **values: int | None,
    ) -> Response:
        """Change the status if it is one of `before`, durably; the runner acts on it."""
        job = self._find(request)
        names = ", ".join(f"'{status}'" for status in before)
        with self._store.transaction():
            if not self._store.update(Job, job.id, where=f"status IN ({names}) AND ({also})", status=after, **values):
                status = self._find(request).status
                verb = request.url.path.rpartition("/")[2]
                message = msg(
                    "The job {id} cannot be {verb}: its status is '{status}'.",
                    id=job.id,
                    verb=_PAST[verb],
                    status=status,
                )
                raise ApiError(400, message, code="invalid_job_status")
            add_event(self._store, job.id, message)
        self._wake()
        return JSONResponse(self._shape(self._find(request)))

    def _page(
        self,
        request: Request,
        kind: type[Row],
        where: str,
        values: Sequence[str],
        default: int,
        shape: Callable[[Row], serializers.Json],
    ) -> Response:
        after = request.query_params.get("after")
        limit = query_limit(request, default, _MAX_PAGE)
        try:
            rows, more = self._store.page(kind, where, values, after=after, limit=limit)
        except KeyError as exc:
            raise bad_value("after", msg("'after' does not name an existing object: {after}", after=after)) from exc
        return JSONResponse(serializers.page([shape(row) for row in rows], more))


_PAST = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}


def _metadata_filter(request: Request) -> tuple[str, Sequence[str]]:
    """SQL for `metadata[k]=v` (all must hold) or `metadata=null`."""
    pairs = [
        (name[len("metadata[") : -1], value)
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    ]
    if request.query_params.get("metadata") == "null":
        if pairs:
            raise bad_value("metadata", msg("'metadata=null' and 'metadata[key]=value' cannot be combined."))
        return "metadata IS NULL", []
    where = " AND ".join(["1", *[_HAS_METADATA] * len(pairs)])
    return where, [each for pair in pairs for each in pair]


def _gone(file_id: str, param: str) -> ApiError:
    message = msg("There is no file {file_id}. It may have been deleted; upload it again.", file_id=file_id)
    return ApiError(400, message, param=param, code="file_not_found")


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where that cannot be."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _now() -> int:
    return int(time.time())
