"""Polls a job at its provider until it ends: saves status, events and curve, and sends requests (cancel, …)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from core.db.tables import TrainingJob, utcnow
from core.errors import BadRequest, EngineMissing, FabulaError, NotFound, ProviderError, ProviderRemoved, Refused
from core.failures import with_job_cause
from core.finetuning import job_account, job_cost, job_events, job_views
from core.finetuning.checkpoints import add_checkpoints
from core.finetuning.job_context import WITHOUT_RESULTS, JobContext
from core.finetuning.job_explanation import failure_advice
from core.finetuning.job_views import FINISHED, MAX_STATUS_LENGTH, UNKNOWN_AT_PROVIDER
from core.finetuning.trackers import TrackerLogger
from core.message import msg, sentences
from core.pricing.price_book import PriceBook
from core.providers import Client, Registry, RemoteCheckpoint, RemoteEvent, RemoteJob
from core.providers.retry import RetryLater
from core.sanitize import storable

_POLL_S = 2.0  # the engine writes metrics about once a second
_REFUSED_POLL_S = 30.0  # frequent requests do not help with a revoked key
_WAITING_POLL_S = 10.0  # paused or queued at the provider; user requests are still sent immediately
_MAX_TURN_S = 20.0  # after this, a job yields its slot if other jobs wait for one
_SLOW_POLL_S = 15.0  # long results files are fetched less often: 10,000 steps are about 1 MB
_LONG_RESULTS_CHARS = 200_000  # characters
_HEARTBEAT = timedelta(seconds=20)  # how often the row is written without changes; each write waits for the disk
_QUEUED_STATUSES = ("queued", "validating_files", "pending")  # statuses that providers report before training
_MAX_RESULTS_ATTEMPTS = 5  # attempts to fetch the results of an ended job
_MAX_MODEL_ATTEMPTS = 150  # attempts to get the model name of a succeeded job: five minutes
_CHECKPOINTS_S = 15.0  # checkpoints appear at the end of an epoch
_NO_RESULTS = msg("The provider did not return the complete results file. The curve may be incomplete or missing.")
_NO_MODEL = msg("The provider reports success but names no model yet. Fabula asks again for five minutes.")


def follow(context: JobContext, registry: Registry, book: PriceBook, tracker_logger: TrackerLogger) -> None:
    """Watch the job until it ends. Temporary errors are shown and retried; the job continues at the provider.

    Raises:
        FabulaError: the provider no longer knows the job.
        ProviderRemoved, ProviderChanged: see `job_account.client_of`.
        JobStopping: the worker stops.
        RetryLater: the job is paused or queued, its provider is unavailable, or other jobs wait for the slot.
    """
    turn_ends = time.monotonic() + _MAX_TURN_S
    watch = _Watch(context, book, tracker_logger)
    while True:
        try:
            if context.with_retries(lambda: watch.poll(_client(context, registry))):
                return
        except Refused as exc:
            context.show_waiting(exc)
            raise RetryLater(_REFUSED_POLL_S) from exc
        except BadRequest as exc:
            if not isinstance(exc, NotFound):
                raise
            raise FabulaError(UNKNOWN_AT_PROVIDER, msg("Submit it again.")) from exc
        turn_over = time.monotonic() >= turn_ends
        status = context.view().status
        if status == "paused" or (turn_over and status in _QUEUED_STATUSES):
            raise RetryLater(_WAITING_POLL_S)
        if turn_over and context.exceeds_capacity():
            raise RetryLater(_POLL_S)
        context.pause(_POLL_S)


def _client(context: JobContext, registry: Registry) -> Client:
    """A client for the account that has the job. If it is not configured (no key, no engine), the job waits for it."""
    try:
        return job_account.client_of(context, registry)
    except ProviderRemoved:
        raise
    except (NotFound, EngineMissing) as exc:
        raise Refused(exc.what, exc.next_step) from exc


class _Watch:
    """The state between two polls of one job."""

    def __init__(self, context: JobContext, book: PriceBook, tracker_logger: TrackerLogger) -> None:
        self._context, self._book, self._tracker_logger = context, book, tracker_logger
        self._newest_event = job_events.newest_remote_id(context.store, context.job_id)
        self._results = self._saved_results = job_views.get(context.store, context.job_id).results_csv
        self._results_due = 0.0
        self._checkpoints_due = time.monotonic() + _CHECKPOINTS_S
        self._results_attempts = 0
        self._model_attempts = 0

    def poll(self, client: Client) -> bool:
        """Poll the job once. Returns whether it has ended and everything is saved."""
        job = self._context.view()
        assert job.remote_id is not None
        if job.request is not None:
            self._send_request(client, job.remote_id, job.request)
        remote = client.job(job.remote_id)
        ended = remote.status in FINISHED
        events = self._new_events(client, remote)
        complete = self._fetch_results(client, remote, ended)
        checkpoints = self._new_checkpoints(client, remote, ended)
        if ended and not (complete and checkpoints is not None) and self._results_attempts < _MAX_RESULTS_ATTEMPTS:
            self._results_attempts += 1
            ended = False
        if remote.status == "succeeded" and not remote.fine_tuned_model and self._model_attempts < _MAX_MODEL_ATTEMPTS:
            self._await_model()
            ended = False
        if ended and not complete:
            self._add_notice(_NO_RESULTS)
        self._save(remote, events, checkpoints or (), ended)
        return ended

    def _await_model(self) -> None:
        """Ask for the model name again for a while: some providers report success before it is available."""
        if not self._model_attempts:
            self._add_notice(_NO_MODEL)
        self._model_attempts += 1

    def _send_request(self, client: Client, remote_id: str, request: str) -> None:
        """Send a user's request to the provider. If it is refused, add an event."""
        action = {"cancel": client.cancel, "pause": client.pause, "resume": client.resume}[request]
        try:
            action(remote_id)
        except BadRequest as exc:
            self._add_notice(sentences(exc.what, exc.next_step))
        with self._context.store.session() as session:
            job = session.get_one(TrainingJob, self._context.job_id, options=WITHOUT_RESULTS)
            if job.requested_action == request:  # otherwise there is a newer request
                job.requested_action = None

    def _add_notice(self, message: str) -> None:
        with self._context.store.session() as session:
            job_events.add_notice(session, self._context.job_id, message)

    def _new_events(self, client: Client, remote: RemoteJob) -> list[RemoteEvent]:
        try:
            return client.events(remote.id, self._newest_event)
        except ProviderError:  # not critical: the next poll fetches them
            return []

    def _new_checkpoints(self, client: Client, remote: RemoteJob, ended: bool) -> Sequence[RemoteCheckpoint] | None:
        """Fetch checkpoints if they are due; None if the provider did not answer."""
        if not ended and time.monotonic() < self._checkpoints_due:
            return ()
        self._checkpoints_due = time.monotonic() + _CHECKPOINTS_S
        try:
            return client.checkpoints(remote.id)
        except BadRequest:  # a provider without checkpoints
            return ()
        except ProviderError:
            return None

    def _fetch_results(self, client: Client, remote: RemoteJob, ended: bool) -> bool:
        """Fetch the results file if it is due. Returns whether the copy is up to date."""
        if not remote.result_files:
            return True
        if not ended and time.monotonic() < self._results_due:
            return True
        try:
            self._results = client.file_text(remote.result_files[0])
        except ProviderError:
            return False
        self._results_due = time.monotonic() + (_SLOW_POLL_S if len(self._results) > _LONG_RESULTS_CHARS else 0.0)
        return True

    def _save(
        self, remote: RemoteJob, events: list[RemoteEvent], checkpoints: Sequence[RemoteCheckpoint], ended: bool
    ) -> None:
        """Save all changes in one transaction, so that a finished job always has its complete curve."""
        before = self._context.view()
        remote_values = self._remote_values(remote, ended) | job_events.training_time(before, remote, events, utcnow())
        if (tracker_states := self._tracker_logger.send(self._results, send_all=ended)) is not None:
            remote_values["trackers"] = tracker_states
        with self._context.store.session() as session:
            job = session.get_one(TrainingJob, self._context.job_id, options=WITHOUT_RESULTS)
            changed = {name: value for name, value in remote_values.items() if getattr(job, name) != value}
            if self._results != self._saved_results:
                changed["results_csv"] = storable(self._results or "")
            new_checkpoints = add_checkpoints(session, job.id, checkpoints)
            if not (changed or events or ended or new_checkpoints) and utcnow() - job.updated_at < _HEARTBEAT:
                return
            for name, value in changed.items():
                setattr(job, name, value)
            job.updated_at = utcnow()
            job_events.add(session, job.id, events)
            if ended:
                job.requested_action, job.finished_at = None, remote.finished_at or utcnow()
                job_cost.settle(session, self._book, job)
                self._context.on_end(session, job)
        self._saved_results = self._results
        if events:
            self._newest_event = events[-1].id

    def _remote_values(self, remote: RemoteJob, ended: bool) -> dict[str, Any]:
        """The columns that mirror the provider's state."""
        failed = remote.status == "failed"
        error = with_job_cause(storable(remote.error or msg("The provider gives no reason."))) if failed else None
        if self._model_attempts and not ended:
            error = _NO_MODEL
        return {
            "status": remote.status[:MAX_STATUS_LENGTH] if ended or remote.status not in FINISHED else "running",
            "fine_tuned_model": remote.fine_tuned_model,
            "trained_tokens": remote.trained_tokens,
            "estimated_finish": remote.estimated_finish,
            "queue_position": remote.queue_position,
            "estimated_start": remote.estimated_start,
            "error": error,
            "next_step": failure_advice(remote.error or "") if failed else None,
        }
