"""/v1/files: upload, list, get, content, delete."""

from __future__ import annotations

import base64
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from core.engine.api import serializers
from core.engine.api.errors import ApiError, bad_value, missing_parameter, unknown_file
from core.engine.api.requests import query_limit
from core.engine.api.upload import Upload, receive, sync
from core.engine.store import EngineStore, File, new_id
from core.engine.training.job_folder import metrics_csv
from core.message import msg

PURPOSE, RESULTS_PURPOSE = "fine-tune", "fine-tune-results"
BATCH_PURPOSE, BATCH_OUTPUT_PURPOSE = "batch", "batch_output"
UPLOADED = (PURPOSE, BATCH_PURPOSE)
"""Purposes of files that clients upload."""
MAX_BATCH_BYTES = 200 << 20  # OpenAI's limit for the input file of a batch
_PAGE = 10_000  # OpenAI's default and maximum page size
BASE64_SETTING = "FABULA_RESULTS_BASE64"
"""Environment variable: `1` for result files in base64, as at OpenAI."""
_ON, _OFF = frozenset({"1", "on", "t", "true", "y", "yes"}), frozenset({"0", "off", "f", "false", "n", "no"})
_ENCODINGS = {"base64": True, "text": False}
SOURCES = ("training_file", "validation_file")  # job parameters that take file ids
EXPIRY_S = (3600, 30 * 86400)
"""OpenAI's limits for the life of a file, in seconds."""
_BATCH_EXPIRY_S = 30 * 86400  # OpenAI's default for the input file of a batch


def source_path(folder: Path, param: str) -> Path:
    """Path of a job folder's copy of its training or validation file (`param`)."""
    return folder / f"{param}.source"


def sends_base64(environ: Mapping[str, str]) -> bool:
    """Whether result files are sent in base64 unless a request asks for text.

    Raises:
        ValueError: FABULA_RESULTS_BASE64 is neither 1 nor 0, or a word for one of them.
    """
    raw = environ.get(BASE64_SETTING, "").strip().lower()
    if raw and raw not in _ON | _OFF:
        raise ValueError(f"{BASE64_SETTING}: {raw!r} is neither 1 nor 0")
    return raw in _ON


