"""One batch, step by step: handed in, watched, collected. Each step ends with the ledger saying where the batch is."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path

from core.cost.price_book import PriceBook, cost_of
from core.dataset import grid
from core.dataset.batch import batch_settlement, batch_store
from core.dataset.batch.batch_results import (
    BatchResults,
    BatchRunEnd,
    FailureHistory,
    end_for_error,
    is_queue_full,
    rejected_lines,
    rejection_reason,
    unbilled,
)
from core.dataset.batch.batch_settlement import BatchOutcome
from core.dataset.batch.batch_store import BatchRow, BatchView
from core.dataset.generation.request_cost import TEMPLATE_TOKENS, most_tokens
from core.dataset.generation.response_classification import storable
from core.dataset.generation.run_store import RunContext
from core.db import rescue_files
from core.db.store import Store
from core.errors import BadRequest, FabulaError, NotFound, RateLimited, StorageFull, Unavailable
from core.message import msg
from core.providers import Client, CompletionRequest, Registry
from core.providers.batches import ENDED, RemoteBatch, read_answer
from core.providers.schemas import Endpoint

ASKED_FOR = msg("The run was ended, and so was this batch.")
UNREADABLE = msg("The provider's file has a line that cannot be read in place of this answer.")
"""Why a row failed that was carried out, and whose answer cannot be read."""
_GROUP = 500  # answers in one transaction: some 30 ms


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """The provider took no more: so many other batches of ours were there, and so many rows were too many."""

    others: int
    rows: int


class BatchLifecycle:
    """The steps of the batches of one run.

    Attributes:
        answers: decides what lines mean; its `end` is a reason for the run to end.
        queue_limit: set when a batch was refused only because too much waits at the provider.
        stop: set when the run is to stop: batches are ended, what they have written is collected.

    Args:
        settle_s: a POST that was on its way when we died is in the provider's list after this.
        seen: what earlier answers of the run have shown.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        context: RunContext,
        book: PriceBook,
        settle_s: float,
        seen: FailureHistory | None = None,
    ) -> None:
        self._store, self._registry, self._context, self._book = store, registry, context, book
        self._settle_s = settle_s
        self._looked: dict[str, float] = {}  # batch → when it was first looked for, by a clock that nobody sets
        self.answers = BatchResults(context.recipe.max_tokens, self._price, seen)
        self.queue_limit: QueueLimit | None = None
        self.stop = False

    def advance(self, batch: BatchView) -> BatchRunEnd | None:
        """The next step of a batch; why the run is over, if it is.

        Raises:
            ProviderError: it could not be done; the same step is safe to be tried again.
            NotFound, EngineMissing: the provider is not set up here.
            StorageFull: the database or the disk cannot be written.
        """
        if batch.state == "preparing":
            return self._hand_in(batch)
        if batch.state == "submitting":
            return self._look_for(batch)
        if batch.state == "waiting":
            return self._watch(batch)
        return self._collect(batch)

    def client(self) -> Client:
        """The run's provider, as it is set up now."""
        return self._registry.get(self._context.provider)

    def line(self, client: Client, sent: BatchRow) -> bytes:
        """The line of a row in a file of requests."""
        seed = grid.row_seed(self._context.recipe, sent.key)
        return client.batch_line(sent.key, self._request(client, sent.prompt, seed))

    def _request(self, client: Client, prompt: str, seed: int | None) -> CompletionRequest:
        recipe = self._context.recipe
        return CompletionRequest(
            model=self._context.model,
            prompt=prompt,
            system=recipe.system,
            endpoint=self._endpoint(client),
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            max_tokens=recipe.max_tokens,
            seed=seed,
        )

    def worst(self, prompt: str) -> Decimal | None:
        """What a request can cost at most."""
        recipe = self._context.recipe
        return self._price(most_tokens(prompt + recipe.system) + TEMPLATE_TOKENS, recipe.max_tokens)

    def close(self, batch: BatchView, state: str, reason: str | None = None, *, unknown: bool = False) -> None:
        """The end of a batch, see `batch_books.close`."""
        with self._store.session() as session:
            batch_settlement.close(session, batch.id, state, self.worst, reason, unknown=unknown)

    def cancel(self, batch: BatchView) -> None:
        """Ask for the end of a batch. One that was never handed in is given up here.

        Raises:
            ProviderError: it could not be asked for; what stands in the ledger is that it was wanted.
        """
        if batch.state == "preparing":
            self.close(batch, "cancelled", ASKED_FOR)
        elif batch.reason is None:
            batch_store.update_batch(self._store, batch.id, updated_at=batch.updated_at, reason=ASKED_FOR)
        if batch.state == "waiting" and batch.remote_id is not None:
            with suppress(BadRequest):  # it has just ended: the next look says so
                self.client().cancel_batch(batch.remote_id)

    # --- out -----------------------------------------------------------------------------------------------------

    def _hand_in(self, batch: BatchView) -> BatchRunEnd | None:
        """Write its file, upload it, and POST. A repeated upload leaves an unused file there, no more."""
        if self.stop:
            self.cancel(batch)
            return None
        client = self.client()
        with _folder() as folder:
            path = Path(folder) / f"fabula-{batch.id}.jsonl"
            _write(path, (self.line(client, sent) for sent in batch_store.rows_of(self._store, batch.id)))
            input_file = client.upload(path, "batch")
        return self._post(batch, client, input_file)

    def _post(self, batch: BatchView, client: Client, input_file: str) -> BatchRunEnd | None:
        """The one POST. The intent is durable before it; with no clear answer, the batch is looked for."""
        self._looked.pop(batch.id, None)
        batch_store.update_batch(self._store, batch.id, state="submitting", input_file=input_file)
        try:
            remote = client.create_batch(input_file, self._endpoint(client), batch.id)
        except (RateLimited, Unavailable):
            raise
        except FabulaError as exc:  # a clear no
            self.close(batch, "failed", storable(exc.what))
            return end_for_error(exc)
        return self._adopt(batch, remote)

    def _look_for(self, batch: BatchView) -> BatchRunEnd | None:
        """There may have been a POST: it is adopted, or certain after a while never to have come."""
        client = self.client()
        remote = client.find_batch(batch.id)
        if remote is not None:
            return self._adopt(batch, remote)
        if time.monotonic() - self._looked.setdefault(batch.id, time.monotonic()) < self._settle_s:
            return None
        if self.stop:
            self.close(batch, "cancelled", ASKED_FOR)
            return None
        return self._post(batch, client, batch.input_file or "")

    def _adopt(self, batch: BatchView, remote: RemoteBatch) -> BatchRunEnd | None:
        known = {"remote_id": remote.id, "status": remote.status}
        entry = {"kind": "batch", "batch_id": batch.id, "input_file": batch.input_file, **known}
        rescue_files.write_or_keep(
            self._store,
            lambda session: batch_store.update_batch(self._store, batch.id, state="waiting", **known),
            entry,
        )
        return None

    # --- there ---------------------------------------------------------------------------------------------------

    def _watch(self, batch: BatchView) -> BatchRunEnd | None:
        """One look at the provider's batch."""
        try:
            remote = self.client().batch(batch.remote_id or "")
        except BadRequest as exc:
            if not isinstance(exc, NotFound):
                raise
            self.close(batch, "failed", storable(exc.what), unknown=True)
            return BatchRunEnd(
                "failed", msg("The provider no longer knows this batch. Resume to submit its rows again.")
            )
        if remote.status in ENDED:
            return self._over(batch, remote)
        seen = {"status": remote.status, "completed": remote.completed, "failed": remote.failed}
        if seen != {name: getattr(batch, name) for name in seen}:
            batch_store.update_batch(self._store, batch.id, **seen)
        if self.stop and remote.status != "cancelling":
            self.cancel(batch)
        return None

    def _over(self, batch: BatchView, remote: RemoteBatch) -> BatchRunEnd | None:
        files = {"output_file": remote.output_file, "error_file": remote.error_file}
        if remote.status == "failed" and not any(files.values()):
            return self._refused(batch, remote)
        batch_store.update_batch(self._store, batch.id, state="collecting", status=remote.status, **files)
        return None  # collected at the next step

    def _refused(self, batch: BatchView, remote: RemoteBatch) -> BatchRunEnd | None:
        """The file was not taken, nothing of it was written: because of some lines, of the queue, or altogether."""
        batch_store.update_batch(self._store, batch.id, status=remote.status)
        at_fault = {} if is_queue_full(remote) else rejected_lines(remote)
        rows = islice(batch_store.rows_of(self._store, batch.id), max(at_fault, default=0))
        outcomes = [unbilled(sent.key, at_fault[line].message) for line, sent in enumerate(rows, 1) if line in at_fault]
        self._keep(batch, outcomes)
        with self._store.reading() as session:
            others = len(batch_store.open_batches(session, self._context.dataset_id)) - 1
        self.close(batch, "failed", rejection_reason(remote))
        if outcomes or self.stop:
            return None
        if is_queue_full(remote) and (others or batch.total > 1):
            self.queue_limit = QueueLimit(others, batch.total)
            return None
        return BatchRunEnd("failed", msg("The provider refused the batch. {remote}", remote=rejection_reason(remote)))

    # --- home ----------------------------------------------------------------------------------------------------

    def _collect(self, batch: BatchView) -> BatchRunEnd | None:
        """Read both files into the ledger. Cut short, it is simply done again: what is settled stays settled."""
        client, unreadable = self.client(), 0
        with _folder() as folder:
            path = Path(folder) / "answers.jsonl"
            for file_id in (batch.output_file, batch.error_file):
                if file_id is not None:
                    client.download(file_id, path)
                    unreadable += self._read(batch, client, path)
        cancelled = batch.status == "cancelled"
        self._unreadable(batch, unreadable)
        if not cancelled:
            self._not_named(batch)
        self.close(batch, "cancelled" if cancelled else "done", batch.reason)
        if cancelled and batch.reason is None and not self.stop:
            return BatchRunEnd(
                "stopped", msg("The batch was cancelled at the provider. Resume to write the remaining rows.")
            )
        return None

    def _read(self, batch: BatchView, client: Client, path: Path) -> int:
        """Keep what a file says of its rows; how many of its lines cannot be read."""
        asked = self._request(client, "", self._context.recipe.seed)
        old = batch.run_id != self._context.run_id or batch.reason is not None
        unreadable = 0
        with path.open("rb") as file:
            lines = (line for line in file if line.strip())
            while group := list(islice(lines, _GROUP)):
                answers = [read_answer(client.provider, line, asked) for line in group]
                unreadable += answers.count(None)
                self._keep(batch, [self.answers.read(answer, old) for answer in answers if answer is not None])
        return unreadable

    def _unreadable(self, batch: BatchView, lines: int) -> None:
        """As many rows without an answer as there are lines that cannot be read: carried out, at an unknown cost.

        Rows that were marked so before a crash count: collected again, the same lines mark no further rows, which the
        provider may never have carried out.
        """
        marked = batch_store.count_failed(self._store, batch.id, UNREADABLE) if lines else 0
        rows = list(islice(batch_store.rows_of(self._store, batch.id), max(0, lines - marked)))
        self._keep(batch, [BatchOutcome(sent.key, "failed", UNREADABLE) for sent in rows])

    def _not_named(self, batch: BatchView) -> None:
        """Rows that no file names were not carried out: the batch expired before."""
        words = msg("The provider ended the batch before it reached this row.")
        rows = batch_store.rows_of(self._store, batch.id)
        while group := list(islice(rows, _GROUP)):
            self._keep(batch, [self.answers.count_failure(sent.key, words) for sent in group])

    def _keep(self, batch: BatchView, outcomes: list[BatchOutcome]) -> None:
        if outcomes:
            with self._store.session() as session:
                batch_settlement.settle(session, self._context.dataset_id, batch.id, outcomes)

    def _endpoint(self, client: Client) -> Endpoint:
        chosen = self._context.recipe.endpoint
        if chosen == "chat":
            return "chat"
        return "completion" if chosen == "completion" else client.endpoint(self._context.model)

    def _price(self, prompt_tokens: int | None, completion_tokens: int | None) -> Decimal | None:
        """What a request costs in a batch. Where the book has no price for that, the live one: it costs no more."""
        asked = (self._book, self._context.provider, self._context.model, prompt_tokens, completion_tokens)
        in_batch = cost_of(*asked, batch=True)
        return cost_of(*asked) if in_batch is None else in_batch


def _folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="fabula-")
    except OSError as exc:
        raise StorageFull(
            msg("No temporary folder can be made: {reason}.", reason=exc.strerror), msg("Free some space.")
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
