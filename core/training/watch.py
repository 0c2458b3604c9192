"""Follow a job at its provider until it ends: status, events and curve into the ledger, requests to the provider."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from core.cost.price_book import PriceBook
from core.dataset.generation.response_classification import storable
from core.db.tables import TrainingJob, utcnow
from core.errors import BadRequest, EngineMissing, FabulaError, NotFound, ProviderError, Refused
from core.message import msg, sentences
from core.providers import Client, Registry, RemoteCheckpoint, RemoteEvent, RemoteJob
from core.rescheduling import RetryLater
from core.training import before_after, billing, job_events, job_views, training_time
from core.training.checkpoints import add_checkpoints
from core.training.job_context import LIGHT, JobContext
from core.training.job_explanation import failure_advice
from core.training.job_views import FINISHED, GONE, LONGEST_STATUS
from core.training.tracker_logging import TrackerLogger

_POLL_S = 2.0  # the engine writes metrics about once a second
_REFUSED_POLL_S = 30.0  # a revoked key does not come back by asking often
_WAITING_POLL_S = 10.0  # paused, or in line at the provider: what somebody asks of it is passed on at once all the same
_TURN_S = 20.0  # a job that is watched gives its place back after this, where there are more jobs than places
_SLOW_POLL_S = 15.0  # a long results file is fetched less often: 10,000 steps are a megabyte
_LONG_RESULTS = 200_000  # characters
_HEARD = timedelta(seconds=20)  # without news the row is written this seldom: each write waits for the disk
_IN_LINE = ("queued", "validating_files", "pending")  # as providers call a job that does not train yet
_LAST_TRIES = 5  # for the results of a job that has ended
_MODEL_TRIES = 150  # for the model of a job that has succeeded: five minutes
_CHECKPOINTS_S = 15.0  # one comes at the end of an epoch
_NO_RESULTS = msg("The provider did not give the whole results file: the curve may lack its end, or be missing.")
_NO_MODEL = msg("The provider reports success but names no model yet. Fabula asks again for five minutes.")


def follow(context: JobContext, registry: Registry, book: PriceBook, tracker_logger: TrackerLogger) -> None:
    """Watch the job to its end. Trouble on the way is shown and waited for: the job goes on without us.

    Args:
        context: the job.
        registry: where its provider is.
        book: what it costs.
        tracker_logger: where its steps are logged too.

    Raises:
        FabulaError: the provider does not know the job (any more).
        JobStopping: the worker stops.
        RetryLater: the job is paused, in line, or its provider is away for long; or others wait for this place.
    """
    turn_ends = time.monotonic() + _TURN_S
    watch = _Watch(context, book, tracker_logger)
    provider = context.view().provider
    while True:
        try:
            if context.patiently(lambda: watch.look(_client(registry, provider))):
                return
        except Refused as exc:
            context.note(exc)
            raise RetryLater(_REFUSED_POLL_S) from exc
        except BadRequest as exc:
            if not isinstance(exc, NotFound):
                raise
            raise FabulaError(GONE, msg("Submit it again.")) from exc
        over = time.monotonic() >= turn_ends
        status = context.view().status
        if status == "paused" or (over and status in _IN_LINE):
            raise RetryLater(_WAITING_POLL_S)
        if over and context.crowded():
            raise RetryLater(_POLL_S)
        context.pause(_POLL_S)


def _client(registry: Registry, provider: str) -> Client:
    """The job's provider. One that is not set up in this life (no key, no engine) is waited for: the job goes on."""
    try:
        return registry.get(provider)
    except (NotFound, EngineMissing) as exc:
        raise Refused(exc.what, exc.next_step) from exc


