"""The Batch API of an endpoint: a file of requests in, a file of results within 24 hours, at a lower price.

No call is retried here. A batch takes hours, so its caller polls at its own pace, and the POST that creates one must
never be repeated blindly (see `find_batch`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
from openai.types import Batch

from core.errors import BadRequest, ProviderError, StorageFull, Unavailable, Unreadable
from core.message import msg
from core.providers.errors import from_status, not_an_api_answer, quoted
from core.providers.finetuning import INTENT, NEWEST
from core.providers.generation import Generation
from core.providers.parameters import TOKEN_CAPS, adjust_body, learn
from core.providers.request_bodies import PATHS, request_body
from core.providers.response_parser import parse_completion, parsed
from core.providers.schemas import Completion, CompletionRequest, Endpoint, Provider
from core.providers.usage import token_count

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})  # final statuses of the API
_WINDOW = "24h"  # the only value that the API supports
_PAGE = 100
_MAX_STATUS_CHARS = 30  # length of the ledger's column; the API's own values are shorter
_BLOCK = 1 << 16  # bytes per read when downloading a file
# Error codes of requests that the API did not process, or not completely; they should be submitted again.
_NOT_PROCESSED = frozenset(
    {"batch_expired", "batch_cancelled", "request_timeout", "server_error", "rate_limit_exceeded"}
)


@dataclass(frozen=True, slots=True)
class BatchFault:
    """Why a file of requests was rejected. `line` counts from 1; None: the whole file."""

    line: int | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch as reported by its endpoint. `status` is the API's value: validating, failed, in_progress, finalizing,
    completed, expired, cancelling, cancelled."""

    id: str
    status: str
    output_file: str | None
    error_file: str | None
    total: int
    completed: int
    failed: int
    faults: tuple[BatchFault, ...]
    expires_at: datetime | None
    intent: str | None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The result of one line: a completion, or the error that a live request would have raised."""

    custom_id: str
    completion: Completion | None
    error: ProviderError | None


class Batches(Generation):
    """Calls that submit, poll and download a batch. Upload its file with `upload(path, "batch")`."""

    def batch_line(self, custom_id: str, request: CompletionRequest) -> bytes:
        """One line of a batch file, with its newline; the body is the same as in a live request."""
        body = adjust_body(self.provider, request_body(request, self.provider.kind))
        line = {"custom_id": custom_id, "method": "POST", "url": self._url(request.endpoint), "body": body}
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"

    def create_batch(self, input_file: str, endpoint: Endpoint, intent_id: str) -> RemoteBatch:
        """Submit a file of requests: exactly one POST. After any error, check with `find_batch` before sending again.

        Raises:
            ProviderError: the endpoint returned an error, or did not respond (then the batch may exist).
        """
        body: dict[str, Any] = {
            "input_file_id": input_file,
            "endpoint": self._url(endpoint),
            "completion_window": _WINDOW,
            "metadata": {INTENT: intent_id},
        }
        return self._once(lambda: self._batch(self._sdk().batches.create(**body)))

    def find_batch(self, intent_id: str) -> RemoteBatch | None:
        """The batch with this intent id in its metadata, among the newest 1,000; None: it was never created."""

        def call() -> RemoteBatch | None:
            listed: Iterable[Batch] = self._sdk().batches.list(limit=_PAGE)
            for batch in islice(listed, NEWEST):
                if (batch.metadata or {}).get(INTENT) == intent_id:
                    return self._batch(batch)
            return None

        return self._once(call)

    def batch(self, batch_id: str) -> RemoteBatch:
        """The current state of the batch.

        Raises:
            NotFound: the endpoint does not have it, or no longer does.
            ProviderError: see `core.errors`.
        """
        return self._once(lambda: self._batch(self._sdk().batches.retrieve(batch_id)))

    def cancel_batch(self, batch_id: str) -> RemoteBatch:
        """Cancel the batch. It stays `cancelling` for up to ten minutes; finished requests are in its files."""
        return self._once(lambda: self._batch(self._sdk().batches.cancel(batch_id)))

    def supports_batches(self) -> bool:
        """Whether the endpoint has a Batch API: it can list the batches of this account.

        Raises:
            ProviderError: unknown for now (no connection, a rejected key).
        """
        try:
            return self._once(lambda: isinstance(self._sdk().batches.list(limit=1).data, list))
        except BadRequest:
            return False

    def download(self, file_id: str, path: Path) -> None:
        """Download a remote file to `path`.

        Raises:
            ProviderError: the download failed or is incomplete.
            StorageFull: `path` cannot be written.
        """

        def call() -> None:
            with self._sdk().files.with_streaming_response.content(file_id) as response, path.open("wb") as file:
                try:
                    for block in response.iter_bytes(_BLOCK):
                        file.write(block)
                except httpx2.HTTPError as exc:
                    raise Unavailable(
                        msg("{name} broke off in the middle of a file.", name=self.provider.name),
                        msg("Fabula fetches it again automatically."),
                    ) from exc

        try:
            self._once(call)
        except OSError as exc:
            raise StorageFull(
                msg("{parent} cannot be written: {reason}.", parent=path.parent, reason=exc.strerror),
                msg("Free some space, then continue."),
            ) from exc

    def _url(self, endpoint: Endpoint) -> str:
        """The path inside a batch file; Azure's documentation omits the version there."""
        return PATHS[endpoint] if self.provider.kind == "azure" else f"/v1{PATHS[endpoint]}"

    def _batch(self, batch: Batch) -> RemoteBatch:
        if not isinstance(batch.id, str) or not isinstance(batch.status, str):
            raise not_an_api_answer(self.provider)
        counts = batch.request_counts
        faults = (batch.errors.data or ()) if batch.errors else ()
        return RemoteBatch(
            id=batch.id,
            status=batch.status[:_MAX_STATUS_CHARS],
            output_file=batch.output_file_id or None,
            error_file=batch.error_file_id or None,
            total=int(counts.total or 0) if counts else 0,
            completed=int(counts.completed or 0) if counts else 0,
            failed=int(counts.failed or 0) if counts else 0,
            faults=tuple(BatchFault(f.line, str(f.code or ""), quoted(f.message, self.provider)) for f in faults),
            expires_at=datetime.fromtimestamp(batch.expires_at, UTC) if batch.expires_at else None,
            intent=(batch.metadata or {}).get(INTENT),
        )