class Files:
    """The file endpoints. Uploads are stored in HOME/files/<id>; result files are generated from a job's metrics.

    Args:
        base64_results: whether result files are sent in base64 unless a request asks for text.
    """

    def __init__(self, home: Path, store: EngineStore, *, base64_results: bool = False) -> None:
        self._base64_results = base64_results
        self._folder, self._jobs, self._store = home / "files", home / "jobs", store
        self._incoming = self._folder / "incoming"

    def remove_leftovers(self) -> None:
        """Delete incomplete and unacknowledged uploads. Call at startup."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        for partial in self._incoming.iterdir():
            partial.unlink()
        known_ids = {file.id for file in self._store.select(File, "deleted_at IS NULL")}
        for path in self._folder.iterdir():
            if path.is_file() and path.name not in known_ids:
                path.unlink()

    def delete_expired(self) -> None:
        """Delete expired files. Call regularly."""
        for file in self._store.select(File, "deleted_at IS NULL AND expires_at <= ?", (int(time.time()),)):
            self._delete(file.id)

    async def create(self, request: Request) -> Response:
        """POST /v1/files."""
        file_id = new_id("file")
        partial = self.incoming(file_id)
        try:
            upload = await receive(request, partial)
            file = await run_in_threadpool(self._store_upload, file_id, partial, upload)
        finally:
            partial.unlink(missing_ok=True)
        return JSONResponse(serializers.file(file, file.bytes))

    def list(self, request: Request) -> Response:
        """GET /v1/files?after&limit&order&purpose, newest first."""
        limit = query_limit(request, _PAGE, _PAGE)
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise bad_value("order", msg("'order' must be 'asc' or 'desc'."))
        where, values = "deleted_at IS NULL", list[Any]()
        if purpose := request.query_params.get("purpose"):
            where, values = f"{where} AND purpose = ?", [purpose]
        after = request.query_params.get("after")
        try:
            rows, more = self._store.page(File, where, values, after=after, limit=limit, newest_first=order == "desc")
        except KeyError as exc:
            raise bad_value("after", msg("No such File object: {file_id}", file_id=after)) from exc
        return JSONResponse(serializers.page([serializers.file(row, self.size(row)) for row in rows], more))

    def get(self, request: Request) -> Response:
        """GET /v1/files/{id}."""
        file = self.find(request.path_params["id"])
        return JSONResponse(serializers.file(file, self.size(file)))

    def content(self, request: Request) -> Response:
        """GET /v1/files/{id}/content. The results of a running job grow between calls; `?encoding=base64` (or `text`)
        chooses their encoding.
        """
        file = self.find(request.path_params["id"])
        encoding = request.query_params.get("encoding")
        if encoding is not None and encoding not in _ENCODINGS:
            raise bad_value("encoding", msg("'encoding' must be 'base64' or 'text'."))
        if file.job_id is not None:
            csv = metrics_csv(self._jobs / file.job_id)
            if _ENCODINGS[encoding] if encoding else self._base64_results:
                return Response(base64.b64encode(csv.encode()), media_type="application/octet-stream")
            return Response(csv, media_type="text/csv; charset=utf-8")
        return FileResponse(self.path(file.id), media_type="application/octet-stream")

    def delete(self, request: Request) -> Response:
        """DELETE /v1/files/{id}."""
        file = self.find(request.path_params["id"])
        self._delete(file.id)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    def find(self, file_id: str) -> File:
        """Return the row of an existing file. Raises ApiError 404 if there is none."""
        file = self._store.get(File, file_id)
        if file is None or file.deleted_at is not None or (file.expires_at or math.inf) <= time.time():
            raise unknown_file(file_id)
        return file

    def path(self, file_id: str) -> Path:
        """Path of an uploaded file's content."""
        return self._folder / file_id

    def _store_upload(self, file_id: str, partial: Path, upload: Upload) -> File:
        """Move the file into place, then add its row, so that a row guarantees that the content is on disk."""
        purpose = upload.fields.get("purpose")
        if purpose is None:
            raise missing_parameter("purpose")
        check_purpose(purpose, upload.size)
        if upload.size == 0:
            raise bad_value("file", msg("The file is empty."))
        now = int(time.time())
        expires_at = expiry(
            upload.fields.get("expires_after[anchor]"), upload.fields.get("expires_after[seconds]"), purpose, now
        )
        file = File(file_id, upload.filename or "file", upload.size, purpose, now, expires_at)
        self.move_in(partial, file_id)
        try:
            self._store.add(file)
        except BaseException:
            self.path(file_id).unlink(missing_ok=True)
            raise
        return file

    def incoming(self, file_id: str) -> Path:
        """Path of a file's content until it is complete."""
        return self._incoming / file_id

    def move_in(self, partial: Path, file_id: str) -> None:
        """Make a complete file that is on disk the content of a file. Add its row afterwards, so that a row guarantees
        the content.
        """
        os.replace(partial, self.path(file_id))
        _sync_folder(self._folder)

    def write_lines(self, filename: str, purpose: str, lines: Iterable[str], expires_s: int | None) -> File | None:
        """Write a file with these lines durably and return its row, which is not stored yet; None if there are no
        lines.

        Raises:
            OSError: the file cannot be written.
        """
        file_id, now, size = new_id("file"), int(time.time()), 0
        partial = self.incoming(file_id)
        try:
            with partial.open("wb") as file:
                for line in lines:
                    size += file.write(line.encode() + b"\n")
                sync(file)
            if not size:
                return None
            self.move_in(partial, file_id)
        finally:
            partial.unlink(missing_ok=True)
        return File(file_id, filename, size, purpose, now, None if expires_s is None else now + expires_s)

    def _delete(self, file_id: str) -> None:
        self._store.update(File, file_id, deleted_at=int(time.time()))
        self.path(file_id).unlink(missing_ok=True)

    def size(self, file: File) -> int:
        """Size in bytes as sent; an unfinished job's result file has no size in its row yet, so it is computed."""
        if file.job_id is None:
            return file.bytes
        size = file.bytes or len(metrics_csv(self._jobs / file.job_id).encode())
        return -(-size // 3) * 4 if self._base64_results else size


def check_purpose(purpose: str, size: int, param: str = "file") -> None:
    """Raise ApiError for a purpose that files here do not have, or a size (`param`) that is too large for it."""
    if purpose not in UPLOADED:
        supported = "', '".join(UPLOADED)
        raise bad_value(
            "purpose",
            msg(
                "'{purpose}' is not a purpose of this engine; use '{supported}'.",
                purpose=purpose[:40],
                supported=supported,
            ),
        )
    if purpose == BATCH_PURPOSE and size > MAX_BATCH_BYTES:
        message = msg("The input file of a batch can have at most {max_mb} MB.", max_mb=MAX_BATCH_BYTES >> 20)
        raise ApiError(413, message, param=param, code="file_too_large")


def expiry(anchor: object, seconds: object, purpose: str, now: int) -> int | None:
    """When a file of this purpose expires, by the `expires_after` of its request; None: never. Raises ApiError 400."""
    if seconds is None:
        return now + _BATCH_EXPIRY_S if purpose == BATCH_PURPOSE else None
    low, high = EXPIRY_S
    if anchor not in (None, "created_at"):
        raise bad_value("expires_after[anchor]", msg("'expires_after[anchor]' must be 'created_at'."))
    digits = str(seconds)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 9 and low <= int(digits) <= high):
        message = msg("'expires_after[seconds]' must be a whole number from {low} to {high}.", low=low, high=high)
        raise bad_value("expires_after[seconds]", message)
    return now + int(digits)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
