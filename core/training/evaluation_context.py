"""One evaluation in a worker's hand: its state in the ledger, and patience with its provider."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import Evaluation, EvaluationAnswer, utcnow
from core.retrying import call_with_retries
from core.training import evaluation_metrics, evaluations
from core.training.evaluation_types import ACTIVE, EvaluationView

T = TypeVar("T")

_LOOK_S = 0.5  # how soon a stop ends a pause


class EvaluationStopped(Exception):
    """The worker stops, or somebody stopped the evaluation."""


@dataclass(slots=True)
class EvaluationContext:
    """One evaluation in a worker's hand."""

    store: Store
    id: str
    stopping: threading.Event
    halt: threading.Event = field(default_factory=threading.Event)
    """Ends the requests that are under way."""

    @property
    def view(self) -> EvaluationView:
        return evaluations.get(self.store, self.id)

    def begin(self) -> bool:
        """Whether there is anything to do."""
        with self.store.session() as session:
            one = session.get(Evaluation, self.id)
            if one is None or one.state not in ACTIVE:
                return False
            if one.state == "queued":
                one.state = "running"
            return True

    def last_reason(self) -> str:
        query = select(EvaluationAnswer.reason).where(
            EvaluationAnswer.evaluation_id == self.id, EvaluationAnswer.reason.is_not(None)
        )
        with self.store.reading() as session:
            return session.scalar(query.order_by(EvaluationAnswer.id.desc()).limit(1)) or ""

    def raise_if_stopped(self) -> None:
        """Raises EvaluationStopped when nobody wants more answers."""
        if self.stopping.is_set():
            raise EvaluationStopped
        with self.store.reading() as session:
            if session.scalar(select(Evaluation.state).where(Evaluation.id == self.id)) != "running":
                raise EvaluationStopped

    def raise_or_halt(self) -> None:
        """`raise_if_stopped`, and end the requests that are under way where it raises."""
        try:
            self.raise_if_stopped()
        except EvaluationStopped:
            self.halt.set()
            raise

    def end(self) -> None:
        """Sum up what there is."""
        view = self.view
        metrics = evaluation_metrics.metrics(self.store, view)
        with self.store.session() as session:
            one = session.get_one(Evaluation, self.id)
            if one.state in ACTIVE:
                one.metrics = metrics.to_dict()
                one.state = "done" if one.state == "running" else "stopped"
                one.reason, one.finished_at = None, utcnow()

    def patiently(self, call: Callable[[], T]) -> T:
        """`call()`, again after growing pauses while its provider is away; the evaluation says meanwhile why it waits.

        Raises:
            EvaluationStopped: nobody waits any more.
            FabulaError: of the last try; a provider that asks to wait for longer than two minutes is not tried again,
                because other evaluations wait for this one.
        """

        def attempt() -> T:
            self.raise_if_stopped()
            return call()

        return call_with_retries(attempt, pause=self._pause, note=self.note)

    def _pause(self, seconds: float) -> None:
        """Raises EvaluationStopped as soon as nobody waits any more."""
        while seconds > 0:
            self.stopping.wait(min(_LOOK_S, seconds))
            self.raise_if_stopped()
            seconds -= _LOOK_S

    def note(self, reason: str | None) -> None:
        with self.store.session() as session:
            session.get_one(Evaluation, self.id).reason = reason
