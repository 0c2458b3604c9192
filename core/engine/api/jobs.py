"""/v1/fine_tuning/jobs: create, list, get, cancel, pause, resume, events, checkpoints."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine import finetune_format, job_rules
from core.engine.api import job_request, serializers
from core.engine.api.errors import ApiError, bad_value, unknown_job
from core.engine.api.files import PURPOSE, SOURCES, Files, source_path
from core.engine.api.job_request import ParsedJobRequest
from core.engine.api.models import ModelCatalogue
from core.engine.api.requests import json_body, query_limit
from core.engine.event_log import add_event
from core.engine.job_rules import TrainingMethod
from core.engine.serving import chat
from core.engine.store import (
    CheckpointRow,
    EngineStore,
    Event,
    Format,
    Job,
    Row,
    Status,
    new_id,
    to_json,
    tuned_model_id,
)
from core.engine.training import job_queue, tracking
from core.engine.training.job_queue import QueuePosition
from core.message import msg

ACTIVE: tuple[Status, ...] = ("validating_files", "queued", "running")
_MAX_PAGE = 1000
INTENT = "fabula_intent"  # metadata key that makes a POST idempotent
_HAS_METADATA = "EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)"


class Jobs:
    """The job endpoints. `JobLoop` does the work; `wake` notifies it of changes, and `at_once` says how many jobs it
    trains at once.
    """

    def __init__(
        self, home: Path, store: EngineStore, files: Files, models: ModelCatalogue, wake: Callable[[], None],
        at_once: Callable[[], int],
    ) -> None:  # fmt: skip
        self._folder, self._store, self._files, self._models, self._wake = home / "jobs", store, files, models, wake
        self._at_once = at_once

    async def create(self, request: Request) -> Response:
        """POST /v1/fine_tuning/jobs. The job is created only if every line of its files is valid.

        A second POST with the same `metadata.fabula_intent` returns the existing job.
        """
        return JSONResponse(self._job_json(await self.submit(job_request.parse(await json_body(request)))))

    async def submit(self, spec: ParsedJobRequest) -> Job:
        """Create a job, or return the existing one with the same intent. Raises ApiError."""
        job = self._find_by_intent(spec)
        if job is None:
            job = await run_in_threadpool(self._create, spec)
        self._wake()
        return job

    def list(self, request: Request) -> Response:
        """GET /v1/fine_tuning/jobs?after&limit&metadata[k]=v (or metadata=null), newest first."""
        where, values = _metadata_filter(request)
        positions = self._positions()
        return self._page(request, Job, where, values, 20, lambda job: serializers.job(job, positions.get(job.id)))

    def get(self, request: Request) -> Response:
        """GET /v1/fine_tuning/jobs/{id}."""
        return JSONResponse(self._job_json(self.find(request)))

    def events(self, request: Request) -> Response:
        """GET /v1/fine_tuning/jobs/{id}/events, newest first."""
        return self._page(request, Event, "job_id = ?", [self.find(request).id], 20, serializers.event)

    def checkpoints(self, request: Request) -> Response:
        """GET /v1/fine_tuning/jobs/{id}/checkpoints, newest first."""
        return self._page(request, CheckpointRow, "job_id = ?", [self.find(request).id], 10, serializers.checkpoint)

    def cancel(self, request: Request) -> Response:
        """POST …/cancel: cancel the job permanently; its checkpoints stay usable."""
        return self._change_status(
            request,
            (*ACTIVE, "paused"),
            "cancelled",
            msg("The job was cancelled."),
            finished_at=_now(),
            estimated_finish=None,
        )

    def pause(self, request: Request) -> Response:
        """POST …/pause: the trainer saves its state and exits; `resume` continues from the same step."""
        return self._change_status(
            request, ("queued", "running"), "paused", msg("The job was paused."), estimated_finish=None
        )

    def resume(self, request: Request) -> Response:
        """POST …/resume: put the job back in the queue. This also works for a job that failed during training."""
        cleared = {"error": None, "finished_at": None}
        started = "status != 'failed' OR started_at IS NOT NULL"
        return self._change_status(
            request, ("paused", "failed"), "queued", msg("The job was resumed."), started, **cleared
        )

    def _job_json(self, job: Job) -> serializers.Json:
        """The JSON of a job, with its queue position while it waits."""
        is_waiting = job.status in ("validating_files", "queued")
        return serializers.job(job, self._positions().get(job.id) if is_waiting else None)

    def _positions(self) -> dict[str, QueuePosition]:
        return job_queue.queue_positions(self._store, time.time(), self._at_once())

    def _find_by_intent(self, spec: ParsedJobRequest) -> Job | None:
        """The existing job with the same intent, if any."""
        intent = (spec.metadata or {}).get(INTENT)
        if intent is None:
            return None
        rows = self._store.select(Job, _HAS_METADATA, (INTENT, intent), "ORDER BY seq LIMIT 1")
        return rows[0] if rows else None

    def _create(self, spec: ParsedJobRequest) -> Job:
        start = self._models.find(spec.model)
        base = self._models.base(start.base)
        if (reason := self._models.not_trainable(base)) is not None:
            message = msg(
                "The model {name} can be served here but not trained: {reason}.", name=base.name, reason=reason
            )
            raise ApiError(400, message, param="model", code="model_not_trainable")
        checked = self._check(spec.training_file, "training_file")
        if spec.validation_file and self._check(spec.validation_file, "validation_file").format != checked.format:
            raise bad_value("validation_file", msg("The training file and the validation file have different formats."))
        if (checked.format in finetune_format.PREFERENCES) != (spec.method == "dpo"):
            raise bad_value("training_file", _wrong_method(spec.training_file, spec.method))
        if checked.format not in finetune_format.TEXTS and chat.format_for(base.card) is None:
            raise bad_value(
                "training_file", msg("{name} has no chat format here; use prompt and completion.", name=base.name)
            )
        if start.adapter is not None and spec.names_adapter:
            raise bad_value(
                "lora_rank",
                msg("Training continues with the adapter of {model}, which keeps its rank and alpha.", model=start.id),
            )
        answers: Format = "completion" if checked.format in finetune_format.TEXTS else "chat"
        needs_both = start.adapter is not None and start.format != answers
        multiplier = spec.learning_rate_multiplier
        auto = job_rules.automatic(checked.examples)
        rank = spec.options.lora_rank or self._models.default_rank(base.name)
        job = Job(
            id=new_id("ftjob"),
            created_at=_now(),
            status="validating_files",
            model=spec.model,
            base=base.name,
            format="both" if needs_both else answers,
            tuned_id=tuned_model_id(base.name, spec.suffix),
            suffix=spec.suffix,
            seed=spec.seed,
            training_file=spec.training_file,
            validation_file=spec.validation_file,
            examples=checked.examples,
            n_epochs=spec.n_epochs or auto.n_epochs,
            batch_size=spec.batch_size or auto.batch_size,
            learning_rate_multiplier=1.0 if multiplier is None else multiplier,
            metadata=to_json(spec.metadata) if spec.metadata else None,
            integrations=to_json(spec.integrations) if spec.integrations else "",
            method=spec.method,
            beta=spec.beta,
            options=to_json(asdict(replace(spec.options, lora_rank=rank))),
        )
        return self._store_job(job, spec, start.adapter)

    def _check(self, file_id: str, param: str) -> finetune_format.TrainingFileSummary:
        try:
            file = self._files.find(file_id)
            if file.purpose != PURPOSE:
                raise bad_value(
                    param,
                    msg(
                        "{file_id} has the purpose '{purpose}', not '{expected}'.",
                        file_id=file_id,
                        purpose=file.purpose,
                        expected=PURPOSE,
                    ),
                )
            return finetune_format.check_file(self._files.path(file.id))
        except finetune_format.InvalidTrainingFile as exc:
            raise ApiError(
                400, msg("{file_id}: {error}", file_id=file_id, error=exc), param=param, code="invalid_training_file"
            ) from exc
        except FileNotFoundError as exc:
            raise _missing_file(file_id, param) from exc
        except ApiError as exc:
            raise (_missing_file(file_id, param) if exc.status == 404 else exc) from exc

    def _store_job(self, job: Job, spec: ParsedJobRequest, adapter: Path | None) -> Job:
        """Create the job folder, with copies of its files and start adapter, and then the row.

        An acknowledged job is therefore unaffected if its files are deleted or expire later.
        """
        folder = self._folder / job.id
        folder.mkdir(parents=True)
        try:
            self._copy(job, adapter, folder)
            with self._store.transaction():
                if (
                    existing := self._find_by_intent(spec)
                ) is not None:  # a concurrent POST with the same intent was faster
                    shutil.rmtree(folder, ignore_errors=True)
                    return existing
                self._store.add(job)
                add_event(self._store, job.id, msg("Created fine-tuning job: {id}", id=job.id))
                add_event(
                    self._store,
                    job.id,
                    msg("Validating training file: {training_file}", training_file=job.training_file),
                )
                tracking.announce(self._store, job)
            return job
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _copy(self, job: Job, adapter: Path | None, folder: Path) -> None:
        """Copy files and adapter to the job folder. Raises ApiError if one was deleted in the meantime."""
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
                    raise _missing_file(file_id, param) from exc

    def find(self, request: Request) -> Job:
        """Return the job whose id is in the request's path. Raises ApiError 404."""
        job = self._store.get(Job, request.path_params["id"])
        if job is None:
            raise unknown_job(request.path_params["id"])
        return job

    def _change_status(
        self,
        request: Request,
        before: tuple[Status, ...],
        after: Status,
        message: str,
        condition: str = "1",
        **values: int | None,
    ) -> Response:
        """Change the status durably if it is one of `before` and the SQL `condition` is true; `JobLoop` acts on it."""
        job = self.find(request)
        names = ", ".join(f"'{status}'" for status in before)
        with self._store.transaction():
            if not self._store.update(
                Job, job.id, where=f"status IN ({names}) AND ({condition})", status=after, **values
            ):
                status = self.find(request).status
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
        return JSONResponse(self._job_json(self.find(request)))

    def _page(
        self,
        request: Request,
        kind: type[Row],
        where: str,
        values: Sequence[str],
        default: int,
        serialize: Callable[[Row], serializers.Json],
    ) -> Response:
        after = request.query_params.get("after")
        limit = query_limit(request, default, _MAX_PAGE)
        try:
            rows, more = self._store.page(kind, where, values, after=after, limit=limit)
        except KeyError as exc:
            raise bad_value("after", msg("'after' does not name an existing object: {after}", after=after)) from exc
        return JSONResponse(serializers.page([serialize(row) for row in rows], more))


_PAST = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}


def _metadata_filter(request: Request) -> tuple[str, Sequence[str]]:
    """SQL condition for `metadata[k]=v` (all pairs must match) or `metadata=null`."""
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
    return where, [part for pair in pairs for part in pair]


def _wrong_method(file_id: str, method: TrainingMethod) -> str:
    if method == "dpo":
        return msg(
            "{file_id} has no preferences: for 'dpo', each line needs 'input', 'preferred_output' and "
            "'non_preferred_output'.",
            file_id=file_id,
        )
    return msg("{file_id} has preferences; to train on them, set 'method.type' to 'dpo'.", file_id=file_id)


def _missing_file(file_id: str, param: str) -> ApiError:
    message = msg("There is no file {file_id}. It may have been deleted; upload it again.", file_id=file_id)
    return ApiError(400, message, param=param, code="file_not_found")


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if that is not possible."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _now() -> int:
    return int(time.time())
