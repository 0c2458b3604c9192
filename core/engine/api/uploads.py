"""/v1/uploads: a file in parts, which becomes a normal file when it is complete."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine.api import serializers, upload
from core.engine.api.errors import ApiError, bad_value, missing_parameter
from core.engine.api.files import Files, check_purpose, expiry
from core.engine.api.requests import integer, json_body, reject_unknown, required
from core.engine.chat_messages import is_missing
from core.engine.store import EngineStore, File, TableRow, new_id
from core.message import msg

MAX_PART_BYTES = 64 << 20  # OpenAI's limit
MAX_PARTS = 10_000
_LIFE_S = 3600  # as at OpenAI
_BLOCK = 1 << 20
_FIELDS = frozenset({"bytes", "filename", "mime_type", "purpose", "expires_after"})


@dataclass(frozen=True, slots=True)
class PendingUpload(TableRow):
    """An upload. `bytes` is the size that its file will have, `file_id` the file once it is complete."""

    TABLE: ClassVar[str] = "uploads"

    id: str
    created_at: int
    expires_at: int
    status: Literal["pending", "completed", "cancelled", "expired"]
    filename: str
    purpose: str
    bytes: int
    file_expires_at: int | None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class UploadPart(TableRow):
    """One part of an upload. Its content is in HOME/uploads/<id>."""

    TABLE: ClassVar[str] = "upload_parts"

    id: str
    upload_id: str
    created_at: int
    bytes: int


class Uploads:
    """The endpoints. The parts of an upload are deleted when it ends; what is not completed in an hour expires."""

    def __init__(self, home: Path, store: EngineStore, files: Files) -> None:
        self._folder, self._store, self._files = home / "uploads", store, files

    def remove_leftovers(self) -> None:
        """Delete incomplete parts and those of expired uploads. Call at startup."""
        self._folder.mkdir(exist_ok=True)
        self.delete_expired()
        known = {part.id for part in self._store.select(UploadPart, "1")}
        for path in self._folder.iterdir():
            if path.name not in known:
                path.unlink()

    async def create(self, request: Request) -> Response:
        """POST /v1/uploads."""
        body = await json_body(request)
        reject_unknown(body, _FIELDS)
        size = integer(body, "bytes", 1, upload.MAX_FILE_BYTES, None)
        if size is None:
            raise missing_parameter("bytes")
        purpose, filename = required(body, "purpose"), upload.safe_name(required(body, "filename"))
        required(body, "mime_type")
        check_purpose(purpose, size, "bytes")
        now = int(time.time())
        expires_at = _file_expiry(body.get("expires_after"), purpose, now)
        row = PendingUpload(new_id("upload"), now, now + _LIFE_S, "pending", filename, purpose, size, expires_at)
        await run_in_threadpool(self._store.add, row)
        return JSONResponse(_json(row, None))

    async def add_part(self, request: Request) -> Response:
        """POST /v1/uploads/{id}/parts: at most 64 MB; parts may arrive in any order and at the same time."""
        pending = await run_in_threadpool(self._find_pending, request)
        part_id = new_id("part")
        path = self._folder / part_id
        try:
            received = await upload.receive(request, path, field="data", max_bytes=MAX_PART_BYTES)
            part = UploadPart(part_id, pending.id, int(time.time()), received.size)
            await run_in_threadpool(self._add_part, part)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return JSONResponse(
            {"id": part.id, "object": "upload.part", "created_at": part.created_at, "upload_id": part.upload_id}
        )

    async def complete(self, request: Request) -> Response:
        """POST /v1/uploads/{id}/complete {"part_ids", "md5"}: join the parts in the order of `part_ids`.

        400 if their size is not the upload's `bytes`, or their MD5 sum is another; the upload then stays pending.
        """
        body = await json_body(request)
        reject_unknown(body, frozenset({"part_ids", "md5"}))
        md5 = None if is_missing(body.get("md5")) else required(body, "md5")
        row, file = await run_in_threadpool(self._complete, request, body.get("part_ids"), md5)
        return JSONResponse(_json(row, file))

    def cancel(self, request: Request) -> Response:
        """POST /v1/uploads/{id}/cancel."""
        row = self._find_pending(request)
        self._end(row, "cancelled")
        return JSONResponse(_json(self._find(row.id), None))

    def _add_part(self, part: UploadPart) -> None:
        with self._store.transaction():
            self._check_pending(self._find(part.upload_id))  # it may have ended while the part arrived
            if len(self._parts(part.upload_id)) >= MAX_PARTS:
                message = msg("An upload can have at most {maximum} parts.", maximum=f"{MAX_PARTS:,}")
                raise ApiError(400, message, code="too_many_parts")
            self._store.add(part)

    def _complete(self, request: Request, part_ids: object, md5: str | None) -> tuple[PendingUpload, File]:
        row = self._find_pending(request)
        parts = _ordered(part_ids, {part.id: part for part in self._parts(row.id)})
        size = sum(part.bytes for part in parts)
        if size != row.bytes:
            message = msg(
                "The parts have {size} bytes in all, but the upload was created for {expected}.",
                size=f"{size:,}",
                expected=f"{row.bytes:,}",
            )
            raise ApiError(400, message, param="part_ids", code="size_mismatch")
        file_id = new_id("file")
        partial = self._files.incoming(file_id)
        try:
            checksum = self._join(parts, partial)
            if md5 is not None and md5.lower() != checksum:
                message = msg("The MD5 sum of the parts is {actual}, not {expected}.", actual=checksum, expected=md5)
                raise bad_value("md5", message)
            file = File(file_id, row.filename, size, row.purpose, int(time.time()), row.file_expires_at)
            self._files.move_in(partial, file_id)
        finally:
            partial.unlink(missing_ok=True)
        self._end(row, "completed", file)
        return self._find(row.id), file

    def _join(self, parts: Sequence[UploadPart], target: Path) -> str:
        """Write the parts to one file durably and return its MD5 sum."""
        checksum = hashlib.md5(usedforsecurity=False)
        with target.open("wb") as joined:
            for part in parts:
                with (self._folder / part.id).open("rb") as source:
                    while block := source.read(_BLOCK):
                        checksum.update(block)
                        joined.write(block)
            upload.sync(joined)
        return checksum.hexdigest()

    def _end(
        self, row: PendingUpload, status: Literal["completed", "cancelled", "expired"], file: File | None = None
    ) -> None:
        """Set the upload's last status, add its file, and delete its parts. Raises ApiError if it has just ended."""
        parts = self._parts(row.id)
        try:
            with self._store.transaction() as transaction:
                values = {"status": status, "file_id": None if file is None else file.id}
                if not self._store.update(PendingUpload, row.id, where="status = 'pending'", **values):
                    raise _ended(self._find(row.id).status)
                if file is not None:
                    self._store.add(file)
                transaction.execute("DELETE FROM upload_parts WHERE upload_id = ?", (row.id,))
        except BaseException:
            if file is not None:
                self._files.path(file.id).unlink(missing_ok=True)
            raise
        for part in parts:
            (self._folder / part.id).unlink(missing_ok=True)

    def delete_expired(self) -> None:
        """End the uploads whose time is over, and delete their parts. Call regularly."""
        for row in self._store.select(PendingUpload, "status = 'pending' AND expires_at <= ?", (int(time.time()),)):
            with suppress(ApiError):  # it has just been completed or cancelled
                self._end(row, "expired")

    def _find(self, upload_id: str) -> PendingUpload:
        row = self._store.get(PendingUpload, upload_id)
        if row is None:
            message = msg("No such Upload object: {upload_id}", upload_id=upload_id)
            raise ApiError(404, message, param="upload_id", code="upload_not_found")
        return row

    def _find_pending(self, request: Request) -> PendingUpload:
        row = self._find(request.path_params["id"])
        self._check_pending(row)
        return row

    @staticmethod
    def _check_pending(row: PendingUpload) -> None:
        if row.status != "pending" or row.expires_at <= time.time():
            raise _ended("expired" if row.status == "pending" else row.status)

    def _parts(self, upload_id: str) -> list[UploadPart]:
        return self._store.select(UploadPart, "upload_id = ?", (upload_id,))


