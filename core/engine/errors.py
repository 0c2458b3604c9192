"""Errors as OpenAI's API words them: a status, a message, a type, a parameter and a code."""

from __future__ import annotations

import errno
import sqlite3

from core.message import extra_fields, msg

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ApiError(Exception):
    """An answer other than 200.

    Attributes:
        status: HTTP status.
        message: one sentence for people.
        param: the parameter that is wrong, if one is.
        code: OpenAI's (or our) short name of the error, for programs.
        type: OpenAI's class of the error.
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
        said = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**said, **extra_fields(self.message)}}


def bad_value(param: str, message: str) -> ApiError:
    """400: one parameter has a value that cannot be used."""
    return ApiError(400, message, param=param, code="invalid_value")


def unknown_model(model: object) -> ApiError:
    """404 model_not_found."""
    return ApiError(404, msg("The model '{model}' does not exist.", model=model), param="model", code="model_not_found")


def unknown_file(file_id: str) -> ApiError:
    """404 for a file that is not, or no longer, there."""
    return ApiError(404, msg("No such File object: {file_id}", file_id=file_id), param="id", code="file_not_found")


def unknown_job(job_id: str) -> ApiError:
    """404 for a fine-tuning job."""
    return ApiError(
        404,
        msg("Could not find fine tune: {job_id}", job_id=job_id),
        param="fine_tuning_job_id",
        code="fine_tuning_job_not_found",
    )


def unavailable(message: str) -> ApiError:
    """503: something behind the engine does not answer now; a retry may help."""
    return ApiError(503, message, type="server_error", code="engine_unavailable")


def is_disk_full(exc: BaseException) -> bool:
    """Whether an OSError or an SQLite error means that nothing more can be stored."""
    if isinstance(exc, sqlite3.Error):
        return "disk is full" in str(exc) or "disk I/O error" in str(exc)
    return isinstance(exc, OSError) and exc.errno in _FULL


def disk_full() -> ApiError:
    """507: the engine's disk is full. What was acknowledged before is safe."""
    return ApiError(
        507,
        msg(
            "The engine's disk is full or cannot be written, so nothing was stored. Free some space, then try again; "
            "files and jobs that were acknowledged before are safe."
        ),
        type="server_error",
        code="insufficient_storage",
    )
