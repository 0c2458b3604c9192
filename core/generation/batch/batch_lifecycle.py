"""One batch, step by step: submit, watch, collect. After each step, the batch's state is in the database."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from core.datasets import grid
from core.db import rescue_files
from core.db.store import Store
from core.errors import BadRequest, FabulaError, NotFound, NotThere, ProviderRemoved, StorageFull, Transient
from core.failures import request_refused, with_request_cause
from core.generation.batch import batch_account, batch_store
from core.generation.batch.batch_results import (
    BatchOutcome,
    BatchResults,
    FailureHistory,
    is_queue_full,
    rejected_lines,
    rejection_reason,
    unbilled,
)
from core.generation.batch.batch_store import BatchRow, BatchView
from core.generation.provider_connection import completion_request
from core.generation.retry_policy import RunEnd, end_for_error
from core.generation.row_store import RowResult
from core.generation.run_budget import RequestCost
from core.generation.run_store import RunContext
from core.message import msg, with_cause
from core.pricing.price_book import PriceBook
from core.providers import Client, CompletionRequest, Registry, account
from core.providers.batches import ENDED, RemoteBatch, read_answer
from core.providers.schemas import Endpoint
from core.sanitize import storable

CANCELLED_WITH_RUN = msg("The batch was cancelled because the run was ended.")
UNREADABLE = with_cause(msg("The line with this answer in the provider's file can't be read."), "interrupted")
"""Reason for a row that was processed but whose answer cannot be read."""
_FILES_GONE = with_cause(
    msg("The provider no longer has the results of this batch. Resume to submit its rows again."), "job_gone"
)
ANSWERS_PER_TRANSACTION = 500  # recording this many takes about 30 ms


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """The provider's queue was full: the number of our other batches, and the number of rows in the refused one."""

    others: int
    rows: int


