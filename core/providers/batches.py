"""An endpoint's batches and the lines of their files, in OpenAI's Batch API format. The calls are in `client`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from openai.types import Batch

from core.errors import BadRequest, ProviderError, Unavailable, Unreadable
from core.message import msg, with_cause
from core.providers.errors import from_status, not_an_api_answer, quoted
from core.providers.finetuning import INTENT
from core.providers.parameters import TOKEN_CAPS, learn, request_body
from core.providers.response_parser import error_in_answer, parse_completion, parsed
from core.providers.schemas import Completion, CompletionRequest, Provider
from core.providers.usage import token_count

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})  # the API's final statuses
_MAX_STATUS_CHARS = 30  # length of the database column; the API's own values are shorter
# Error codes of lines without a response (OpenAI's API reference, "batch request output object"): the first two mean
# that the request was not executed, `request_timeout` that the call to the model timed out.
_NOT_EXECUTED = frozenset({"batch_expired", "batch_cancelled"})
_TIMED_OUT = "request_timeout"


@dataclass(frozen=True, slots=True)
class BatchFault:
    """Why a file of requests was rejected. `line` is counted from 1; None means the whole file."""

    line: int | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch as reported by its endpoint. `status` is the API's value: validating, failed, in_progress, finalizing,
    completed, expired, cancelling, cancelled."""

    id: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    total: int
    completed: int
    failed: int
    faults: tuple[BatchFault, ...]
    expires_at: datetime | None
    intent: str | None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The result of one line: a completion, or the error that a live request would raise."""

    custom_id: str
    completion: Completion | None
    error: ProviderError | None


def read_batch(provider: Provider, batch: Batch) -> RemoteBatch:
    """Convert the SDK's object.

    Raises:
        ProviderError: the object is not a batch.
    """
    if not isinstance(batch.id, str) or not isinstance(batch.status, str):
        raise not_an_api_answer(provider)
    counts = batch.request_counts
    faults = (batch.errors.data or ()) if batch.errors else ()
    return RemoteBatch(
        id=batch.id,
        status=batch.status[:_MAX_STATUS_CHARS],
        output_file_id=batch.output_file_id or None,
        error_file_id=batch.error_file_id or None,
        total=int(counts.total or 0) if counts else 0,
        completed=int(counts.completed or 0) if counts else 0,
        failed=int(counts.failed or 0) if counts else 0,
        faults=tuple(BatchFault(f.line, str(f.code or ""), quoted(f.message, provider)) for f in faults),
        expires_at=datetime.fromtimestamp(batch.expires_at, UTC) if batch.expires_at else None,
        intent=(batch.metadata or {}).get(INTENT),
    )


def read_answer(provider: Provider, line: bytes, request: CompletionRequest | None = None) -> BatchAnswer | None:
    """Parse one line of an output or error file; None if it is malformed (the answer then counts as missing).

    `request` is any of the batch's requests; it shows which rejected parameters to omit when the row is submitted
    again.

    Format: `{"custom_id", "response": {"status_code", "body"} | null, "error": {"code", "message"} | null}`.
    """
    try:
        item = parsed(line)
    except ValueError:
        return None
    custom_id = item.get("custom_id") if isinstance(item, Mapping) else None
    if not isinstance(custom_id, str):
        return None
    response = item.get("response")
    if not isinstance(response, Mapping) or not (response.get("body") or response.get("status_code")):
        return BatchAnswer(custom_id, None, _error_without_response(provider, item.get("error")))
    body, status = response.get("body"), token_count(response.get("status_code"))
    if status is not None and status >= 300:
        return BatchAnswer(custom_id, None, _after_learning(from_status(status, body, {}, provider), provider, request))
    return _successful(provider, custom_id, body, request)


def _successful(provider: Provider, custom_id: str, body: Any, request: CompletionRequest | None) -> BatchAnswer:
    """Parse a line with a success status into its completion, or into an error if it has none.

    An unreadable body counts as an empty completion of unknown cost, because the request was processed.
    """
    try:
        model, tools = ("", False) if request is None else (request.model, bool(request.tools))
        return BatchAnswer(custom_id, parse_completion(body, provider, model, tools=tools), None)
    except Unreadable:
        return BatchAnswer(custom_id, Completion((), "", None, None), None)
    except ProviderError as exc:
        return BatchAnswer(custom_id, None, _after_learning(exc, provider, request))


def _after_learning(error: ProviderError, provider: Provider, request: CompletionRequest | None) -> ProviderError:
    """Make the error retryable if it rejects a parameter, because the next batch omits that parameter."""
    if request is None or not isinstance(error, BadRequest):
        return error
    body = request_body(request, provider.capabilities)
    if not learn(provider, {**dict.fromkeys(TOKEN_CAPS), **body}, error.refused_parameters):
        return error
    return Unavailable(error.what, msg("Fabula submits it again without the parameter."), may_be_billed=False)


def _error_without_response(provider: Provider, error: Any) -> ProviderError:
    """The error for a line without a response. Unless a code proves otherwise, the request may be billed."""
    details = error if isinstance(error, Mapping) else {}
    code = str(details.get("code") or "")
    if code in _NOT_EXECUTED or code == _TIMED_OUT or not details:
        message = quoted(details.get("message") or code, provider)
        return Unavailable(
            with_cause(
                msg("{name} did not process this request: {message}", name=provider.name, message=message),
                "server_error",
            ),
            msg("Fabula submits it again."),
            may_be_billed=code not in _NOT_EXECUTED,
        )
    return error_in_answer(details, provider)
