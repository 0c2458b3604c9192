"""One evaluation that a worker runs: its state in the database, and retries of provider calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import Evaluation, EvaluationAnswer, utcnow
from core.evaluation import evaluation_metrics, evaluations
from core.evaluation.evaluation_types import ACTIVE, EvaluationView
from core.providers.retry import call_with_retries, interruptible_pause

T = TypeVar("T")


class EvaluationStopped(Exception):
    """The worker stops, or a person stopped the evaluation."""


@dataclass(slots=True)
class EvaluationContext:
    """One evaluation that a worker runs."""

    store: Store
    id: str
    stopping: threading.Event
    halt: threading.Event = field(default_factory=threading.Event)
    """Cancels the requests in flight when set."""

    @property
    def view(self) -> EvaluationView:
        return evaluations.get(self.store, self.id)

    def begin(self) -> bool:
        """Mark the evaluation as running; False if there is nothing to do."""
        with self.store.session() as session:
            evaluation = session.get(Evaluation, self.id)
            if evaluation is None or evaluation.state not in ACTIVE:
                return False
            if evaluation.state == "queued":
                evaluation.state = "running"
            return True

    def last_reason(self) -> str:
        query = select(EvaluationAnswer.reason).where(
            EvaluationAnswer.evaluation_id == self.id, EvaluationAnswer.reason.is_not(None)
        )
        with self.store.reading() as session:
            return session.scalar(query.order_by(EvaluationAnswer.id.desc()).limit(1)) or ""

    def raise_if_stopped(self) -> None:
        """Raises EvaluationStopped when the worker or the evaluation was stopped."""
        if self.stopping.is_set():
            raise EvaluationStopped
        with self.store.reading() as session:
            if session.scalar(select(Evaluation.state).where(Evaluation.id == self.id)) != "running":
                raise EvaluationStopped

    def raise_and_cancel_requests(self) -> None:
        """Like `raise_if_stopped`, but cancels the requests in flight before raising."""
        try:
            self.raise_if_stopped()
        except EvaluationStopped:
            self.halt.set()
            raise

    def finish(self) -> None:
        """Compute the metrics from the answers so far and mark the evaluation as ended."""
        view = self.view
        metrics = evaluation_metrics.compute_metrics(self.store, view)
        with self.store.session() as session:
            evaluation = session.get_one(Evaluation, self.id)
            if evaluation.state in ACTIVE:
                evaluation.metrics = metrics.to_dict()
                evaluation.state = "done" if evaluation.state == "running" else "stopped"
                evaluation.reason, evaluation.finished_at = None, utcnow()

    def with_retries(self, call: Callable[[], T]) -> T:
        """`call()`, repeated with growing pauses while the provider is unavailable. The evaluation shows the reason.

        Raises:
            EvaluationStopped: the worker or the evaluation was stopped.
            FabulaError: from the last attempt. If the provider asks to wait for more than two minutes, there is no
                further attempt, because other evaluations are queued.
        """
        self.raise_if_stopped()
        return call_with_retries(
            call,
            pause=interruptible_pause(self.stopping, self.raise_if_stopped),
            note=lambda error: self.set_reason(error.what if error else None),
        )

    def set_reason(self, reason: str | None) -> None:
        with self.store.session() as session:
            session.get_one(Evaluation, self.id).reason = reason
