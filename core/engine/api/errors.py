"""Errors in OpenAI's format: status, message, type, parameter and code."""

from __future__ import annotations

import errno
import sqlite3

from core.message import extra_fields, msg

DISK_FULL = 507
"""Status of `disk_full`: WebDAV's "insufficient storage"."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ApiError(Exception):
    """An error response.

    Attributes:
        status: HTTP status.
        message: one sentence for the user.
        param: the invalid parameter, if the error is about one.
        code: OpenAI's (or our) machine-readable error code.
        type: OpenAI's error type.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.type = type

    def body(self) -> dict[str, object]:
        """The JSON body: `{"error": {…}}`."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**fields, **extra_fields(self.message)}}


def bad_value(param: str, message: str) -> ApiError:
    """400: a parameter has an invalid value."""
    return ApiError(400, message, param=param, code="invalid_value")


def missing_parameter(name: str) -> ApiError:
    """400: a required parameter is missing."""
    message = msg("Missing required parameter: '{name}'.", name=name)
    return ApiError(400, message, param=name, code="missing_required_parameter")


def unknown_model(model: object) -> ApiError:
    """404 model_not_found."""
    return ApiError(404, msg("The model '{model}' does not exist.", model=model), param="model", code="model_not_found")


def unknown_file(file_id: str) -> ApiError:
    """404: the file does not exist."""
    return ApiError(404, msg("No such File object: {file_id}", file_id=file_id), param="id", code="file_not_found")


def unknown_job(job_id: str) -> ApiError:
    """404: the fine-tuning job does not exist."""
    return ApiError(
        404,
        msg("Could not find fine tune: {job_id}", job_id=job_id),
        param="fine_tuning_job_id",
        code="fine_tuning_job_not_found",
    )


def unavailable(message: str) -> ApiError:
    """503: llama.cpp or a model file is unavailable; a retry may help."""
    return ApiError(503, message, type="server_error", code="engine_unavailable")


def is_disk_full(exc: BaseException) -> bool:
    """Whether an OSError or SQLite error means that the disk is full."""
    if isinstance(exc, sqlite3.Error):
        return "disk is full" in str(exc) or "disk I/O error" in str(exc)
    return isinstance(exc, OSError) and exc.errno in _FULL


def disk_full() -> ApiError:
    """507: the engine's disk is full. Acknowledged data is safe."""
    return ApiError(
        DISK_FULL,
        msg(
            "The engine's disk is full or cannot be written, so nothing was stored. Free some space, then try again; "
            "files and jobs that were acknowledged before are safe."
        ),
        type="server_error",
        code="insufficient_storage",
    )