class _Watch:
    """What is remembered between two looks."""

    def __init__(self, context: JobContext, book: PriceBook, tracker_logger: TrackerLogger) -> None:
        self._context, self._book, self._tracker_logger = context, book, tracker_logger
        self._newest_event = job_events.newest(context.store, context.job_id)
        self._results = self._kept = job_views.get(context.store, context.job_id).results_csv
        self._results_due = 0.0
        self._checkpoints_due = time.monotonic() + _CHECKPOINTS_S
        self._last_tries = 0
        self._model_tries = 0

    def look(self, client: Client) -> bool:
        """One look at the job; whether it has ended and everything about it is in the ledger."""
        job = self._context.view()
        assert job.remote_id is not None
        if job.request is not None:
            self._obey(client, job.remote_id, job.request)
        remote = client.job(job.remote_id)
        ended = remote.status in FINISHED
        events = self._new_events(client, remote)
        complete = self._fetch_results(client, remote, ended)
        checkpoints = self._new_checkpoints(client, remote, ended)
        if ended and not (complete and checkpoints is not None) and self._last_tries < _LAST_TRIES:
            self._last_tries += 1
            ended = False
        if remote.status == "succeeded" and not remote.fine_tuned_model and self._model_tries < _MODEL_TRIES:
            self._await_model()
            ended = False
        if ended and not complete:
            self._tell(_NO_RESULTS)
        self._keep(remote, events, checkpoints or (), ended)
        return ended

    def _await_model(self) -> None:
        """A job may be called done before its model is there (R11)."""
        if not self._model_tries:
            self._tell(_NO_MODEL)
        self._model_tries += 1

    def _obey(self, client: Client, remote_id: str, request: str) -> None:
        """Pass on what somebody asked for. What the provider will not do is told as an event."""
        act = {"cancel": client.cancel, "pause": client.pause, "resume": client.resume}[request]
        try:
            act(remote_id)
        except BadRequest as exc:
            self._tell(sentences(exc.what, exc.next_step))
        with self._context.store.session() as session:
            job = session.get_one(TrainingJob, self._context.job_id, options=LIGHT)
            if job.stop_requested == request:  # else somebody asked for something else meanwhile
                job.stop_requested = None

    def _tell(self, message: str) -> None:
        with self._context.store.session() as session:
            job_events.add_own(session, self._context.job_id, message)

    def _new_events(self, client: Client, remote: RemoteJob) -> list[RemoteEvent]:
        try:
            return client.events(remote.id, self._newest_event)
        except ProviderError:  # the status is worth more; they come with the next look
            return []

    def _new_checkpoints(self, client: Client, remote: RemoteJob, ended: bool) -> Sequence[RemoteCheckpoint] | None:
        """Checkpoints when it is time to ask; None: the provider did not answer."""
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
        """Get the results file when it is time; whether the newest copy is here."""
        if not remote.result_files:
            return True
        if not ended and time.monotonic() < self._results_due:
            return True
        try:
            self._results = client.file_text(remote.result_files[0])
        except ProviderError:
            return False
        self._results_due = time.monotonic() + (_SLOW_POLL_S if len(self._results) > _LONG_RESULTS else 0.0)
        return True

    def _keep(
        self, remote: RemoteJob, events: list[RemoteEvent], checkpoints: Sequence[RemoteCheckpoint], ended: bool
    ) -> None:
        """Everything that is new, in one transaction: a finished job is seen with its whole curve or not at all."""
        before = self._context.view()
        seen = self._seen(remote, ended) | training_time.after_poll(before, remote, events, utcnow())
        if (stands := self._tracker_logger.send(self._results, everything=ended)) is not None:
            seen["trackers"] = stands
        with self._context.store.session() as session:
            job = session.get_one(TrainingJob, self._context.job_id, options=LIGHT)
            changed = {name: value for name, value in seen.items() if getattr(job, name) != value}
            if self._results != self._kept:
                changed["results_csv"] = storable(self._results or "")
            new_checkpoints = add_checkpoints(session, job.id, checkpoints)
            if not (changed or events or ended or new_checkpoints) and utcnow() - job.updated_at < _HEARD:
                return
            for name, value in changed.items():
                setattr(job, name, value)
            job.updated_at = utcnow()
            job_events.add(session, job.id, events)
            if ended:
                job.stop_requested, job.finished_at = None, remote.finished_at or utcnow()
                billing.settle(session, self._book, job)
                before_after.begin_with(session, job)
        self._kept = self._results
        if events:
            self._newest_event = events[-1].id

    def _seen(self, remote: RemoteJob, ended: bool) -> dict[str, Any]:
        """The columns as the provider tells them now."""
        failed = remote.status == "failed"
        error = storable(remote.error or msg("The provider gives no reason.")) if failed else None
        if self._model_tries and not ended:
            error = _NO_MODEL
        return {
            "status": remote.status[:LONGEST_STATUS] if ended or remote.status not in FINISHED else "running",
            "fine_tuned_model": remote.fine_tuned_model,
            "trained_tokens": remote.trained_tokens,
            "estimated_finish": remote.estimated_finish,
            "queue_position": remote.queue_position,
            "estimated_start": remote.estimated_start,
            "error": error,
            "next_step": failure_advice(remote.error or "") if failed else None,
        }