def _ordered(part_ids: object, parts: dict[str, UploadPart]) -> list[UploadPart]:
    """The parts in the order of `part_ids`. Raises ApiError 400."""
    if is_missing(part_ids):
        raise missing_parameter("part_ids")
    if not isinstance(part_ids, list):
        raise bad_value("part_ids", msg("'{name}' must be a list.", name="part_ids"))
    for number, part_id in enumerate(part_ids):
        if not isinstance(part_id, str) or part_id not in parts:
            message = msg("The upload has no part '{part_id}'.", part_id=str(part_id)[:60])
            raise ApiError(400, message, param=f"part_ids[{number}]", code="part_not_found")
    if len(set(part_ids)) < len(part_ids):
        raise bad_value("part_ids", msg("'part_ids' names a part twice."))
    return [parts[part_id] for part_id in part_ids]


def _file_expiry(value: object, purpose: str, now: int) -> int | None:
    """When the file will expire, counted from the upload's creation."""
    if is_missing(value):
        return expiry(None, None, purpose, now)
    if not isinstance(value, dict):
        raise bad_value("expires_after", msg("'{name}' must be an object.", name="expires_after"))
    return expiry(value.get("anchor"), value.get("seconds"), purpose, now)


def _ended(status: str) -> ApiError:
    return ApiError(400, msg("The upload has ended: its status is '{status}'.", status=status), code="upload_ended")


def _json(row: PendingUpload, file: File | None) -> dict[str, Any]:
    """An upload object."""
    return {
        "id": row.id,
        "object": "upload",
        "bytes": row.bytes,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": row.status,
        "file": None if file is None else serializers.file(file, file.bytes),
    }
