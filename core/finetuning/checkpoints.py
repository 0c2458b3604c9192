"""Checkpoints of training jobs. The worker saves them; each can be called as a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.store import Store
from core.db.tables import Checkpoint
from core.finetuning.results import Definition, Figure
from core.providers import RemoteCheckpoint
from core.providers.metric_parser import metrics

# The providers' metric names, those for held-out rows first.
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
        id: the provider's id.
        step: the training step after which it was saved.
        model: the name to call it by.
        metrics: the provider's measurements, under the provider's names.
        created_at: UTC; None if not reported.
    """

    id: str
    job_id: str
    step: int
    model: str
    metrics: Mapping[str, float]
    created_at: datetime | None

    def loss(self) -> Figure | None:
        """The loss on held-out rows, otherwise that of its last training step; None if not reported."""
        return self._figure(_LOSSES)

    def accuracy(self) -> Figure | None:
        """Token accuracy (0 to 1) on held-out rows, otherwise that of its last training step; None if not reported."""
        return self._figure(_ACCURACIES)

    def _figure(self, names: Mapping[Definition, Sequence[str]]) -> Figure | None:
        known = (
            Figure(self.metrics[name], definition) for definition, keys in names.items() for name in keys
            if name in self.metrics
        )  # fmt: skip
        return next(known, None)


def list_checkpoints(store: Store, job_id: str) -> tuple[CheckpointView, ...]:
    """A job's checkpoints, ordered by step."""
    with store.reading() as session:
        rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step))
        return tuple(_view(row) for row in rows)


def all_checkpoints(store: Store) -> tuple[CheckpointView, ...]:
    """The checkpoints of all jobs, ordered by job and step."""
    with store.reading() as session:
        rows = session.scalars(select(Checkpoint).order_by(Checkpoint.job_id, Checkpoint.step))
        return tuple(_view(row) for row in rows)


def add_checkpoints(session: Session, job_id: str, remote: Sequence[RemoteCheckpoint]) -> int:
    """Save the new checkpoints and return their number."""
    if not remote:
        return 0
    known = set(session.scalars(select(Checkpoint.remote_id).where(Checkpoint.job_id == job_id)))
    new = {checkpoint.id: checkpoint for checkpoint in remote if checkpoint.id not in known}
    session.add_all(
        Checkpoint(
            job_id=job_id,
            remote_id=checkpoint.id,
            step=checkpoint.step,
            model=checkpoint.model,
            metrics=dict(checkpoint.metrics),
            created_at=checkpoint.created_at,
        )
        for checkpoint in new.values()
    )
    return len(new)


def _view(row: Checkpoint) -> CheckpointView:
    return CheckpointView(row.remote_id, row.job_id, row.step, row.model, metrics(row.metrics), row.created_at)
