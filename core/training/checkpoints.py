"""Checkpoints in the ledger: put there by the one poll of the worker, each usable as a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.store import Store
from core.db.tables import Checkpoint
from core.metrics import metrics
from core.providers import RemoteCheckpoint
from core.training.figures import Definition, Figure

# The providers' own names, those of held-out rows first.
_LOSSES: Mapping[Definition, Sequence[str]] = {
    "held_out": ("full_valid_loss", "valid_loss", "validation_loss"),
    "last_step": ("train_loss", "training_loss"),
}
_ACCURACIES: Mapping[Definition, Sequence[str]] = {
    "held_out": ("full_valid_mean_token_accuracy", "valid_mean_token_accuracy", "validation_token_accuracy"),
    "last_step": ("train_mean_token_accuracy", "training_token_accuracy"),
}


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """One checkpoint of a job.

    Attributes:
        id: the provider's.
        step: after which it was kept.
        model: the name to call it by.
        metrics: as the provider measured them, by its own names; what it did not measure is left out.
        created_at: None: not told.
    """

    id: str
    job_id: str
    step: int
    model: str
    metrics: Mapping[str, float]
    created_at: datetime | None

    def loss(self) -> Figure | None:
        """The loss on held-out rows, or, where there were none, of its step; None: not told."""
        return self._figure(_LOSSES)

    def accuracy(self) -> Figure | None:
        """The token accuracy (0 to 1) on held-out rows, or, where there were none, of its step; None: not told."""
        return self._figure(_ACCURACIES)

    def _figure(self, names: Mapping[Definition, Sequence[str]]) -> Figure | None:
        known = (
            Figure(self.metrics[name], definition) for definition, of in names.items() for name in of
            if name in self.metrics
        )  # fmt: skip
        return next(known, None)


def list_checkpoints(store: Store, job_id: str) -> tuple[CheckpointView, ...]:
    """Checkpoints of a job by step, from the ledger."""
    with store.reading() as session:
        rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step))
        return tuple(_view(row) for row in rows)


def all_checkpoints(store: Store) -> tuple[CheckpointView, ...]:
    """Checkpoints of all jobs, by job and step."""
    with store.reading() as session:
        rows = session.scalars(select(Checkpoint).order_by(Checkpoint.job_id, Checkpoint.step))
        return tuple(_view(row) for row in rows)


def add_checkpoints(session: Session, job_id: str, found: Sequence[RemoteCheckpoint]) -> int:
    """Keep those that are not there yet; how many."""
    if not found:
        return 0
    known = set(session.scalars(select(Checkpoint.remote_id).where(Checkpoint.job_id == job_id)))
    new = {one.id: one for one in found if one.id not in known}
    session.add_all(
        Checkpoint(
            job_id=job_id,
            remote_id=one.id,
            step=one.step,
            model=one.model,
            metrics=dict(one.metrics),
            created_at=one.created_at,
        )
        for one in new.values()
    )
    return len(new)


def _view(row: Checkpoint) -> CheckpointView:
    return CheckpointView(row.remote_id, row.job_id, row.step, row.model, metrics(row.metrics), row.created_at)
