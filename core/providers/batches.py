"""The Batch API of an endpoint: a file of requests in, a file of answers out, within a day and for less money.

Every call is one try. A batch takes hours, so whoever watches one does its own waiting; and the POST that creates one
must never be repeated blindly (see `find_batch`).
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
from core.providers.parameters import TOKEN_CAPS, adjusted, learn
from core.providers.request_bodies import PATHS, body_of
from core.providers.response_parser import completion_of, parsed
from core.providers.schemas import Completion, CompletionRequest, Endpoint, Provider
from core.providers.usage import token_count

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})  # the API's words for a batch that changes no more
_WINDOW = "24h"  # the only one that the API knows
_PAGE = 100
_LONGEST_WORD = 30  # characters, as the ledger has it; the API's own words are shorter
_BLOCK = 1 << 16  # bytes read at once from a file of answers
# What the API says of a line that it never carried out, or not to the end: sending it again is what it asks for.
_NOT_DONE = frozenset({"batch_expired", "batch_cancelled", "request_timeout", "server_error", "rate_limit_exceeded"})


@dataclass(frozen=True, slots=True)
class BatchFault:
    """Why a file of requests was refused. `line` counts from 1; None: it is about the whole file."""

    line: int | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch as its endpoint tells it. `status` is its own word: validating, failed, in_progress, finalizing,
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
    """What came back for one line: an answer, or an error of the family (as a live request would have raised it)."""

    custom_id: str
    completion: Completion | None
    error: ProviderError | None


class Batches(Generation):
    """The calls that hand in, watch and fetch a batch. Its file goes there with `upload(path, "batch")`."""

    def batch_line(self, custom_id: str, request: CompletionRequest) -> bytes:
        """One line of a file of requests, with its line end: the body is what the live call would send."""
        body = adjusted(self.provider, body_of(request, self.provider.kind))
        line = {"custom_id": custom_id, "method": "POST", "url": self._url(request.endpoint), "body": body}
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"

    def create_batch(self, input_file: str, endpoint: Endpoint, intent_id: str) -> RemoteBatch:
        """Hand in a file of requests: exactly one POST. After any error, look with `find_batch` before sending again.

        Raises:
            ProviderError: the endpoint answered with an error, or not at all (then the batch may exist).
        """
        sent: dict[str, Any] = {
            "input_file_id": input_file,
            "endpoint": self._url(endpoint),
            "completion_window": _WINDOW,
            "metadata": {INTENT: intent_id},
        }
        return self._once(lambda: self._batch(self._sdk().batches.create(**sent)))

    def find_batch(self, intent_id: str) -> RemoteBatch | None:
        """The batch that carries `intent_id`, among the newest 1,000; None: it was never created."""

        def call() -> RemoteBatch | None:
            listed: Iterable[Batch] = self._sdk().batches.list(limit=_PAGE)
            for batch in islice(listed, NEWEST):
                if (batch.metadata or {}).get(INTENT) == intent_id:
                    return self._batch(batch)
            return None

        return self._once(call)

    def batch(self, batch_id: str) -> RemoteBatch:
        """The batch as it is now.

        Raises:
            NotFound: the endpoint does not know it (any more).
            ProviderError: see `core.errors`.
        """
        return self._once(lambda: self._batch(self._sdk().batches.retrieve(batch_id)))

    def cancel_batch(self, batch_id: str) -> RemoteBatch:
        """Ask for its end. It is `cancelling` for up to ten minutes; what was written by then is in its files."""
        return self._once(lambda: self._batch(self._sdk().batches.cancel(batch_id)))

    def lists_batches(self) -> bool:
        """Whether the endpoint has a Batch API: it lists the batches of this account, none perhaps.

        Raises:
            ProviderError: it cannot be told now (no connection, a refused key).
        """
        try:
            return self._once(lambda: isinstance(self._sdk().batches.list(limit=1).data, list))
        except BadRequest:
            return False

    def download(self, file_id: str, path: Path) -> None:
        """Write the content of a file there to `path`, a block at a time.

        Raises:
            ProviderError: it did not come whole.
            StorageFull: it cannot be written here.
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
        """Azure's own documentation leaves the version out of the paths that stand inside a file."""
        return PATHS[endpoint] if self.provider.kind == "azure" else f"/v1{PATHS[endpoint]}"

    def _batch(self, batch: Batch) -> RemoteBatch:
        if not isinstance(batch.id, str) or not isinstance(batch.status, str):
            raise not_an_api_answer(self.provider)
        counts = batch.request_counts
        faults = (batch.errors.data or ()) if batch.errors else ()
        return RemoteBatch(
            id=batch.id,
            status=batch.status[:_LONGEST_WORD],
            output_file=batch.output_file_id or None,
            error_file=batch.error_file_id or None,
            total=int(counts.total or 0) if counts else 0,
            completed=int(counts.completed or 0) if counts else 0,
            failed=int(counts.failed or 0) if counts else 0,
            faults=tuple(BatchFault(f.line, str(f.code or ""), quoted(f.message, self.provider)) for f in faults),
            expires_at=datetime.fromtimestamp(batch.expires_at, UTC) if batch.expires_at else None,
            intent=(batch.metadata or {}).get(INTENT),
        )


