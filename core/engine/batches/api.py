"""The endpoints of /v1/batches: create, list, retrieve, cancel."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine.api.errors import ApiError, bad_value
from core.engine.api.files import BATCH_PURPOSE, Files
from core.engine.api.requests import json_body, query_limit
from core.engine.api.serializers import page
from core.engine.batches import batch_request, batch_store
from core.engine.batches.batch_request import BatchRequest
from core.engine.batches.batch_store import StoredBatch
from core.engine.batches.runner import BatchRunner
from core.engine.serving.inference import CLAMP_HEADER
from core.engine.store import EngineStore, new_id, to_json
from core.message import msg

_STAMPS = (
    "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
    "cancelled_at",
)  # fmt: skip


@dataclass(frozen=True)
class Batches:
    """The endpoints. `BatchRunner` does the work."""

    store: EngineStore
    files: Files
    runner: BatchRunner

    async def create(self, request: Request) -> Response:
        """POST /v1/batches. The file's lines are checked afterwards, in status `validating`."""
        wanted = batch_request.parse(await json_body(request))
        batch = await run_in_threadpool(self._create, wanted, CLAMP_HEADER in request.headers)
        self.runner.wake()
        return JSONResponse(_json(batch))

    def list(self, request: Request) -> Response:
        """GET /v1/batches?after&limit, newest first."""
        after = request.query_params.get("after")
        try:
            rows, more = self.store.page(StoredBatch, "1", (), after=after, limit=query_limit(request, 20, 100))
        except KeyError as exc:
            raise bad_value("after", msg("'after' does not name an existing object: {after}", after=after)) from exc
        return JSONResponse(page([_json(row) for row in rows], more))

    def get(self, request: Request) -> Response:
        """GET /v1/batches/{id}."""
        return JSONResponse(_json(self._find(request)))

    async def cancel(self, request: Request) -> Response:
        """POST /v1/batches/{id}/cancel. What was answered by then is in the output file. 409 if the batch has ended."""
        batch = await run_in_threadpool(self._cancel, request)
        self.runner.wake()
        return JSONResponse(_json(batch))

    def _create(self, wanted: BatchRequest, clamps: bool) -> StoredBatch:
        file = self._input(wanted.input_file_id)
        now = int(time.time())
        batch = StoredBatch(
            id=new_id("batch"),
            created_at=now,
            expires_at=now + batch_request.WINDOW_S,
            status="validating",
            endpoint=wanted.endpoint,
            input_file_id=file,
            metadata=to_json(wanted.metadata) if wanted.metadata else None,
            clamps=int(clamps),
            output_expires_s=wanted.output_expires_s,
        )
        try:
            self.runner.keep_input(batch.id, file)
            self.store.add(batch)
        except FileNotFoundError as exc:
            raise _no_file(file) from exc
        except BaseException:
            self.runner.copy_of(batch.id).unlink(missing_ok=True)
            raise
        return batch

    def _input(self, file_id: str) -> str:
        """Check that there is an input file with this id. Raises ApiError 400."""
        try:
            file = self.files.find(file_id)
        except ApiError as exc:
            raise _no_file(file_id) from exc
        if file.purpose != BATCH_PURPOSE:
            message = msg(
                "{file_id} has the purpose '{purpose}', not '{expected}'.",
                file_id=file_id,
                purpose=file.purpose,
                expected=BATCH_PURPOSE,
            )
            raise bad_value("input_file_id", message)
        return file.id

    def _cancel(self, request: Request) -> StoredBatch:
        batch = self._find(request)
        can_be = batch_store.is_status("validating", "in_progress", "finalizing")
        now = int(time.time())
        self.store.update(StoredBatch, batch.id, where=can_be, status="cancelling", cancelling_at=now)
        batch = self._find(request)
        if batch.status not in ("cancelling", "cancelled"):
            message = msg("The batch can't be cancelled: its status is '{status}'.", status=batch.status)
            raise ApiError(409, message, code="invalid_batch_status")
        return batch

    def _find(self, request: Request) -> StoredBatch:
        batch_id = request.path_params["id"]
        batch = self.store.get(StoredBatch, batch_id)
        if batch is None:
            raise ApiError(404, msg("No batch found with id '{id}'.", id=batch_id), param="id", code="batch_not_found")
        return batch


def _no_file(file_id: str) -> ApiError:
    message = msg("There is no file {file_id}. It may have been deleted; upload it again.", file_id=file_id)
    return ApiError(400, message, param="input_file_id", code="file_not_found")


def _json(batch: StoredBatch) -> dict[str, Any]:
    """A batch object."""
    errors = json.loads(batch.errors) if batch.errors else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": None if errors is None else {"object": "list", "data": errors},
        "input_file_id": batch.input_file_id,
        "completion_window": batch_request.WINDOW,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        **{name: getattr(batch, name) for name in _STAMPS},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": json.loads(batch.usage) if batch.usage else None,
        "metadata": json.loads(batch.metadata) if batch.metadata else None,
    }
