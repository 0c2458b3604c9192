"""Streams multipart uploads to disk, using about one megabyte of memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from core.engine.api.errors import ApiError, disk_full, missing_parameter
from core.message import msg

MAX_FILE_BYTES = 512 << 20  # OpenAI's limit
_BLOCK = 1 << 20  # bytes parsed and written per call, in a thread
_MAX_FIELD_BYTES = 4096
_MAX_HEADER_BYTES = 8192
_MAX_PARTS = 16


class Upload:
    """Parses one form, writes its file to `path` and collects the other fields.

    Attributes:
        fields: the form's fields by name.
        filename: the client's file name without folders; None until the file part has arrived.
        size: size of the file so far, in bytes.
        ended: whether the form is complete.
    """

    def __init__(self, boundary: bytes, path: Path, field: str = "file", max_bytes: int = MAX_FILE_BYTES) -> None:
        """Raises FormParserError for a boundary of more than 256 bytes."""
        self._file_field, self._max_bytes = field, max_bytes
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0
        self._name, self._value = b"", bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header, self._header_value = bytearray(), bytearray()
        self._in_file, self._parts, self.ended = False, 0, False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": lambda data, start, end: self._collect(self._header, data[start:end]),
                "on_header_value": lambda data, start, end: self._collect(self._header_value, data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )
        self._file: BinaryIO = path.open("wb")

    def write(self, data: bytes) -> None:
        """Parse a block of the body. Raises ApiError 400 or 413, or OSError if the file cannot be written."""
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise ApiError(400, msg("The form could not be read: {error}.", error=exc), code="invalid_form") from exc

    def finish(self) -> None:
        """Sync the file to disk and close it."""
        sync(self._file)
        self._file.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise ApiError(
                400, msg("The form has more than {max_parts} parts.", max_parts=_MAX_PARTS), code="invalid_form"
            )
        self._headers, self._value = {}, bytearray()

    @staticmethod
    def _collect(buffer: bytearray, data: bytes, max_bytes: int = _MAX_HEADER_BYTES) -> None:
        buffer += data
        if len(buffer) > max_bytes:
            raise ApiError(400, msg("A field of the form is too long."), code="invalid_form")

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._header_value)
        self._header, self._header_value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"")
        self._in_file = self._name == self._file_field.encode()
        if self._in_file:
            if self.filename is not None:
                raise ApiError(
                    400, msg("The form has more than one file."), param=self._file_field, code="invalid_form"
                )
            self.filename = safe_name(options.get(b"filename", b"").decode("utf-8", "replace"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._collect(self._value, data[start:end], _MAX_FIELD_BYTES)
            return
        self.size += end - start
        if self.size > self._max_bytes:
            raise too_large(self._max_bytes, self._file_field)
        self._file.write(memoryview(data)[start:end])

    def _part_end(self) -> None:
        if not self._in_file:
            name = self._name.decode("utf-8", "replace")
            self.fields[name] = bytes(self._value).decode("utf-8", "replace")
        self._in_file = False

    def _end(self) -> None:
        self.ended = True


async def receive(request: Request, path: Path, *, field: str = "file", max_bytes: int = MAX_FILE_BYTES) -> Upload:
    """Receive a request's form and write the file in its `field` durably to `path`.

    Raises:
        ApiError: 400 for a malformed form, 413 for a file that is too large, 507 if the disk is full.
        OSError: writing failed.
        starlette.requests.ClientDisconnect: the client disconnected.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(400, msg("The request must be a form (multipart/form-data)."), code="invalid_form")
    content_length = request.headers.get("content-length", "")
    if content_length.isascii() and content_length.isdigit():
        _check_size(int(content_length), path, max_bytes, field)
    try:
        upload = Upload(options[b"boundary"], path, field, max_bytes)
    except FormParserError as exc:
        raise ApiError(400, msg("The form could not be read: {error}.", error=exc), code="invalid_form") from exc
    try:
        buffer = bytearray()
        async for chunk in request.stream():
            buffer += chunk
            if len(buffer) >= _BLOCK:
                await run_in_threadpool(upload.write, bytes(buffer))
                buffer.clear()
        await run_in_threadpool(upload.write, bytes(buffer))
        if not upload.ended:
            raise ApiError(400, msg("The form is incomplete."), code="invalid_form")
        if upload.filename is None:
            raise missing_parameter(field)
        await run_in_threadpool(upload.finish)
    finally:
        upload.close()
    return upload


def too_large(max_bytes: int = MAX_FILE_BYTES, field: str = "file") -> ApiError:
    """413: the file is too large."""
    message = msg("The file is larger than {max_mb} MB.", max_mb=max_bytes >> 20)
    return ApiError(413, message, param=field, code="file_too_large")


def sync(file: BinaryIO) -> None:
    """Wait until a file's content is on disk."""
    file.flush()
    os.fsync(file.fileno())


def safe_name(name: str) -> str:
    """Return the last component of a path without control characters, for display only."""
    name = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in name if character.isprintable())[:255] or "file"


def _check_size(content_length: int, path: Path, max_bytes: int, field: str) -> None:
    if content_length > max_bytes + (1 << 16):
        raise too_large(max_bytes, field)
    if content_length > shutil.disk_usage(path.parent).free:
        raise disk_full()