def read_answer(provider: Provider, line: bytes, asked: CompletionRequest | None = None) -> BatchAnswer | None:
    """One line of a file of answers or of errors; None when it is not one (it is then as if it had not come).

    `asked` is any of the batch's requests: a parameter that was refused is left out when the row is handed in again.

    Shape: `{"custom_id", "response": {"status_code", "body"} | null, "error": {"code", "message"} | null}`.
    """
    try:
        said = parsed(line)
    except ValueError:
        return None
    custom_id = said.get("custom_id") if isinstance(said, Mapping) else None
    if not isinstance(custom_id, str):
        return None
    response = said.get("response")
    if not isinstance(response, Mapping) or (not response.get("body") and response.get("status_code") is None):
        return BatchAnswer(custom_id, None, _not_done(provider, said.get("error")))
    body, status = response.get("body"), token_count(response.get("status_code"))
    if status is not None and status >= 300:
        return BatchAnswer(custom_id, None, _learned(from_status(status, body, {}, provider), provider, asked))
    return _carried_out(provider, custom_id, body, asked)


def _carried_out(provider: Provider, custom_id: str, body: Any, asked: CompletionRequest | None) -> BatchAnswer:
    """A line with a success status: its answer, or the error that stands in place of one.

    An answer that is none at all counts as an empty one at an unknown cost, for the request was carried out.
    """
    try:
        return BatchAnswer(custom_id, completion_of(body, provider, "" if asked is None else asked.model), None)
    except Unreadable:
        return BatchAnswer(custom_id, Completion((), "", None, None), None)
    except ProviderError as exc:
        return BatchAnswer(custom_id, None, _learned(exc, provider, asked))


def _learned(error: ProviderError, provider: Provider, asked: CompletionRequest | None) -> ProviderError:
    """A refusal of a parameter is a reason to hand the row in again: the next batch goes without it."""
    if asked is None or not isinstance(error, BadRequest):
        return error
    body = body_of(asked, provider.kind)
    if not learn(provider, {**dict.fromkeys(TOKEN_CAPS), **body}, error.refused_parameters):
        return error
    return Unavailable(error.what, msg("Fabula submits it again without the parameter."))


def _not_done(provider: Provider, error: Any) -> ProviderError:
    told = error if isinstance(error, Mapping) else {}
    words = quoted(told.get("message") or told.get("code"), provider)
    if told.get("code") in _NOT_DONE or not told:
        return Unavailable(
            msg("{name} did not carry out this request: {words}", name=provider.name, words=words),
            msg("Fabula submits it again."),
        )
    return BadRequest(
        msg("{name} could not use the request: {words}", name=provider.name, words=words),
        msg("Change it and try again."),
    )