class BatchLifecycle:
    """The steps for the batches of one run.

    Attributes:
        book: the prices.
        request_cost: the price of a request in a new batch of this run.
        results: classifies lines; its `end` is set when there is a reason to end the run.
        queue_limit: set when a batch was refused only because too many tokens are enqueued at the provider.
        stop: set when the run should stop: batches are cancelled, and their results so far are collected.

    Args:
        settle_s: time after which a POST that was in flight when the process died appears in the provider's list.
        history: failures of the run's earlier batches.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        context: RunContext,
        book: PriceBook,
        settle_s: float,
        history: FailureHistory | None = None,
    ) -> None:
        self._store, self._registry, self._context, self.book = store, registry, context, book
        self._settle_s = settle_s
        self._search_started: dict[str, float] = {}  # batch → monotonic time of the first search
        self.request_cost = RequestCost(book, context, batch=True)
        self.results = BatchResults(context.recipe.max_tokens, history)
        self.queue_limit: QueueLimit | None = None
        self.stop = False

    def advance(self, batch: BatchView) -> RunEnd | None:
        """Perform the next step of a batch. Return the run's end if it has ended, else None.

        Raises:
            ProviderError: the step failed; it is safe to try again.
            NotFound, EngineMissing: the provider is not configured.
            ProviderChanged: it now uses another account. The batch stays as it is.
            StorageFull: the database or the disk cannot be written.
        """
        try:
            return self._step(batch)
        except ProviderRemoved as exc:
            return self._on_removed(batch, exc)

    def _step(self, batch: BatchView) -> RunEnd | None:
        if batch.state == "preparing":
            return self._submit(batch)
        if batch.state == "submitting":
            return self._find_submitted(batch)
        if batch.state == "waiting":
            return self._watch(batch)
        return self._collect(batch)

    def client(self) -> Client:
        """Return a client for the run's provider, with its current settings."""
        return self._registry.get(self._context.provider)

    def _client_of(self, batch: BatchView) -> Client:
        """A client for the account that has the batch; see `batch_account.client_of`."""
        return batch_account.client_of(self._store, self._registry, batch)

    def _on_removed(self, batch: BatchView, error: ProviderRemoved) -> RunEnd | None:
        """Nothing can reach the batch any more: its rows are pending again, and what it may have cost counts."""
        self.close(batch, "failed", storable(error.what), unknown=batch.state != "preparing")
        if batch.provider != self._context.provider or self.stop:
            return None
        return end_for_error(error)

    def _cost_of(self, batch: BatchView) -> RequestCost:
        """The price of a request in this batch."""
        if (batch.provider, batch.model) == (self._context.provider, self._context.model):
            return self.request_cost
        context = replace(self._context, provider=batch.provider, model=batch.model)
        return RequestCost(self.book, context, batch=True)

    def line(self, client: Client, row: BatchRow) -> bytes:
        """A row's line in the request file."""
        seed = grid.row_seed(self._context.recipe, row.key)
        return client.batch_line(row.key, self._request(client, self._context.model, row.prompt, seed))

    def _request(self, client: Client, model: str, prompt: str, seed: int | None) -> CompletionRequest:
        return completion_request(self._context.recipe, model, prompt, self._endpoint(client, model), seed)

    def close(self, batch: BatchView, state: str, reason: str | None = None, *, unknown: bool = False) -> None:
        """Finish a batch; see `batch_store.close`."""
        with self._store.session() as session:
            worst_case = self._cost_of(batch).worst_case
            batch_store.close(session, batch.id, state, worst_case, reason, unknown=unknown)

    def cancel(self, batch: BatchView) -> None:
        """Request the cancellation of a batch. A batch that was never submitted is closed immediately.

        Raises:
            ProviderError: the request failed; the intent to cancel is recorded in the database.
        """
        if batch.state == "preparing":
            self.close(batch, "cancelled", CANCELLED_WITH_RUN)
        elif batch.reason is None:
            batch_store.update_batch(self._store, batch.id, updated_at=batch.updated_at, reason=CANCELLED_WITH_RUN)
        if batch.state == "waiting" and batch.remote_id is not None:
            with suppress(BadRequest):  # the batch has just ended; the next poll shows it
                self._client_of(batch).cancel_batch(batch.remote_id)

    # --- submit --------------------------------------------------------------------------------------------------

    def _submit(self, batch: BatchView) -> RunEnd | None:
        """Write the file, upload it, and create the batch with a POST. Repeating the upload only leaves an unused file
        at the provider.
        """
        if self.stop or (batch.provider, batch.model) != (self._context.provider, self._context.model):
            self.cancel(batch)  # it was created by an earlier run with another model, and never submitted
            return None
        client = self.client()
        with _temporary_folder() as folder:
            path = Path(folder) / f"fabula-{batch.id}.jsonl"
            _write(path, (self.line(client, row) for row in batch_store.rows_of(self._store, batch.id)))
            input_file_id = client.upload(path, "batch")
        return self._post(batch, client, input_file_id)

    def _post(self, batch: BatchView, client: Client, input_file_id: str) -> RunEnd | None:
        """Send the POST once. The intent is recorded first; if there is no clear response, search for the batch."""
        self._search_started.pop(batch.id, None)
        submitted = asdict(account.of(client.provider))
        batch_store.update_batch(self._store, batch.id, state="submitting", input_file_id=input_file_id, **submitted)
        try:
            remote = client.create_batch(input_file_id, self._endpoint(client, batch.model), batch.id)
        except Transient:
            raise
        except FabulaError as exc:  # the provider refused the request
            self.close(batch, "failed", storable(exc.what))
            return end_for_error(exc)
        return self._adopt(batch, remote)

    def _find_submitted(self, batch: BatchView) -> RunEnd | None:
        """After a POST that may have been sent, adopt the batch, or decide later that the POST never arrived."""
        client = self._client_of(batch)
        remote = client.find_batch(batch.id)
        if remote is not None:
            return self._adopt(batch, remote)
        if time.monotonic() - self._search_started.setdefault(batch.id, time.monotonic()) < self._settle_s:
            return None
        if self.stop:
            self.close(batch, "cancelled", CANCELLED_WITH_RUN)
            return None
        return self._post(batch, client, batch.input_file_id or "")

    def _adopt(self, batch: BatchView, remote: RemoteBatch) -> RunEnd | None:
        known = {"remote_id": remote.id, "remote_status": remote.status}
        entry = {"kind": "batch", "batch_id": batch.id, "input_file_id": batch.input_file_id, **known}
        rescue_files.write_or_rescue(
            self._store,
            lambda session: batch_store.update_batch(self._store, batch.id, state="waiting", **known),
            entry,
        )
        return None

    # --- watch ---------------------------------------------------------------------------------------------------

    def _watch(self, batch: BatchView) -> RunEnd | None:
        """Poll the provider's batch once."""
        try:
            remote = self._client_of(batch).batch(batch.remote_id or "")
        except BadRequest as exc:
            if not isinstance(exc, NotFound):
                raise
            self.close(batch, "failed", storable(exc.what), unknown=True)
            return RunEnd(
                "failed",
                with_cause(msg("The provider no longer has this batch. Resume to submit its rows again."), "job_gone"),
            )
        if remote.status in ENDED:
            return self._on_ended(batch, remote)
        changes = {"remote_status": remote.status, "completed": remote.completed, "failed": remote.failed}
        if changes != {name: getattr(batch, name) for name in changes}:
            batch_store.update_batch(self._store, batch.id, **changes)
        if self.stop and remote.status != "cancelling":
            self.cancel(batch)
        return None

    def _on_ended(self, batch: BatchView, remote: RemoteBatch) -> RunEnd | None:
        files = {"output_file_id": remote.output_file_id, "error_file_id": remote.error_file_id}
        if remote.status == "failed" and not any(files.values()):
            return self._on_rejected(batch, remote)
        batch_store.update_batch(self._store, batch.id, state="collecting", remote_status=remote.status, **files)
        return None  # the next step collects it

    def _on_rejected(self, batch: BatchView, remote: RemoteBatch) -> RunEnd | None:
        """Handle a file that was rejected before it was processed: some lines are invalid, or the queue is full."""
        batch_store.update_batch(self._store, batch.id, remote_status=remote.status)
        rejected = {} if is_queue_full(remote) else rejected_lines(remote)
        rows = islice(batch_store.rows_of(self._store, batch.id), max(rejected, default=0))
        outcomes = [
            unbilled(row.key, with_request_cause(rejected[line].message))
            for line, row in enumerate(rows, 1)
            if line in rejected
        ]
        self._settle(batch, outcomes)
        with self._store.reading() as session:
            others = len(batch_store.open_batches(session, self._context.dataset_id)) - 1
        self.close(batch, "failed", rejection_reason(remote))
        if outcomes or self.stop:
            return None
        if is_queue_full(remote) and (others or batch.total > 1):
            self.queue_limit = QueueLimit(others, batch.total)
            return None
        reason = rejection_reason(remote)
        refused = msg("The provider refused the batch. {reason}", reason=reason)
        return RunEnd("failed", with_cause(refused, request_refused(reason)))

    # --- collect -------------------------------------------------------------------------------------------------

    def _collect(self, batch: BatchView) -> RunEnd | None:
        """Read both files into the database. Safe to repeat after an interruption: settled rows stay settled.

        Files that were deleted or have expired cannot be collected; in that case, the remaining rows become pending
        again, at an unknown cost.
        """
        client, unreadable = self._client_of(batch), 0
        with _temporary_folder() as folder:
            path = Path(folder) / "answers.jsonl"
            for file_id in (batch.output_file_id, batch.error_file_id):
                if file_id is None:
                    continue
                try:
                    client.download(file_id, path)
                except NotThere as exc:
                    self.close(batch, "failed", storable(exc.what), unknown=True)
                    of_this_run = batch.run_id == self._context.run_id
                    return RunEnd("failed", _FILES_GONE) if of_this_run and not self.stop else None
                unreadable += self._read(batch, client, path)
        cancelled = batch.remote_status == "cancelled"
        self._settle_unreadable(batch, unreadable)
        if not cancelled:
            self._settle_missing(batch)
        self.close(batch, "cancelled" if cancelled else "done", batch.reason)
        if cancelled and batch.reason is None and not self.stop:
            return RunEnd(
                "stopped",
                with_cause(
                    msg("The batch was cancelled at the provider. Resume to write the remaining rows."), "job_gone"
                ),
            )
        return None

    def _read(self, batch: BatchView, client: Client, path: Path) -> int:
        """Settle the rows in a file. Return the number of unreadable lines."""
        request = self._request(client, batch.model, "", self._context.recipe.seed)
        price = self._cost_of(batch).price
        old = batch.run_id != self._context.run_id or batch.reason is not None
        unreadable = 0
        with path.open("rb") as file:
            lines = (line for line in file if line.strip())
            while group := list(islice(lines, ANSWERS_PER_TRANSACTION)):
                answers = [read_answer(client.provider, line, request) for line in group]
                unreadable += answers.count(None)
                self._settle(batch, [self.results.read(answer, price, old) for answer in answers if answer is not None])
        return unreadable

    def _settle_unreadable(self, batch: BatchView, lines: int) -> None:
        """For each unreadable line, mark one row without an answer as failed (processed, at an unknown cost).

        Rows marked before a crash are counted: when the file is collected again, the same lines do not mark more rows,
        which the provider may never have processed.
        """
        marked = batch_store.count_failed(self._store, batch.id, UNREADABLE) if lines else 0
        rows = list(islice(batch_store.rows_of(self._store, batch.id), max(0, lines - marked)))
        self._settle(batch, [BatchOutcome(row.key, RowResult("failed", UNREADABLE)) for row in rows])

    def _settle_missing(self, batch: BatchView) -> None:
        """Settle rows that are in neither file: they were not processed before the batch expired."""
        message = msg("The provider ended the batch before it reached this row.")
        rows = batch_store.rows_of(self._store, batch.id)
        while group := list(islice(rows, ANSWERS_PER_TRANSACTION)):
            self._settle(batch, [self.results.count_failure(row.key, message) for row in group])

    def _settle(self, batch: BatchView, outcomes: list[BatchOutcome]) -> None:
        if outcomes:
            with self._store.session() as session:
                worst_case = self._cost_of(batch).worst_case
                batch_store.settle(session, self._context.dataset_id, batch.id, outcomes, worst_case)

    def _endpoint(self, client: Client, model: str) -> Endpoint:
        chosen = self._context.recipe.endpoint
        if chosen == "chat":
            return "chat"
        return "completion" if chosen == "completion" else client.endpoint(model)


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="fabula-")
    except OSError as exc:
        raise StorageFull(
            msg("Could not create a temporary folder: {reason}.", reason=exc.strerror), msg("Free some space.")
        ) from exc


def _write(path: Path, lines: Iterable[bytes]) -> None:
    try:
        with path.open("wb") as file:
            file.writelines(lines)
    except FabulaError:
        raise
    except OSError as exc:
        raise StorageFull(
            msg("{parent} cannot be written: {reason}.", parent=path.parent, reason=exc.strerror),
            msg("Free some space."),
        ) from exc
