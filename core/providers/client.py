"""The client for all calls to one endpoint, and what the endpoint supports."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
from openai.types import Batch

from core.errors import BadRequest, ProviderError, StorageFull, Unavailable
from core.message import msg, with_cause
from core.providers.batches import RemoteBatch, read_batch
from core.providers.finetuning import INTENT, NEWEST, FineTuning
from core.providers.generation import Generation
from core.providers.parameters import PATHS, adjust_body, request_body
from core.providers.retry import RetryPolicy
from core.providers.schemas import CompletionRequest, Endpoint, Provider

_WINDOW = "24h"  # the only value that the API supports
_PAGE = 100
_BLOCK = 1 << 16  # bytes per read when downloading a file
_SUPPORT_CACHE_S = 600.0  # changes only when the endpoint is upgraded
_ERROR_CACHE_S = 30.0
_ONE_TRY = RetryPolicy(tries=1, total_s=3.0)  # a form is waiting for the result
_batch_support: dict[str, tuple[bool, float]] = {}  # base URL → result, and how long it is valid


class Client(Generation, FineTuning):
    """One endpoint: completions, batches, models, files, fine-tuning. Safe to share between threads and event loops.

    Batch calls are never retried here. A batch takes hours, so its caller polls at its own interval, and the POST that
    creates one must never be repeated blindly (see `find_batch`). Upload its file with `upload(path, "batch")`.
    """

    def batch_line(self, custom_id: str, request: CompletionRequest) -> bytes:
        """Create one line of a batch file, including its newline; the body is the same as in a live request."""
        body = adjust_body(self.provider, request_body(request, self.provider.capabilities))
        line = {"custom_id": custom_id, "method": "POST", "url": self._url(request.endpoint), "body": body}
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"

    def create_batch(self, input_file_id: str, endpoint: Endpoint, intent_id: str) -> RemoteBatch:
        """Submit a file of requests with exactly one POST. After any error, check with `find_batch` before sending
        again.

        Raises:
            ProviderError: the endpoint returned an error, or did not respond (then the batch may exist).
        """
        body: dict[str, Any] = {
            "input_file_id": input_file_id,
            "endpoint": self._url(endpoint),
            "completion_window": _WINDOW,
            "metadata": {INTENT: intent_id},
        }
        return self._once(lambda: read_batch(self.provider, self._sdk().batches.create(**body)))

    def find_batch(self, intent_id: str) -> RemoteBatch | None:
        """Find the batch with this intent id in its metadata among the newest 1,000; None if it was never created."""

        def call() -> RemoteBatch | None:
            listed: Iterable[Batch] = self._sdk().batches.list(limit=_PAGE)
            for batch in islice(listed, NEWEST):
                if (batch.metadata or {}).get(INTENT) == intent_id:
                    return read_batch(self.provider, batch)
            return None

        return self._once(call)

    def batch(self, batch_id: str) -> RemoteBatch:
        """The current state of the batch.

        Raises:
            NotFound: the endpoint does not have the batch, or no longer has it.
            ProviderError: see `core.errors`.
        """
        return self._once(lambda: read_batch(self.provider, self._sdk().batches.retrieve(batch_id)))

    def cancel_batch(self, batch_id: str) -> RemoteBatch:
        """Cancel the batch. The batch stays `cancelling` for up to ten minutes; its files contain the finished
        requests.
        """
        return self._once(lambda: read_batch(self.provider, self._sdk().batches.cancel(batch_id)))

    def supports_batches(self) -> bool:
        """Whether the endpoint has a Batch API, that is, can list this account's batches.

        Raises:
            ProviderError: cannot be determined now (no connection, a rejected key).
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
                        with_cause(
                            msg("The connection to {name} ended in the middle of a file.", name=self.provider.name),
                            "interrupted",
                        ),
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
        """The path used inside a batch file; in Azure's documentation it has no version."""
        return f"/v1{PATHS[endpoint]}" if self.provider.capabilities.batch_paths_have_version else PATHS[endpoint]


def supports_batch(provider: Provider) -> bool:
    """Whether runs at this endpoint can use a Batch API. The built-in engine has none.

    OpenAI and Azure have one. Other endpoints are queried, with a timeout of three seconds, and the result is cached.
    """
    if provider.capabilities.batches is not None:
        return provider.capabilities.batches
    supported, valid_until = _batch_support.get(provider.base_url, (False, 0.0))
    if time.monotonic() < valid_until:
        return supported
    try:
        client = Client(provider, retry_policy=_ONE_TRY, timeout=_ONE_TRY.total_s)
        supported, ttl_s = client.supports_batches(), _SUPPORT_CACHE_S
    except ProviderError:
        supported, ttl_s = False, _ERROR_CACHE_S
    _batch_support[provider.base_url] = (supported, time.monotonic() + ttl_s)
    return supported