def read_answer(provider: Provider, line: bytes, request: CompletionRequest | None = None) -> BatchAnswer | None:
    """Parse one line of an output or error file; None if it is malformed (it then counts as missing).

    `request` is any of the batch's requests: a rejected parameter is left out when the row is submitted again.

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
    if not isinstance(response, Mapping) or (not response.get("body") and response.get("status_code") is None):
        return BatchAnswer(custom_id, None, _unprocessed(provider, item.get("error")))
    body, status = response.get("body"), token_count(response.get("status_code"))
    if status is not None and status >= 300:
        return BatchAnswer(custom_id, None, _after_learning(from_status(status, body, {}, provider), provider, request))
    return _successful(provider, custom_id, body, request)


def _successful(provider: Provider, custom_id: str, body: Any, request: CompletionRequest | None) -> BatchAnswer:
    """A line with a success status: its completion, or the error in place of one.

    An unreadable body counts as an empty completion of unknown cost, because the request was processed.
    """
    try:
        return BatchAnswer(custom_id, parse_completion(body, provider, "" if request is None else request.model), None)
    except Unreadable:
        return BatchAnswer(custom_id, Completion((), "", None, None), None)
    except ProviderError as exc:
        return BatchAnswer(custom_id, None, _after_learning(exc, provider, request))


def _after_learning(error: ProviderError, provider: Provider, request: CompletionRequest | None) -> ProviderError:
    """Make the error retryable if it rejects a parameter: the next batch omits that parameter."""
    if request is None or not isinstance(error, BadRequest):
        return error
    body = request_body(request, provider.kind)
    if not learn(provider, {**dict.fromkeys(TOKEN_CAPS), **body}, error.refused_parameters):
        return error
    return Unavailable(error.what, msg("Fabula submits it again without the parameter."))


def _unprocessed(provider: Provider, error: Any) -> ProviderError:
    details = error if isinstance(error, Mapping) else {}
    message = quoted(details.get("message") or details.get("code"), provider)
    if details.get("code") in _NOT_PROCESSED or not details:
        return Unavailable(
            msg("{name} did not carry out this request: {message}", name=provider.name, message=message),
            msg("Fabula submits it again."),
        )
    return BadRequest(
        msg("{name} could not use the request: {message}", name=provider.name, message=message),
        msg("Change it and try again."),
    )
